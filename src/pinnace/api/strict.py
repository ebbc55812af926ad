"""Strict field checking: every field of a body that the type does not have, and every one given twice.

The server refuses or warns of what it finds, as `fieldValidation` says. Decoding itself ignores such fields.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import msgspec

from pinnace.api.shapes import Shape, fields_of

# Upstream stops there, too.
LIMIT = 100


def unknown_fields(kind: type[Any], body: Any) -> list[str]:
    """`unknown field "spec.foo"`, one for each, in the order of the body (decoded JSON)."""
    found: list[str] = []
    _struct(body, kind, "", found)
    return found[:LIMIT]


def duplicate_fields(data: bytes | str) -> list[str]:
    """`duplicate field "spec.replicas"`, one for each. The JSON must be well-formed: ValueError."""
    found: list[str] = []
    _duplicates(json.loads(data, object_pairs_hook=_Pairs), "", found)
    return found[:LIMIT]


def strict_error(findings: list[str]) -> str:
    """The text of the refusal."""
    return f"strict decoding error: {', '.join(findings)}"


def _struct(value: Any, struct: type[msgspec.Struct], path: str, found: list[str]) -> None:
    if not isinstance(value, dict) or len(found) >= LIMIT:
        return
    fields = _shapes(struct)
    for name, inner in value.items():
        if name not in fields:
            found.append(f'unknown field "{path}.{name}"' if path else f'unknown field "{name}"')
            continue
        shape = fields[name]
        if shape is not None and inner is not None:
            _shaped(inner, shape, f"{path}.{name}" if path else name, found)


@cache
def _shapes(struct: type[msgspec.Struct]) -> dict[str, Shape | None]:
    """What the fields hold, by wire name; None for what needs no further look."""
    return {name: field.shape if field.shape.structured else None for name, field in fields_of(struct).items()}


def _shaped(value: Any, shape: Shape, path: str, found: list[str]) -> None:
    if shape.struct is not None and isinstance(value, dict):
        _struct(value, shape.struct, path, found)
    elif shape.form == "list" and shape.inner is not None and isinstance(value, list):
        for i, item in enumerate(value):
            _shaped(item, shape.inner, f"{path}[{i}]", found)
    elif shape.form == "map" and shape.inner is not None and isinstance(value, dict):
        for key, item in value.items():
            _shaped(item, shape.inner, f"{path}.{key}", found)
    elif shape.form == "either" and shape.inner is not None:
        _shaped(value, shape.inner, path, found)


class _Pairs(list[tuple[str, Any]]):
    """An object as the parser met it."""


def _duplicates(value: Any, path: str, found: list[str]) -> None:
    if isinstance(value, _Pairs):
        seen: set[str] = set()
        for name, inner in value:
            here = f"{path}.{name}" if path else name
            if name in seen:
                found.append(f'duplicate field "{here}"')
            seen.add(name)
            _duplicates(inner, here, found)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _duplicates(item, f"{path}[{i}]", found)
