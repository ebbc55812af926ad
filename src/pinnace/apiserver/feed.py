"""From the store to the watch caches: told of every change in the commit itself, so all caches stand at one revision.

A writer that has committed finds its write in the cache, and so does whoever reads after an acknowledged write. The
writer's own decoded object is taken over, so that what was just encoded is not decoded again.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from pinnace.api import codec
from pinnace.api.errors import StatusError
from pinnace.apiserver.cache import Entry, WatchCache
from pinnace.base.backoff import Backoff
from pinnace.base.clock import Clock
from pinnace.store.store import Change, Store
from pinnace.store.store import Entry as Stored

log = logging.getLogger("pinnace.apiserver")

ROOT = "/registry/"
_PAGE = 2000
_MOST_PLACES = 4096
# Watches can resume for as long as the store's history reaches back (upstream's watch cache: 75 seconds at least).
_KEPT_SECONDS = 300.0
_MARK_SECONDS = 10.0
_MARK_REVISIONS = 64       # the clock is not read at each


class Feed:
    """Keeps the caches, by key prefix, in step with the store."""

    def __init__(self, store: Store, caches: Mapping[str, WatchCache], clock: Clock, reset: Callable[[], None]) -> None:
        self.revision = 0
        self._store = store
        self._caches = caches
        self._places: dict[str, WatchCache | None] = {}   # the caches by whole directories, as they were asked for
        self._clock = clock
        self._reset = reset            # called when the caches had to be filled anew: watches cannot go on
        # By key: values being committed, with their objects, and where these belong.
        self._own: dict[str, tuple[bytes, Any, WatchCache]] = {}
        self._kept = 0                                    # events up to here are old
        self._marks: deque[tuple[float, int]] = deque()   # (when, revision then)
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._task: asyncio.Task[None] | None = None      # fills the caches anew, after a failure
        self._unsubscribe: Callable[[], None] | None = None
        self._broken = False

    async def start(self, decoded: Mapping[str, Entry] | None = None) -> None:
        """Fill the caches, then follow the store until `close`. `decoded`: see `ApiServer.start`."""
        await self._load(decoded or {})
        self._broken = False
        self._unsubscribe = self._store.subscribe(self._changed, after=self.revision)
        if self._broken:
            self._stop()

    async def close(self) -> None:
        self._stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def announce(self, cache: WatchCache, key: str, value: bytes, obj: Any) -> None:
        """`value` is about to be committed to that cache's kind, and this is what it means; `withdraw` when the commit
        has failed. Of two that write the same key at once, one may be decoded all the same."""
        self._own[key] = value, obj, cache

    def withdraw(self, key: str) -> None:
        self._own.pop(key, None)

    async def reached(self, revision: int) -> None:
        """Return once every change up to the revision is in the caches."""
        if self.revision >= revision:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (revision, next(self._order), future))
        await future

    async def fresh(self) -> None:
        """Return once the caches show everything that the store has acknowledged by now."""
        if self.revision < self._store.revision:
            await self.reached(self._store.revision)

    def _changed(self, change: Change) -> None:
        if self._broken:
            return
        key, revision, value = change.key, change.revision, change.value
        try:
            own = self._own.pop(key, None)
            if own is None or own[0] is not value:
                self._take(change)
            else:
                value, obj, cache = own
                previous = cache.entries.get(key)
                obj.metadata.resourceVersion = str(revision)
                if previous is None:
                    entry = Entry(key, obj, value, revision, revision, cache.form)
                    cache.apply("ADDED", revision, entry, None, self._kept)
                else:
                    entry = Entry(key, obj, value, revision, previous.created, cache.form)
                    cache.apply("MODIFIED", revision, entry, previous, self._kept)
        except Exception:
            # The caches may be wrong now. Until they are filled anew they stand still, and writers wait.
            log.exception("the feed of the watch cache broke; filling it anew")
            self._broken = True
            self._stop()
            self._task = asyncio.create_task(self._refill(), name="apiserver-feed")
            return
        self.revision = revision
        if not revision % _MARK_REVISIONS:
            self._mark(revision)
        if self._waiting:
            self._wake()

    def _mark(self, revision: int) -> None:
        now, marks = self._clock.monotonic(), self._marks
        if not marks or now - marks[-1][0] >= _MARK_SECONDS:
            marks.append((now, revision))
        while now - marks[0][0] > _KEPT_SECONDS:
            self._kept = marks.popleft()[1]

    def _stop(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    async def _refill(self) -> None:
        backoff = Backoff(initial=0.05, maximum=5.0, reset_after=60.0)
        while True:
            await self._clock.sleep(backoff.next("feed", self._clock.monotonic()))
            try:
                await self.start()
            except Exception:
                log.exception("the watch cache could not be filled; trying again")
                continue
            self._reset()
            return

    async def _load(self, decoded: Mapping[str, Entry]) -> None:
        revision, after = 0, ""
        found: dict[str, list[Entry]] = {prefix: [] for prefix in self._caches}
        while True:
            page = await self._store.list(ROOT, at=revision or None, after=after, limit=_PAGE)
            revision = revision or page.revision
            for stored in page.entries:
                cache = self._cache(stored.key)
                if cache is None:
                    continue
                entry = decoded.get(stored.key)
                if entry is None or entry.value is not stored.value or entry.revision != stored.modified:
                    entry = readable(cache, stored)
                if entry is not None:
                    found[cache.prefix].append(entry)
            if not page.more or not page.entries:
                break
            after = page.entries[-1].key
        for prefix, entries in found.items():
            self._caches[prefix].load(iter(entries), revision)
        self.revision = max(self.revision, revision)
        self._wake()

    def _cache(self, key: str) -> WatchCache | None:
        """The cache of a key's kind."""
        directory = key[: key.rfind("/") + 1]
        try:
            return self._places[directory]
        except KeyError:
            return self._find(directory)

    def _find(self, directory: str) -> WatchCache | None:
        """By the longest prefix: /registry/GROUP/PLURAL/… and /registry/PLURAL/… live side by side."""
        found, end = None, directory.find("/", len(ROOT))
        while end > 0 and found is None:
            found = self._caches.get(directory[: end + 1])
            end = directory.find("/", end + 1)
        if len(self._places) >= _MOST_PLACES:
            self._places.clear()
        self._places[directory] = found
        return found

    def _take(self, change: Change) -> None:
        """A deletion, or a value of which only the bytes are known."""
        key, revision, value = change.key, change.revision, change.value
        cache = self._cache(key)
        if cache is None:
            return
        previous = cache.entries.get(key)
        if value is None:
            if previous is not None:
                cache.apply("DELETED", revision, previous, previous, self._kept)
            return
        entry = readable(cache, Stored(key, value, previous.created if previous is not None else revision, revision))
        if entry is not None:
            type = "MODIFIED" if previous is not None else "ADDED"
            cache.apply(type, revision, entry, previous, self._kept)

    def _wake(self) -> None:
        """Those who wait for a revision that is in the caches now."""
        while self._waiting and self._waiting[0][0] <= self.revision:
            future = heapq.heappop(self._waiting)[2]
            if not future.done():
                future.set_result(None)


def readable(cache: WatchCache, stored: Stored) -> Entry | None:
    """The entry, or None for what the kind cannot be read from: one broken value must not stop all others."""
    try:
        return decode(cache, stored)
    except StatusError as error:
        log.error("%s at revision %d cannot be read: %s", stored.key, stored.modified, error)
        return None


def decode(cache: WatchCache, stored: Stored) -> Entry:
    """An entry from what the store keeps."""
    obj = codec.decode(cache.form.type, stored.value)
    obj.metadata.resourceVersion = str(stored.modified)
    return Entry(stored.key, obj, stored.value, stored.modified, stored.created, cache.form)
