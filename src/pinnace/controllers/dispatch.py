"""From a change of an object to the controllers that it concerns.

An informer tells each of its handlers of each change, and most changes concern one controller of a dozen that watch
the kind. So those of one process share one handler for each informer, which finds out once what they would all ask:
what kind of object controls this one, and whom each function of a `Related` names.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from pinnace.client.informer import Added, Event, Handler, Informer, Unsubscribe
from pinnace.controllers.owners import Owned, Teller, hands
from pinnace.controllers.plan import Refs, Related, Wake, Watch

log = logging.getLogger("pinnace.controllers")

Concerns = Callable[[Event[Any]], bool]


@dataclass(frozen=True, slots=True)
class Primary:
    """Changes of a controller's own kind: those for which `concerns` holds, or all."""

    informer: Informer[Any]
    changed: Handler[Any]
    concerns: Concerns | None = None

    def handler(self, wake: Wake) -> Handler[Any]:
        return self.changed


class Dispatch:
    """The watches of a process' controllers, together for each informer."""

    def __init__(self) -> None:
        self._changes: dict[Informer[Any], _Changes] = {}

    def watch(self, watch: Watch, wake: Wake) -> Unsubscribe:
        """Have `wake` called as the watch says: for all objects that are there, and for each change from now on."""
        changes = self._changes.get(watch.informer)
        if changes is None:
            changes = self._changes[watch.informer] = _Changes()
            changes.end = watch.informer.subscribe(changes.tell)
        changes.add(watch, wake)
        newcomer = _Changes()
        newcomer.add(watch, wake)
        for obj in watch.informer.cache.list():
            newcomer.tell(Added(obj))
        return partial(self._unwatch, watch, wake)

    def _unwatch(self, watch: Watch, wake: Wake) -> None:
        changes = self._changes[watch.informer]
        changes.remove(watch, wake)
        if not changes.watches and changes.end is not None:
            changes.end()
            del self._changes[watch.informer]


class _Changes:
    """Those who watch one kind."""

    def __init__(self) -> None:
        self.watches: dict[tuple[Watch, Wake], Handler[Any]] = {}
        self.end: Unsubscribe | None = None
        # The same, sorted: by the kind of a controller; by what tells whom a change concerns; the others.
        self._owned: dict[str, tuple[Teller, ...]] = {}
        self._all_owned: tuple[Teller, ...] = ()
        self._related: tuple[tuple[Callable[[Event[Any]], Refs], tuple[Wake, ...]], ...] = ()
        self._others: tuple[tuple[Concerns | None, Handler[Any]], ...] = ()

    def add(self, watch: Watch, wake: Wake) -> None:
        self.watches[watch, wake] = watch.handler(wake)
        self._sort()

    def remove(self, watch: Watch, wake: Wake) -> None:
        self.watches.pop((watch, wake), None)
        self._sort()

    def _sort(self) -> None:
        owned: dict[str, tuple[Teller, ...]] = {}
        related: dict[Callable[[Event[Any]], Refs], tuple[Wake, ...]] = {}
        others: list[tuple[Concerns | None, Handler[Any]]] = []
        for (watch, wake), handler in self.watches.items():
            if isinstance(watch, Owned):
                owned[watch.kind] = (*owned.get(watch.kind, ()), watch.teller(wake))
            elif isinstance(watch, Related):
                related[watch.refs] = (*related.get(watch.refs, ()), wake)
            else:
                others.append((watch.concerns if isinstance(watch, Primary) else None, handler))
        self._owned = owned
        self._all_owned = tuple(handler for handlers in owned.values() for handler in handlers)
        self._related = tuple(related.items())
        self._others = tuple(others)

    def tell(self, event: Event[Any]) -> None:
        """A change; what one of those who are told of it raises is logged, and the others go on."""
        for concerns, handler in self._others:
            try:
                if concerns is None or concerns(event):
                    handler(event)
            except Exception:
                log.exception("a handler failed")
        if self._owned:
            owner, changed = hands(event)
            for tell in self._all_owned if owner is None or changed else self._owned.get(owner.kind, ()):
                try:
                    tell(event, owner, changed)
                except Exception:
                    log.exception("a handler failed")
        for refs, wakes in self._related:
            try:
                for ref in refs(event):
                    obj: Any = event.old if event.new is None else event.new
                    for wake in wakes:
                        wake(ref, obj.metadata.resourceVersion)
            except Exception:
                log.exception("a handler failed")
