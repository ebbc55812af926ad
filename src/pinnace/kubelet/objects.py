"""ConfigMaps and Secrets of this node's pods, each watched by itself and only while a pod needs it.

The node authorizer lets a node see only what its pods refer to, so there is one watch an object, counted by the
pods that hold it. A change wakes those pods.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from pinnace.base.clock import Clock
from pinnace.base.randomness import Randomness
from pinnace.client.client import Client
from pinnace.client.informer import Event, Handler, Informer
from pinnace.kubelet.environment import ConfigError

K = TypeVar("K")

FIRST_LIST = 10.0      # seconds until a pod is told that an object cannot be had


@dataclass(frozen=True, slots=True)
class Reference:
    """An object that a pod refers to."""

    kind: type[Any]
    namespace: str
    name: str


@dataclass(slots=True)
class _Held:
    informer: Informer[Any]
    task: asyncio.Task[None]
    holders: set[str] = field(default_factory=set)


class ObjectCache:
    """`wake(uid)` is called for every pod that holds an object which changed."""

    def __init__(self, client: Client, clock: Clock, randomness: Randomness, wake: Callable[[str], None]) -> None:
        self._client = client
        self._clock = clock
        self._randomness = randomness
        self._wake = wake
        self._held: dict[Reference, _Held] = {}

    async def get(self, kind: type[K], namespace: str, name: str, uid: str) -> K | None:
        """The object as it is now, or None; the pod `uid` is woken when it changes. Raises ConfigError."""
        reference = Reference(kind, namespace, name)
        held = self._held.get(reference)
        if held is None:
            informer: Informer[Any] = Informer(
                self._client, kind, namespace=namespace, field_selector=f"metadata.name={name}",
                clock=self._clock, randomness=self._randomness.fork(),
            )  # fmt: skip
            held = _Held(informer, asyncio.create_task(informer.run(), name=f"watch {kind.__name__} {name}"))
            self._held[reference] = held
            informer.subscribe(self._told(held))
        held.holders.add(uid)
        try:
            async with asyncio.timeout(FIRST_LIST):
                await held.informer.wait_synced()
        except TimeoutError:
            what = kind.__name__.lower()
            raise ConfigError(f"failed to sync {what} cache: timed out waiting for the condition") from None
        return cast("K | None", held.informer.cache.get(namespace, name))

    def release(self, uid: str) -> None:
        """The pod is gone: what only it held is watched no more."""
        for reference, held in list(self._held.items()):
            held.holders.discard(uid)
            if not held.holders:
                held.task.cancel()
                del self._held[reference]

    async def close(self) -> None:
        tasks = [held.task for held in self._held.values()]
        self._held.clear()
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)

    def _told(self, held: _Held) -> Handler[Any]:
        def changed(_event: Event[Any]) -> None:
            for uid in tuple(held.holders):
                self._wake(uid)

        return changed
