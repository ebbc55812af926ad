"""What authenticators and authorizers may read: objects as the server's caches hold them, at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

from pinnace.api.core import v1 as core

K = TypeVar("K")


class Objects(Protocol):
    """A read handle on the newest state."""

    def get(self, kind: type[K], namespace: str, name: str) -> K | None: ...

    def list(self, kind: type[K], namespace: str = "") -> Iterable[K]: ...

    def pods_on(self, node: str) -> Iterable[core.Pod]:
        """The pods bound to a node."""
        ...

    def version(self, *kinds: type[object]) -> int:
        """Rises whenever an object of one of the kinds is written or deleted."""
        ...
