"""Which names are well-formed. Every function gives the problems in upstream's words (apimachinery, util/validation
and util/validation/path), an empty list for what is fine.
"""

from __future__ import annotations

import ipaddress
import re

_QUALIFIED = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_DNS1035 = "[a-z]([-a-z0-9]*[a-z0-9])?"
_C_IDENTIFIER = "[A-Za-z_][A-Za-z0-9_]*"
_CONFIG_KEY = "[-._a-zA-Z0-9]+"
_HEADER = "[-A-Za-z0-9]+"
_PERCENT = "[0-9]+%"
_ENV = "[-._a-zA-Z][-._a-zA-Z0-9]*"
EMPTY = "must be non-empty"


def _explain(message: str, pattern: str, *examples: str) -> str:
    """Upstream's sentence about a pattern, with its two spaces and all."""
    shown = "".join(f"{' or ' if i else ''}'{example}', " for i, example in enumerate(examples))
    return f"{message} (e.g. {shown}regex used for validation is '{pattern}')"


_QUALIFIED_TEXT = _explain(
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
    _QUALIFIED, "MyName", "my.name", "123-abc",
)  # fmt: skip
_LABEL_TEXT = _explain(
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
    "with an alphanumeric character", _LABEL, "my-name", "123-abc",
)  # fmt: skip
_SUBDOMAIN_TEXT = _explain(
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    "and end with an alphanumeric character", _SUBDOMAIN, "example.com",
)  # fmt: skip


def maximum(length: int) -> str:
    return f"must be no more than {length} bytes"


def between(low: int, high: int) -> str:
    return f"must be between {low} and {high}, inclusive"


def _check(value: str, pattern: str, text: str, length: int = 0) -> list[str]:
    problems = [maximum(length)] if length and len(value.encode()) > length else []
    if not re.fullmatch(pattern, value):
        problems.append(text)
    return problems


def dns_label(value: str) -> list[str]:
    """RFC 1123 label."""
    return _check(value, _LABEL, _LABEL_TEXT, 63)


def dns_subdomain(value: str) -> list[str]:
    """RFC 1123 subdomain."""
    return _check(value, _SUBDOMAIN, _SUBDOMAIN_TEXT, 253)


def dns1035_label(value: str) -> list[str]:
    text = _explain(
        "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic "
        "character, and end with an alphanumeric character", _DNS1035, "my-name", "abc-123",
    )  # fmt: skip
    return _check(value, _DNS1035, text, 63)


def wildcard_subdomain(value: str) -> list[str]:
    pattern = rf"\*\.{_SUBDOMAIN}"
    text = _explain(
        "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of "
        "lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
        pattern, "*.example.com",
    )  # fmt: skip
    return _check(value, pattern, text, 253)


def qualified_name(value: str) -> list[str]:
    """A label's or annotation's key: a name with an optional DNS subdomain and a slash in front."""
    parts = value.split("/")
    if len(parts) > 2:
        return [
            f"a qualified name {_QUALIFIED_TEXT} with an optional DNS subdomain prefix and '/' "
            "(e.g. 'example.com/MyName')"
        ]
    problems: list[str] = []
    if len(parts) == 2:
        problems = [f"prefix part {text}" for text in ([EMPTY] if not parts[0] else dns_subdomain(parts[0]))]
    name = parts[-1]
    if not name:
        problems.append(f"name part {EMPTY}")
    elif len(name.encode()) > 63:
        problems.append(f"name part {maximum(63)}")
    if not re.fullmatch(_QUALIFIED, name):
        problems.append(f"name part {_QUALIFIED_TEXT}")
    return problems


def label_value(value: str) -> list[str]:
    pattern = f"({_QUALIFIED})?"
    text = _explain(
        "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must "
        "start and end with an alphanumeric character", pattern, "MyValue", "my_value", "12345",
    )  # fmt: skip
    return _check(value, pattern, text, 63)


def c_identifier(value: str) -> list[str]:
    text = _explain(
        "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric "
        "characters or '_'", _C_IDENTIFIER, "my_name", "MY_NAME", "MyName",
    )  # fmt: skip
    return _check(value, _C_IDENTIFIER, text)


def env_name(value: str) -> list[str]:
    """The name of an environment variable as it may be since 1.30: printable ASCII without '='."""
    if not value:
        return [f"environment variable name {EMPTY}"]
    if re.fullmatch(r"[ -<>-~]+", value):
        return []
    return ["a valid environment variable name must consist only of printable ASCII characters other than '='"]


def strict_env_name(value: str) -> list[str]:
    """The stricter rule of old, still warned about."""
    text = _explain(
        "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must "
        "not start with a digit", _ENV, "my.env-name", "MY_ENV.NAME", "MyEnvName1",
    )  # fmt: skip
    return _check(value, _ENV, text) + _directory_like(value)


def config_key(value: str) -> list[str]:
    """A key in a ConfigMap or Secret."""
    text = _explain(
        "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
        _CONFIG_KEY, "key.name", "KEY_NAME", "key-name",
    )  # fmt: skip
    return _check(value, _CONFIG_KEY, text, 253) + _directory_like(value)


def _directory_like(value: str) -> list[str]:
    if value in (".", ".."):
        return [f"must not be '{value}'"]
    return ["must not start with '..'"] if value.startswith("..") else []


def http_header(value: str) -> list[str]:
    text = _explain("a valid HTTP header must consist of alphanumeric characters or '-'", _HEADER, "X-Header-Name")
    return _check(value, _HEADER, text)


def percent(value: str) -> list[str]:
    text = _explain(
        "a valid percent string must be a numeric string followed by an ending '%'", _PERCENT, "1%", "93%"
    )
    return _check(value, _PERCENT, text)


def port_number(value: int) -> list[str]:
    return [] if 1 <= value <= 65535 else [between(1, 65535)]


def port_name(value: str) -> list[str]:
    problems = [maximum(15)] if len(value.encode()) > 15 else []
    if not re.fullmatch("[-a-z0-9]+", value):
        problems.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not re.search("[a-z]", value):
        problems.append("must contain at least one letter (a-z)")
    if "--" in value:
        problems.append("must not contain consecutive hyphens")
    if value.startswith("-") or value.endswith("-"):
        problems.append("must not begin or end with a hyphen")
    return problems


def path_segment(value: str) -> list[str]:
    """A name that only has to fit into a path, as of roles and their bindings."""
    if value in (".", ".."):
        return [f"may not be '{value}'"]
    return [f"may not contain '{letter}'" for letter in "/%" if letter in value]


def domain(value: str) -> list[str]:
    """A fully qualified domain name; one dot at the end is fine."""
    if not value:
        return ["Required value"]
    bare = value.removesuffix(".")
    if problems := dns_subdomain(bare):
        return problems
    return [] if "." in bare else ["should be a domain with at least two segments separated by dots"]


# What is no such address may still be one of version 6.
_IPV4 = re.compile(r"(?:(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])(?:\.(?!\Z)|\Z)){4}\Z")


def ip(value: str) -> list[str]:
    if _IPV4.match(value):
        return []
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return ["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"]
    return [] if "%" not in value else ["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"]


def cidr(value: str) -> list[str]:
    try:
        if "/" not in value or "%" in value or not value.rpartition("/")[2].isdigit():
            raise ValueError(value)
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        return ["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"]
    return []


def without_trailing_dash(prefix: str) -> str:
    """A generateName as it is judged: a letter stands where the random part comes."""
    return prefix[:-1] + "a" if prefix[-1:] == "-" and prefix != "-" else prefix
