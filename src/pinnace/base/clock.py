"""Time, as a parameter.

Nothing outside this module reads the clock or sleeps; parts are handed a `Clock`. All timers of asyncio
(`loop.call_later`, `asyncio.timeout`, `asyncio.wait_for`) run on the loop's time, so a loop with virtual time
moves them together with a clock that is derived from it.
"""

from __future__ import annotations

import asyncio
import time
import types
from collections.abc import Callable, Generator
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Where a part gets its time from."""

    def now(self) -> datetime:
        """The wall clock, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back; comparable only with itself."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds (at once, but after a turn of the loop, if not positive)."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


class LoopClock:
    """A clock that follows the running loop's time, from a given start: virtual where the loop's time is."""

    def __init__(self, start: datetime, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._start = start
        self.monotonic: Callable[[], float] = loop.time
        self._zero = loop.time()
        # Where time is virtual, a whole chain of events happens in one instant.
        self._at, self._now = self._zero, start

    def now(self) -> datetime:
        at = self.monotonic()
        if at != self._at:
            self._at, self._now = at, self._start + timedelta(seconds=at - self._zero)
        return self._now

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0.0:
            await _turn()
            return
        over: asyncio.Future[None] = self._loop.create_future()
        timer = self._loop.call_later(seconds, _end, over)
        try:
            await over
        except BaseException:
            timer.cancel()
            raise


@types.coroutine
def _turn() -> Generator[None, None, None]:
    """Let the loop make a turn."""
    yield


def _end(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)


class ManualClock:
    """A clock that moves only when told to; `sleep` moves it. For tests of synchronous decisions."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now = start
        self._monotonic = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        self.advance(max(0.0, seconds))
        await asyncio.sleep(0)

    def advance(self, seconds: float) -> None:
        """Move on by so many seconds."""
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds
