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


class _Registries(dict[type[Any], "Registry"]):
    """By kind, each looked for once. A kind that is not served is a KeyError."""

    def __init__(self, server: ApiServer) -> None:
        super().__init__()
        self._server = server

    def __missing__(self, kind: type[Any]) -> Registry:
        found = self[kind] = self._server.registry(kind)
        return found


class CachedObjects:
    """The newest state, at once; nothing that it gives may be changed."""

    def __init__(self, server: ApiServer) -> None:
        self.registries = _Registries(server)
        self._caches: dict[tuple[type[Any], ...], tuple[WatchCache, ...]] = {}

    def get(self, kind: type[K], namespace: str, name: str) -> K | None:
        entry = self.registries[kind].find(namespace, name)
        found: K | None = None if entry is None else entry.object
        return found

    def list(self, kind: type[K], namespace: str = "") -> Iterable[K]:
        return cast("list[K]", self.registries[kind].list(namespace))

    def pods_on(self, node: str) -> Iterable[core.Pod]:
        """The pods bound to a node."""
        return [entry.object for entry in self.registries[core.Pod].cache.indexed_by("spec.nodeName", node)]

    def version(self, *kinds: type[Any]) -> int:
        """Rises whenever an object of one of the kinds is written or deleted."""
        try:
            caches = self._caches[kinds]
        except KeyError:
            caches = self._caches[kinds] = tuple([self.registries[kind].cache for kind in kinds])
        version = 0
        for cache in caches:
            version += cache.version
        return version
