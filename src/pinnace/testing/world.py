"""What laws look at: the store's objects, typed and indexed, and the single commits that led to them.

`invariants.py` keeps a `World` current; `laws.py` reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Step:
    """One commit. `old` and `new` are typed objects (None: was not, or is no longer there)."""

    revision: int
    at: float                  # the cluster's monotonic clock
    actor: str                 # user name; "" where the server wrote by itself
    verb: str                  # of the request
    plural: str
    key: str
    old: Any
    new: Any

    @property
    def object(self) -> Any:
        return self.old if self.new is None else self.new


class World:
    """What the store holds, as typed objects, with the indexes that laws need. Kept by `Invariants` alone."""

    def __init__(self) -> None:
        self.values: dict[str, tuple[int, bytes]] = {}             # everything acknowledged
        self._objects: dict[str, dict[str, Any]] = {}              # plural -> key -> object
        self._owned: dict[str, dict[str, Any]] = {}                # controller's uid -> key -> object
        self._placed: dict[str, dict[str, Any]] = {}               # node -> key -> pod

    def all(self, plural: str) -> Iterable[Any]:
        return self._objects.get(plural, {}).values()

    def find(self, plural: str, namespace: str, name: str) -> Any:
        for obj in self.all(plural):
            if obj.metadata.name == name and (obj.metadata.namespace or "") == namespace:
                return obj
        return None

    def owned(self, uid: str | None, plural: str = "pods") -> list[Any]:
        found = self._owned.get(uid or "", {})
        table = self._objects.get(plural, {})
        return [obj for key, obj in found.items() if key in table]

    def on(self, node: str) -> Iterable[Any]:
        return self._placed.get(node, {}).values()

    def owner(self, obj: Any, plural: str) -> Any:
        uid = controller_uid(obj)
        return next((o for o in self.all(plural) if o.metadata.uid == uid), None) if uid else None

    def put(self, plural: str, key: str, new: Any) -> Any:
        """Take in the object (None: it is gone); returns what was there."""
        table = self._objects.setdefault(plural, {})
        old = table.pop(key, None) if new is None else table.get(key)
        if old is not None:
            self._index(self._owned, controller_uid(old), key, None)
            if plural == "pods":
                self._index(self._placed, old.spec.nodeName, key, None)
        if new is not None:
            table[key] = new
            self._index(self._owned, controller_uid(new), key, new)
            if plural == "pods":
                self._index(self._placed, new.spec.nodeName, key, new)
        return old

    @staticmethod
    def _index(index: dict[str, dict[str, Any]], value: str | None, key: str, obj: Any) -> None:
        if not value:
            return
        if obj is not None:
            index.setdefault(value, {})[key] = obj
        elif value in index:
            index[value].pop(key, None)
            if not index[value]:
                del index[value]


def controller_uid(obj: Any) -> str:
    return next((ref.uid for ref in obj.metadata.ownerReferences or () if ref.controller), "") or ""


class Law(Protocol):
    """Says what a step broke, as text; an empty iterator if nothing. The world is as after the step."""

    @property
    def name(self) -> str: ...

    def broken(self, world: World, step: Step) -> Iterator[str]: ...
