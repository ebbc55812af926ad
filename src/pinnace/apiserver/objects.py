"""A read handle on the caches, for authenticators, authorizers and admission (`authentication/objects.py`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pinnace.api.core import v1 as core
from pinnace.apiserver.cache import WatchCache

if TYPE_CHECKING:
    from pinnace.apiserver.registry import Registry
    from pinnace.apiserver.server import ApiServer

K = TypeVar("K")


class CachedObjects:
    """The newest state, at once; nothing that it gives may be changed."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self._registries: dict[type[Any], Registry] = {}
        self._caches: dict[tuple[type[Any], ...], tuple[WatchCache, ...]] = {}

    def get(self, kind: type[K], namespace: str, name: str) -> K | None:
        registry = self._registries.get(kind)
        if registry is None:
            registry = self._registries[kind] = self._server.registry(kind)
        entry = registry.find(namespace, name)
        found: K | None = None if entry is None else entry.object
        return found

    def list(self, kind: type[K], namespace: str = "") -> Iterable[K]:
        return cast("list[K]", self._server.registry(kind).list(namespace))

    def pods_on(self, node: str) -> Iterable[core.Pod]:
        """The pods bound to a node."""
        registry = self._server.registry(core.Pod)
        return [entry.object for entry in registry.cache.indexed_by("spec.nodeName", node)]

    def version(self, *kinds: type[Any]) -> int:
        """Rises whenever an object of one of the kinds is written or deleted."""
        caches = self._caches.get(kinds)
        if caches is None:
            caches = self._caches[kinds] = tuple([self._server.registry(kind).cache for kind in kinds])
        version = 0
        for cache in caches:
            version += cache.version
        return version
