"""OpenAPI v2 in the one form that kubectl asks for it: protobuf, as the project gnostic lays it out (OpenAPIv2.proto).

kubectl reads v2 where v3 has no schema for an object (a List, a kind that nobody serves). Only schemas are written;
paths stay empty, as nobody reads them from here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

# What is asked for, and what is answered: `@` cannot stand in a Content-Type (upstream renames it alike).
ASKED = ("application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
         "application/com.github.proto-openapi.spec.v2.v1.0+protobuf")  # fmt: skip
MEDIA = ASKED[1]

_TEXTS = {"$ref": 1, "format": 2, "title": 3, "description": 4, "pattern": 13}
_VARINT, _LENGTH = 0, 2


def encode(document: Mapping[str, Any]) -> bytes:
    """A swagger document."""
    info = document["info"]
    about = _text(1, info.get("title", "")) + _text(2, info.get("version", ""))
    definitions = b"".join(_named(1, name, _schema(schema)) for name, schema in document["definitions"].items())
    return _text(1, document.get("swagger", "2.0")) + _bytes(2, about) + _bytes(8, b"") + _bytes(9, definitions)


def _schema(schema: Mapping[str, Any]) -> bytes:
    parts = [_text(number, schema[name]) for name, number in _TEXTS.items() if schema.get(name)]
    parts += [_text(19, name) for name in schema.get("required") or ()]
    parts += [_bytes(20, _text(2, json.dumps(value))) for value in schema.get("enum") or ()]
    additional = schema.get("additionalProperties")
    if isinstance(additional, Mapping):
        parts.append(_bytes(21, _bytes(1, _schema(additional))))
    elif additional is not None:
        parts.append(_bytes(21, _tag(2, _VARINT) + _number(int(additional))))
    kinds = schema.get("type")
    if kinds:
        listed = [kinds] if isinstance(kinds, str) else kinds
        parts.append(_bytes(22, b"".join(_text(1, kind) for kind in listed)))
    if "items" in schema:
        parts.append(_bytes(23, _bytes(1, _schema(schema["items"]))))
    parts += [_bytes(24, _schema(part)) for part in schema.get("allOf") or ()]
    if schema.get("properties"):
        inner = b"".join(_named(1, name, _schema(value)) for name, value in schema["properties"].items())
        parts.append(_bytes(25, inner))
    # JSON is YAML: extensions travel as text.
    parts += [
        _named(31, name, _text(2, json.dumps(value))) for name, value in schema.items() if name.startswith("x-")
    ]
    return b"".join(parts)


def _named(field: int, name: str, value: bytes) -> bytes:
    return _bytes(field, _text(1, name) + _bytes(2, value))


def _text(field: int, text: str) -> bytes:
    return _bytes(field, text.encode())


def _bytes(field: int, data: bytes) -> bytes:
    return _tag(field, _LENGTH) + _number(len(data)) + data


def _tag(field: int, wire: int) -> bytes:
    return _number(field << 3 | wire)


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
