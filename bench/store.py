"""How fast the store is: commits a second next to raw SQLite, opening, and the fan-out of watches.

`python bench/store.py` prints a table; `measure` gives the figures to whoever collects them.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import closing
from pathlib import Path

import uvloop

from pinnace.base.clock import SystemClock
from pinnace.store import Change, SqliteStore

VALUE = b"x" * 1500                 # about a small pod
CALLERS = (1, 16, 64)
SECONDS = 0.7                       # that each rate is taken over
OBJECTS = 20_000
WATCHERS = 100
CHANGES = 1000


def raw_commits(directory: Path) -> float:
    """One transaction a commit, as durable as ours, with nothing around it."""
    with closing(sqlite3.connect(directory / "raw.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE record (revision INTEGER PRIMARY KEY, key TEXT, value BLOB)")
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < SECONDS:
            connection.execute("INSERT INTO record (key, value) VALUES (?, ?)", (f"/k/{done}", VALUE))
            done += 1
        return done / (time.perf_counter() - start)


async def commits(store: SqliteStore, callers: int) -> float:
    """New keys, from so many callers that each wait for their own."""
    done, start = 0, time.perf_counter()

    async def caller(number: int) -> None:
        nonlocal done
        count = 0
        while time.perf_counter() - start < SECONDS:
            await store.commit(f"/registry/pods/{callers}/{number}/{count}", VALUE, expect=0)
            count += 1
        done += count

    await asyncio.gather(*map(caller, range(callers)))
    return done / (time.perf_counter() - start)


async def opening(path: Path) -> float:
    """Milliseconds until a file with many objects answers."""
    store = await SqliteStore.open(path, SystemClock())
    await asyncio.gather(*(store.commit(f"/registry/pods/default/{n:05}", VALUE) for n in range(OBJECTS)))
    await store.close()
    start = time.perf_counter()
    store = await SqliteStore.open(path, SystemClock())
    found = await store.list("/registry/", limit=1)
    elapsed = time.perf_counter() - start
    assert found.remaining == OBJECTS - 1
    await store.close()
    return elapsed * 1000


async def fan_out(store: SqliteStore) -> float:
    """Deliveries a second: every change to every watcher, writing included."""

    async def follow(watch: AsyncGenerator[tuple[Change, ...], None]) -> None:
        seen = 0
        while seen < CHANGES:
            seen += len(await anext(watch))
        await watch.aclose()

    after = store.revision
    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(WATCHERS):
            group.create_task(follow(store.watch("/registry/", after=after)))
        for n in range(CHANGES):
            group.create_task(store.commit(f"/registry/watched/{n}", VALUE))
    return WATCHERS * CHANGES / (time.perf_counter() - start)


async def _measure() -> dict[str, float]:
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="pinnace-bench-") as name:
        directory = Path(name)
        figures["raw SQLite, commits/s"] = round(raw_commits(directory))
        store = await SqliteStore.open(directory / "store.db", SystemClock())
        for callers in CALLERS:
            figures[f"{callers} callers, commits/s"] = round(await commits(store, callers))
        figures[f"{WATCHERS} watchers, deliveries/s"] = round(await fan_out(store))
        await store.close()
        figures[f"open with {OBJECTS} objects, ms"] = round(await opening(directory / "many.db"), 1)
    return figures


def measure() -> dict[str, float]:
    """Everything, by name; takes about five seconds."""
    return uvloop.run(_measure())


def main() -> None:
    for name, value in measure().items():
        print(f"{name:<40}{value:>12,}")


if __name__ == "__main__":
    main()
