"""The engine for tests: everything in this process, nothing on a disk, no threads; deterministic."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from pinnace.base.clock import Clock
from pinnace.store.history import Bounds, History
from pinnace.store.store import Cause, Change, Entry, Page, StoreFailure, Trace


@dataclass(frozen=True, slots=True)
class Beginning:
    """All commits of a store, as another one may begin with them. Values are shared."""

    commits: tuple[tuple[str, bytes | None, Cause | None], ...]

    def rewritten(self, change: Callable[[bytes], bytes]) -> Beginning:
        """The same with other values."""
        return Beginning(tuple((key, value and change(value), cause) for key, value, cause in self.commits))


class MemoryStore:
    """See `store.Store`. A commit is visible as soon as it is made."""

    def __init__(self, clock: Clock, bounds: Bounds | None = None) -> None:
        self._clock = clock
        self._history = History(bounds or Bounds())
        self._closed = False

    @property
    def revision(self) -> int:
        return self._history.revision

    def beginning(self) -> Beginning:
        """All that has happened; only while nothing is compacted."""
        if self._history.compacted:
            raise ValueError("what happened first is compacted")
        return Beginning(tuple((change.key, change.value, cause) for change, cause in self._history.changes()))

    def begin(self, beginning: Beginning) -> None:
        """Take over what happened in another store, as if it had happened here now; only before the first commit."""
        if self.revision:
            raise ValueError("the store has begun already")
        history = self._history
        for revision, (key, value, cause) in enumerate(beginning.commits, 1):
            history.apply(key, value, revision, cause, history.entry(key, None))

    async def get(self, key: str, *, at: int | None = None) -> Entry | None:
        return self._history.entry(key, at)

    async def list(self, prefix: str, *, at: int | None = None, after: str = "", limit: int = 0) -> Page:
        return self._history.page(prefix, at, after, limit)

    async def commit(
        self, key: str, value: bytes | None, *, expect: int | None = None, cause: Cause | None = None
    ) -> int:
        if self._closed:
            raise StoreFailure("the store is closed")
        history = self._history
        previous = history.live.get(key)
        if previous is None or previous.modified != expect:
            history.check(key, value, expect)
        revision = history.revision + 1
        history.apply(key, value, revision, cause, previous)
        if revision >= history.look_at:
            due = history.due(self._clock.monotonic())
            if due > history.compacted:
                history.compact(due)
        return revision

    def watch(self, prefix: str, *, after: int) -> AsyncGenerator[tuple[Change, ...], None]:
        return self._history.watch(prefix, after)

    def subscribe(self, tell: Callable[[Change], None], *, after: int) -> Callable[[], None]:
        return self._history.subscribe(tell, after)

    async def compact(self, revision: int) -> None:
        if self._closed:
            raise StoreFailure("the store is closed")
        self._history.compact(revision)

    async def cause(self, revision: int) -> Cause | None:
        return self._history.cause(revision)

    async def change(self, revision: int) -> Change | Entry | Trace | None:
        return self._history.change(revision)

    async def revisions(self, key: str) -> tuple[int, ...]:
        return self._history.revisions(key)

    async def close(self) -> None:
        self._closed = True
        self._history.close()
