"""What all engines with their state in this process share: the live keys in order, their history, and the watchers.

One writer, the engine's loop. Each commit is one revision, so the log of changes is indexed by revision. History is
bounded by age, by number of revisions and by bytes; what falls out is compacted.
"""

from __future__ import annotations

import asyncio
import itertools
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

import msgspec

from pinnace.store.keys import SortedKeys
from pinnace.store.store import (
    CLOCK,
    MOST_BECAUSE,
    Cause,
    Change,
    Compacted,
    Conflict,
    Entry,
    FutureRevision,
    Page,
    StoreFailure,
    Trace,
)  # fmt: skip

MOST_BEHIND = 20_000               # changes that a watcher may be behind before it is cut off
_REMEMBERED = 4                    # causes of overwritten values that are kept of one key
_LOOK = 64                         # revisions after which the age of history is looked at


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much history is kept, at most. Age in seconds; upstream keeps five minutes. The 64 newest revisions may be
    older."""

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
        self.live: dict[str, Entry] = {}                # for reading
        self._keys = SortedKeys()                       # of the live entries
        self._log: list[Change] = []                    # revisions compacted+1 … revision, one each
        self._causes: dict[int, tuple[str, Cause]] = {}  # of earlier ones; with the key that was written
        self._remembered: dict[str, list[int]] = {}     # of live keys: revisions of which the cause alone is kept
        self._bytes = 0
        self._marks: deque[tuple[float, int]] = deque()  # (when, revision then), for the bound on age
        self._next_mark = float("-inf")
        self.look_at = 0                                # from this revision on, `due` is to be asked again
        self._watchers: dict[_Watcher, None] = {}
        self._subscribers: dict[int, Callable[[Change], None]] = {}
        self._to_tell: tuple[Callable[[Change], None], ...] = ()     # the same; somebody may come or go meanwhile
        self._numbers = itertools.count()
        self._closed = False

    # ------------------------------------------------------------------------------------------------ reads

    def entry(self, key: str, at: int | None) -> Entry | None:
        if at is None or at == self.revision:
            return self.live.get(key)
        self._check(at)
        return self._at(key, at)

    def check(self, key: str, value: bytes | None, expect: int | None) -> Entry | None:
        """What the key holds, if a commit's demand holds; deleting what is not there never does. Raises Conflict."""
        actual = self.live.get(key)
        if actual is None:
            if value is None or expect:
                raise Conflict(key, None)
        elif expect is not None and expect != actual.modified:
            raise Conflict(key, actual)
        return actual

    def page(self, prefix: str, at: int | None, after: str, limit: int) -> Page:
        moment = self.revision if at is None else at
        self._check(moment)
        # What was changed since then, as it was: the oldest change of a key knows.
        before = {change.key: change.previous for change in reversed(self._since(prefix, moment))}
        keys = self._keys.sorted()
        if before:
            keys = sorted({*keys[bisect_left(keys, prefix) : _end(keys, prefix)], *before})
        start = bisect_right(keys, after) if after and after >= prefix else bisect_left(keys, prefix)
        end = max(start, _end(keys, prefix))
        if not before:
            stop = min(end, start + limit) if limit else end
            entries = tuple(map(self.live.__getitem__, keys[start:stop]))
            return Page(entries, moment, stop < end, end - stop)
        found = [
            entry for key in keys[start:end]
            if (entry := before[key] if key in before else self.live[key]) is not None
        ]  # fmt: skip
        shown = found[:limit] if limit else found
        return Page(tuple(shown), moment, len(shown) < len(found), len(found) - len(shown))

    def cause(self, revision: int) -> Cause | None:
        if self.compacted < revision <= self.revision:
            return self._log[revision - self.compacted - 1].cause
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
        base = self._at(key, self.compacted)
        known = () if base is None else (base.modified,)
        later = (change.revision for change in self._log if change.key == key)
        return (*self._remembered.get(key, ()), *known, *later)

    def _check(self, at: int) -> None:
        if at > self.revision:
            raise FutureRevision(at, self.revision)
        if at < self.compacted:
            raise Compacted(at, self.compacted)

    def _at(self, key: str, at: int) -> Entry | None:
        entry = self.live.get(key)
        for change in reversed(self._log):
            if change.revision <= at:
                break
            if change.key == key:
                entry = change.previous
        return entry

    # ----------------------------------------------------------------------------------------------- writes

    def apply(
        self, key: str, value: bytes | None, revision: int, cause: Cause | None, previous: Entry | None
    ) -> None:
        """Take in the commit of the next revision, and tell the watchers. `previous`: what the key holds."""
        if value is None:
            del self.live[key]
            self._keys.remove(key)
        else:
            if previous is None:
                self._keys.new[key] = None
            self.live[key] = Entry(key, value, revision if previous is None else previous.created, revision)
            self._bytes += len(value)
            if self._bytes > self._bounds.nbytes:
                self.look_at = revision
        if cause is not None and len(cause.because) > MOST_BECAUSE:
            cause = bounded(cause)
        change = Change(key, revision, value, previous, cause)
        self.revision = revision
        self._log.append(change)
        for tell in self._to_tell:
            tell(change)
        for watcher in self._watchers:
            if key.startswith(watcher.prefix):
                watcher.offer(change)

    def restore(self, entry: Entry, cause: Cause | None) -> None:
        """Take in an entry that was there before the history that is kept; only before any `apply`."""
        if entry.key not in self.live:
            self._keys.new[entry.key] = None
        self.live[entry.key] = entry
        if cause is not None:
            self._causes[entry.modified] = entry.key, bounded(cause)

    def remember(self, revision: int, key: str, cause: Cause) -> bool:
        """Take in a cause that had been kept without its value; only after all `restore` and before any `apply`.
        False, if it is no longer of use: the key is gone, or has begun anew."""
        entry = self.live.get(key)
        if entry is None or not entry.created <= revision < entry.modified:
            return False
        self._remembered.setdefault(key, []).append(revision)
        self._causes[revision] = key, cause
        return True

    def changes(self) -> list[tuple[Change, Cause | None]]:
        """All that is kept, in order; with nothing compacted, all that ever happened."""
        return [(change, change.cause) for change in self._log]

    def due(self, now: float) -> int:
        """The revision before which the bounds want history forgotten; `compacted` if there is nothing to do. To be
        asked at `look_at` at the latest."""
        due, bounds, marks = self.compacted, self._bounds, self._marks
        if now >= self._next_mark:
            marks.append((now, self.revision))
            self._next_mark = now + bounds.seconds / 10
        while len(marks) > 1 and now - marks[0][0] > bounds.seconds:
            due = max(due, marks.popleft()[1] - 1)
        if self.revision - self.compacted > bounds.revisions:
            due = max(due, self.revision - bounds.revisions * 3 // 4)
        if self._bytes > bounds.nbytes:
            due = max(due, self.revision - len(self._log) // 2)
        self.look_at = min(self.revision + _LOOK, due + bounds.revisions + 1)
        return due

    def compact(self, revision: int) -> Dropped:
        """Forget what was overwritten or deleted up to the revision. Raises FutureRevision.

        Returns what is no longer needed; records of one key in their order, so that a deletion is never dropped
        before what it deleted. The cause of a write lives as long as its record does: that of a key's present value
        is always there. Of some it is kept longer (see Store.cause)."""
        if revision > self.revision:
            raise FutureRevision(revision, self.revision)
        count, causes, done = max(0, revision - self.compacted), self._causes, Dropped()
        gone = self._log[:count]
        del self._log[:count]
        self.compacted += count
        there = {change.key: change.value is not None for change in gone}      # where history begins now
        for change in gone:
            key, previous = change.key, change.previous
            if previous is not None:
                done.records.append(previous.modified)
                if change.value is None or not there[key]:
                    causes.pop(previous.modified, None)
                else:
                    self._let_go(key, previous, done)
            if change.value is None:
                done.records.append(change.revision)
                for number in self._remembered.pop(key, ()):
                    self._forget(number, done)
                continue
            self._bytes -= len(change.value)
            if change.cause is not None and there[key]:
                causes[change.revision] = key, change.cause
        return done

    def _let_go(self, key: str, record: Entry, done: Dropped) -> None:
        """The record of a key that lives on is overwritten. Its cause stays if it says what is wanted, not how things
        are: what one asks for when the values are long gone."""
        number, created = record.modified, record.created
        found = self._causes.get(number)
        if found is None:
            return
        cause = found[1]
        if number != created and (cause.subresource == "status" or CLOCK in cause.because):
            del self._causes[number]
            return
        kept = self._remembered.setdefault(key, [])
        kept.append(number)
        done.remembered.add(number)
        if len(kept) > _REMEMBERED:
            self._forget(kept.pop(1 if kept[0] == created else 0), done)

    def _forget(self, number: int, done: Dropped) -> None:
        """A cause that was remembered, perhaps only by the compaction under way."""
        del self._causes[number]
        if number in done.remembered:
            done.remembered.remove(number)
        else:
            done.forgotten.append(number)

    # -------------------------------------------------------------------------------------------- watchers

    def subscribe(self, tell: Callable[[Change], None], after: int) -> Callable[[], None]:
        """See Store.subscribe."""
        self._check_kept(after)
        for change in self._since("", after):
            tell(change)
        number = next(self._numbers)
        self._subscribers[number] = tell
        self._to_tell = tuple(self._subscribers.values())

        def end() -> None:
            self._subscribers.pop(number, None)
            self._to_tell = tuple(self._subscribers.values())

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
        self._subscribers.clear()
        self._to_tell = ()
        for watcher in self._watchers:
            watcher.rouse()

    def _since(self, prefix: str, after: int) -> list[Change]:
        """The changes above `after`, which may be ahead of all; oldest first."""
        found = []
        for change in reversed(self._log):
            if change.revision <= after:
                break
            if change.key.startswith(prefix):
                found.append(change)
        found.reverse()
        return found


def bounded(cause: Cause) -> Cause:
    """The cause, with no more revisions than are kept."""
    if len(cause.because) <= MOST_BECAUSE:
        return cause
    return msgspec.structs.replace(cause, because=cause.because[:MOST_BECAUSE])


def _end(keys: list[str], prefix: str) -> int:
    """Where the keys with the prefix end."""
    return bisect_left(keys, prefix[:-1] + chr(ord(prefix[-1]) + 1)) if prefix else len(keys)
