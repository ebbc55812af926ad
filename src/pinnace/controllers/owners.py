"""Who owns what: controller references, and how a controller adopts and releases the objects it selects."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from pinnace.api import codec
from pinnace.api.kinds import kind_of
from pinnace.api.meta import v1 as meta
from pinnace.client.informer import Event, Handler, Informer
from pinnace.controllers.plan import Patch, Ref, Wake
from pinnace.controllers.selectors import selects

K = TypeVar("K")
Teller = Callable[[Event[Any], meta.OwnerReference | None, bool], None]

_UNLABELLED: dict[str, str] = {}
CONTROLLER = "controller"   # index: the controller's uid, or ("", namespace) for objects that have none


def controller_of(obj: Any) -> meta.OwnerReference | None:
    """The one owner that manages the object, if there is one."""
    for owner in obj.metadata.ownerReferences or ():
        if owner.controller:
            found: meta.OwnerReference = owner
            return found
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


def _controller_index(obj: Any) -> tuple[Hashable, ...]:
    data = obj.metadata
    for owner in data.ownerReferences or ():
        if owner.controller:
            return (owner.uid,)
    return (("", data.namespace or ""),)


def index_by_controller(informer: Informer[Any]) -> None:
    informer.add_index(CONTROLLER, _controller_index)


def candidates(informer: Informer[K], owner: Any) -> list[K]:
    """Objects that `owner` controls, and those of its namespace that nobody does."""
    data, cache = owner.metadata, informer.cache
    return cache.by_index(CONTROLLER, data.uid or "") + cache.by_index(CONTROLLER, ("", data.namespace or ""))


def hands(event: Event[Any]) -> tuple[meta.OwnerReference | None, bool]:
    """The reference to what controls the object, and whether the change may have been one of that."""
    old, new = event.old, event.new
    obj: Any = old if new is None else new
    references = obj.metadata.ownerReferences
    changed = old is not None and new is not None and old.metadata.ownerReferences != references
    for owner in references or ():
        if owner.controller:
            return owner, changed
    return None, changed


@dataclass(frozen=True, slots=True)
class Owned:
    """Changes of what objects of a kind control: they wake its controllers, before and after the change.

    `adopters` gives those that might adopt an object that nobody controls. `same` says of two versions of an object
    that nobody would decide otherwise because of the difference; `without` of one that it will not be missed.
    """

    informer: Informer[Any]
    kind: str
    group: str
    adopters: Callable[[Any], Iterable[Ref]] | None = None
    same: Callable[[Any, Any], bool] | None = None
    without: Callable[[Any], bool] | None = None

    def handler(self, wake: Wake) -> Handler[Any]:
        tell = self.teller(wake)
        return lambda event: tell(event, *hands(event))

    def teller(self, wake: Wake) -> Teller:
        """The same for one who knows what `hands` says of the event."""
        kind, group, same, without = self.kind, self.group, self.same, self.without
        usual = f"{group}/v1" if group else "v1"

        def named(owner: meta.OwnerReference) -> bool:
            return owner.kind == kind and owner.apiVersion.rpartition("/")[0] == group

        def changed(event: Event[Any], owner: meta.OwnerReference | None, changed_hands: bool) -> None:
            old, new = event.old, event.new
            obj: Any = old if new is None else new
            data = obj.metadata
            if owner is None:
                if new is not None and self.adopters is not None and _is_new_here(old, new):
                    for ref in self.adopters(new):
                        wake(ref, data.resourceVersion)
            elif (owner.apiVersion == usual and owner.kind == kind) or named(owner):
                if new is None:
                    passes = without is not None and without(old)
                else:
                    passes = same is not None and old is not None and not changed_hands and same(old, new)
                if not passes:
                    wake((data.namespace or "", owner.name), data.resourceVersion)
            if changed_hands:
                former = controller_of(old)
                if former is not None and named(former):
                    wake((data.namespace or "", former.name), data.resourceVersion)

        return changed


def _is_new_here(old: Any, new: Any) -> bool:
    """Whether an object that nobody controls was not so before, or had other labels."""
    if old is None:
        return True
    before, after = old.metadata, new.metadata
    return bool(before.labels != after.labels or before.ownerReferences != after.ownerReferences)


class Claim(msgspec.Struct, Generic[K], frozen=True, gc=False):
    """What an owner controls, and the patches that put it in order first."""

    owned: list[K]
    patches: tuple[Patch, ...]


def claim(
    owner: Any, selector: meta.LabelSelector | None, objects: Iterable[K], *, finalizer: str = ""
) -> Claim[K]:
    """Sort objects into those owned, those to adopt (they match, nobody controls them), those to release.

    An owner that is being deleted neither adopts nor releases, and keeps only what it has.
    """
    data = owner.metadata
    going = data.deletionTimestamp is not None
    plain = selector is not None and not selector.matchExpressions
    wanted = ((selector.matchLabels if selector is not None else None) or _UNLABELLED).items()
    owned: list[K] = []
    patches: list[Patch] = []
    obj: Any
    for obj in objects:
        item = obj.metadata
        labels = item.labels or _UNLABELLED
        matches = wanted <= labels.items() if plain else selects(selector, labels)
        controller = ""
        for reference in item.ownerReferences or ():
            if reference.controller:
                controller = reference.uid
                break
        if controller:
            if controller != data.uid:
                continue
            if matches:
                owned.append(obj)
            elif not going:
                patches.append(_release(owner, obj))
        elif not going and item.deletionTimestamp is None and matches:
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
