"""Keeps the parts of a process alive: a part that dies is restarted with backoff, and says so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType

from pinnace.base.backoff import Backoff
from pinnace.base.clock import Clock

log = logging.getLogger("pinnace.supervisor")


class Supervisor:
    """Runs named parts until it is left.

    ```python
    async with Supervisor(clock) as supervisor:
        supervisor.start("scheduler", scheduler.run)
        await stop.wait()
    ```

    A part is a function that returns a coroutine which runs for ever. When it raises, or returns, it is
    started again after a backoff of 0.2 s to 10 s; KeyboardInterrupt and SystemExit end the process.
    Leaving the context cancels all parts and waits for them: the last started first, each when the one before has
    ended; with `together`, for parts that do not need each other, all at the same time.
    """

    def __init__(self, clock: Clock, *, together: bool = False) -> None:
        self._clock = clock
        self._together = together
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stopping: set[str] = set()
        self._backoff = Backoff(initial=0.2, maximum=10.0, reset_after=60.0)
        self.restarts: dict[str, int] = {}

    async def __aenter__(self) -> Supervisor:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def start(self, name: str, part: Callable[[], Awaitable[object]]) -> None:
        if name in self._tasks:
            raise ValueError(f"part {name!r} is running already")
        self._stopping.discard(name)
        self._tasks[name] = asyncio.create_task(self._keep(name, part), name=name)

    async def stop(self, *names: str) -> None:
        """End parts and wait for them, all at the same time; a name that there is no part of does not matter."""
        tasks = []
        for name in names:
            task = self._tasks.pop(name, None)
            if task is not None:
                self._stopping.add(name)
                task.cancel()
                tasks.append(task)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """End all parts, the last started first."""
        names = [*reversed(self._tasks)]
        if self._together:
            await self.stop(*names)
            return
        for name in names:
            await self.stop(name)

    async def _keep(self, name: str, part: Callable[[], Awaitable[object]]) -> None:
        while True:
            try:
                await part()
                log.error("part %s ended", name)
            except asyncio.CancelledError:
                # Cancelled by whom? What a part awaits may be cancelled behind its back: then it has died.
                if name in self._stopping or _cancelled():
                    raise
                log.exception("part %s died of a cancellation inside", name)
            except Exception:
                log.exception("part %s died", name)
            if name in self._stopping:
                return            # it swallowed the cancellation, or failed while it cleaned up
            _forget_cancellations()
            self.restarts[name] = self.restarts.get(name, 0) + 1
            await self._clock.sleep(self._backoff.next(name, self._clock.monotonic()))


def _cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _forget_cancellations() -> None:
    """Python's TaskGroup, before 3.13, leaves its own cancellation of the task counted when a child has failed."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
