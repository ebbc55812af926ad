"""JSON to objects and back.

Quantities come out in canonical form. What cannot be decoded is a BadRequest in upstream's words.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

import msgspec

from pinnace.api.errors import BadRequest
from pinnace.api.meta import v1 as meta

K = TypeVar("K")

_encoder = msgspec.json.Encoder()


@cache
def decoder(kind: type[K]) -> msgspec.json.Decoder[K]:
    return msgspec.json.Decoder(kind)


class _Event(msgspec.Struct):
    object: msgspec.Raw


_event_decoder = msgspec.json.Decoder(_Event)


class _List(msgspec.Struct):
    items: list[msgspec.Raw] | None = None
    metadata: meta.ListMeta = msgspec.field(default_factory=meta.ListMeta)


_list_decoder = msgspec.json.Decoder(_List)


def encode(obj: Any) -> bytes:
    """The object's JSON, without what it leaves unset."""
    return _encoder.encode(obj)


def decode(kind: type[K], data: bytes) -> K:
    """An object out of JSON. Raises BadRequest."""
    try:
        return decoder(kind).decode(data)
    except msgspec.MsgspecError as error:
        if "got `null`" not in str(error):
            raise BadRequest(_explain(kind, error)) from error
    # Go takes null for "not set" everywhere; only what is never unset in Go gets here.
    return from_dict(kind, _without_nulls(msgspec.json.decode(data)))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value]
    return value


def decode_list(kind: type[K], data: bytes) -> tuple[list[K], meta.ListMeta]:
    """The items of a list, and its metadata. Raises BadRequest."""
    try:
        whole = _list_decoder.decode(data)
        one = decoder(kind).decode
        return [one(item) for item in whole.items or ()], whole.metadata
    except msgspec.MsgspecError as error:
        raise BadRequest(_explain(kind, error)) from error


def decode_event(kind: type[K], line: bytes) -> K:
    """The object of a watch event's line. Raises BadRequest."""
    try:
        return decoder(kind).decode(_event_decoder.decode(line).object)
    except msgspec.MsgspecError as error:
        raise BadRequest(_explain(kind, error)) from error


def to_dict(obj: Any) -> Any:
    """Plain dicts and lists."""
    return msgspec.to_builtins(obj)


def from_dict(kind: type[K], data: Any) -> K:
    """Raises BadRequest."""
    try:
        return msgspec.convert(data, kind)
    except msgspec.MsgspecError as error:
        raise BadRequest(_explain(kind, error)) from error


def copy(obj: K) -> K:
    """A deep copy of an object."""
    return decoder(type(obj)).decode(_encoder.encode(obj))


def metadata(obj: Any) -> meta.ObjectMeta:
    """The object's metadata."""
    found: meta.ObjectMeta = obj.metadata
    return found


def _explain(kind: type[Any], error: msgspec.MsgspecError) -> str:
    return f"{kind.__name__} cannot be handled: {error}"
