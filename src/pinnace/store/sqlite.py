"""The embedded engine: the shared in-memory history, and a durable log of it in SQLite.

Commits that wait at the same moment become one transaction (group commit), written by the one writer
thread. Nothing of it is visible, and no caller hears of it, before COMMIT has returned.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pinnace.base.clock import Clock
from pinnace.store.history import History, Limits, trimmed
from pinnace.store.store import Cause, Change, Conflict, Entry, Page

_GROUP = 1000          # commits a transaction
_DELETES = 500         # rows a transaction of a compaction
_WAITING = 20_000      # commits that may wait

_SCHEMA = """
create table if not exists history (revision integer primary key, key text not null, value blob,
  created integer not null, actor text, verb text, because text);
create table if not exists meta (name text primary key, value integer not null) without rowid;
insert or ignore into meta values ('oldest', 0);
"""

Row = tuple[int, str, bytes | None, int, str | None, str | None, str | None]


class StoreError(Exception):
    """The disk refused: nothing of the commit is visible. The message says why."""


class StoreLocked(StoreError):
    """Another process has the file open."""


@dataclass(slots=True)
class _Waiting:
    key: str
    value: bytes | None
    expect: int | None
    cause: Cause | None
    done: asyncio.Future[int]


class SqliteStore:
    """A Store in one file. Use `open`."""

    def __init__(self, database: sqlite3.Connection, lock: int, history: History) -> None:
        self._database = database
        self._lock = lock
        self._history = history
        self._writer = ThreadPoolExecutor(1, "store-writer")
        self._turn = asyncio.Lock()                       # one transaction at a time
        self._waiting: list[_Waiting] = []
        self._draining: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    def open(cls, path: Path, clock: Clock, history: Limits | None = None) -> SqliteStore:
        """Open or create. Raises StoreLocked, StoreError (not a sound database)."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        database: sqlite3.Connection | None = None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            database.execute("pragma journal_mode=wal")
            database.execute("pragma synchronous=full")
            database.executescript(_SCHEMA)
            return cls(database, lock, _load(database, History(clock, history or Limits())))
        except BaseException as error:
            if database is not None:
                database.close()
            os.close(lock)
            if isinstance(error, BlockingIOError):
                raise StoreLocked(f"{path} is open in another process") from error
            if isinstance(error, (sqlite3.Error, OSError)):
                raise StoreError(f"{path}: {error}") from error
            raise

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
        if self._closed:
            raise StoreError("the store is closed")
        if len(self._waiting) >= _WAITING:
            raise StoreError("too many commits are waiting for the disk")
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(key, value, expect, trimmed(cause), done))
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain())
        return await done

    def watch(self, prefix: str, *, after: int) -> AsyncGenerator[tuple[Change, ...], None]:
        return self._history.watch(prefix, after)

    async def compact(self, revision: int) -> None:
        async with self._turn:
            self._history.check_compaction(revision)
            await self._compact(revision)

    async def cause(self, revision: int) -> Cause | None:
        return self._history.cause(revision)

    async def close(self) -> None:
        """Finish what waits, then let go of the file."""
        if self._closed:
            return
        self._closed = True
        while self._draining is not None:
            await self._draining
        async with self._turn:
            self._history.close()
            self._writer.shutdown()
            self._database.close()
            os.close(self._lock)

    async def _drain(self) -> None:
        try:
            while self._waiting:
                async with self._turn:
                    group, self._waiting = self._waiting[:_GROUP], self._waiting[_GROUP:]
                    await self._write(group)
                    if (target := self._history.due()) is not None:
                        try:
                            await self._compact(target)
                        except StoreError:
                            continue      # the disk refused; the bound asks again after the next commit
        finally:
            self._draining = None

    async def _write(self, group: Sequence[_Waiting]) -> None:
        """Decide every commit against what is there and what stands before it; then one transaction."""
        staged: dict[str, Entry | None] = {}
        rows: list[Row] = []
        outcome: list[tuple[_Waiting, Entry | None, int | Conflict]] = []
        revision = self._history.revision
        for one in group:
            actual = staged[one.key] if one.key in staged else self._history.live.get(one.key)
            found = actual.modified if actual else 0
            if (one.expect is not None and one.expect != found) or (one.value is None and actual is None):
                outcome.append((one, None, Conflict(one.key, actual)))
                continue
            revision += 1
            created = actual.created if actual else revision
            entry = None if one.value is None else Entry(one.key, one.value, created, revision)
            staged[one.key] = entry
            rows.append(_row(one, revision, created))
            outcome.append((one, entry, revision))
        try:
            if rows:
                await self._run(rows)
        except StoreError as error:
            for one in group:
                if not one.done.done():
                    one.done.set_exception(StoreError(str(error)))
            return
        for one, entry, result in outcome:
            if isinstance(result, int):
                self._history.apply(one.key, entry, result, one.cause)
        self._history.wake()
        for one, _, result in outcome:
            if one.done.done():
                continue
            if isinstance(result, int):
                one.done.set_result(result)
            else:
                one.done.set_exception(result)

    async def _run(self, rows: Sequence[Row]) -> None:
        await self._in_writer("insert into history values (?,?,?,?,?,?,?)", rows)

    async def _compact(self, revision: int) -> None:
        """Say so durably first; rows go in rising order, so that no cut brings a deleted key back."""
        await self._in_writer("update meta set value=? where name='oldest'", [(revision,)])
        dropped = [(number,) for number in self._history.compact(revision)]
        for start in range(0, len(dropped), _DELETES):
            await self._in_writer("delete from history where revision=?", dropped[start:start + _DELETES])

    async def _in_writer(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._writer, _transact, self._database, statement, rows)
        except sqlite3.Error as error:
            raise StoreError(f"the disk refused: {error}") from error


def _transact(database: sqlite3.Connection, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
    database.execute("begin immediate")
    try:
        database.executemany(statement, rows)
        database.execute("commit")
    except BaseException:
        if database.in_transaction:
            database.execute("rollback")
        raise


def _row(one: _Waiting, revision: int, created: int) -> Row:
    cause = one.cause
    if cause is None:
        return revision, one.key, one.value, created, None, None, None
    return revision, one.key, one.value, created, cause.actor, cause.verb, ",".join(map(str, cause.because))


def _load(database: sqlite3.Connection, history: History) -> History:
    (oldest,) = database.execute("select value from meta where name='oldest'").fetchone()
    ready = False
    for revision, key, value, created, actor, verb, because in database.execute(
        "select revision, key, value, created, actor, verb, because from history order by revision"
    ):
        entry = None if value is None else Entry(key, value, created, revision)
        cause = None if actor is None else Cause(actor, verb, tuple(map(int, because.split(","))) if because else ())
        if revision <= oldest:
            history.load(entry, key, revision, cause)
            continue
        if not ready:
            history.loaded(oldest)
            ready = True
        if revision != history.revision + 1:
            raise sqlite3.DatabaseError(f"revision {history.revision + 1} is missing from the history")
        history.apply(key, entry, revision, cause)
    if not ready:
        history.loaded(oldest)
    return history
