"""The small rules that field values obey: names, labels, ports, addresses, paths.

Each takes the field's path and its value and gives the findings, empty when the value is fine: the usual case,
for which the commonest rules look at one regular expression and no more. The words are those of `api/names.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from pinnace.api import names
from pinnace.api.fields import FieldError, invalid, required, too_long

_NOTHING: tuple[FieldError, ...] = ()
# Written so that nothing is ever tried twice; the first part of each bounds the length.
_LABEL = re.compile(r"(?=.{1,63}\Z)[a-z0-9]++(?:-++[a-z0-9]++)*+\Z")
_SUBDOMAIN = re.compile(r"(?=.{1,253}\Z)[a-z0-9]++(?:(?:-++|\.)[a-z0-9]++)*+\Z")
_NAME_PART = re.compile(r"(?=.{1,63}\Z)[A-Za-z0-9]++(?:[-_.]++[A-Za-z0-9]++)*+\Z")
_ENV = re.compile(r"[ -<>-~]+\Z")
_SEARCH = re.compile(r"[a-z0-9_](?:[-_a-z0-9]*[a-z0-9_])?(?:\.[a-z0-9_](?:[-_a-z0-9]*[a-z0-9_])?)*\Z")
MAX_ID = (1 << 31) - 1

# Rules about a bare name, as a kind's `validate_name` takes them.
NameRule = Callable[[str], Sequence[str]]
label_messages: NameRule = names.dns_label
label_1035_messages: NameRule = names.dns1035_label
path_segment_messages: NameRule = names.path_segment
config_key_messages: NameRule = names.config_key
between = names.between


# The same words come again and again: whether one is well-formed is found out once.


@lru_cache(maxsize=4096)
def is_label(value: str) -> bool:
    """A DNS label."""
    return not dns_label("", value)


@lru_cache(maxsize=4096)
def is_qualified(value: str) -> bool:
    """A label's key."""
    return not names.qualified_name(value)


@lru_cache(maxsize=4096)
def is_label_value(value: str) -> bool:
    return not label_value("", value)


@lru_cache(maxsize=4096)
def is_ip(value: str) -> bool:
    return not names.ip(value)


def subdomain_messages(value: str) -> Sequence[str]:
    return () if _SUBDOMAIN.match(value) else names.dns_subdomain(value)


def qualified_messages(value: str) -> Sequence[str]:
    if _NAME_PART.match(value):
        return ()
    return names.qualified_name(value)


def _found(path: str, value: Any, messages: Sequence[str]) -> list[FieldError]:
    return [invalid(path, value, message) for message in messages]


def dns_label(path: str, value: str) -> Sequence[FieldError]:
    if _LABEL.match(value):
        return _NOTHING
    return _found(path, value, names.dns_label(value))


def dns_subdomain(path: str, value: str) -> Sequence[FieldError]:
    if _SUBDOMAIN.match(value):
        return _NOTHING
    return _found(path, value, names.dns_subdomain(value))


def search_domain(path: str, value: str) -> Sequence[FieldError]:
    """A DNS search domain may have underscores."""
    if len(value) <= 253 and _SEARCH.match(value):
        return _NOTHING
    return _found(path, value, names.dns_subdomain(value))


def qualified_name(path: str, value: str) -> Sequence[FieldError]:
    if is_qualified(value):
        return _NOTHING
    return _found(path, value, names.qualified_name(value))


def label_value(path: str, value: str) -> Sequence[FieldError]:
    if not value or _NAME_PART.match(value):
        return _NOTHING
    return _found(path, value, names.label_value(value))


def port_number(path: str, value: int) -> Sequence[FieldError]:
    return _NOTHING if 1 <= value <= 65535 else _found(path, value, names.port_number(value))


def port_name(path: str, value: str) -> Sequence[FieldError]:
    return _found(path, value, names.port_name(value))


def port(path: str, value: int | str | None) -> Sequence[FieldError]:
    """A number or a name."""
    return port_name(path, value) if isinstance(value, str) else port_number(path, value or 0)


def env_name(path: str, value: str) -> Sequence[FieldError]:
    return _NOTHING if _ENV.match(value) else _found(path, value, names.env_name(value))


def config_key(path: str, value: str) -> Sequence[FieldError]:
    return _found(path, value, names.config_key(value))


def header_name(path: str, value: str) -> Sequence[FieldError]:
    return _found(path, value, names.http_header(value))


def csi_driver_name(path: str, value: str) -> Sequence[FieldError]:
    if not value:
        return (required(path),)
    if len(value) > 63:
        return (too_long(path, value, 63),)
    return _found(path, value, subdomain_messages(value.lower()))


def numeric_id(path: str, value: int) -> Sequence[FieldError]:
    """User and group ids."""
    return _NOTHING if 0 <= value <= MAX_ID else (invalid(path, value, between(0, MAX_ID)),)


def non_negative(path: str, value: int) -> Sequence[FieldError]:
    return _NOTHING if value >= 0 else (invalid(path, value, "must be greater than or equal to 0"),)


def ip_address(path: str, value: str) -> Sequence[FieldError]:
    return _NOTHING if is_ip(value) else _found(path, value, names.ip(value))


def cidr(path: str, value: str) -> Sequence[FieldError]:
    return _found(path, value, names.cidr(value))


def no_backsteps(path: str, value: str) -> Sequence[FieldError]:
    return (invalid(path, value, "must not contain '..'"),) if ".." in value.split("/") else _NOTHING


def local_descending_path(path: str, value: str) -> Sequence[FieldError]:
    if value.startswith("/"):
        return (invalid(path, value, "must be a relative path"), *no_backsteps(path, value))
    return no_backsteps(path, value)


def local_non_reserved_path(path: str, value: str) -> Sequence[FieldError]:
    if value.isalnum():      # a plain name, as most are
        return _NOTHING
    found = list(local_descending_path(path, value))
    if value.startswith("..") and not value.startswith("../"):
        found.append(invalid(path, value, "must not start with '..'"))
    return found


def immutable(path: str, new: Any, old: Any) -> Sequence[FieldError]:
    return _NOTHING if new == old else (invalid(path, new, "field is immutable"),)
