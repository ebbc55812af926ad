"""What the server does with ObjectMeta, for every kind: whose field is whose. Pure; its validation is in
`resources/metadata.py`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from operator import attrgetter
from typing import Any

from pinnace.api.errors import BadRequest
from pinnace.api.kinds import Kind
from pinnace.api.meta import v1 as meta

# A generated name is its base and five characters, 63 in all.
GENERATED_BASE = 58


def take_namespace(obj: Any, kind: Kind, namespace: str) -> None:
    """The object gets the request's namespace. Raises BadRequest if it names another."""
    metadata = obj.metadata
    if not kind.namespaced:
        metadata.namespace = None
    elif not metadata.namespace:
        metadata.namespace = namespace
    elif metadata.namespace != namespace:
        raise BadRequest("the namespace of the provided object does not match the namespace sent on the request")


def check_name(obj: Any, name: str) -> None:
    """Raises BadRequest if an update's object is not the one that the path names."""
    given = obj.metadata.name or ""
    if given != name:
        raise BadRequest(f"the name of the object ({given}) does not match the name on the URL ({name})")


def prepare_new(metadata: meta.ObjectMeta, uid: str, now: str, *, generation: bool) -> None:
    """Fill in what the server owns on a new object, whatever the client sent."""
    metadata.uid = uid
    metadata.creationTimestamp = now
    metadata.generation = 1 if generation else None
    metadata.deletionTimestamp = metadata.deletionGracePeriodSeconds = None
    metadata.resourceVersion = metadata.selfLink = None


def prepare_changed(new: meta.ObjectMeta, old: meta.ObjectMeta) -> None:
    """Keep what an update cannot change; what it leaves out of these is no attempt to clear it."""
    new.uid = new.uid or old.uid
    new.creationTimestamp = old.creationTimestamp
    new.generation = old.generation
    new.generateName = new.generateName or old.generateName
    new.deletionTimestamp = old.deletionTimestamp
    new.deletionGracePeriodSeconds = old.deletionGracePeriodSeconds
    new.selfLink = None


def same_content(new: Any, old: Any) -> bool:
    """Nothing differs that metadata.generation counts: all but metadata and status."""
    of: Any = type(new)
    taken = _content(of)
    return bool(taken(new) == taken(old))


@cache
def _content(of: Any) -> Callable[[Any], Any]:
    names = content(of)
    return attrgetter(*names) if names else lambda _: None


@cache
def content(of: Any) -> tuple[str, ...]:
    """The names of an object's own fields: all but its type, metadata and status."""
    return tuple(
        [name for name in of.__struct_fields__ if name not in ("kind", "apiVersion", "metadata", "status")]
    )
