"""Who turns the loop that a cluster runs on, for callers that are no coroutines.

In place: the loop runs only while somebody waits for something, so that simulated time stands still between two
calls. In a thread: the loop runs all the time, as real time does, and answers while the test is busy elsewhere.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Literal, Protocol, TypeVar

from pinnace.testing.loop import Threads, VirtualLoop

T = TypeVar("T")

_ON_ITS_OWN = "the cluster's loop would wait for itself: a coroutine awaits the verbs of the asynchronous cluster"


class Driver(Protocol):
    """Runs coroutines on a loop, to their ends."""

    loop: asyncio.AbstractEventLoop

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T: ...

    def close(self) -> None:
        """Cancel what is left on the loop, and close it."""
        ...


class InPlace:
    """The caller's thread turns the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        __tracebackhide__ = True      # of pytest's reports
        if self.loop.is_running():
            coroutine.close()
            raise RuntimeError(_ON_ITS_OWN)
        return self.loop.run_until_complete(coroutine)

    def close(self) -> None:
        try:
            _cancel_all(self.loop)
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            if not isinstance(self.loop, VirtualLoop):        # which has no threads
                self.loop.run_until_complete(self.loop.shutdown_default_executor())
        finally:
            self.loop.close()


class InThread:
    """A thread of its own turns the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._thread = threading.Thread(target=loop.run_forever, name="pinnace", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        __tracebackhide__ = True      # of pytest's reports
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError(_ON_ITS_OWN)
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        InPlace(self.loop).close()


def drive(
    time: Literal["virtual", "real"], seed: int, *, threaded: bool, threads: Threads = "refuse"
) -> Driver:
    """A new loop and who turns it. Simulated time is always turned in place; `threads`: see `VirtualLoop`."""
    if time == "virtual":
        return InPlace(VirtualLoop(seed, threads=threads))
    loop = asyncio.new_event_loop()
    return InThread(loop) if threaded else InPlace(loop)


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    left = sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name())
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
