"""One suite for every engine; a new engine is one line in ENGINES."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from pinnace.base.clock import ManualClock
from pinnace.store import (
    Cause,
    Change,
    Compacted,
    Conflict,
    FutureRevision,
    MemoryStore,
    SqliteStore,
    Store,
    StoreFailure,
    open_store,
)  # fmt: skip

ENGINES: dict[str, Callable[[Path], Awaitable[Store]]] = {
    "memory": lambda path: open_store("memory", path, ManualClock()),
    "sqlite": lambda path: open_store("sqlite", path, ManualClock()),
}


@pytest.fixture(params=ENGINES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    opened = await ENGINES[request.param](tmp_path / "data")
    yield opened
    await opened.close()


async def test_reads_now_and_then(store: Store) -> None:
    assert await store.commit("/a", b"1", expect=0) == 1
    assert await store.commit("/b", b"2", cause=Cause("me", "create", (1,))) == 2
    assert await store.commit("/a", b"3", expect=1) == 3
    assert await store.commit("/b", None, expect=2) == 4
    assert [e.key for e in (await store.list("/")).entries] == ["/a"]
    then = await store.list("/", at=2, limit=1)
    assert ([e.value for e in then.entries], then.more, then.remaining, then.revision) == ([b"1"], True, 1, 2)
    rest = await store.list("/", at=2, after="/a")
    assert ([e.key for e in rest.entries], rest.more, rest.remaining) == (["/b"], False, 0)
    assert await store.cause(2) == Cause("me", "create", (1,))
    with pytest.raises(FutureRevision):
        await store.get("/a", at=5)


async def test_conflicts(store: Store) -> None:
    with pytest.raises(Conflict):
        await store.commit("/a", None)
    await store.commit("/a", b"1")
    results = await asyncio.gather(
        *(store.commit("/a", b"%d" % n, expect=1) for n in range(20)), return_exceptions=True)
    assert sum(isinstance(r, int) for r in results) == 1 and store.revision == 2
    assert sum(isinstance(r, Conflict) for r in results) == 19


async def test_watch_replays_follows_and_compacts(store: Store) -> None:
    for n in range(5):
        await store.commit(f"/x/{n}", b"v")
    await store.commit("/x/0", None)
    watch = store.watch("/x/", after=2)
    seen = [c.revision for c in await anext(watch)]
    await store.commit("/y", b"other")
    await store.commit("/x/9", b"v")
    while seen[-1] < 8:
        seen += [c.revision for c in await anext(watch)]
    assert seen == [3, 4, 5, 6, 8]
    await watch.aclose()
    await store.compact(6)
    with pytest.raises(Compacted):
        await anext(store.watch("/x/", after=5))
    with pytest.raises(Compacted):
        await store.get("/x/1", at=5)
    assert (await store.list("/x/", at=6)).revision == 6
    assert [c.revision for c in await anext(store.watch("/", after=6))] == [7, 8]


async def test_a_subscriber_hears_of_each_commit_before_its_caller(store: Store) -> None:
    await store.commit("/a", b"1")
    await store.commit("/a", b"2")
    seen: list[tuple[int, bytes | None]] = []

    def tell(change: Change) -> None:
        assert store.revision == change.revision, "what is told is visible"
        seen.append((change.revision, change.value))

    with pytest.raises(AssertionError):
        store.subscribe(tell, after=0)          # replayed: the store is further on by now
    end = store.subscribe(lambda change: seen.append((change.revision, change.value)), after=1)
    assert seen == [(2, b"2")]
    end()
    end = store.subscribe(tell, after=2)
    for n in range(3, 6):
        assert await store.commit("/a", b"%d" % n) == n
        assert seen[-1] == (n, b"%d" % n)
    await asyncio.gather(*(store.commit(f"/b/{n}", b"v") for n in range(50)))
    await store.commit("/a", None)
    assert [revision for revision, _ in seen] == list(range(2, 57))
    assert seen[-1] == (56, None)
    end()
    await store.commit("/a", b"unheard")
    assert len(seen) == 55
    await store.compact(57)
    with pytest.raises(Compacted):
        store.subscribe(tell, after=56)
    await store.close()
    with pytest.raises(StoreFailure):
        store.subscribe(tell, after=57)


async def test_subscribers_may_come_and_go_while_they_are_told(store: Store) -> None:
    seen: list[str] = []
    ends: list[Callable[[], None]] = []

    def first(change: Change) -> None:
        seen.append(f"first {change.revision}")
        ends.pop(0)()
        ends.append(store.subscribe(lambda change: seen.append(f"second {change.revision}"), after=change.revision))

    ends.append(store.subscribe(first, after=0))
    await store.commit("/a", b"1")
    await store.commit("/a", b"2")
    assert seen == ["first 1", "second 2"]


async def test_sqlite_reopens_and_is_locked(tmp_path: Path) -> None:
    path = tmp_path / "d" / "store.db"
    store = await SqliteStore.open(path, ManualClock())
    await asyncio.gather(*(store.commit(f"/k/{n:03}", b"v") for n in range(100)))
    await store.commit("/k/000", None)
    with pytest.raises(StoreFailure):
        await SqliteStore.open(path, ManualClock())
    await store.compact(101)
    await store.close()
    again = await SqliteStore.open(path, ManualClock())
    page = await again.list("/k/", limit=10)
    assert (again.revision, page.remaining, page.entries[0].key) == (101, 89, "/k/001")
    assert await again.commit("/k/000", b"new", expect=0) == 102
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
    await again.close()


async def test_a_memory_store_begins_with_what_happened_in_another() -> None:
    clock = ManualClock()
    first, second = MemoryStore(clock), MemoryStore(clock)
    await first.commit("/a", b"1", cause=Cause("me", "create"))
    await first.commit("/b", b"2")
    await first.commit("/a", b"3", expect=1)
    await first.commit("/b", None)
    second.begin(first.beginning())
    assert second.revision == 4
    assert (await second.list("")).entries == (await first.list("")).entries
    assert [change.revision for change in await anext(second.watch("", after=0))] == [1, 2, 3, 4]
    assert await second.cause(1) == await first.cause(1)
    await second.commit("/a", b"5", expect=3)
    entry = await first.get("/a")
    assert entry is not None and entry.value == b"3", "each goes its own way from there"
    with pytest.raises(ValueError, match="already"):
        second.begin(first.beginning())
    await first.compact(2)
    with pytest.raises(ValueError, match="compacted"):
        first.beginning()


async def test_a_write_goes_on_whatever_becomes_of_its_caller(store: Store) -> None:
    await store.commit("/a", b"0")
    first = asyncio.create_task(store.commit("/a", b"1"))
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(store.commit("/a", b"%d" % n)) for n in (2, 3, 4)]
    await asyncio.sleep(0)
    first.cancel()
    waiting[1].cancel()
    done = await asyncio.wait_for(asyncio.gather(first, *waiting, return_exceptions=True), 5)
    assert isinstance(done[1], int) and isinstance(done[3], int)
    entry = await store.get("/a")
    assert entry is not None and entry.modified == max(done[1], done[3]) == store.revision
