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
        self._active: dict[K, bool] = {}       # what is worked on, and whether it was added again meanwhile
        self._due: dict[K, float] = {}
        self._timers: list[tuple[float, int, K]] = []
        self._order = itertools.count()
        self._waiting: deque[asyncio.Future[None]] = deque()      # workers without work
        self._timer: asyncio.TimerHandle | None = None
        self._armed: float | None = None                          # when the timer will go off

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def idle(self) -> bool:
        """Nothing is ready and nothing is being worked on (delayed keys do not count)."""
        return not self._ready and not self._active

    def add(self, key: K) -> None:
        """Work on the key as soon as possible."""
        if key in self._active:
            self._active[key] = True
        elif key not in self._ready:
            self._ready[key] = None
            if self._waiting:
                self._rouse()

    def add_after(self, key: K, seconds: float) -> None:
        """Work on the key in so many seconds; of several delays for one key the shortest counts."""
        if seconds <= 0:
            self.add(key)
        else:
            self.add_at(key, self._clock.monotonic() + seconds)

    def add_at(self, key: K, due: float) -> None:
        """The same at a time of the monotonic clock."""
        known = self._due.get(key)
        if known is not None and known <= due:
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
        if key in self._backoff.failed:
            self._backoff.forget(key)

    async def get(self) -> K:
        """The next key; `done` must be called with it afterwards."""
        while not self._ready:
            await self._wait()
        return self._take()

    def _take(self) -> K:
        key = next(iter(self._ready))
        del self._ready[key]
        self._active[key] = False
        return key

    async def _wait(self) -> None:
        """Return when there may be something ready."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            await future
        except BaseException:
            if future in self._waiting:
                self._waiting.remove(future)
            elif self._ready:
                self._rouse()      # a worker that goes away leaves what it was woken for to another
            raise

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
                while not self._ready:
                    await self._wait()
                key = self._take()
                if workers < most and not self._waiting:
                    workers += 1
                    group.create_task(worker(), name=name or None)
                try:
                    await work(key)
                finally:
                    self.done(key)

        async with asyncio.TaskGroup() as group:
            group.create_task(worker(), name=name or None)

    def done(self, key: K) -> None:
        if self._active.pop(key):
            self.add(key)

    def dismiss(self, key: K) -> None:
        """A key that is being worked on need not be handed out again for what was added meanwhile."""
        if key in self._active:
            self._active[key] = False

    def close(self) -> None:
        """Drop the timer; what is queued stays."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        """Keep one timer, for the first key that is due."""
        while self._timers and self._due.get(self._timers[0][2]) != self._timers[0][0]:
            heapq.heappop(self._timers)
        due = self._timers[0][0] if self._timers else None
        if due == self._armed and self._timer is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is not None:
            wait = max(0.0, due - self._clock.monotonic())
            self._timer = asyncio.get_running_loop().call_later(wait, self.tick)
        self._armed = due

    def tick(self) -> None:
        """Hand out the delayed keys that are due by the clock. The timer calls this; whoever moves a clock
        by hand calls it too, because the loop's timers know nothing of that."""
        self.close()
        now = self._clock.monotonic()
        while self._timers and self._timers[0][0] <= now:
            due, _, key = heapq.heappop(self._timers)
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key)
        self._arm()
