"""ConfigMaps."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Any

from pinnace.api.core import v1 as core
from pinnace.api.fields import FieldError, forbidden, invalid, too_long
from pinnace.api.kinds import kind_of
from pinnace.apiserver.resource import Column, Resource
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.columns import AGE, NAME, column

MAX_SIZE = 1024 * 1024
FROZEN = "field is immutable when `immutable` is set"


def decoded_size(value: str) -> int:
    """Bytes behind a base64 text."""
    try:
        return len(base64.b64decode(value))
    except (binascii.Error, ValueError):
        return len(value)


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
        size += decoded_size(value)
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
