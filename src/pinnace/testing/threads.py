"""`VirtualLoop(threads="inline")`: work for threads is done while everything else stands still.

`run_in_executor` calls the function in its place. anyio has worker threads of its own; they may start, and the loop
waits at each turn until they have done what they were given, so that their results come at the same moment in each run.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from contextvars import Context
from queue import Queue
from typing import Any, Literal, TypeVar

from pinnace.testing.outside import OutsideWorld

T = TypeVar("T")
Threads = Literal["refuse", "inline"]

_ALIVE = 0.05      # real seconds between looks whether a worker has ended


class Workers:
    """anyio's worker threads of one loop, by what they show: `queue`, whose tasks they mark as done, and `stopping`."""

    def __init__(self) -> None:
        self.started: dict[threading.Thread, int] = {}      # in which order
        self._reports: list[tuple[int, asyncio.Handle]] = []
        self._count = 0

    def admit(self, thread: object) -> bool:
        """Whether a thread that is about to start is one of theirs."""
        if not isinstance(thread, threading.Thread) or not isinstance(getattr(thread, "queue", None), Queue):
            return False
        if not type(thread).__module__.startswith("anyio."):
            return False
        self._count += 1
        self.started[thread] = self._count
        return True

    def report(self, handle: asyncio.Handle) -> bool:
        """Called in any thread: a worker has a result for the loop. False if it is none of them."""
        place = self.started.get(threading.current_thread())
        if place is None:
            return False
        self._reports.append((place, handle))
        return True

    def finish(self) -> list[asyncio.Handle]:
        """Wait until all have done their work; their results, in an order that does not depend on who was faster."""
        for thread in list(self.started):
            queue: Queue[object] = thread.queue  # type: ignore[attr-defined]  # see `admit`
            with queue.all_tasks_done:
                while queue.unfinished_tasks and thread.is_alive() and not getattr(thread, "stopping", False):
                    queue.all_tasks_done.wait(_ALIVE)
            if getattr(thread, "stopping", False) or not thread.is_alive():
                del self.started[thread]
        reports, self._reports = self._reports, []
        return [handle for _, handle in sorted(reports, key=lambda report: report[0])]


def call(loop: asyncio.AbstractEventLoop, func: Callable[..., T], args: tuple[Any, ...]) -> asyncio.Future[T]:
    """Call it now; the future has its result already."""
    future: asyncio.Future[T] = loop.create_future()
    try:
        future.set_result(func(*args))
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        future.set_exception(error)
    return future


def refuse(func: object) -> OutsideWorld:
    """`asyncio.to_thread` wraps what it is to call into a context's `run`."""
    if isinstance(func, functools.partial):
        func = func.args[0] if isinstance(getattr(func.func, "__self__", None), Context) and func.args else func.func
    name = getattr(func, "__qualname__", repr(func))
    return OutsideWorld(
        f"simulated time has no threads: {name} was to run in an executor"
        ' (a loop with threads="inline" would call it in its place)'
    )
