"""The small rules that field values obey: names, labels, ports, addresses, paths.

Each takes the field's path and its value and gives the findings, empty when the value is fine (the usual case:
one regular expression). The words are upstream's (apimachinery, util/validation).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Any

from pinnace.api.fields import FieldError, invalid, required

_NOTHING: tuple[FieldError, ...] = ()

LABEL_FORMAT = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?\Z")
_SUBDOMAIN = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*\Z")
_LABEL_1035 = re.compile(r"[a-z](?:[-a-z0-9]*[a-z0-9])?\Z")
_NAME_PART = re.compile(r"(?:[A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]\Z")
_PORT_CHARACTERS = re.compile(r"[-a-z0-9]+\Z")
_CONFIG_KEY = re.compile(r"[-._a-zA-Z0-9]+\Z")
_HEADER = re.compile(r"[-A-Za-z0-9]+\Z")
_ENV = re.compile(r"[ -<>-~]+\Z")
_SEARCH = re.compile(r"[a-z0-9_](?:[-_a-z0-9]*[a-z0-9_])?(?:\.[a-z0-9_](?:[-_a-z0-9]*[a-z0-9_])?)*\Z")
_CSI = re.compile(r"[a-zA-Z0-9](?:[-a-zA-Z0-9_.]*[a-zA-Z0-9])?\Z")

LABEL_TEXT = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
    "with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
SUBDOMAIN_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
LABEL_1035_TEXT = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic "
    "character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation "
    "is '[a-z]([-a-z0-9]*[a-z0-9])?')"
)
QUALIFIED_TEXT = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
LABEL_VALUE_TEXT = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for "
    "validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
CONFIG_KEY_TEXT = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',"
    "  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
)
EMPTY = "must be non-empty"


def at_most(length: int) -> str:
    return f"must be no more than {length} bytes"


def between(low: int, high: int) -> str:
    return f"must be between {low} and {high}, inclusive"


# Messages about a bare name: what a kind's `validate_name` gives.


def label_messages(value: str) -> Sequence[str]:
    if len(value) <= 63 and _LABEL.match(value):
        return ()
    messages = [] if len(value) <= 63 else [at_most(63)]
    return messages if _LABEL.match(value) else [*messages, LABEL_TEXT]


def subdomain_messages(value: str) -> Sequence[str]:
    if len(value) <= 253 and _SUBDOMAIN.match(value):
        return ()
    messages = [] if len(value) <= 253 else [at_most(253)]
    return messages if _SUBDOMAIN.match(value) else [*messages, SUBDOMAIN_TEXT]


def label_1035_messages(value: str) -> Sequence[str]:
    if len(value) <= 63 and _LABEL_1035.match(value):
        return ()
    messages = [] if len(value) <= 63 else [at_most(63)]
    return messages if _LABEL_1035.match(value) else [*messages, LABEL_1035_TEXT]


def path_segment_messages(value: str) -> Sequence[str]:
    """Names of RBAC objects: anything that can stand in a URL's path."""
    if value in (".", ".."):
        return (f"may not be '{value}'",)
    return tuple(f"may not contain '{part}'" for part in ("/", "%") if part in value)


# Findings about a field.


def dns_label(path: str, value: str) -> Sequence[FieldError]:
    if len(value) <= 63 and _LABEL.match(value):
        return _NOTHING
    return [invalid(path, value, message) for message in label_messages(value)]


def dns_subdomain(path: str, value: str) -> Sequence[FieldError]:
    if len(value) <= 253 and _SUBDOMAIN.match(value):
        return _NOTHING
    return [invalid(path, value, message) for message in subdomain_messages(value)]


def search_domain(path: str, value: str) -> Sequence[FieldError]:
    if len(value) <= 253 and _SEARCH.match(value):
        return _NOTHING
    return [invalid(path, value, message) for message in subdomain_messages(value)]


def qualified_messages(value: str) -> Sequence[str]:
    """Label keys, conditions, resources: `name` or `dns.prefix/name`."""
    if "/" not in value and len(value) <= 63 and _NAME_PART.match(value):
        return ()
    parts = value.split("/")
    if len(parts) > 2:
        return (
            "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with "
            "an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
            "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' "
            "(e.g. 'example.com/MyName')",
        )
    messages: list[str] = []
    if len(parts) == 2:
        if not parts[0]:
            messages.append(f"prefix part {EMPTY}")
        else:
            messages += [f"prefix part {message}" for message in subdomain_messages(parts[0])]
    name = parts[-1]
    if not name:
        messages.append(f"name part {EMPTY}")
    elif len(name) > 63:
        messages.append(f"name part {at_most(63)}")
    if not _NAME_PART.match(name):
        messages.append(f"name part {QUALIFIED_TEXT}")
    return messages


def qualified_name(path: str, value: str) -> Sequence[FieldError]:
    if "/" not in value and len(value) <= 63 and _NAME_PART.match(value):
        return _NOTHING
    return [invalid(path, value, message) for message in qualified_messages(value)]


def label_value(path: str, value: str) -> Sequence[FieldError]:
    if not value or (len(value) <= 63 and _NAME_PART.match(value)):
        return _NOTHING
    messages = [at_most(63)] if len(value) > 63 else []
    if not _NAME_PART.match(value):
        messages.append(LABEL_VALUE_TEXT)
    return [invalid(path, value, message) for message in messages]


def port_number(path: str, value: int) -> Sequence[FieldError]:
    return _NOTHING if 1 <= value <= 65535 else (invalid(path, value, between(1, 65535)),)


def port_name(path: str, value: str) -> Sequence[FieldError]:
    messages: list[str] = []
    if len(value) > 15:
        messages.append("must be no more than 15 characters")
    if not _PORT_CHARACTERS.match(value):
        messages.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not any("a" <= character <= "z" for character in value):
        messages.append("must contain at least one letter (a-z)")
    if "--" in value:
        messages.append("must not contain consecutive hyphens")
    if value and (value[0] == "-" or value[-1] == "-"):
        messages.append("must not begin or end with a hyphen")
    return [invalid(path, value, message) for message in messages]


def port(path: str, value: int | str | None) -> Sequence[FieldError]:
    """A number or a name."""
    return port_name(path, value) if isinstance(value, str) else port_number(path, value or 0)


def env_name(path: str, value: str) -> Sequence[FieldError]:
    if _ENV.match(value):
        return _NOTHING
    text = 'a valid environment variable name must consist only of printable ASCII characters other than "="'
    return (invalid(path, value, text),)


def config_key(path: str, value: str) -> Sequence[FieldError]:
    return [invalid(path, value, message) for message in config_key_messages(value)]


def config_key_messages(value: str) -> Sequence[str]:
    messages: list[str] = []
    if len(value) > 253:
        messages.append(at_most(253))
    if not _CONFIG_KEY.match(value):
        messages.append(CONFIG_KEY_TEXT)
    if value == ".":
        messages.append("must not be '.'")
    elif value == "..":
        messages.append("must not be '..'")
    elif value.startswith(".."):
        messages.append("must not start with '..'")
    return messages


def header_name(path: str, value: str) -> Sequence[FieldError]:
    if _HEADER.match(value):
        return _NOTHING
    text = (
        "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for "
        "validation is '[-A-Za-z0-9]+')"
    )
    return (invalid(path, value, text),)


def csi_driver_name(path: str, value: str) -> Sequence[FieldError]:
    if not value:
        return (required(path),)
    if len(value) > 63:
        return (FieldError("FieldValueTooLong", path, value, "may not be more than 63 bytes"),)
    return [invalid(path, value, message) for message in subdomain_messages(value.lower())]


def numeric_id(path: str, value: int) -> Sequence[FieldError]:
    """User and group ids."""
    return _NOTHING if 0 <= value <= 2147483647 else (invalid(path, value, between(0, 2147483647)),)


def non_negative(path: str, value: int) -> Sequence[FieldError]:
    return _NOTHING if value >= 0 else (invalid(path, value, "must be greater than or equal to 0"),)


def ip_address(path: str, value: str) -> Sequence[FieldError]:
    if is_ip(value):
        return _NOTHING
    return (invalid(path, value, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),)


def is_ip(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def cidr(path: str, value: str) -> Sequence[FieldError]:
    try:
        if "/" not in value:
            raise ValueError(value)
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        return (invalid(path, value, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"),)
    return _NOTHING


def no_backsteps(path: str, value: str) -> Sequence[FieldError]:
    return (invalid(path, value, "must not contain '..'"),) if ".." in value.split("/") else _NOTHING


def local_descending_path(path: str, value: str) -> Sequence[FieldError]:
    if value.startswith("/"):
        return (invalid(path, value, "must be a relative path"), *no_backsteps(path, value))
    return no_backsteps(path, value)


def local_non_reserved_path(path: str, value: str) -> Sequence[FieldError]:
    found = list(local_descending_path(path, value))
    if value.startswith("..") and not value.startswith("../"):
        found.append(invalid(path, value, "must not start with '..'"))
    return found


def immutable(path: str, new: Any, old: Any) -> Sequence[FieldError]:
    return _NOTHING if new == old else (invalid(path, new, "field is immutable"),)
