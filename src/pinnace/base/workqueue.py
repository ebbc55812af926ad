"""The queue between events and work: keys, not events; each key once, and never worked on twice at a time."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from pinnace.base.backoff import Backoff
from pinnace.base.clock import Clock

K = TypeVar("K", bound=Hashable)


class WorkQueue(Generic[K]):
    """Deduplicates keys, delays them, and hands each to one worker at a time.

    A key added while it is being worked on is handed out again afterwards. The queue holds each key at
    most once, so it is bounded by the number of keys there are.

    `put_off`, if given, is asked about a delayed key that is due, and since when; it may give a later time of the
    monotonic clock until which the key is delayed further.
    """

    def __init__(
        self,
        clock: Clock,
        backoff: Backoff | None = None,
        *,
        put_off: Callable[[K, float], float | None] | None = None,
    ) -> None:
        self._clock = clock
        self._put_off = put_off
        self._backoff = backoff or Backoff(initial=0.005, maximum=1000.0)
        self.failed = self._backoff.failed     # the keys that `retry` was called for, and not yet `forget`
        self._ready: OrderedDict[K, None] = OrderedDict()
        self._active: dict[K, bool] = {}       # what is worked on, and whether it was added again meanwhile
        self._due: dict[K, float] = {}
        self._timers: list[tuple[float, int, K]] = []
        self._order = itertools.count()
        self._waiting: deque[asyncio.Future[None]] = deque()      # workers without work
        self._coming = False                                      # one of them has been woken, and has not had its turn
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
            if self._waiting and not self._coming:
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
        if self._armed is None or due < self._armed:
            self._arm(due)

    def retry(self, key: K) -> float:
        """Work on the key again after its backoff; returns the delay in seconds."""
        seconds = self._backoff.next(key, self._clock.monotonic())
        self.add_after(key, seconds)
        return seconds

    def forget(self, key: K) -> None:
        """The key succeeded: forget its failures."""
        if key in self.failed:
            self._backoff.forget(key)

    async def serve(self, work: Callable[[K], Awaitable[None]], *, most: int, name: str = "") -> None:
        """Hand out keys to `work`, at most so many at a time, until cancelled. Workers come when they are needed, and
        stay. What `work` raises ends them all, and is raised."""
        loop, ready, active, waiting = asyncio.get_running_loop(), self._ready, self._active, self._waiting
        workers = 1

        async def worker() -> None:
            nonlocal workers
            while True:
                while not ready:
                    future = loop.create_future()
                    waiting.append(future)
                    try:
                        await future
                    except BaseException:
                        self._left(future)
                        raise
                    self._coming = False
                key, _ = ready.popitem(last=False)
                active[key] = False
                if not waiting:
                    if workers < most:
                        workers += 1
                        group.create_task(worker(), name=name or None)
                elif ready and not self._coming:
                    self._rouse()      # the next is another's: this one may take a while
                try:
                    await work(key)
                finally:
                    if active.pop(key):
                        self.add(key)

        async with asyncio.TaskGroup() as group:
            group.create_task(worker(), name=name or None)

    def _rouse(self) -> None:
        """Wake one worker: the others would find nothing, or what it leaves to them."""
        while self._waiting:
            try:
                self._waiting.popleft().set_result(None)
            except asyncio.InvalidStateError:
                continue       # that one has just been cancelled
            self._coming = True
            return

    def _left(self, future: asyncio.Future[None]) -> None:
        """A worker went away while it waited: what it was woken for is left to another."""
        if future in self._waiting:
            self._waiting.remove(future)
        else:
            self._coming = False
            if self._ready:
                self._rouse()

    def dismiss(self, key: K) -> None:
        """A key that is being worked on need not be handed out again for what was added meanwhile."""
        if key in self._active:
            self._active[key] = False

    def close(self) -> None:
        """Drop the timer; what is queued stays."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._armed = None

    def _arm(self, due: float) -> None:
        """Keep one timer, for the first key that is due."""
        if self._timer is not None:
            self._timer.cancel()
        wait = max(0.0, due - self._clock.monotonic())
        self._timer = asyncio.get_running_loop().call_later(wait, self._gone_off)
        self._armed = due

    def _gone_off(self) -> None:
        self._timer = self._armed = None
        self.tick()

    def tick(self) -> None:
        """Hand out the delayed keys that are due by the clock. The timer calls this; whoever moves a clock
        by hand calls it too, because the loop's timers know nothing of that."""
        timers, now = self._timers, self._clock.monotonic()
        while timers:
            due, _, key = timers[0]
            known = self._due.get(key)
            if known == due:
                if due > now:
                    break
                later = self._put_off(key, due) if self._put_off is not None else None
                if later is not None and later > now:
                    self._due[key] = later
                    heapq.heapreplace(timers, (later, next(self._order), key))
                    continue
                del self._due[key]
                self.add(key)
            heapq.heappop(timers)      # … or it is to be handed out sooner than this
        if not timers:
            self.close()
        elif timers[0][0] != self._armed:
            self._arm(timers[0][0])
