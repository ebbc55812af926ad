"""What all engines with their state in this process share: the live keys in order, their history, and the watchers.

One writer, the engine's loop. Each commit is one revision, so the log of changes is indexed by revision. History is
bounded by age, by number of revisions and by bytes; what falls out is compacted.
"""

from __future__ import annotations

import asyncio
import itertools
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from pinnace.store.store import (
    CLOCK,
    MOST_BECAUSE,
    Cause,
    Change,
    Compacted,
    Entry,
    FutureRevision,
    Page,
    StoreFailure,
    Trace,
)  # fmt: skip

MOST_BEHIND = 20_000               # changes that a watcher may be behind before it is cut off
_REMEMBERED = 4                    # causes of overwritten values that are kept of one key


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much history is kept, at most. Age in seconds; upstream keeps five minutes."""

    seconds: float = 300.0
    revisions: int = 200_000
    nbytes: int = 256 * 1024 * 1024


@dataclass(slots=True)
class Dropped:
    """What a compaction has done with, by revision."""

    records: list[int] = field(default_factory=list)    # of one key in their order
    remembered: set[int] = field(default_factory=set)   # of these the causes stay
    forgotten: list[int] = field(default_factory=list)  # causes that had been remembered and are not any more


@dataclass(eq=False, slots=True)
class _Watcher:
    prefix: str
    waiting: deque[Change] = field(default_factory=deque)
    wake: asyncio.Future[None] | None = None
    behind: bool = False

    def offer(self, change: Change) -> None:
        if len(self.waiting) >= MOST_BEHIND:
            # Cut off: what it missed is in the history, if that is kept long enough.
            self.behind = True
            self.waiting.clear()
        if not self.behind:
            self.waiting.append(change)
        self.rouse()

    def rouse(self) -> None:
        if self.wake is not None and not self.wake.done():
            self.wake.set_result(None)


class History:
    """All keys, now and at each kept revision."""

    def __init__(self, bounds: Bounds) -> None:
        self.revision = 0
        self.compacted = 0                              # reads and watches from here on are answered
        self._bounds = bounds
        self._live: dict[str, Entry] = {}
        self._keys: list[str] = []                      # of the live entries, sorted
        self._versions: dict[str, list[tuple[int, Entry | None]]] = {}     # of keys changed since `compacted`
        self._log: deque[Change] = deque()              # revisions compacted+1 … revision, one each
        self._causes: dict[int, tuple[str, Cause]] = {}  # with the key that was written
        self._remembered: dict[str, list[int]] = {}     # of live keys: revisions of which the cause alone is kept
        self._bytes = 0
        self._marks: deque[tuple[float, int]] = deque()  # (when, revision then), for the bound on age
        self._watchers: dict[_Watcher, None] = {}
        self._subscribers: dict[int, Callable[[Change], None]] = {}
        self._numbers = itertools.count()
        self._closed = False

    # ------------------------------------------------------------------------------------------------ reads

    def entry(self, key: str, at: int | None) -> Entry | None:
        if at is None or at == self.revision:
            return self._live.get(key)
        self._check(at)
        return self._at(key, at)

    def page(self, prefix: str, at: int | None, after: str, limit: int) -> Page:
        if at is None or at == self.revision:
            keys, live = self._keys, True
        else:
            self._check(at)
            changed = (key for key in self._versions if key.startswith(prefix) and key not in self._live)
            keys, live = sorted([*self._range(prefix), *changed]), False
        start = bisect_right(keys, after) if after and after >= prefix else bisect_left(keys, prefix)
        end = bisect_left(keys, _behind(prefix), start) if prefix else len(keys)
        if live:
            stop = min(end, start + limit) if limit else end
            entries = tuple(map(self._live.__getitem__, keys[start:stop]))
            return Page(entries, self.revision, stop < end, end - stop)
        moment = at if at is not None else self.revision
        found = [entry for key in keys[start:end] if (entry := self._at(key, moment)) is not None]
        shown = found[:limit] if limit else found
        return Page(tuple(shown), moment, len(shown) < len(found), len(found) - len(shown))

    def cause(self, revision: int) -> Cause | None:
        found = self._causes.get(revision)
        return found[1] if found is not None else None

    def change(self, revision: int) -> Change | Entry | Trace | None:
        """See Store.change."""
        if self.compacted < revision <= self.revision:
            return self._log[revision - self.compacted - 1]
        found = self._causes.get(revision)
        if found is None:
            return None
        entry = self._at(found[0], self.compacted)
        return entry if entry is not None and entry.modified == revision else Trace(found[0], revision)

    def revisions(self, key: str) -> tuple[int, ...]:
        """See Store.revisions."""
        remembered = self._remembered.get(key, ())
        versions = self._versions.get(key)
        if versions is not None:
            return (*remembered, *(revision for revision, _ in versions))
        entry = self._live.get(key)
        return (*remembered, entry.modified) if entry is not None else ()

    def _range(self, prefix: str) -> list[str]:
        start = bisect_left(self._keys, prefix)
        end = bisect_left(self._keys, _behind(prefix), start) if prefix else len(self._keys)
        return self._keys[start:end]

    def _check(self, at: int) -> None:
        if at > self.revision:
            raise FutureRevision(at, self.revision)
        if at < self.compacted:
            raise Compacted(at, self.compacted)

    def _at(self, key: str, at: int) -> Entry | None:
        versions = self._versions.get(key)
        if versions is None:
            return self._live.get(key)
        position = bisect_right(versions, at, key=lambda version: version[0])
        return versions[position - 1][1] if position else None

    # ----------------------------------------------------------------------------------------------- writes

    def apply(self, key: str, value: bytes | None, revision: int, cause: Cause | None, now: float) -> None:
        """Take in the commit of the next revision, and tell the watchers."""
        previous = self._live.get(key)
        entry = None
        if value is not None:
            entry = Entry(key, value, previous.created if previous else revision, revision)
        self._put(key, entry, previous)
        self.revision = revision
        change = Change(key, revision, value, previous)
        self._log.append(change)
        self._bytes += len(value or b"") + len(key)
        if cause is not None:
            self._causes[revision] = key, bounded(cause)
        if not self._marks or now - self._marks[-1][0] >= self._bounds.seconds / 10:
            self._marks.append((now, revision))
        for tell in self._subscribers.values():
            tell(change)
        for watcher in self._watchers:
            if key.startswith(watcher.prefix):
                watcher.offer(change)

    def restore(self, entry: Entry, cause: Cause | None) -> None:
        """Take in an entry that was there before the history that is kept; only before any `apply`."""
        self._put(entry.key, entry, None)
        self._versions.clear()
        if cause is not None:
            self._causes[entry.modified] = entry.key, bounded(cause)

    def remember(self, revision: int, key: str, cause: Cause) -> bool:
        """Take in a cause that had been kept without its value; only after all `restore` and before any `apply`.
        False, if it is no longer of use: the key is gone, or has begun anew."""
        entry = self._live.get(key)
        if entry is None or not entry.created <= revision < entry.modified:
            return False
        self._remembered.setdefault(key, []).append(revision)
        self._causes[revision] = key, cause
        return True

    def changes(self) -> list[tuple[Change, Cause | None]]:
        """All that is kept, in order; with nothing compacted, all that ever happened."""
        return [(change, self.cause(change.revision)) for change in self._log]

    def due(self, now: float) -> int:
        """The revision before which the bounds want history forgotten; `compacted` if there is nothing to do."""
        due = self.compacted
        while len(self._marks) > 1 and now - self._marks[0][0] > self._bounds.seconds:
            due = max(due, self._marks.popleft()[1] - 1)
        if len(self._log) > self._bounds.revisions:
            due = max(due, self.revision - self._bounds.revisions * 3 // 4)
        if self._bytes > self._bounds.nbytes:
            due = max(due, self.revision - len(self._log) // 2)
        return min(due, self.revision)

    def compact(self, revision: int) -> Dropped:
        """Forget what was overwritten or deleted up to the revision. Raises FutureRevision.

        Returns what is no longer needed; records of one key in their order, so that a deletion is never dropped
        before what it deleted. The cause of a write lives as long as its record does: that of a key's present value
        is always there. Of some it is kept longer (see Store.cause)."""
        if revision > self.revision:
            raise FutureRevision(revision, self.revision)
        touched: dict[str, None] = {}
        while self._log and self._log[0].revision <= revision:
            change = self._log.popleft()
            touched[change.key] = None
            self._bytes -= len(change.value or b"") + len(change.key)
        self.compacted = max(self.compacted, revision)
        done = Dropped()
        for key in touched:
            versions = self._versions[key]
            position = bisect_right(versions, revision, key=lambda version: version[0])
            dropped = [number for number, _ in versions[: position - 1] if number]
            kept = versions[position - 1 :]
            self._let_go(key, dropped, kept[0][1], done)
            if kept[0][1] is None:
                dropped.append(kept[0][0])
                kept = kept[1:]
            done.records += dropped
            if not kept or (len(kept) == 1 and kept[0][0] <= revision):
                del self._versions[key]
            else:
                self._versions[key] = kept
        for number in done.records:
            if number not in done.remembered:
                self._causes.pop(number, None)
        for number in done.forgotten:
            self._causes.pop(number, None)
        return done

    def _let_go(self, key: str, dropped: list[int], base: Entry | None, done: Dropped) -> None:
        """Decide which causes stay now that the records go; `base` is what the key holds where history begins."""
        created = base.created if base is not None else 0
        before = self._remembered.get(key, [])
        wanted = [number for number in before if base is not None and number >= created]
        if base is not None:
            wanted += [n for n in dropped if n >= created and n in self._causes and self._tells(n, created)]
        if len(wanted) > _REMEMBERED:
            first = wanted[:1] if wanted[0] == created else []
            wanted = [*first, *wanted[len(first) - _REMEMBERED :]]
        if not wanted and not before:
            return
        kept = set(wanted)
        done.forgotten += [number for number in before if number not in kept]
        done.remembered |= kept.intersection(dropped)
        if wanted:
            self._remembered[key] = wanted
        else:
            self._remembered.pop(key, None)

    def _tells(self, number: int, created: int) -> bool:
        """A write that says what is wanted, not how things are: what one asks for when the values are long gone."""
        cause = self._causes[number][1]
        return number == created or (cause.subresource != "status" and CLOCK not in cause.because)

    def _put(self, key: str, entry: Entry | None, previous: Entry | None) -> None:
        versions = self._versions.get(key)
        if versions is None:
            # What the key held before is what it held at `compacted`.
            versions = self._versions[key] = [(previous.modified, previous)] if previous is not None else []
        if entry is not None:
            versions.append((entry.modified, entry))
            if previous is None:
                insort(self._keys, key)
            self._live[key] = entry
        else:
            versions.append((self.revision + 1, None))
            del self._live[key]
            del self._keys[bisect_left(self._keys, key)]

    # -------------------------------------------------------------------------------------------- watchers

    def subscribe(self, tell: Callable[[Change], None], after: int) -> Callable[[], None]:
        """See Store.subscribe."""
        self._check_kept(after)
        for change in tuple(self._since("", after)):
            tell(change)
        number = next(self._numbers)
        # A new dictionary each time: somebody may come or go while the others are told of a change.
        self._subscribers = {**self._subscribers, number: tell}

        def end() -> None:
            self._subscribers = {n: other for n, other in self._subscribers.items() if n != number}

        return end

    def _check_kept(self, after: int) -> None:
        if self._closed:
            raise StoreFailure("the store is closed")
        if after < self.compacted:
            raise Compacted(after, self.compacted)

    async def watch(self, prefix: str, after: int) -> AsyncGenerator[tuple[Change, ...], None]:
        """See Store.watch."""
        self._check_kept(after)
        watcher = _Watcher(prefix)
        watcher.waiting.extend(self._since(prefix, after))
        # A revision that is still to come (a client that was ahead): only what is behind it counts.
        self._watchers[watcher] = None
        try:
            while True:
                if self._closed:
                    raise StoreFailure("the store was closed")
                if watcher.behind:
                    raise Compacted(after, self.compacted)
                if watcher.waiting:
                    batch = tuple(change for change in watcher.waiting if change.revision > after)
                    watcher.waiting.clear()
                    if batch:
                        after = batch[-1].revision
                        yield batch
                    continue
                watcher.wake = asyncio.get_running_loop().create_future()
                await watcher.wake
        finally:
            del self._watchers[watcher]

    def close(self) -> None:
        """End all watches."""
        self._closed = True
        self._subscribers = {}
        for watcher in self._watchers:
            watcher.rouse()

    def _since(self, prefix: str, after: int) -> Iterator[Change]:
        skip = after - self.compacted
        for position, change in enumerate(self._log):
            if position >= skip and change.key.startswith(prefix):
                yield change


def bounded(cause: Cause) -> Cause:
    """The cause, with no more revisions than are kept."""
    if len(cause.because) <= MOST_BECAUSE:
        return cause
    return msgspec.structs.replace(cause, because=cause.because[:MOST_BECAUSE])


def _behind(prefix: str) -> str:
    """The first string that sorts behind everything with the prefix."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)
