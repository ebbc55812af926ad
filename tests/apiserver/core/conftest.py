from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.apiserver.inprocess import InProcessTransport
from pinnace.apiserver.resources.table import RESOURCES
from pinnace.apiserver.server import ApiServer
from pinnace.base.clock import ManualClock
from pinnace.base.randomness import Randomness
from pinnace.client.client import Client
from pinnace.client.transport import Request, Response
from pinnace.store.memory import MemoryStore


class Api:
    """A server with the namespace `default`, and short ways to ask it."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.client = Client(InProcessTransport(server))

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Response:
        """`path` may carry a query; headers are written with underscores."""
        path, _, query = path.partition("?")
        pairs: dict[str, tuple[str, ...]] = {}
        for word in query.split("&") if query else ():
            name, _, value = word.partition("=")
            pairs[name] = (*pairs.get(name, ()), value)
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if data:
            named.setdefault("content-type", "application/json")
        return await self.server.handle(Request(method, path, pairs, named, data))

    async def json(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        return json.loads((await self.ask(method, path, body, **headers)).body)

    async def refused(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str, str]:
        response = await self.ask(method, path, body, **headers)
        status = json.loads(response.body)
        assert status["kind"] == "Status" and status["status"] == "Failure", status
        assert status["code"] == response.status
        return response.status, status.get("reason", ""), status["message"]


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    clock = ManualClock()
    server = ApiServer(MemoryStore(clock), RESOURCES, clock, Randomness(7))
    await server.start()
    found = Api(server)
    await found.client.create(core.Namespace(metadata=meta.ObjectMeta(name="default")))
    yield found
    await server.close()


def config(name: str = "a", **more: Any) -> dict[str, Any]:
    metadata = {"name": name, **more.pop("metadata", {})}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, **more}


def pod(name: str = "web", **more: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, **more.pop("metadata", {})},
        "spec": {"containers": [{"name": "c", "image": "i"}], **more},
    }


CONFIGS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
