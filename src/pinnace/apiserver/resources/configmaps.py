"""ConfigMaps."""

from __future__ import annotations

import base64
import string
from collections.abc import Iterator
from typing import Any

from pinnace.api.core import v1 as core
from pinnace.api.errors import BadRequest
from pinnace.api.fields import FieldError, forbidden, invalid, too_long
from pinnace.api.kinds import kind_of
from pinnace.apiserver.resource import Column, Resource
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.columns import AGE, NAME, column

MAX_SIZE = 1024 * 1024
_BASE64 = frozenset(string.ascii_letters + string.digits + "+/")
FROZEN = "field is immutable when `immutable` is set"


def decoded_size(kind: str, value: str) -> int:
    """Bytes behind a base64 text. Raises BadRequest in the words of Go's decoder, which meets such a text first."""
    packed = value.replace("\r", "").replace("\n", "")
    try:
        return len(base64.b64decode(packed, validate=True))
    except ValueError as error:
        why = f"illegal base64 data at input byte {_corrupt_at(value)}"
        raise BadRequest(f'{kind} in version "v1" cannot be handled as a {kind}: {why}') from error


def _corrupt_at(value: str) -> int:
    """Where Go's decoder gives up: at a strange letter, behind the padding, or where the last group is too short."""
    group = 0
    for place, letter in enumerate(value):
        if letter in "\r\n":
            continue
        if letter not in _BASE64:
            if letter != "=" or group < 2:
                return place
            after = place + 1
            return after + 1 if group == 2 and value[after : after + 1] == "=" else after
        group = (group + 1) % 4
    return len(value) - group


def validate(config: core.ConfigMap) -> Iterator[FieldError]:
    data, binary = config.data or {}, config.binaryData or {}
    size = 0
    for key, value in data.items():
        yield from (invalid(f"data[{key}]", key, message) for message in rules.config_key_messages(key))
        if key in binary:
            yield invalid(f"data[{key}]", key, "duplicate of key present in binaryData")
        size += len(value.encode())
    for key, value in binary.items():
        yield from (invalid(f"binaryData[{key}]", key, message) for message in rules.config_key_messages(key))
        size += decoded_size("ConfigMap", value)
    if size > MAX_SIZE:
        yield too_long("", "", MAX_SIZE)


def validate_update(new: core.ConfigMap, old: core.ConfigMap) -> Iterator[FieldError]:
    if old.immutable:
        if not new.immutable:
            yield forbidden("immutable", FROZEN)
        if (new.data or {}) != (old.data or {}):
            yield forbidden("data", FROZEN)
        if (new.binaryData or {}) != (old.binaryData or {}):
            yield forbidden("binaryData", FROZEN)
    yield from validate(new)


COLUMNS: tuple[Column[Any], ...] = (
    NAME,
    column("Data", lambda c: len(c.data or ()) + len(c.binaryData or ()), "Number of keys."),
    AGE,
)
CONFIG_MAP: Resource[core.ConfigMap] = Resource(
    kind=kind_of(core.ConfigMap),
    validate_create=validate,
    validate_update=validate_update,
    columns=COLUMNS,
    generation=False,
)
RESOURCES = (CONFIG_MAP,)
