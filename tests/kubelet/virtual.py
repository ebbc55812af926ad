"""A loop with virtual time for these tests: timers cost nothing, threads are waited for in real time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

from pinnace.base.clock import LoopClock

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class _Selector(selectors.DefaultSelector):
    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        found = super().select(0)
        while not found and self.loop.threads and (timeout is None or timeout > 0):
            found = super().select(0.05)
        if not found and timeout is None:
            raise RuntimeError("nothing will ever happen again")
        if not found and timeout:
            self.loop.virtual += timeout
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.virtual = 0.0
        self.threads = 0
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.virtual

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        self.threads += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(lambda _: setattr(self, "threads", self.threads - 1))
        return future


def simulate(test: Callable[[LoopClock], Coroutine[Any, Any, None]]) -> float:
    """Run the test on a loop of its own; how many virtual seconds it took."""
    loop = VirtualLoop()
    try:
        loop.run_until_complete(test(LoopClock(START, loop)))
        return loop.virtual
    finally:
        loop.threads += 1
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
