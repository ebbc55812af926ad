"""The embedded engine: one SQLite file, one writer thread, group commit.

All live data and the kept history are in memory; the file is their durable log. A commit is checked against what is
there and what is on its way, gets its revision, and goes to the writer, which puts everything that waits into one
transaction. Only when that is on the disk do readers and watchers see it, and do callers hear of it.

Rows of `record` are the live values and the history that is kept; a row without value is a deletion.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pinnace.base.clock import Clock
from pinnace.store.history import Bounds, History
from pinnace.store.memory import violates
from pinnace.store.store import Cause, Change, Conflict, Entry, Page, StoreFailure

_SCHEMA = """
CREATE TABLE IF NOT EXISTS record (
    revision INTEGER PRIMARY KEY, key TEXT NOT NULL, value BLOB, created INTEGER NOT NULL,
    actor TEXT, verb TEXT, because TEXT
);
CREATE TABLE IF NOT EXISTS mark (name TEXT PRIMARY KEY, revision INTEGER NOT NULL) WITHOUT ROWID;
"""
_INSERT = "INSERT INTO record (revision, key, value, created, actor, verb, because) VALUES (?, ?, ?, ?, ?, ?, ?)"
_LARGEST_BATCH = 512                # commits in one transaction
_MOST_WAITING = 20_000              # commits on their way; more wait outside
_DELETE_BATCH = 500                 # rows that one transaction forgets


@dataclass(eq=False, slots=True)
class _Write:
    key: str
    value: bytes | None
    created: int
    revision: int
    cause: Cause | None
    done: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class _Forget:
    """Revisions whose rows are no longer needed, now that history begins at `compacted`."""

    compacted: int
    revisions: tuple[int, ...]


class SqliteStore:
    """See `store.Store`. Use `open`."""

    def __init__(self, path: Path, clock: Clock, lock: int, connection: sqlite3.Connection, history: History) -> None:
        self._path = path
        self._clock = clock
        self._lock = lock
        self._history = history
        self._loop = asyncio.get_running_loop()
        self._next = history.revision + 1
        self._pending: dict[str, _Write] = {}          # the newest write of each key that is on its way
        self._count = 0
        self._space: deque[asyncio.Future[None]] = deque()
        self._compacting = False
        self._closed = False
        self._writer = _Writer(connection, self._call)

    @classmethod
    async def open(cls, path: Path, clock: Clock, bounds: Bounds | None = None) -> SqliteStore:
        """Open or make the file (0600, its directory 0700). Raises StoreFailure if it is in use or damaged."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = _take_lock(path)
        try:
            connection = _connect(path)
            try:
                history = _load(connection, bounds or Bounds(), clock.monotonic())
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            os.close(lock)
            raise StoreFailure(f"{path}: {error}") from error
        except BaseException:
            os.close(lock)
            raise
        return cls(path, clock, lock, connection, history)

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
            if self._closed:
                raise StoreFailure(f"{self._path}: the store is closed")
            if self._count >= _MOST_WAITING:
                space = self._loop.create_future()
                self._space.append(space)
                await space
                continue
            ahead = self._pending.get(key)
            if ahead is None:
                break
            # A write of the same key is on its way: what it will have been decides, once it is durable.
            await asyncio.wait([ahead.done])
        actual = self._history.entry(key, None)
        if violates(actual, value, expect):
            raise Conflict(key, actual)
        revision = self._next
        self._next += 1
        write = _Write(
            key, value, actual.created if actual else revision, revision, cause, self._loop.create_future()
        )
        self._pending[key] = write
        self._count += 1
        self._writer.put(write)
        # The write goes on whatever becomes of its caller.
        await asyncio.shield(write.done)
        return revision

    def watch(self, prefix: str, *, after: int) -> AsyncGenerator[tuple[Change, ...], None]:
        return self._history.watch(prefix, after)

    async def compact(self, revision: int) -> None:
        dropped = self._history.compact(revision)
        self._writer.put(_Forget(self._history.compacted, tuple(dropped)))
        await self._writer.settled(self._loop)

    async def cause(self, revision: int) -> Cause | None:
        return self._history.cause(revision)

    async def close(self) -> None:
        """Write what is on its way, and let go of the file."""
        if self._closed:
            return
        self._closed = True
        await asyncio.to_thread(self._writer.close)
        await asyncio.sleep(0)          # lets the last batch's results be delivered
        os.close(self._lock)

    def _call(self, writes: list[_Write], error: Exception | None) -> None:
        """In the writer thread: a batch is durable, or has failed."""
        self._loop.call_soon_threadsafe(self._finish, writes, error)

    def _finish(self, writes: list[_Write], error: Exception | None) -> None:
        now = self._clock.monotonic()
        for write in writes:
            del self._pending[write.key]
            if error is None:
                self._history.apply(write.key, write.value, write.revision, write.cause, now)
        self._count -= len(writes)
        if error is not None and not self._pending:
            # Revisions of failed commits were never seen by anybody: they are given out again.
            self._next = self._history.revision + 1
        for write in writes:
            if write.done.done():
                continue
            if error is None:
                write.done.set_result(None)
            else:
                write.done.set_exception(StoreFailure(f"{self._path}: {error}"))
                write.done.exception()        # a caller that went away does not make it "never retrieved"
        while self._space and self._count < _MOST_WAITING:
            space = self._space.popleft()
            if not space.done():
                space.set_result(None)
                break
        due = self._history.due(now)
        if due > self._history.compacted and not self._closed:
            self._writer.put(_Forget(due, tuple(self._history.compact(due))))


class _Writer:
    """The thread that owns the connection."""

    def __init__(self, connection: sqlite3.Connection, deliver: Callable[[list[_Write], Exception | None], None]) -> None:
        self._connection = connection
        self._deliver = deliver
        self._queue: deque[_Write | _Forget | Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._broken: Exception | None = None
        self._last = 0                    # newest revision on the disk
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def put(self, item: _Write | _Forget | Callable[[], None]) -> None:
        with self._wake:
            self._queue.append(item)
            self._wake.notify()

    async def settled(self, loop: asyncio.AbstractEventLoop) -> None:
        """Everything put so far has been done."""
        reached = loop.create_future()
        self.put(lambda: loop.call_soon_threadsafe(reached.set_result, None))
        await reached

    def close(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._queue and not self._closing:
                    self._wake.wait()
                if not self._queue:
                    return
                first = self._queue.popleft()
                batch = [first] if isinstance(first, _Write) else []
                while batch and self._queue and isinstance(self._queue[0], _Write) and len(batch) < _LARGEST_BATCH:
                    following = self._queue.popleft()
                    if isinstance(following, _Write):
                        batch.append(following)
            if isinstance(first, _Write):
                self._commit(batch)
            elif isinstance(first, _Forget):
                self._forget(first)
            else:
                first()

    def _commit(self, batch: list[_Write]) -> None:
        error: Exception | None = None
        try:
            # After a failure the revisions behind it would leave a hole: they fail too, until new ones begin.
            if self._broken is not None and batch[0].revision != self._last + 1:
                raise self._broken
            self._broken = None
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.executemany(_INSERT, map(_row, batch))
            self._last = batch[-1].revision
        except Exception as failure:
            error = self._broken = failure
            self._last = self._last or batch[0].revision - 1
        self._deliver(batch, error)

    def _forget(self, forget: _Forget) -> None:
        try:
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                # The newest revision is remembered too: its row may be a deletion that is forgotten now.
                self._mark("compacted", forget.compacted)
                self._mark("revision", forget.compacted)
            for start in range(0, len(forget.revisions), _DELETE_BATCH):
                part = forget.revisions[start : start + _DELETE_BATCH]
                with self._connection:
                    self._connection.execute("BEGIN IMMEDIATE")
                    self._connection.executemany("DELETE FROM record WHERE revision = ?", [(r,) for r in part])
        except sqlite3.Error:
            # Rows that stay are forgotten at the next start: history is cut there by the mark.
            return

    def _mark(self, name: str, revision: int) -> None:
        self._connection.execute(
            "INSERT INTO mark VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET revision = MAX(revision, excluded.revision)",
            (name, revision),
        )


def _row(write: _Write) -> tuple[object, ...]:
    cause = write.cause
    return (
        write.revision, write.key, write.value, write.created,
        cause.actor if cause else None, cause.verb if cause else None,
        ",".join(map(str, cause.because)) if cause and cause.because else None,
    )  # fmt: skip


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
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA wal_autocheckpoint = 2000")
    connection.execute("PRAGMA cache_size = -4096")
    connection.executescript(_SCHEMA)
    return connection


def _load(connection: sqlite3.Connection, bounds: Bounds, now: float) -> History:
    """The state that the file holds. A hole in the revisions behind the mark means that it is damaged."""
    marks = dict(connection.execute("SELECT name, revision FROM mark"))
    compacted = marks.get("compacted", 0)
    history = History(bounds)
    rows: Iterable[tuple[int, str, bytes | None, int, str | None, str | None, str | None]]
    # Below the mark there may be rows whose deletion was interrupted: the last of each key counts.
    newest: dict[str, Entry | None] = {}
    columns = "revision, key, value, created, actor, verb, because"
    rows = connection.execute(f"SELECT {columns} FROM record WHERE revision <= ? ORDER BY revision", (compacted,))
    for revision, key, value, created, *_ in rows:
        newest[key] = Entry(key, value, created, revision) if value is not None else None
    for entry in newest.values():
        if entry is not None:
            history.restore(entry)
    history.revision = history.compacted = compacted
    rows = connection.execute(f"SELECT {columns} FROM record WHERE revision > ? ORDER BY revision", (compacted,))
    for revision, key, value, _, actor, verb, because in rows:
        if revision != history.revision + 1:
            raise StoreFailure(f"the record of revision {history.revision + 1} is missing: the file is damaged")
        reacted = tuple(map(int, because.split(","))) if because else ()
        history.apply(key, value, revision, Cause(actor, verb or "", reacted) if actor else None, now)
    return history
