"""The fields of a wire type as walks over it need them: read once a class from its annotations.

Used by the codec (canonical quantities, Go's idea of "empty"), by strict field checking, and by nothing on the way
of an ordinary decode.
"""

from __future__ import annotations

from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import msgspec

from pinnace.api.merge_table import MERGE
from pinnace.api.patch.fields import name_of

Form = Literal["plain", "struct", "list", "map", "either"]


class Shape(NamedTuple):
    """What a field holds: a struct, a list or map of something, or a plain value. `either`: a struct, or `inner`."""

    form: Form
    struct: type[msgspec.Struct] | None = None
    inner: Shape | None = None
    zero: Any = None  # what Go makes of a null here

    @property
    def structured(self) -> bool:
        return self.struct is not None or (self.inner is not None and self.inner.structured)


class Field(NamedTuple):
    attribute: str
    wire: str
    shape: Shape
    optional: bool
    quantity: bool
    format: str = ""


@cache
def fields_of(struct: type[msgspec.Struct]) -> dict[str, Field]:
    """By wire name."""
    table = MERGE.get(name_of(struct), {})
    out: dict[str, Field] = {}
    for hint in msgspec.structs.fields(struct):
        held = table.get(hint.encode_name)
        quantity = held is not None and held[5].lstrip("[]{}") == "quantity"
        shape, optional = _shape(hint.type)
        out[hint.encode_name] = Field(hint.name, hint.encode_name, shape, optional, quantity, held[4] if held else "")
    return out


def _shape(annotation: Any) -> tuple[Shape, bool]:
    options = get_args(annotation) if isinstance(annotation, UnionType) or get_origin(annotation) is Union else ()
    # A number's width is msgspec's to check: here it is a number.
    plain = [get_args(option)[0] if get_origin(option) is Annotated else option for option in options or (annotation,)]
    rest = [option for option in plain if option is not NoneType]
    optional = len(rest) < len(options) or annotation is Any
    structs = [option for option in rest if isinstance(option, type) and issubclass(option, msgspec.Struct)]
    others = [option for option in rest if option not in structs]
    if structs and others:
        return Shape("either", structs[0], _shape(others[0])[0]), optional
    if structs:
        return Shape("struct", structs[0], None, {}), optional
    origin = get_origin(rest[0]) if len(rest) == 1 else None
    if origin is list:
        return Shape("list", None, _shape(get_args(rest[0])[0])[0]), optional
    if origin is dict:
        inner = get_args(rest[0])[1]
        # dict[str, Any] is somebody else's JSON: nothing in it is ours to judge.
        return (Shape("plain") if inner is Any else Shape("map", None, _shape(inner)[0])), optional
    if len(rest) > 1:  # a quantity, or a number or string
        return Shape("plain", zero="0" if float in rest and str in rest else 0), optional
    zero = {str: "", int: 0, bool: False, float: 0}.get(rest[0])
    return Shape("plain", zero=zero), optional
