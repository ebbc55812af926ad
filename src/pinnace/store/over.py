"""What lies over a store: passes everything on, and is the place to do one thing otherwise."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

from pinnace.store.store import Cause, Change, Entry, Page, Store, Trace

T = TypeVar("T")
_Doing = Coroutine[Any, Any, T]      # the inner store's own: a layer is no step more in what is awaited


class StoreOver:
    """See `store.Store`. Everything goes to `inner`."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner

    @property
    def revision(self) -> int:
        return self.inner.revision

    def get(self, key: str, *, at: int | None = None) -> _Doing[Entry | None]:
        return self.inner.get(key, at=at)

    def list(self, prefix: str, *, at: int | None = None, after: str = "", limit: int = 0) -> _Doing[Page]:
        return self.inner.list(prefix, at=at, after=after, limit=limit)

    def commit(
        self, key: str, value: bytes | None, *, expect: int | None = None, cause: Cause | None = None
    ) -> _Doing[int]:
        return self.inner.commit(key, value, expect=expect, cause=cause)

    def watch(self, prefix: str, *, after: int) -> AsyncGenerator[tuple[Change, ...], None]:
        return self.inner.watch(prefix, after=after)

    def subscribe(self, tell: Callable[[Change], None], *, after: int) -> Callable[[], None]:
        return self.inner.subscribe(tell, after=after)

    def compact(self, revision: int) -> _Doing[None]:
        return self.inner.compact(revision)

    def cause(self, revision: int) -> _Doing[Cause | None]:
        return self.inner.cause(revision)

    def change(self, revision: int) -> _Doing[Change | Entry | Trace | None]:
        return self.inner.change(revision)

    def revisions(self, key: str) -> _Doing[tuple[int, ...]]:
        return self.inner.revisions(key)

    def close(self) -> _Doing[None]:
        return self.inner.close()
