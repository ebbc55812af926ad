"""The embedded engine: one SQLite file, one writer thread, group commit.

All live data and the kept history are in memory; the file is their durable log. A commit is checked against what is
there and what is on its way, gets its revision, and goes to the writer, which puts everything that waits into one
transaction. Only when that is on the disk do readers and watchers see it, and do callers hear of it.

Rows of `record` are the live values and the history that is kept; a row without value is a deletion. Rows of `cause`
are what is still told of values that were overwritten since.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import sqlite3
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from pinnace.base.clock import Clock
from pinnace.store.history import Bounds, Dropped, History, bounded
from pinnace.store.store import Cause, Change, Entry, Page, StoreFailure, Trace

_SCHEMA = """
CREATE TABLE IF NOT EXISTS record (
    revision INTEGER PRIMARY KEY, key TEXT NOT NULL, value BLOB, created INTEGER NOT NULL,
    actor TEXT, verb TEXT, because TEXT, told TEXT
);
CREATE TABLE IF NOT EXISTS cause (
    revision INTEGER PRIMARY KEY, key TEXT NOT NULL, actor TEXT, verb TEXT, because TEXT, told TEXT
);
CREATE TABLE IF NOT EXISTS mark (name TEXT PRIMARY KEY, revision INTEGER NOT NULL) WITHOUT ROWID;
"""
# Files made before causes told more than actor, verb and revisions lack the last column.
_ADD_COLUMN = "ALTER TABLE record ADD COLUMN told TEXT"
_COLUMNS = "revision, key, value, created, actor, verb, because, told"
_INSERT = f"INSERT INTO record ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_SELECT = f"SELECT {_COLUMNS} FROM record"
_REMEMBER = """INSERT OR REPLACE INTO cause
SELECT revision, key, actor, verb, because, told FROM record WHERE revision = ?"""
_REMEMBERED = "SELECT revision, key, actor, verb, because, told FROM cause ORDER BY revision"
_MARK = """INSERT INTO mark VALUES ('compacted', ?)
ON CONFLICT (name) DO UPDATE SET revision = MAX(revision, excluded.revision)"""
_LARGEST_BATCH = 512                # commits in one transaction
_MOST_WAITING = 20_000              # commits on their way; more wait outside
_DELETE_BATCH = 500                 # rows that one transaction forgets

K = TypeVar("K")

_Row = tuple[int, str, bytes | None, int, str | None, str | None, str | None, str | None]

log = logging.getLogger("pinnace.store")


@dataclass(eq=False, slots=True)
class _Write:
    key: str
    value: bytes | None
    previous: Entry | None              # what the key holds until then
    cause: Cause | None
    done: asyncio.Future[int]           # its revision; the caller's, who may go away
    revision: int = 0                   # given by the writer
    behind: list[asyncio.Future[None]] = field(default_factory=list)     # writes of the same key, which wait


@dataclass(frozen=True, slots=True)
class _Forget:
    """Rows that are no longer needed, now that history begins at `compacted`."""

    compacted: int
    dropped: Dropped
    done: asyncio.Future[None] | None = None


class SqliteStore:
    """See `store.Store`. Use `open`."""

    def __init__(self, path: Path, clock: Clock, lock: int, connection: sqlite3.Connection, loaded: _Loaded) -> None:
        self._path = path
        self._clock = clock
        self._lock = lock
        self._history = loaded.history
        self._loop = asyncio.get_running_loop()
        self._pending: dict[str, _Write] = {}          # the write of each key that is on its way
        self._space: deque[asyncio.Future[None]] = deque()
        self._closed = False
        self._writer = _Writer(connection, self._history.revision, self._written, self._forgotten)
        if loaded.superseded.records or loaded.superseded.forgotten:
            self._writer.put(_Forget(self._history.compacted, loaded.superseded))

    @classmethod
    async def open(cls, path: Path, clock: Clock, bounds: Bounds | None = None) -> SqliteStore:
        """Open or make the file (0600, its directory 0700). Raises StoreFailure if it is in use or damaged."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = _take_lock(path)
        except OSError as error:
            raise StoreFailure(f"{path}: {error.strerror}") from error
        try:
            connection = _connect(path)
            try:
                loaded = _load(connection, bounds or Bounds(), clock.monotonic())
            except BaseException:
                connection.close()
                raise
        except (sqlite3.Error, OSError) as error:
            os.close(lock)
            raise StoreFailure(f"{path}: {error}") from error
        except BaseException:
            os.close(lock)
            raise
        return cls(path, clock, lock, connection, loaded)

    @property
    def revision(self) -> int:
        return self._history.revision

    async def get(self, key: str, *, at: int | None = None) -> Entry | None:
        return self._history.entry(key, at)

    async def list(self, prefix: str, *, at: int | None = None, after: str = "", limit: int = 0) -> Page:
        return self._history.page(prefix, at, after, limit)

    async def commit(
        self, key: str, value: bytes | None, *, expect: int | None = None, cause: Cause | None = None
    ) -> int:
        while True:
            self._check_open()
            if len(self._pending) >= _MOST_WAITING:
                space = self._loop.create_future()
                self._space.append(space)
                await space
                continue
            ahead = self._pending.get(key)
            if ahead is None:
                break
            # A write of the same key is on its way: what it will have been decides, once it is durable.
            over: asyncio.Future[None] = self._loop.create_future()
            ahead.behind.append(over)
            await over
        actual = self._history.check(key, value, expect)
        write = _Write(key, value, actual, bounded(cause) if cause else None, self._loop.create_future())
        self._pending[key] = write
        self._writer.put(write)
        # The write goes on whatever becomes of its caller: if that is cancelled, so is only this future.
        return await write.done

    def watch(self, prefix: str, *, after: int) -> AsyncGenerator[tuple[Change, ...], None]:
        return self._history.watch(prefix, after)

    def subscribe(self, tell: Callable[[Change], None], *, after: int) -> Callable[[], None]:
        return self._history.subscribe(tell, after)

    async def compact(self, revision: int) -> None:
        self._check_open()
        dropped = self._history.compact(revision)
        done: asyncio.Future[None] = self._loop.create_future()
        self._writer.put(_Forget(self._history.compacted, dropped, done))
        await asyncio.shield(done)

    async def cause(self, revision: int) -> Cause | None:
        return self._history.cause(revision)

    async def change(self, revision: int) -> Change | Entry | Trace | None:
        return self._history.change(revision)

    async def revisions(self, key: str) -> tuple[int, ...]:
        return self._history.revisions(key)

    async def close(self) -> None:
        """Write what is on its way, and let go of the file."""
        if self._closed:
            return
        self._closed = True
        # What the writer has delivered is in the loop's queue ahead of the end of the thread that waits for it.
        await asyncio.to_thread(self._writer.close)
        self._make_space()
        self._history.close()
        os.close(self._lock)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreFailure(f"{self._path}: the store is closed")

    def _written(self, writes: Sequence[_Write], error: Exception | None) -> None:
        """In the writer thread: a batch is durable, or has failed."""
        self._loop.call_soon_threadsafe(self._finish, writes, error)

    def _forgotten(self, forget: _Forget, error: Exception | None) -> None:
        """In the writer thread: a compaction is durable, or has failed."""
        self._loop.call_soon_threadsafe(self._finish_forget, forget, error)

    def _finish(self, writes: Sequence[_Write], error: Exception | None) -> None:
        now = self._clock.monotonic()
        for write in writes:
            del self._pending[write.key]
            if error is None:
                self._history.apply(write.key, write.value, write.revision, write.cause, write.previous)
        for write in writes:
            if error is None:
                _succeed(write.done, write.revision)
            else:
                _fail(write.done, StoreFailure(f"{self._path}: {error}"))
            for over in write.behind:
                _succeed(over, None)
        self._make_space()
        due = self._history.due(now)
        if due > self._history.compacted and not self._closed:
            self._writer.put(_Forget(due, self._history.compact(due)))

    def _finish_forget(self, forget: _Forget, error: Exception | None) -> None:
        if error is not None:
            log.warning("%s: compaction up to revision %d: %s", self._path, forget.compacted, error)
        if forget.done is None:
            return
        if error is None:
            forget.done.set_result(None)
        else:
            _fail(forget.done, StoreFailure(f"{self._path}: {error}"))

    def _make_space(self) -> None:
        """Wake as many of those who wait outside as there is room for; all of them when the store is closed."""
        free = _MOST_WAITING - len(self._pending)
        while self._space and (free > 0 or self._closed):
            space = self._space.popleft()
            if not space.done():
                space.set_result(None)
                free -= 1


class _Writer:
    """The thread that owns the connection.

    It gives out the revisions, so that a batch that fails leaves no hole: the next one gets the same numbers,
    which nobody has seen."""

    def __init__(
        self, connection: sqlite3.Connection, last: int,
        written: Callable[[Sequence[_Write], Exception | None], None],
        forgotten: Callable[[_Forget, Exception | None], None],
    ) -> None:  # fmt: skip
        self._connection = connection
        self._last = last                       # newest revision on the disk
        self._written = written
        self._told_forgotten = forgotten
        self._queue: deque[_Write | _Forget] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._superseded: deque[int] = deque()  # rows to delete, in this order
        self._remembered: set[int] = set()      # those of them whose causes stay
        self._forgotten: deque[int] = deque()   # causes to delete
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def put(self, item: _Write | _Forget) -> None:
        with self._wake:
            self._queue.append(item)
            self._wake.notify()

    def close(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while True:
            batch: list[_Write] = []
            forget: _Forget | None = None
            with self._wake:
                while not self._queue and not self._closing:
                    self._wake.wait()
                if not self._queue:
                    return
                while self._queue and forget is None and len(batch) < _LARGEST_BATCH:
                    item = self._queue.popleft()
                    if isinstance(item, _Write):
                        batch.append(item)
                    else:
                        forget = item
            if batch:
                self._written(batch, self._commit(batch))
            if forget is not None:
                self._told_forgotten(forget, self._forget(forget))

    def _commit(self, batch: Sequence[_Write]) -> Exception | None:
        for revision, write in enumerate(batch, self._last + 1):
            write.revision = revision
        try:
            with self._transaction():
                self._connection.executemany(_INSERT, map(_row, batch))
        except Exception as error:
            return error
        self._last = batch[-1].revision
        return None

    def _forget(self, forget: _Forget) -> Exception | None:
        # What could not be deleted the last time comes first: were a deletion forgotten before the value that it
        # deleted, the value would come back.
        self._superseded.extend(forget.dropped.records)
        self._remembered |= forget.dropped.remembered
        self._forgotten.extend(forget.dropped.forgotten)
        try:
            with self._transaction():
                self._connection.execute(_MARK, (forget.compacted,))
            while self._superseded or self._forgotten:
                part = list(islice(self._superseded, _DELETE_BATCH))
                # What is forgotten has been remembered by an earlier compaction: its row is there by now.
                causes = list(islice(self._forgotten, _DELETE_BATCH)) if len(part) == len(self._superseded) else []
                with self._transaction():
                    self._connection.executemany(_REMEMBER, [(r,) for r in part if r in self._remembered])
                    self._connection.executemany("DELETE FROM record WHERE revision = ?", [(r,) for r in part])
                    self._connection.executemany("DELETE FROM cause WHERE revision = ?", [(r,) for r in causes])
                for revision in part:
                    self._superseded.popleft()
                    self._remembered.discard(revision)
                for _ in causes:
                    self._forgotten.popleft()
        except Exception as error:
            return error
        return None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            # Some errors, a full disk for one, roll back by themselves.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


def _succeed(future: asyncio.Future[K], result: K) -> None:
    if not future.done():           # its caller may have gone away
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: StoreFailure) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()          # a caller that goes away now does not make it "never retrieved"


def _row(write: _Write) -> tuple[object, ...]:
    cause, created = write.cause, write.previous.created if write.previous is not None else write.revision
    if cause is None:
        return write.revision, write.key, write.value, created, None, None, None, None
    because = ",".join(map(str, cause.because)) if cause.because else None
    told = f"{cause.at}\t{cause.agent}\t{cause.about}\t{cause.subresource}"
    return write.revision, write.key, write.value, created, cause.actor, cause.verb, because, told


def _take_lock(path: Path) -> int:
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StoreFailure(f"{path} is in use by another process") from None
    return descriptor


def _connect(path: Path) -> sqlite3.Connection:
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        for directory in (path.parent, path.parent.parent):
            _sync(directory)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_autocheckpoint = 2000")
        connection.execute("PRAGMA cache_size = -4096")
        connection.executescript(_SCHEMA)
        if all(column[1] != "told" for column in connection.execute("PRAGMA table_info(record)")):
            connection.execute(_ADD_COLUMN)
    except BaseException:
        connection.close()
        raise
    return connection


def _sync(directory: Path) -> None:
    """Make durable that a file is in the directory."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class _Loaded:
    history: History
    superseded: Dropped                 # rows that a compaction did not come to delete


def _load(connection: sqlite3.Connection, bounds: Bounds, now: float) -> _Loaded:
    """The state that the file holds. A hole in the revisions behind the mark means that it is damaged."""
    marked = connection.execute("SELECT revision FROM mark WHERE name = 'compacted'").fetchone()
    compacted: int = marked[0] if marked else 0
    history = History(bounds)
    rows: Iterable[_Row]
    # Below the mark there may be rows whose deletion was interrupted: the last of each key counts.
    newest: dict[str, tuple[Entry, Cause | None]] = {}
    superseded = Dropped()
    rows = connection.execute(_SELECT + " WHERE revision <= ? ORDER BY revision", (compacted,))
    for revision, key, value, created, *cause in rows:
        before = newest.pop(key, None)
        if before is not None:
            superseded.records.append(before[0].modified)
        if value is None:
            superseded.records.append(revision)
        else:
            newest[key] = Entry(key, value, created, revision), _cause(*cause)
    for entry, known in newest.values():
        history.restore(entry, known)
    for revision, key, *cause in connection.execute(_REMEMBERED):
        told = _cause(*cause)
        if told is None or not history.remember(revision, key, told):
            superseded.forgotten.append(revision)
    history.revision = history.compacted = compacted
    rows = connection.execute(_SELECT + " WHERE revision > ? ORDER BY revision", (compacted,))
    for revision, key, value, _, *cause in rows:
        if revision != history.revision + 1:
            raise StoreFailure(f"the record of revision {history.revision + 1} is missing: the file is damaged")
        history.apply(key, value, revision, _cause(*cause), history.entry(key, None))
    history.due(now)                    # what is there is as old as this
    return _Loaded(history, superseded)


def _cause(actor: str | None, verb: str | None, because: str | None, told: str | None) -> Cause | None:
    if actor is None:
        return None
    revisions = tuple(map(int, because.split(","))) if because else ()
    at, agent, about, subresource = (*(told or "0").split("\t"), "", "", "")[:4]
    return Cause(actor, verb or "", revisions, agent, about, subresource, int(at))
