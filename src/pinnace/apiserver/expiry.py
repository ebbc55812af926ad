"""Events are kept for an hour after they were last written; upstream leaves that to etcd's leases.

A timer of the loop, not a task that sleeps: it costs nothing while nothing is due.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pinnace.api import times
from pinnace.api.core import v1 as core
from pinnace.apiserver.cache import Entry
from pinnace.store.store import CLOCK, Cause, Conflict

if TYPE_CHECKING:
    from pinnace.apiserver.server import ApiServer

log = logging.getLogger("pinnace.apiserver")

EVENT_SECONDS = 3600.0
_SWEEP_SECONDS = 60.0
_MOST_AT_ONCE = 2000


def expired(entries: Iterable[Entry], now: datetime, seconds: float = EVENT_SECONDS) -> list[Entry]:
    """Events whose newest time lies further back; at most so many as one sweep removes."""
    # Times are RFC 3339 in UTC, so that their texts sort like what they mean.
    limit = times.format(now - timedelta(seconds=seconds))
    found = []
    for entry in entries:
        if _last(entry.object) < limit:
            found.append(entry)
            if len(found) == _MOST_AT_ONCE:
                break
    return found


def _last(event: core.Event) -> str:
    series = event.series.lastObservedTime if event.series is not None else None
    return max(event.lastTimestamp or "", event.eventTime or "", series or "", event.metadata.creationTimestamp or "")


class Expiry:
    """Sweeps as long as the server runs."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._due)

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def sweep(self) -> int:
        """Remove what has expired; returns how many events that were."""
        server = self._server
        cache = server.registry(core.Event).cache
        now = server.clock.now()
        gone = expired(cache.entries.values(), now)
        cause = Cause("system:apiserver", "delete", (CLOCK,), agent="kube-apiserver", at=int(now.timestamp() * 1000))
        for entry in gone:
            try:
                await server.store.commit(entry.key, None, expect=entry.revision, cause=cause)
            except Conflict:
                continue      # it was written again in the meantime, and lives on
        return len(gone)

    def _due(self) -> None:
        server = self._server
        if expired(server.registry(core.Event).cache.entries.values(), server.clock.now()):
            self._task = asyncio.create_task(self._run(), name="apiserver-expiry")
        self.start()

    async def _run(self) -> None:
        try:
            await self.sweep()
        except Exception:
            log.exception("sweeping events failed; the next sweep tries again")
