"""etcd's role: bytes under keys, one revision a commit, compare-and-swap, watch. Knows no kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pinnace.base.clock import Clock
from pinnace.store.history import Bounds
from pinnace.store.memory import MemoryStore
from pinnace.store.sqlite import SqliteStore
from pinnace.store.store import (
    Cause,
    Change,
    Compacted,
    Conflict,
    Entry,
    FutureRevision,
    Page,
    Store,
    StoreFailure,
    Trace,
)  # fmt: skip

__all__ = [
    "Bounds", "Cause", "Change", "Compacted", "Conflict", "Entry", "FutureRevision", "MemoryStore", "Page",
    "SqliteStore", "Store", "StoreFailure", "Trace", "open_store",
]  # fmt: skip


async def open_store(engine: Literal["sqlite", "memory"], directory: Path, clock: Clock) -> Store:
    """The engine of that name; what it keeps lies in the directory. Raises StoreFailure."""
    if engine == "memory":
        return MemoryStore(clock)
    return await SqliteStore.open(directory / "pinnace.db", clock)
