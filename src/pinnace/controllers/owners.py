"""Who owns what: controller references, and how a controller adopts and releases the objects it selects."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pinnace.api import codec
from pinnace.api.kinds import kind_of
from pinnace.api.meta import v1 as meta
from pinnace.client.informer import Event, Informer
from pinnace.controllers.plan import Patch, Ref

K = TypeVar("K")

CONTROLLER = "controller"   # index: the controller's uid, or ("", namespace) for objects that have none


def controller_of(obj: Any) -> meta.OwnerReference | None:
    """The one owner that manages the object, if there is one."""
    for owner in codec.metadata(obj).ownerReferences or ():
        if owner.controller:
            return owner
    return None


def controller_reference(owner: Any) -> meta.OwnerReference:
    """A reference that makes `owner` the managing one."""
    kind, data = kind_of(owner), codec.metadata(owner)
    return meta.OwnerReference(
        apiVersion=kind.api_version,
        kind=kind.kind,
        name=data.name or "",
        uid=data.uid or "",
        controller=True,
        blockOwnerDeletion=True,
    )


def _controller_index(obj: Any) -> Iterator[Hashable]:
    owner = controller_of(obj)
    yield owner.uid if owner is not None else ("", codec.metadata(obj).namespace or "")


def index_by_controller(informer: Informer[Any]) -> None:
    informer.add_index(CONTROLLER, _controller_index)


def candidates(informer: Informer[K], owner: Any) -> list[K]:
    """Objects that `owner` controls, and those of its namespace that nobody does."""
    data = codec.metadata(owner)
    cache = informer.cache
    return cache.by_index(CONTROLLER, data.uid or "") + cache.by_index(CONTROLLER, ("", data.namespace or ""))


def controllers_named(kind: str, group: str) -> Callable[[Event[Any]], Iterable[Ref]]:
    """Maps a change to the object's controllers of that kind, before and after the change."""

    def refs(event: Event[Any]) -> Iterable[Ref]:
        found: dict[Ref, None] = {}
        for obj in (event.old, event.new):
            owner = controller_of(obj) if obj is not None else None
            if owner is not None and owner.kind == kind and _group(owner.apiVersion) == group:
                found[Ref(codec.metadata(obj).namespace or "", owner.name)] = None
        return found

    return refs


def _group(api_version: str) -> str:
    return api_version.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class Claim(Generic[K]):
    """What an owner controls, and the patches that put it in order first."""

    owned: list[K]
    patches: tuple[Patch, ...]


def claim(owner: Any, matches: Callable[[Any], bool], objects: Iterable[K], *, finalizer: str = "") -> Claim[K]:
    """Sort objects into those owned, those to adopt (they match, nobody controls them), those to release.

    An owner that is being deleted neither adopts nor releases, and keeps only what it has.
    """
    data = codec.metadata(owner)
    owned: list[K] = []
    patches: list[Patch] = []
    for obj in objects:
        item = codec.metadata(obj)
        controller = controller_of(obj)
        if controller is not None and controller.uid != data.uid:
            continue
        if controller is not None:
            if matches(obj):
                owned.append(obj)
            elif data.deletionTimestamp is None:
                patches.append(_release(owner, obj))
        elif data.deletionTimestamp is None and item.deletionTimestamp is None and matches(obj):
            patches.append(_adopt(owner, obj, finalizer))
    return Claim(owned, tuple(patches))


def _adopt(owner: Any, obj: Any, finalizer: str) -> Patch:
    item, reference = codec.metadata(obj), controller_reference(owner)
    body: dict[str, Any] = {
        "uid": item.uid,
        "ownerReferences": [
            {
                "apiVersion": reference.apiVersion,
                "kind": reference.kind,
                "name": reference.name,
                "uid": reference.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
    if finalizer:
        body["finalizers"] = [finalizer]
    return Patch(type(obj), item.namespace or "", item.name or "", {"metadata": body})


def _release(owner: Any, obj: Any) -> Patch:
    item = codec.metadata(obj)
    body = {"uid": item.uid, "ownerReferences": [{"$patch": "delete", "uid": codec.metadata(owner).uid}]}
    return Patch(type(obj), item.namespace or "", item.name or "", {"metadata": body})
