"""What every generated wire type is built from: the Struct bases, the scalar aliases, the always-printed default.

The generated modules (`pinnace.api.<group>.<version>`) import this and nothing else of ours; see the package
docstring of `pinnace.api` for the rules about defaults and None.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import msgspec

if TYPE_CHECKING:
    from pinnace.api.meta.v1 import ListMeta, ObjectMeta

T = TypeVar("T")

# RFC 3339 in UTC, whole seconds (Time) or microseconds (MicroTime); helpers in pinnace.api.times.
Time: TypeAlias = str
MicroTime: TypeAlias = str
# "100m", "1Gi" or a bare number; a canonical string once the codec has read it (pinnace.api.quantity).
Quantity: TypeAlias = str | int | float
IntOrString: TypeAlias = int | str
# Base64 on the wire, and kept as it is on the wire.
Base64: TypeAlias = str
# Any JSON value whose shape is somebody else's (RawExtension, JSON, FieldsV1).
Raw: TypeAlias = Any


class Wire(msgspec.Struct, omit_defaults=True, gc=False):
    """Base of every wire type. No cycles, hence no garbage collector; fields at their default are not printed."""


class Object(Wire):
    """Base of every kind that has ObjectMeta."""

    if TYPE_CHECKING:
        kind: str
        apiVersion: str
        metadata: ObjectMeta


class ObjectList(Wire):
    """Base of every `…List` kind."""

    if TYPE_CHECKING:
        kind: str
        apiVersion: str
        metadata: ListMeta
        items: list[Any]


def always(value: T, *, name: str | None = None) -> T:
    """A field that is printed even at its default, as Go prints what has no `omitempty`.

    msgspec leaves a field out when it equals a plain default; it never does so for one made by a factory.
    """
    if isinstance(value, list | dict):
        return msgspec.field(default_factory=lambda: copy.copy(value), name=name)
    return msgspec.field(default_factory=lambda: value, name=name)
