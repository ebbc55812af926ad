"""The way from the front door to a kubelet."""

from __future__ import annotations

from typing import Protocol

from pinnace.api.errors import ServiceUnavailable
from pinnace.apiserver.resource import Action
from pinnace.apiserver.resources.connect import KubeletTarget
from pinnace.client.transport import Response


class Kubelets(Protocol):
    """What the actions of pods, nodes and services need of the connection to nodes."""

    async def fetch(self, action: Action, target: KubeletTarget) -> Response:
        """A plain request to a kubelet, streamed back."""
        ...

    async def stream(self, action: Action, target: KubeletTarget) -> Response:
        """A connection both ways (exec, attach, portforward), relayed byte for byte."""
        ...

    async def proxy_pod(self, action: Action) -> Response: ...

    async def proxy_service(self, action: Action) -> Response: ...

    async def proxy_node(self, action: Action) -> Response: ...

    async def close(self) -> None: ...


class NoKubelets:
    """A control plane without nodes to talk to."""

    async def fetch(self, action: Action, target: KubeletTarget) -> Response:
        raise _unreachable()

    async def stream(self, action: Action, target: KubeletTarget) -> Response:
        raise _unreachable()

    async def proxy_pod(self, action: Action) -> Response:
        raise _unreachable()

    async def proxy_service(self, action: Action) -> Response:
        raise _unreachable()

    async def proxy_node(self, action: Action) -> Response:
        raise _unreachable()

    async def close(self) -> None:
        return None


def _unreachable() -> ServiceUnavailable:
    return ServiceUnavailable("this server has no connection to its nodes")
