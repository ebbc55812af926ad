"""The engine for tests and simulation: no threads, no disk; every commit counts at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from pinnace.base.clock import Clock
from pinnace.store.history import History, Limits, trimmed
from pinnace.store.store import Cause, Change, Conflict, Entry, Page


class MemoryStore:
    """A Store that forgets everything when the process ends."""

    def __init__(self, clock: Clock, history: Limits | None = None) -> None:
        self._history = History(clock, history or Limits())

    @property
    def revision(self) -> int:
        return self._history.revision

    async def get(self, key: str, *, at: int | None = None) -> Entry | None:
        return self._history.get(key, at)

    async def list(self, prefix: str, *, at: int | None = None, after: str = "", limit: int = 0) -> Page:
        return self._history.list(prefix, at, after, limit)

    async def commit(
        self, key: str, value: bytes | None, *, expect: int | None = None, cause: Cause | None = None
    ) -> int:
        history = self._history
        actual = history.live.get(key)
        found = actual.modified if actual else 0
        if (expect is not None and expect != found) or (value is None and actual is None):
            raise Conflict(key, actual)
        revision = history.revision + 1
        entry = None if value is None else Entry(key, value, actual.created if actual else revision, revision)
        history.apply(key, entry, revision, trimmed(cause))
        history.wake()
        if (target := history.due()) is not None:
            history.compact(target)
        return revision

    def watch(self, prefix: str, *, after: int) -> AsyncGenerator[tuple[Change, ...], None]:
        return self._history.watch(prefix, after)

    async def compact(self, revision: int) -> None:
        self._history.check_compaction(revision)
        self._history.compact(revision)

    async def cause(self, revision: int) -> Cause | None:
        return self._history.cause(revision)

    async def close(self) -> None:
        self._history.close()
