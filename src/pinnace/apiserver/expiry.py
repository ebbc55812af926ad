"""Events are kept for an hour after they were last written; upstream leaves that to etcd's leases.

A timer of the loop, not a task that sleeps: it costs nothing while nothing is due.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pinnace.api import times
from pinnace.api.core import v1 as core
from pinnace.apiserver.cache import Event, Joined
from pinnace.store.store import CLOCK, Cause, Conflict

if TYPE_CHECKING:
    from pinnace.apiserver.server import ApiServer

log = logging.getLogger("pinnace.apiserver")

EVENT_SECONDS = 3600.0
_SWEEP_SECONDS = 60.0
_MOST_AT_ONCE = 2000


def _written(event: core.Event, now: datetime) -> datetime:
    """When it was last written; `now` for what says no readable time."""
    series = event.series.lastObservedTime if event.series is not None else None
    said = (event.lastTimestamp, event.eventTime, series, event.metadata.creationTimestamp)
    try:
        return max(times.parse(moment) for moment in said if moment)
    except ValueError:
        return now


class Expiry:
    """Sweeps as long as the server runs. It takes note of each event that is written, so that a sweep looks only at
    those that are due."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self._clock = server.clock
        self._noted: deque[tuple[datetime, str, int]] = deque()      # when written, keys, revisions; oldest first
        self._joined: Joined | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Once the cache is filled; again when it was filled anew."""
        if self._joined is not None:
            self._joined.leave()
        cache = self._server.registry(core.Event).cache
        # When those were written that are there already, they say themselves.
        now = self._clock.now()
        self._noted = deque(sorted(
            (_written(entry.object, now), entry.key, entry.revision) for entry in cache.entries.values()
        ))  # fmt: skip
        self._joined = cache.join(("", ""), self._note)
        self._arm()

    async def close(self) -> None:
        if self._joined is not None:
            self._joined.leave()
            self._joined = None
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def sweep(self) -> int:
        """Remove what has expired; returns how many events that were, at most so many as one sweep removes."""
        server, noted = self._server, self._noted
        entries = server.registry(core.Event).cache.entries
        limit, removed = self._limit(), 0
        now = int(self._clock.now().timestamp() * 1000)
        cause = Cause("system:apiserver", "delete", (CLOCK,), agent="kube-apiserver", at=now)
        while noted and noted[0][0] < limit and removed < _MOST_AT_ONCE:
            first = noted[0]
            _, key, revision = first
            entry = entries.get(key)
            if entry is not None and entry.revision == revision:      # else it was written again, and is noted again
                try:
                    await server.store.commit(key, None, expect=revision, cause=cause)
                    removed += 1
                except Conflict:
                    pass
            if noted and noted[0] is first:
                noted.popleft()
        return removed

    def _limit(self) -> datetime:
        # A lease has whole seconds.
        return self._clock.now().replace(microsecond=0) - timedelta(seconds=EVENT_SECONDS)

    def _note(self, event: Event) -> None:
        if event.type != "DELETED":
            self._noted.append((self._clock.now(), event.entry.key, event.revision))

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
