"""Events are kept for an hour after they were last written; upstream leaves that to etcd's leases.

A timer of the loop, not a task that sleeps: it costs nothing while nothing is due.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from pinnace.api import times
from pinnace.api.core import v1 as core
from pinnace.apiserver.cache import Event
from pinnace.store.store import CLOCK, Cause, Conflict

if TYPE_CHECKING:
    from pinnace.apiserver.server import ApiServer

log = logging.getLogger("pinnace.apiserver")

EVENT_SECONDS = 3600.0
_SWEEP_SECONDS = 60.0
_MOST_AT_ONCE = 2000


def _last(event: core.Event) -> str:
    series = event.series.lastObservedTime if event.series is not None else None
    return max(event.lastTimestamp or "", event.eventTime or "", series or "", event.metadata.creationTimestamp or "")


class Expiry:
    """Sweeps as long as the server runs. It takes note of each event that is written, in the order of their times, so
    that a sweep looks only at those that are due."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self._noted: list[tuple[str, str, int]] = []      # a heap of times, keys and revisions
        self._leave: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Once the cache is filled; again when it was filled anew."""
        if self._leave is not None:
            self._leave()
        cache = self._server.registry(core.Event).cache
        self._noted = [(_last(entry.object), key, entry.revision) for key, entry in cache.entries.items()]
        heapq.heapify(self._noted)
        self._leave = cache.join(("", ""), self._note)
        self._arm()

    async def close(self) -> None:
        if self._leave is not None:
            self._leave()
            self._leave = None
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def sweep(self) -> int:
        """Remove what has expired; returns how many events that were, at most so many as one sweep removes."""
        server = self._server
        entries = server.registry(core.Event).cache.entries
        limit, removed = self._limit(), 0
        now = int(server.clock.now().timestamp() * 1000)
        cause = Cause("system:apiserver", "delete", (CLOCK,), agent="kube-apiserver", at=now)
        while self._noted and self._noted[0][0] < limit and removed < _MOST_AT_ONCE:
            _, key, revision = heapq.heappop(self._noted)
            entry = entries.get(key)
            if entry is None or entry.revision != revision:
                continue      # it was written again in the meantime, and is noted again
            try:
                await server.store.commit(key, None, expect=revision, cause=cause)
                removed += 1
            except Conflict:
                continue
            except BaseException:
                heapq.heappush(self._noted, (_last(entry.object), key, revision))
                raise
        return removed

    def _limit(self) -> str:
        # Times are RFC 3339 in UTC, so that their texts sort like what they mean.
        return times.format(self._server.clock.now() - timedelta(seconds=EVENT_SECONDS))

    def _note(self, event: Event) -> None:
        if event.type != "DELETED":
            heapq.heappush(self._noted, (_last(event.entry.object), event.entry.key, event.revision))

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._due)

    def _due(self) -> None:
        if self._noted and self._noted[0][0] < self._limit():
            self._task = asyncio.create_task(self._run(), name="apiserver-expiry")
        self._arm()

    async def _run(self) -> None:
        try:
            await self.sweep()
        except Exception:
            log.exception("sweeping events failed; the next sweep tries again")
