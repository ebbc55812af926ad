"""What every engine keeps in memory: the live keys, the kept history, and the watchers that follow it.

An engine decides when a commit counts (at once, or once it is durable) and then calls `apply`; only from
that moment do reads and watchers see it. A watcher has no buffer of its own: it holds a position in the
shared log, so what bounds the history bounds every watcher.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right, insort
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

from pinnace.base.clock import Clock
from pinnace.store.store import Cause, Change, Compacted, Entry, FutureRevision, Page

_LAST = "\U0010ffff"
_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Limits:
    """How much history is kept: by age in seconds, number of revisions and bytes of values."""

    interval: float = 300.0
    revisions: int = 100_000
    bytes: int = 256 << 20


class History:
    """Live keys, versions and log. Synchronous: one event loop calls it."""

    def __init__(self, clock: Clock, limits: Limits) -> None:
        self._clock = clock
        self._limits = limits
        self.revision = 0
        self.oldest = 0                                     # reads at this revision or later are possible
        self.live: dict[str, Entry] = {}
        self._keys: list[str] = []                          # of `live`, sorted
        self._versions: dict[str, list[tuple[int, Entry | None]]] = {}
        self._versioned: list[str] = []                     # keys of `_versions`, sorted
        self._log: list[Change] = []                        # revisions oldest+1 … revision, without a gap
        self._bytes = 0
        self._causes: dict[int, Cause] = {}
        self._waiting: list[asyncio.Future[None]] = []
        self._mark = (clock.monotonic(), 0)
        self.closed = False

    def apply(self, key: str, entry: Entry | None, revision: int, cause: Cause | None) -> None:
        """Make one commit visible. `entry` is None for a deletion."""
        previous = self.live.get(key)
        versions = self._versions.get(key)
        if versions is None:
            versions = self._versions[key] = []
            insort(self._versioned, key)
        versions.append((revision, entry))
        if entry is not None:
            if previous is None:
                insort(self._keys, key)
            self.live[key] = entry
        elif previous is not None:
            del self.live[key]
            del self._keys[bisect_left(self._keys, key)]
        self.revision = revision
        self._log.append(Change(key, revision, entry.value if entry else None, previous))
        self._bytes += len(entry.value) if entry else 0
        if cause is not None:
            self._causes[revision] = cause

    def wake(self) -> None:
        """Let the watchers see what was applied."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def get(self, key: str, at: int | None) -> Entry | None:
        if at is None or at == self.revision:
            return self.live.get(key)
        self._check(at)
        return self._as_of(key, at)

    def list(self, prefix: str, at: int | None, after: str, limit: int) -> Page:
        if at is None or at == self.revision:
            keys, moment = self._keys, self.revision
            low, high = self._span(keys, prefix, after)
            end = min(high, low + limit) if limit else high
            entries = tuple([self.live[key] for key in keys[low:end]])
            return Page(entries, moment, end < high, high - end)
        self._check(at)
        low, high = self._span(self._versioned, prefix, after)
        found = [e for key in self._versioned[low:high] if (e := self._as_of(key, at)) is not None]
        shown = found[:limit] if limit else found
        return Page(tuple(shown), at, len(shown) < len(found), len(found) - len(shown))

    def cause(self, revision: int) -> Cause | None:
        return self._causes.get(revision)

    async def watch(self, prefix: str, after: int) -> AsyncGenerator[tuple[Change, ...], None]:
        if after > self.revision:
            raise FutureRevision(after, self.revision)
        position = after
        while not self.closed:
            if position < self.oldest:
                raise Compacted(position, self.oldest)
            start = position - self.oldest
            part = self._log[start:start + _BATCH]
            if not part:
                future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiting.append(future)
                await future
                continue
            position = part[-1].revision
            if batch := tuple([c for c in part if c.key.startswith(prefix)]):
                yield batch
            else:
                await asyncio.sleep(0)

    def due(self) -> int | None:
        """The revision to compact to now, if age, number or size ask for it."""
        now = self._clock.monotonic()
        target: int | None = None
        if now - self._mark[0] >= self._limits.interval:
            target = self._mark[1]
            self._mark = (now, self.revision)
        if len(self._log) > self._limits.revisions or self._bytes > self._limits.bytes:
            target = max(target or 0, self.oldest + (len(self._log) + 1) // 2)
        return target if target is not None and target > self.oldest else None

    def check_compaction(self, revision: int) -> None:
        if revision > self.revision:
            raise FutureRevision(revision, self.revision)
        if revision <= self.oldest:
            raise Compacted(revision, self.oldest)

    def compact(self, revision: int) -> Sequence[int]:
        """Forget what is not needed to read at `revision` or later; the forgotten revisions, rising."""
        dropped: list[int] = []
        count = revision - self.oldest
        touched = sorted({change.key for change in self._log[:count]})
        self._bytes -= sum(len(c.value) for c in self._log[:count] if c.value is not None)
        del self._log[:count]
        self.oldest = revision
        gone: set[str] = set()
        for key in touched:
            versions = self._versions[key]
            last = bisect_right(versions, revision, key=lambda v: v[0]) - 1
            cut = last + 1 if versions[last][1] is None else last
            dropped += [v[0] for v in versions[:cut]]
            del versions[:cut]
            if not versions:
                del self._versions[key]
                gone.add(key)
        if gone:
            self._versioned = [key for key in self._versioned if key not in gone]
        for number in dropped:
            self._causes.pop(number, None)
        return sorted(dropped)

    def load(self, entry: Entry | None, key: str, revision: int, cause: Cause | None) -> None:
        """One stored row at or before `oldest`: a version without a change to show."""
        self._versions.setdefault(key, []).append((revision, entry))
        if entry is not None:
            self.live[key] = entry
        else:
            self.live.pop(key, None)
        if cause is not None:
            self._causes[revision] = cause

    def loaded(self, oldest: int) -> None:
        """All rows up to `oldest` are loaded; rows behind it follow through `apply`."""
        self.oldest = self.revision = oldest
        self._keys, self._versioned = sorted(self.live), sorted(self._versions)
        self._mark = (self._clock.monotonic(), oldest)

    def close(self) -> None:
        self.closed = True
        self.wake()

    def _check(self, at: int) -> None:
        if at > self.revision:
            raise FutureRevision(at, self.revision)
        if at < self.oldest:
            raise Compacted(at, self.oldest)

    def _as_of(self, key: str, at: int) -> Entry | None:
        versions = self._versions.get(key, [])
        index = bisect_right(versions, at, key=_number) - 1
        return versions[index][1] if index >= 0 else None

    @staticmethod
    def _span(keys: Sequence[str], prefix: str, after: str) -> tuple[int, int]:
        low = max(bisect_left(keys, prefix), bisect_right(keys, after) if after else 0)
        high = bisect_left(keys, prefix + _LAST) if prefix else len(keys)
        return low, max(low, high)


_number: Callable[[tuple[int, Entry | None]], int] = lambda version: version[0]  # noqa: E731


def trimmed(cause: Cause | None) -> Cause | None:
    """At most 16 revisions of a cause are kept."""
    return cause if cause is None or len(cause.because) <= 16 else Cause(cause.actor, cause.verb, cause.because[:16])
