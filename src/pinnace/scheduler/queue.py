"""Pods waiting for a node: ready ones by priority and age, failed ones until their backoff has passed or something
happened that may help them."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from dataclasses import dataclass, field

import msgspec

from pinnace.base.backoff import Backoff
from pinnace.base.clock import Clock
from pinnace.scheduler.podinfo import Key, PodInfo

# Whatever was missed, nobody waits longer (upstream: podMaxInUnschedulablePodsDuration).
_LONGEST_WAIT = 300.0


class _Waiting(msgspec.Struct, eq=False):
    info: PodInfo
    since: float
    ready: bool = False            # in the heap
    parked: bool = False           # unschedulable until something happens
    due: float = 0.0               # not before
    order: int = 0


@dataclass(eq=False)
class SchedulingQueue:
    """Each pod once. `pop` hands out the most important ready pod; `fail` gives it back."""

    clock: Clock
    _pods: dict[Key, _Waiting] = field(default_factory=dict)
    _heap: list[tuple[int, float, int, Key]] = field(default_factory=list)
    _order: itertools.count[int] = field(default_factory=itertools.count)
    _backoff: Backoff = field(default_factory=lambda: Backoff(initial=1.0, maximum=10.0))
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._pods)

    def __contains__(self, key: Key) -> bool:
        return key in self._pods

    @property
    def idle(self) -> bool:
        """No pod is ready now."""
        return not any(waiting.ready for waiting in self._pods.values())

    @property
    def more(self) -> bool:
        """Another may be handed out at once."""
        return bool(self._heap)

    def put(self, info: PodInfo) -> None:
        """A pod is new, or has changed."""
        waiting = self._pods.get(info.key)
        if waiting is None:
            waiting = self._pods[info.key] = _Waiting(info, self.clock.monotonic())
            self._ready(waiting)
            return
        before = waiting.info
        changed = before.shape != info.shape or before.owner != info.owner or before.uid != info.uid
        waiting.info = info
        if changed and not waiting.ready:
            self._ready(waiting)

    def drop(self, key: Key, uid: str = "") -> None:
        """A pod is gone, or has its node. With `uid` only that very pod: another of its name may wait by now."""
        if key not in self._pods or (uid and self._pods[key].info.uid != uid):
            return
        del self._pods[key]
        self._backoff.forget(key)

    async def pop(self) -> PodInfo:
        """The next pod; it stays in the queue, neither ready nor parked, until `drop` or `fail`."""
        while True:
            while self._heap:
                _, _, order, key = heapq.heappop(self._heap)
                waiting = self._pods.get(key)
                if waiting is not None and waiting.ready and waiting.order == order:
                    waiting.ready = False
                    return waiting.info
            self._wake.clear()
            await self._wake.wait()

    def fail(self, info: PodInfo, *, park: bool) -> None:
        """No node took the pod: try again after its backoff, or (`park`) when something has happened."""
        key = info.key
        waiting = self._pods.get(key)
        if waiting is None or waiting.info.uid != info.uid:
            return
        now = self.clock.monotonic()
        waiting.due = now + self._backoff.next(key, now)
        waiting.parked = park
        self._arm(_LONGEST_WAIT if park else waiting.due - now)

    def retry_parked(self) -> None:
        """Something happened that may let waiting pods in: those whose backoff is over are ready at once."""
        now = self.clock.monotonic()
        for waiting in self._pods.values():
            if waiting.parked:
                waiting.parked = False
                if waiting.due <= now:
                    self._ready(waiting)
                else:
                    self._arm(waiting.due - now)

    def unpark(self, info: PodInfo) -> None:
        """The pod waits for something that will not come by itself: try again after its backoff."""
        waiting = self._pods.get(info.key)
        if waiting is not None and waiting.parked and waiting.info.uid == info.uid:
            waiting.parked = False
            self._arm(max(0.0, waiting.due - self.clock.monotonic()))

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ready(self, waiting: _Waiting) -> None:
        waiting.ready, waiting.parked, waiting.order = True, False, next(self._order)
        heapq.heappush(self._heap, (-waiting.info.priority, waiting.since, waiting.order, waiting.info.key))
        self._wake.set()

    def _arm(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + seconds:
                return
            self._timer.cancel()
        self._timer = loop.call_later(max(0.0, seconds), self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = self.clock.monotonic()
        nearest = float("inf")
        for waiting in self._pods.values():
            if waiting.ready or not waiting.due:
                continue
            due = waiting.due + (_LONGEST_WAIT if waiting.parked else 0.0)
            if due <= now + 1e-6:
                waiting.due = 0.0
                self._ready(waiting)
            else:
                nearest = min(nearest, due)
        if nearest < float("inf"):
            self._arm(nearest - now)
