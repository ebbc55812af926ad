"""Who turns the loop that a cluster runs on, for callers that are no coroutines.

In place: the loop runs only while somebody waits for something, so that simulated time stands still between two
calls. In a thread: the loop runs all the time, as real time does, and answers while the test is busy elsewhere.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any, Literal, Protocol, TypeVar

from pinnace.testing.loop import Threads, VirtualLoop

T = TypeVar("T")

_ON_ITS_OWN = "the cluster's loop would wait for itself: a coroutine awaits the verbs of the asynchronous cluster"
_CANCELLED = (
    "cancelled by somebody on the same loop; kopf, for one, cancels at its end all tasks that have begun after it"
)


class Cancelled(RuntimeError):
    """Somebody on the loop has cancelled what the caller waited for."""


class Driver(Protocol):
    """Runs coroutines on a loop, to their ends. Raises Cancelled instead of asyncio's CancelledError, which is no
    Exception, and would leave pytest with fixtures half torn down."""

    loop: asyncio.AbstractEventLoop

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T: ...

    def finish(self, task: asyncio.Task[T], go: asyncio.Event) -> T:
        """Set the event that a task waits for, and wait for the task. No task is made: kopf cancels at its end
        whatever has begun after it, and may be what the task ends."""
        ...

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
        return self._until(coroutine)

    def finish(self, task: asyncio.Task[T], go: asyncio.Event) -> T:
        __tracebackhide__ = True
        go.set()
        return self._until(task)

    def _until(self, what: Coroutine[Any, Any, T] | asyncio.Task[T]) -> T:
        __tracebackhide__ = True
        try:
            return self.loop.run_until_complete(what)
        except asyncio.CancelledError:
            raise Cancelled(_CANCELLED) from None

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
        return self._result(asyncio.run_coroutine_threadsafe(coroutine, self.loop))

    def finish(self, task: asyncio.Task[T], go: asyncio.Event) -> T:
        __tracebackhide__ = True
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def ended(task: asyncio.Task[T]) -> None:
            if task.cancelled():
                future.cancel()
            elif (error := task.exception()) is not None:
                future.set_exception(error)
            else:
                future.set_result(task.result())

        def begin() -> None:
            go.set()
            task.add_done_callback(ended)

        self.loop.call_soon_threadsafe(begin)
        return self._result(future)

    def _result(self, future: concurrent.futures.Future[T]) -> T:
        __tracebackhide__ = True
        try:
            return future.result()
        except (concurrent.futures.CancelledError, asyncio.CancelledError):
            raise Cancelled(_CANCELLED) from None
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
