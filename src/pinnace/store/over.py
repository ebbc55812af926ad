"""What lies over a store: passes everything on, and is the place to do one thing otherwise."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

from pinnace.store.store import Cause, Change, Entry, Page, Store, Trace


class StoreOver:
    """See `store.Store`. Everything goes to `inner`."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner

    @property
    def inner(self) -> Store:
        return self._inner

    @property
    def revision(self) -> int:
        return self.inner.revision

    async def get(self, key: str, *, at: int | None = None) -> Entry | None:
        return await self.inner.get(key, at=at)

    async def list(self, prefix: str, *, at: int | None = None, after: str = "", limit: int = 0) -> Page:
        return await self.inner.list(prefix, at=at, after=after, limit=limit)

    async def commit(
        self, key: str, value: bytes | None, *, expect: int | None = None, cause: Cause | None = None
    ) -> int:
        return await self.inner.commit(key, value, expect=expect, cause=cause)

    def watch(self, prefix: str, *, after: int) -> AsyncGenerator[tuple[Change, ...], None]:
        return self.inner.watch(prefix, after=after)

    def subscribe(self, tell: Callable[[Change], None], *, after: int) -> Callable[[], None]:
        return self.inner.subscribe(tell, after=after)

    async def compact(self, revision: int) -> None:
        await self.inner.compact(revision)

    async def cause(self, revision: int) -> Cause | None:
        return await self.inner.cause(revision)

    async def change(self, revision: int) -> Change | Entry | Trace | None:
        return await self.inner.change(revision)

    async def revisions(self, key: str) -> tuple[int, ...]:
        return await self.inner.revisions(key)

    async def close(self) -> None:
        await self.inner.close()
