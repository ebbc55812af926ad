"""The queue between events and work: keys, not events; each key once, and never worked on twice at a time."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from pinnace.base.backoff import Backoff
from pinnace.base.clock import Clock

K = TypeVar("K", bound=Hashable)


class WorkQueue(Generic[K]):
    """Deduplicates keys, delays them, and hands each to one worker at a time.

    A key added while it is being worked on is handed out again after `done`. The queue holds each key at
    most once, so it is bounded by the number of keys there are.
    """

    def __init__(self, clock: Clock, backoff: Backoff | None = None) -> None:
        self._clock = clock
        self._backoff = backoff or Backoff(initial=0.005, maximum=1000.0)
        self._ready: dict[K, None] = {}
        self._active: set[K] = set()
        self._again: set[K] = set()
        self._due: dict[K, float] = {}
        self._timers: list[tuple[float, int, K]] = []
        self._order = itertools.count()
        self._waiting: deque[asyncio.Future[None]] = deque()      # workers without work
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def idle(self) -> bool:
        """Nothing is ready and nothing is being worked on (delayed keys do not count)."""
        return not self._ready and not self._active

    def add(self, key: K) -> None:
        """Work on the key as soon as possible."""
        if key in self._active:
            self._again.add(key)
        elif key not in self._ready:
            self._ready[key] = None
            self._rouse()

    def add_after(self, key: K, seconds: float) -> None:
        """Work on the key in so many seconds; of several delays for one key the shortest counts."""
        if seconds <= 0:
            self.add(key)
            return
        due = self._clock.monotonic() + seconds
        if self._due.get(key, float("inf")) <= due:
            return
        self._due[key] = due
        heapq.heappush(self._timers, (due, next(self._order), key))
        self._arm()

    def retry(self, key: K) -> float:
        """Work on the key again after its backoff; returns the delay in seconds."""
        seconds = self._backoff.next(key, self._clock.monotonic())
        self.add_after(key, seconds)
        return seconds

    def forget(self, key: K) -> None:
        """The key succeeded: forget its failures."""
        self._backoff.forget(key)

    async def get(self) -> K:
        """The next key; `done` must be called with it afterwards."""
        while not self._ready:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            try:
                await future
            except BaseException:
                # A worker that goes away leaves what it was woken for to another.
                if future.done() and not future.cancelled() and self._ready:
                    self._rouse()
                raise
        key = next(iter(self._ready))
        del self._ready[key]
        self._active.add(key)
        return key

    def _rouse(self) -> None:
        """Wake one worker: the others would find nothing."""
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                return

    async def serve(self, work: Callable[[K], Awaitable[None]], *, most: int, name: str = "") -> None:
        """Hand out keys to `work`, at most so many at a time, until cancelled. Workers come when they are needed, and
        stay. What `work` raises ends them all, and is raised."""
        workers = 1

        async def worker() -> None:
            nonlocal workers
            while True:
                key = await self.get()
                if workers < most and not any(not future.done() for future in self._waiting):
                    workers += 1
                    group.create_task(worker(), name=name or None)
                try:
                    await work(key)
                finally:
                    self.done(key)

        async with asyncio.TaskGroup() as group:
            group.create_task(worker(), name=name or None)

    def done(self, key: K) -> None:
        self._active.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def close(self) -> None:
        """Drop the timer; what is queued stays."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._timers and self._due.get(self._timers[0][2]) != self._timers[0][0]:
            heapq.heappop(self._timers)
        if self._timers:
            wait = max(0.0, self._timers[0][0] - self._clock.monotonic())
            self._timer = asyncio.get_running_loop().call_later(wait, self.tick)

    def tick(self) -> None:
        """Hand out the delayed keys that are due by the clock. The timer calls this; whoever moves a clock
        by hand calls it too, because the loop's timers know nothing of that."""
        now = self._clock.monotonic()
        while self._timers and self._timers[0][0] <= now:
            due, _, key = heapq.heappop(self._timers)
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key)
        self._arm()
