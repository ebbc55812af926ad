"""Protobuf bodies, read only: Go clients (kubectl among them) send built-in kinds in Kubernetes' protobuf envelope.

A body becomes the plain dict that its JSON would be; answers are JSON, which the same clients accept. The field
numbers stand in `protobuf_table.py`; what a number means otherwise (types, formats) is read off the wire types.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, NamedTuple

from msgspec import Struct

from pinnace.api import times
from pinnace.api.merge_table import MERGE
from pinnace.api.patch.fields import name_of
from pinnace.api.shapes import Shape, fields_of

MAGIC = b"k8s\x00"
MEDIA = "application/vnd.kubernetes.protobuf"
_DEEPEST = 100
# Maps whose values are bytes: of maps the wire types do not say what format their values have.
_BYTE_MAPS = frozenset({("core/v1:ConfigMap", "binaryData"), ("core/v1:Secret", "data")})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Unknown(NamedTuple):
    """The envelope: what the body says it is, and its bytes."""

    api_version: str
    kind: str
    raw: bytes


class _Slot(NamedTuple):
    """A field number's meaning: a JSON field, or (`inline`) a message whose fields JSON has in the same object."""

    wire: str
    shape: Shape
    scalar: str
    format: str
    inline: dict[int, _Slot] | None = None


def envelope(data: bytes) -> Unknown:
    """Raises ValueError."""
    if data[:4] != MAGIC:
        raise ValueError("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
    api_version = kind = ""
    raw = b""
    for number, value in parse(data[4:]):
        if number == 1:
            found = dict(parse(_bytes(value)))
            api_version, kind = _text(found.get(1, b"")), _text(found.get(2, b""))
        elif number == 2:
            raw = _bytes(value)
    return Unknown(api_version, kind, raw)


def decode(type: type[Struct], raw: bytes) -> dict[str, Any]:
    """A message of that wire type as its JSON would be. Raises ValueError."""
    return _message(_slots(type), raw, 0)


def parse(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a message: number and value, where a value is a whole number, a float or bytes. Raises
    ValueError."""
    position, end = 0, len(data)
    while position < end:
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("proto: illegal tag 0")
        if wire == 0:
            value, position = _varint(data, position)
            yield number, value if value < 1 << 63 else value - (1 << 64)
            continue
        length = {1: 8, 5: 4}.get(wire, 0)
        if wire == 2:
            length, position = _varint(data, position)
        elif not length:
            raise ValueError(f"proto: illegal wireType {wire}")
        if position + length > end:
            raise ValueError("unexpected EOF")
        part = data[position : position + length]
        yield number, part if wire == 2 else struct.unpack("<d" if wire == 1 else "<f", part)[0]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise ValueError("unexpected EOF")
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result & 0xFFFFFFFFFFFFFFFF, position
        shift += 7


@cache
def _slots(type: type[Struct]) -> dict[int, _Slot]:
    from pinnace.apiserver.protobuf_table import NUMBERS  # large, and needed by few servers

    name = name_of(type)
    return _made(type, NUMBERS.get(name, {}), MERGE.get(name, {}))


def _made(type: type[Struct], numbers: dict[int, Any], rows: dict[str, Any]) -> dict[int, _Slot]:
    fields, name = fields_of(type), name_of(type)
    slots = {}
    for number, found in numbers.items():
        if isinstance(found, dict):
            slots[number] = _Slot("", Shape("plain"), "", "", _made(type, found, rows))
        elif found in fields:
            row = rows.get(found)
            format = "byte" if (name, found) in _BYTE_MAPS else row[4] if row else ""
            slots[number] = _Slot(found, fields[found].shape, row[5] if row else "", format)
    return slots


def _message(slots: dict[int, _Slot], raw: bytes, depth: int) -> dict[str, Any]:
    if depth > _DEEPEST:
        raise ValueError("proto: message is nested too deeply")
    out: dict[str, Any] = {}
    for number, value in parse(raw):
        slot = slots.get(number)
        if slot is None:
            continue
        if slot.inline is not None:
            out.update(_message(slot.inline, _bytes(value), depth + 1))
        elif slot.shape.form == "list" and slot.scalar not in ("any",):
            _extend(out.setdefault(slot.wire, []), slot, value, depth)
        elif slot.shape.form == "map" and slot.shape.inner is not None:
            key, inner = _entry(slot, _bytes(value), depth)
            out.setdefault(slot.wire, {})[key] = inner
        else:
            found = _value(slot.shape, slot.scalar, slot.format, value, depth)
            # Go writes empty strings always; JSON leaves most of them out, and no field tells them apart.
            if found != "" and found is not None:
                out[slot.wire] = found
    return out


def _extend(items: list[Any], slot: _Slot, value: Any, depth: int) -> None:
    inner = slot.shape.inner
    assert inner is not None
    if isinstance(value, bytes) and isinstance(inner.zero, int) and inner.struct is None:
        position = 0      # numbers may come packed
        while position < len(value):
            number, position = _varint(value, position)
            items.append(number if number < 1 << 63 else number - (1 << 64))
        return
    items.append(_value(inner, slot.scalar.removeprefix("[]"), slot.format, value, depth))


def _entry(slot: _Slot, raw: bytes, depth: int) -> tuple[str, Any]:
    inner = slot.shape.inner
    assert inner is not None
    key, value = "", None
    for number, found in parse(raw):
        if number == 1:
            key = _text(found)
        elif number == 2:
            value = found
    if inner.form == "list":      # ExtraValue: a message of strings
        return key, [_text(item) for _, item in parse(_bytes(value or b""))]
    if value is None:
        return key, inner.zero if inner.zero is not None else {}
    return key, _value(inner, slot.scalar.removeprefix("{}"), slot.format, value, depth)


def _value(shape: Shape, scalar: str, format: str, value: Any, depth: int) -> Any:
    match scalar:
        case "time" | "microtime":
            return _moment(_bytes(value), micro=scalar == "microtime")
        case "quantity":
            return _text(dict(parse(_bytes(value))).get(1, b"0"))
        case "intstr":
            parts = dict(parse(_bytes(value)))
            return _text(parts.get(3, b"")) if parts.get(1) else parts.get(2, 0)
        case "any":
            text = dict(parse(_bytes(value))).get(1, b"")
            return json.loads(text) if text else None
    if shape.struct is not None:
        return _message(_slots(shape.struct), _bytes(value), depth + 1)
    if format == "byte":
        return base64.b64encode(_bytes(value)).decode()
    if isinstance(value, bytes):
        return _text(value)
    if isinstance(shape.zero, bool):
        return bool(value)
    return value


def _moment(raw: bytes, *, micro: bool) -> str | None:
    parts = dict(parse(raw))
    if not parts:
        return None
    try:
        moment = _EPOCH + timedelta(seconds=parts.get(1, 0), microseconds=parts.get(2, 0) // 1000)
    except (OverflowError, TypeError) as error:
        raise ValueError(f"proto: time out of range: {error}") from error
    if moment.year == 1:
        return None      # Go's zero time
    return times.format_micro(moment) if micro else times.format(moment)


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("proto: wrong wireType")
    return value


def _text(value: Any) -> str:
    return _bytes(value).decode("utf-8")
