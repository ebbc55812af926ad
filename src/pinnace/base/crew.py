"""Workers that share one queue: they come as they are needed, and rest between."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger("pinnace.crew")


class Crew:
    """At most `most` tasks that do `work` whenever somebody is roused.

    `work` takes from the owner's queue until that is empty. Where it leaves something there and may have to wait, it
    rouses another first. One at a time is on its way: if by its turn of the loop nothing is left, since the first did
    not have to wait, it rests again.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]], *, most: int, name: str) -> None:
        self._work = work
        self._most = most
        self._name = name
        self._tasks: list[asyncio.Task[None]] = []
        self._resting: list[asyncio.Future[None]] = []
        self._coming = False     # one has been roused that has not had its turn yet

    def rouse(self) -> None:
        """There is something to do: one of those who rest comes, or a new one, unless all are at work."""
        if self._coming:
            return
        if self._resting:
            self._resting.pop().set_result(None)
        elif len(self._tasks) < self._most:
            self._tasks.append(asyncio.get_running_loop().create_task(self._member(), name=self._name))
        else:
            return
        self._coming = True

    def dismiss(self) -> list[asyncio.Task[None]]:
        """End all of them, whatever they do; a later `rouse` begins anew. Returns what there is to wait for."""
        tasks, self._tasks, self._resting, self._coming = self._tasks, [], [], False
        for task in tasks:
            task.cancel()
        return tasks

    async def _member(self) -> None:
        loop, resting = asyncio.get_running_loop(), self._resting
        while True:
            self._coming = False
            failed = False
            try:
                await self._work()
            except Exception:
                log.exception("%s", self._name)
                failed = True
            rest = loop.create_future()
            resting.append(rest)
            if failed:
                self.rouse()      # for what was left
            await rest
