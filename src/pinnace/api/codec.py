"""JSON to objects and back.

`decode` and `from_dict` take what a user sends: quantities come out in canonical form, null and the empty list or
map of a field that Go leaves out when empty come out as None. `decode_list` and `decode_event` read what a server
sent, which is all that already, and only decode. What cannot be decoded is a BadRequest in upstream's words.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec

from pinnace.api.errors import BadRequest
from pinnace.api.meta import v1 as meta
from pinnace.api.quantity import canonical

if TYPE_CHECKING:
    from pinnace.api.shapes import Field, Shape

K = TypeVar("K")

_encoder = msgspec.json.Encoder()


@cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def decoder(kind: type[K]) -> msgspec.json.Decoder[K]:
    of: Any = kind
    return _decoder(of)


class _Event(msgspec.Struct):
    object: msgspec.Raw


_event_decoder = msgspec.json.Decoder(_Event)


class _List(msgspec.Struct):
    items: list[msgspec.Raw] | None = None
    metadata: meta.ListMeta = msgspec.field(default_factory=meta.ListMeta)


_list_decoder = msgspec.json.Decoder(_List)


# The object's JSON, without what it leaves unset.
encode: Callable[[Any], bytes] = _encoder.encode


def decode(kind: type[K], data: bytes, *, compact: bool = False) -> K:
    """An object out of JSON. `compact`: `encode` has written it, without white space. Raises BadRequest."""
    of: Any = kind
    form = _form(of)
    try:
        obj: K = form.decode(data)
    except msgspec.MsgspecError as error:
        if "got `null`" not in str(error):
            raise BadRequest(explain(kind, error)) from error
        # Go takes null for "not set" everywhere; only what is never unset in Go gets here.
        return from_dict(kind, _parsed(kind, data))
    except RecursionError as error:
        raise BadRequest("json: exceeded max depth") from error
    if not compact and _is_spaced(data):
        _settle(obj)
        return obj
    for empty, fields in form.empties:
        if _stands_in_one_of(data, empty, fields):
            _settle(obj)
            return obj
    for name in form.quantities:
        # Most that could hold quantities hold none: `"resources":{}`. (Not `in`: for bytes in bytes that first makes
        # an exception, since the left might be a number.)
        if data.find(name) >= 0 and data.count(name) > data.count(name + b":{}"):
            _settle(obj, False)
            break
    return obj


class _Form(NamedTuple):
    """How a kind is decoded. `quantities`: bytes of which one is in every text that has a quantity; `empties`: what an
    empty map or list looks like, with the names of the fields that are not set if it stands there."""

    decode: Callable[[bytes], Any]
    quantities: tuple[bytes, ...]
    empties: tuple[tuple[bytes, frozenset[bytes]], ...]


@cache
def _form(kind: Any) -> _Form:
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return _Form(_decoder(kind).decode, (), ())
    fields = _fields_within(kind)
    names = sorted({f'"{field.wire}"'.encode() for field in fields if field.quantity})
    # A letter of a name may be written as an escape.
    signs = (*names, b"\\u") if names else ()
    maps, lists = (
        frozenset([field.wire.encode() for field in fields if _may_be_empty(field) and field.shape.form == form])
        for form in ("map", "list")
    )
    return _Form(_decoder(kind).decode, signs, ((b"{}", maps), (b"[]", lists)))


def _is_spaced(data: bytes) -> bool:
    """Whether white space may hide that a list or map in a JSON text is empty."""
    return b"\n" in data or b"\t" in data or b"\r" in data or b"{ " in data or b"[ " in data


def _stands_in_one_of(data: bytes, empty: bytes, fields: frozenset[bytes]) -> bool:
    """Whether a compact JSON text has an empty list or map, or may have it, as the value of one of the fields."""
    end = data.find(empty)
    while end >= 0:
        if data[end - 2 : end] == b'":':
            name = data[data.rfind(b'"', 0, end - 2) + 1 : end - 2]
            # A quote behind a backslash is none: then all of it stands in a string.
            escaped = b"\\" in name
            if name in fields or (escaped and (name[-1:] != b"\\" or name[-2:] == b"\\\\")):
                return True
        end = data.find(empty, end + 2)
    return False


def _parsed(kind: type[Any], data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except msgspec.MsgspecError as error:
        raise BadRequest(explain(kind, error)) from error


def decode_list(kind: type[K], data: bytes) -> tuple[list[K], meta.ListMeta]:
    """The items of a list, and its metadata. Raises BadRequest."""
    try:
        whole = _list_decoder.decode(data)
        one = decoder(kind).decode
        return [one(item) for item in whole.items or ()], whole.metadata
    except msgspec.MsgspecError as error:
        raise BadRequest(explain(kind, error)) from error


def decode_event(kind: type[K], line: bytes) -> K:
    """The object of a watch event's line. Raises BadRequest."""
    try:
        return decoder(kind).decode(_event_decoder.decode(line).object)
    except msgspec.MsgspecError as error:
        raise BadRequest(explain(kind, error)) from error


def to_dict(obj: Any) -> Any:
    """Plain dicts and lists."""
    return msgspec.to_builtins(obj)


def from_dict(kind: type[K], data: Any) -> K:
    """Raises BadRequest."""
    try:
        obj = msgspec.convert(data, kind)
    except msgspec.MsgspecError as error:
        if "got `null`" not in str(error):
            raise BadRequest(explain(kind, error)) from error
        try:
            obj = msgspec.convert(_without_nulls(data, kind), kind)
        except msgspec.MsgspecError as second:
            raise BadRequest(explain(kind, second)) from second
    except RecursionError as error:
        raise BadRequest("json: exceeded max depth") from error
    _settle(obj)
    return obj


def copy(obj: K) -> K:
    """A deep copy of an object."""
    return decoder(type(obj)).decode(_encoder.encode(obj))


# The object's metadata, for those who are told `Any` of it.
metadata: Callable[[Any], meta.ObjectMeta] = attrgetter("metadata")


# ------------------------------------------------------------------------------------- what Go makes of a body


def _without_nulls(value: Any, kind: type[Any]) -> Any:
    """Nulls out of a body: a field is not set, an item or a map's value is Go's zero value."""
    from pinnace.api.shapes import fields_of

    def shaped(inner: Any, shape: Shape) -> Any:
        if inner is None:
            return shape.zero if shape.zero is not None else None
        if shape.struct is not None and isinstance(inner, dict):
            return struct(inner, shape.struct)
        if shape.inner is not None and isinstance(inner, list):
            below = shape.inner if shape.form != "either" or shape.inner.inner is None else shape.inner.inner
            return [shaped(item, below) for item in inner]
        if shape.form == "map" and shape.inner is not None and isinstance(inner, dict):
            return {key: shaped(item, shape.inner) for key, item in inner.items()}
        return inner

    def struct(fields: dict[str, Any], of: type[msgspec.Struct]) -> dict[str, Any]:
        known = fields_of(of)
        return {
            name: shaped(inner, known[name].shape)
            for name, inner in fields.items()
            if inner is not None and name in known
        }

    if isinstance(value, dict) and issubclass(kind, msgspec.Struct):
        return struct(value, kind)
    return value


def _settle(obj: Any, empties: bool = True) -> None:
    """Canonical quantities, and None for what Go leaves out when it is empty. Changes the fresh object.

    Without `empties` it is known that nothing is empty: only the ways to quantities are walked."""
    if isinstance(obj, msgspec.Struct):
        _settle_struct(obj, empties)


def _settle_struct(obj: msgspec.Struct, empties: bool) -> None:
    plan = _plan(type(obj), empties)
    if plan is None:
        return
    for value, (attribute, optional, quantity, form) in zip(plan.values(obj), plan.rows, strict=True):
        if value is None:
            continue
        if not value and optional and isinstance(value, list | dict):
            setattr(obj, attribute, None)
        elif quantity:
            setattr(obj, attribute, _quantities(value))
        elif form == "struct":
            _settle_struct(value, empties)
        elif form == "list":
            for item in value:
                _settle(item, empties)
        elif form:
            _settle_some(value, empties)


def _settle_some(value: Any, empties: bool) -> None:
    """Maps, and what may be one thing or another."""
    if isinstance(value, list | dict):
        for item in value if isinstance(value, list) else value.values():
            _settle(item, empties)
    else:
        _settle(value, empties)


def _quantities(value: Any) -> Any:
    try:
        if isinstance(value, dict):
            return {key: canonical(item) for key, item in value.items()}
        if isinstance(value, list):
            return [canonical(item) for item in value]
        return canonical(value)
    except ValueError as error:
        raise BadRequest(str(error)) from error


class _Plan(NamedTuple):
    """The attributes of a struct that may need settling: name, left out when empty, quantity, and how what is below
    is to be walked ("": not at all)."""

    values: Callable[[Any], tuple[Any, ...]]
    rows: tuple[tuple[str, bool, bool, str], ...]


@cache
def _plan(struct: type[msgspec.Struct], empties: bool) -> _Plan | None:
    from pinnace.api.shapes import fields_of

    rows = []
    for field in fields_of(struct).values():
        optional = empties and _may_be_empty(field)
        below = [inner for inner in _structs(field.shape) if empties or _has_quantities(inner)]
        form = field.shape.form if below else ""
        if optional or field.quantity or form:
            rows.append((field.attribute, optional, field.quantity, form))
    if not rows:
        return None
    names = [row[0] for row in rows]
    if len(names) == 1:
        one = attrgetter(names[0])
        return _Plan(lambda obj: (one(obj),), tuple(rows))
    return _Plan(attrgetter(*names), tuple(rows))


def _structs(shape: Shape) -> list[type[msgspec.Struct]]:
    """The structs that a field may hold, directly or in lists and maps."""
    found = [shape.struct] if shape.struct is not None else []
    return found if shape.inner is None else [*found, *_structs(shape.inner)]


def _has_quantities(struct: type[msgspec.Struct]) -> bool:
    return any(field.quantity for field in _fields_within(struct))


def _may_be_empty(field: Field) -> bool:
    return field.optional and field.shape.form in ("list", "map")


def _fields_within(struct: type[msgspec.Struct]) -> list[Field]:
    """The fields in it at any depth; structs may hold themselves."""
    from pinnace.api.shapes import fields_of

    found: list[Field] = []
    seen, waiting = {struct}, [struct]
    while waiting:
        for field in fields_of(waiting.pop()).values():
            found.append(field)
            for inner in _structs(field.shape):
                if inner not in seen:
                    seen.add(inner)
                    waiting.append(inner)
    return found


# ------------------------------------------------------------------------------------------------------ errors

_MISMATCH = re.compile(r"Expected `(.+?)`, got `(.+?)`(?: - at `\$\.?(.*)`)?\Z")
_TOO_WIDE = re.compile(r"Expected `int` [<>]= -?\d+")
_GO_TYPES = {"str": "string", "bool": "bool", "int": "int64", "float": "float64"}
_JSON_NAMES = {"str": "string", "bool": "bool", "int": "number", "float": "number", "array": "array"}


def explain(kind: type[Any], error: Exception) -> str:
    """What is wrong with a body, as Go's decoder puts it."""
    text = str(error)
    match = _MISMATCH.search(_TOO_WIDE.sub("Expected `int`, got `int`", text))
    if match is None:
        return text
    expected, got, path = match.groups()
    wanted = next((word for word in expected.split(" | ") if word != "null"), expected)
    path = (path or "").lstrip(".")
    owner, target = _holder(kind, path)
    field = re.sub(r"\[[^\]]*\]", "", path)
    target = target or _GO_TYPES.get(wanted, wanted)
    where = f"Go struct field {owner}.{field} of type {target}" if field else f"Go value of type {target}"
    return f"json: cannot unmarshal {_JSON_NAMES.get(got, got)} into {where}"


def _holder(kind: type[Any], path: str) -> tuple[str, str]:
    """The struct that has the field at a path, and the Go type of what stands there (empty if nothing should)."""
    from pinnace.api.shapes import Shape, fields_of

    shape, form, owner = Shape("struct", kind), "", kind.__name__
    for name, index in re.findall(r"([^.\[\]]+)|(\[[^\]]*\])", path):
        if index:
            shape = shape.inner or shape
            continue
        found = fields_of(shape.struct).get(name) if shape.struct is not None else None
        if found is None or shape.struct is None:
            return owner, ""
        owner, shape, form = shape.struct.__name__, found.shape, found.format
    return owner, form if form in ("int32", "int64") else _go_type(shape)


def _go_type(shape: Any) -> str:
    if shape.form == "list":
        return f"[]{_go_type(shape.inner)}"
    if shape.form == "map":
        return f"map[string]{_go_type(shape.inner)}"
    if shape.struct is not None:
        return f"{shape.struct.__module__.rsplit('.', 1)[1]}.{shape.struct.__name__}"
    return _GO_TYPES.get(type(shape.zero).__name__, "string")
