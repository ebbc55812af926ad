"""The store: etcd's role. Bytes under keys, revisions, compare-and-swap, watch. It knows no kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pinnace.base.clock import Clock
from pinnace.store.history import Limits
from pinnace.store.memory import MemoryStore
from pinnace.store.sqlite import SqliteStore, StoreError, StoreLocked
from pinnace.store.store import Cause, Change, Compacted, Conflict, Entry, FutureRevision, Page, Store

__all__ = [
    "Cause", "Change", "Compacted", "Conflict", "Entry", "FutureRevision", "Limits", "MemoryStore", "Page",
    "SqliteStore", "Store", "StoreError", "StoreLocked", "open_store",
]


def open_store(kind: Literal["sqlite", "memory"], data_dir: Path, clock: Clock) -> Store:
    """The engine of that kind; SQLite keeps `store.db` below `data_dir`. Raises StoreError, StoreLocked."""
    if kind == "memory":
        return MemoryStore(clock)
    return SqliteStore.open(data_dir / "store.db", clock)
