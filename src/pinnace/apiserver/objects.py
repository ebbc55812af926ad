"""A read handle on the caches, for authenticators, authorizers and admission (`authentication/objects.py`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pinnace.api.core import v1 as core
from pinnace.apiserver.cache import WatchCache

if TYPE_CHECKING:
    from pinnace.apiserver.server import ApiServer

K = TypeVar("K")


class CachedObjects:
    """The newest state, at once; nothing that it gives may be changed."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self._caches: dict[type[Any], WatchCache] = {}

    def get(self, kind: type[K], namespace: str, name: str) -> K | None:
        entry = self._server.registry(kind).find(namespace, name)
        return None if entry is None else cast(K, entry.object)

    def list(self, kind: type[K], namespace: str = "") -> Iterable[K]:
        return cast("list[K]", self._server.registry(kind).list(namespace))

    def pods_on(self, node: str) -> Iterable[core.Pod]:
        """The pods bound to a node."""
        registry = self._server.registry(core.Pod)
        return [entry.object for entry in registry.cache.indexed_by("spec.nodeName", node)]

    def version(self, kind: type[Any]) -> int:
        """Rises whenever an object of the kind is written or deleted."""
        cache = self._caches.get(kind)
        if cache is None:
            cache = self._caches[kind] = self._server.registry(kind).cache
        return cache.version
