"""Causes: what is kept of them, over a restart, from older files, and when the values are long gone."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from pinnace.base.clock import ManualClock
from pinnace.store import Cause, Change, Entry, MemoryStore, SqliteStore, Store, Trace
from pinnace.store.store import CLOCK

WHOLE = Cause(
    "system:serviceaccount:kube-system:job-controller", "patch", (CLOCK, 7), "kube-controller-manager/job-controller",
    "Job.batch/default/backup", "status", 1_767_225_600_123,
)  # fmt: skip
OLD = """
CREATE TABLE record (
    revision INTEGER PRIMARY KEY, key TEXT NOT NULL, value BLOB, created INTEGER NOT NULL,
    actor TEXT, verb TEXT, because TEXT
);
CREATE TABLE mark (name TEXT PRIMARY KEY, revision INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO record VALUES (1, '/a', 'one', 1, 'me', 'create', NULL), (2, '/b', 'two', 2, NULL, NULL, NULL),
    (3, '/a', 'three', 1, 'you', 'update', '1,2');
"""


def asked(n: int) -> Cause:
    return Cause("me", "update", agent="kubectl", at=n)


async def test_a_cause_outlives_a_restart_whole(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "db", ManualClock())
    await store.commit("/a", b"1", cause=WHOLE)
    await store.commit("/b", b"2", cause=Cause("me"))
    await store.close()
    again = await SqliteStore.open(tmp_path / "db", ManualClock())
    assert [await again.cause(n) for n in (1, 2)] == [WHOLE, Cause("me")]
    await again.close()


async def test_a_file_of_before_is_read_and_written(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "db") as connection:
        connection.executescript(OLD)
    connection.close()
    store = await SqliteStore.open(tmp_path / "db", ManualClock())
    assert [await store.cause(n) for n in (1, 2, 3)] == [
        Cause("me", "create"), None, Cause("you", "update", (1, 2)),
    ]  # fmt: skip
    assert await store.commit("/a", b"4", cause=WHOLE) == 4
    await store.close()
    again = await SqliteStore.open(tmp_path / "db", ManualClock())
    assert await again.cause(4) == WHOLE and await again.cause(3) == Cause("you", "update", (1, 2))
    await again.close()


@pytest.mark.parametrize("engine", ["memory", "sqlite"])
async def test_who_asked_is_known_when_the_values_are_gone(engine: str, tmp_path: Path) -> None:
    async def opened() -> Store:
        if engine == "memory":
            return MemoryStore(ManualClock())
        return await SqliteStore.open(tmp_path / "db", ManualClock())

    store = await opened()
    await store.commit("/a", b"0", cause=Cause("me", "create"))
    for n in range(2, 8):                                    # 2 … 7: requests
        await store.commit("/a", b"%d" % n, cause=asked(n))
    await store.commit("/a", b"8", cause=Cause("kubelet", "patch", (7,), subresource="status"))
    await store.commit("/a", b"9", cause=Cause("kubelet", "update", (CLOCK,)))
    await store.commit("/gone", b"10", cause=Cause("me", "create"))
    await store.commit("/gone", None, cause=Cause("me", "delete"))
    assert await store.revisions("/gone") == (10, 11)
    await store.commit("/a", b"12", cause=Cause("kubelet", "patch", (9,), subresource="status"))
    await store.compact(12)
    if engine == "sqlite":
        await store.close()
        store = await opened()
    assert await store.revisions("/a") == (1, 5, 6, 7, 12) and await store.revisions("/gone") == ()
    assert await store.cause(1) == Cause("me", "create") and await store.cause(6) == asked(6)
    assert [await store.cause(n) for n in (2, 4, 8, 9, 10, 11)] == [None] * 6
    assert await store.change(6) == Trace("/a", 6) and await store.change(12) == Entry("/a", b"12", 1, 12)
    deleted = await store.commit("/a", None)
    assert isinstance(await store.change(deleted), Change) and await store.cause(1) == Cause("me", "create")
    await store.compact(deleted)
    if engine == "sqlite":
        await store.close()
        store = await opened()
    assert await store.revisions("/a") == () and await store.cause(1) is None and await store.change(7) is None
    await store.close()
