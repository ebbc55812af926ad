"""What the engines do when something gives: a full disk, a slow watcher, a second opener, an interrupted compaction."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pinnace.base.clock import ManualClock
from pinnace.store import Cause, Change, Compacted, MemoryStore, SqliteStore, Store, StoreFailure, history, sqlite
from pinnace.store.history import Bounds


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path / "store.db", ManualClock())
    yield opened
    await opened.close()


@contextmanager
def full_disk(store: SqliteStore) -> Iterator[None]:
    """The file may not grow."""
    connection = store._writer._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    yield
    connection.execute("PRAGMA max_page_count = 1073741823")


@contextmanager
def refusing(store: SqliteStore, table: str, operation: str) -> Iterator[None]:
    """The file refuses one kind of statement."""
    connection = store._writer._connection
    connection.execute(
        f"CREATE TRIGGER refusal BEFORE {operation} ON {table} BEGIN SELECT RAISE(ABORT, 'refused'); END"
    )
    yield
    connection.execute("DROP TRIGGER refusal")


def rows(path: Path) -> list[tuple[int, str]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT revision, key FROM record ORDER BY revision").fetchall()
    finally:
        connection.close()


async def test_a_full_disk_fails_cleanly_and_is_got_over(store: SqliteStore, tmp_path: Path) -> None:
    await store.commit("/a", b"1")
    watch = store.watch("/", after=1)
    with full_disk(store):
        for _ in range(2):
            results = await asyncio.gather(
                *(store.commit(f"/big/{n}", b"x" * 100_000) for n in range(8)), return_exceptions=True
            )
            assert all(isinstance(result, StoreFailure) for result in results)
            assert "full" in str(results[0])
        assert store.revision == 1 and (await store.list("/")).remaining == 0
        assert [entry.key for entry in (await store.list("/")).entries] == ["/a"]
    assert await store.commit("/a", b"2", expect=1) == 2
    assert await store.commit("/big/0", b"x" * 100_000, expect=0) == 3
    assert [change.revision for change in await anext(watch)] == [2, 3]
    await watch.aclose()
    await store.close()
    again = await SqliteStore.open(tmp_path / "store.db", ManualClock())
    assert again.revision == 3
    await again.close()


async def test_recovers_while_writers_never_pause(store: SqliteStore) -> None:
    """At every moment some write waits; failures of some batches leave no hole behind."""
    outcomes: list[int | BaseException] = []

    async def writer(number: int) -> None:
        for n in range(30):
            try:
                outcomes.append(await store.commit(f"/{number}", b"%d" % n))
            except StoreFailure as error:
                outcomes.append(error)

    writers = [asyncio.create_task(writer(number)) for number in range(8)]
    await store.commit("/first", b"")
    fail, commit = [2], store._writer._commit

    def sometimes(batch: list[sqlite._Write]) -> Exception | None:
        fail[0] += 1
        return sqlite3.OperationalError("disk I/O error") if fail[0] % 3 == 0 else commit(batch)

    store._writer._commit = sometimes  # type: ignore[method-assign, assignment]
    await asyncio.gather(*writers)
    made = sorted(outcome for outcome in outcomes if isinstance(outcome, int))
    assert len(made) < len(outcomes) and len(made) > len(outcomes) // 3
    assert len(set(made)) == len(made) and store.revision == len(made) + 1


async def test_compaction_says_when_the_disk_refuses(store: SqliteStore, tmp_path: Path) -> None:
    for n in range(3):
        await store.commit("/a", b"%d" % n)
    await store.commit("/a", None)
    await store.commit("/b", b"")
    with refusing(store, "record", "DELETE"), pytest.raises(StoreFailure, match="refused"):
        await store.compact(3)
    # The rows of values are deleted before that of the deletion, whichever compaction comes to it.
    await store.compact(4)
    assert rows(tmp_path / "store.db") == [(5, "/b")]


async def test_an_interrupted_compaction_is_finished_at_the_next_start(store: SqliteStore, tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    for n in range(4):
        await store.commit("/a", b"%d" % n, cause=Cause("me", str(n)))
    await store.commit("/b", b"")
    await store.commit("/b", None)
    with refusing(store, "record", "DELETE"), pytest.raises(StoreFailure):
        await store.compact(6)
    await store.close()
    assert len(rows(path)) == 6
    again = await SqliteStore.open(path, ManualClock())
    assert [entry.key for entry in (await again.list("/")).entries] == ["/a"]
    assert again.revision == 6 and await again.cause(4) == Cause("me", "3")
    with pytest.raises(Compacted):
        await again.get("/a", at=5)
    await again.close()
    assert rows(path) == [(4, "/a")]
    last = await SqliteStore.open(path, ManualClock())
    assert last.revision == 6 and await last.cause(4) == Cause("me", "3") and await last.cause(3) is None
    await last.close()


async def test_damage_is_noticed(store: SqliteStore, tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    for n in range(4):
        await store.commit(f"/{n}", b"")
    await store.close()
    connection = sqlite3.connect(path)
    connection.execute("DELETE FROM record WHERE revision = 2")
    connection.commit()
    connection.close()
    with pytest.raises(StoreFailure, match="revision 2 is missing"):
        await SqliteStore.open(path, ManualClock())
    path.write_bytes(b"not a database" * 1000)
    for _ in range(2):                  # the second time too: the first let go of the lock
        with pytest.raises(StoreFailure, match="not a database"):
            await SqliteStore.open(path, ManualClock())


async def test_two_openers(store: SqliteStore, tmp_path: Path) -> None:
    with pytest.raises(StoreFailure, match="in use"):
        await SqliteStore.open(tmp_path / "store.db", ManualClock())
    await store.close()
    await (await SqliteStore.open(tmp_path / "store.db", ManualClock())).close()


async def test_nobody_else_may_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "store.db"
    store = await SqliteStore.open(path, ManualClock())
    await store.commit("/secret", b"")
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == dict.fromkeys(
        ["store.db", "store.db-wal", "store.db-shm", "store.db.lock"], 0o600
    )
    await store.close()


@pytest.mark.parametrize("engine", ["memory", "sqlite"])
async def test_closing_ends_watches_and_commits(engine: str, tmp_path: Path) -> None:
    store: Store = MemoryStore(ManualClock())
    if engine == "sqlite":
        store = await SqliteStore.open(tmp_path / "store.db", ManualClock())
    waiting = asyncio.create_task(anext(store.watch("/", after=0)))
    await asyncio.wait([waiting], timeout=0.01)
    await store.close()
    with pytest.raises(StoreFailure, match="closed"):
        await waiting
    for refused in (store.commit("/a", b""), anext(store.watch("/", after=0)), store.compact(0)):
        with pytest.raises(StoreFailure, match="closed"):
            await refused
    await store.close()


async def test_a_commit_on_its_way_survives_close_and_its_caller(store: SqliteStore, tmp_path: Path) -> None:
    leaver = asyncio.create_task(store.commit("/left", b""))
    stayer = asyncio.create_task(store.commit("/stayed", b""))
    behind = asyncio.create_task(store.commit("/stayed", b"again"))
    await asyncio.wait([leaver], timeout=0)
    leaver.cancel()
    await store.close()
    assert await stayer == 2 and leaver.cancelled()
    with pytest.raises(StoreFailure, match="closed"):
        await behind
    again = await SqliteStore.open(tmp_path / "store.db", ManualClock())
    assert [entry.key for entry in (await again.list("/")).entries] == ["/left", "/stayed"]
    await again.close()


async def test_all_who_wait_outside_come_in(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_MOST_WAITING", 3)
    made = await asyncio.gather(*(store.commit(f"/{n}", b"") for n in range(50)))
    assert sorted(made) == list(range(1, 51))


async def test_a_watch_may_begin_in_the_future(store: SqliteStore) -> None:
    watch = asyncio.create_task(anext(store.watch("/", after=2)))
    await asyncio.wait([watch], timeout=0)
    for n in range(3):
        await store.commit(f"/{n}", b"")
    assert await watch == (Change("/2", 3, b"", None),)


async def test_a_watcher_that_falls_behind_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MOST_BEHIND", 5)
    store = MemoryStore(ManualClock())
    slow, quick = store.watch("/", after=0), store.watch("/", after=0)
    await store.commit("/k", b"")
    await anext(slow)
    seen = len(await anext(quick))
    for n in range(6):
        await store.commit("/k", b"%d" % n)
        seen += len(await anext(quick))
    assert seen == 7
    with pytest.raises(Compacted):
        await anext(slow)
    assert list(store._history._watchers) and len(store._history._watchers) == 1
    # What it missed is still there to be read.
    again = store.watch("/", after=1)
    assert len(await anext(again)) == 6
    for watch in (again, quick):
        await watch.aclose()
    assert not store._history._watchers


@pytest.mark.parametrize("engine", ["memory", "sqlite"])
async def test_history_is_bounded(engine: str, tmp_path: Path) -> None:
    async def opened(bounds: Bounds, clock: ManualClock) -> Store:
        if engine == "memory":
            return MemoryStore(clock, bounds)
        return await SqliteStore.open(tmp_path / f"{bounds.revisions}.db", clock, bounds)

    async def oldest(store: Store) -> int:
        with pytest.raises(Compacted) as refused:
            await anext(store.watch("/", after=-1))
        return refused.value.oldest

    clock = ManualClock()
    by_age = await opened(Bounds(seconds=300), clock)
    for _ in range(20):
        await asyncio.gather(*(by_age.commit(f"/k{number}", b"") for number in range(64)))
        clock.advance(60)
    # 64 commits each at 0, 60 … 1140 seconds: those of the last 300 seconds are there, and hardly more.
    assert 12 * 64 < await oldest(by_age) <= 14 * 64
    assert (await by_age.get("/k0", at=14 * 64)) is not None
    await by_age.close()

    by_number = await opened(Bounds(revisions=100), clock)
    for _ in range(101):
        await by_number.commit("/k", b"")
    assert await oldest(by_number) == 26
    await by_number.close()

    by_size = await opened(Bounds(revisions=1000, nbytes=10_000), clock)
    for _ in range(11):
        await by_size.commit("/k", b"x" * 1000)
    assert 0 < await oldest(by_size) < 11
    await by_size.close()
