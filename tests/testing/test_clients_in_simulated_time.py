"""Clients from PyPI, unmodified, in the loop of a simulated cluster."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pinnace.api import errors
from pinnace.api.core import v1 as core
from pinnace.client.transport import Request, Response, Transport
from pinnace.testing.cluster import Cluster
from pinnace.testing.loop import OutsideWorld, VirtualLoop, simulate
from pinnace.testing.net.serving import Served
from pinnace.testing.network import serve

aiohttp = pytest.importorskip("aiohttp")

ADMINISTRATOR = {
    "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "everything"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
    "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}],
}  # fmt: skip


def _config_map(name: str, value: str = "", **labels: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}, "data": {"x": value}}


def _context(served: Served, directory: Path) -> ssl.SSLContext:
    access = served.admin
    assert access.ca and access.certificate and access.key
    (directory / "crt").write_bytes(access.certificate)
    (directory / "key").write_bytes(access.key)
    context = ssl.create_default_context(cadata=access.ca.decode())
    context.load_cert_chain(directory / "crt", directory / "key")
    return context


def _now() -> float:
    return asyncio.get_running_loop().time()


def _connections() -> int:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop.network.connections


@contextlib.asynccontextmanager
async def _cluster(**options: Any) -> AsyncIterator[tuple[Cluster, Served]]:
    async with Cluster(**options) as cluster, await serve(cluster.control_plane) as served:
        yield cluster, served
    await asyncio.sleep(1)
    assert not _connections()


# ----------------------------------------------------------------------------------------------------- aiohttp, httpx


async def _lines(count: int, every: float) -> int:
    """aiohttp's own server and client, by themselves."""
    from aiohttp import web

    async def lines(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        for number in range(count):
            await asyncio.sleep(every)
            await answer.write(b"line %d\n" % number)
        return answer

    app = web.Application()
    app.router.add_get("/lines", lines)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "lines.test", 80).start()
    seen = 0
    endless = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=endless) as session, session.get("http://lines.test/lines") as answer:
        async for line in answer.content:
            assert line == b"line %d\n" % seen
            seen += 1
    await runner.cleanup()
    assert not _connections()
    return seen


def test_a_thousand_lines_in_sixty_thousand_seconds() -> None:
    async def watch() -> float:
        begun = time.process_time()
        assert await _lines(1000, 60) == 1000
        assert _now() == pytest.approx(60_000)
        return time.process_time() - begun

    assert simulate(watch) < 1.0


def test_aiohttps_timeouts_and_errors_are_as_outside() -> None:
    async def ask() -> None:
        async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(1e6)
            writer.close()

        await asyncio.start_server(silent, "silent.test", 80)
        async with aiohttp.ClientSession() as session:
            with pytest.raises(asyncio.TimeoutError):
                await session.get("http://silent.test/", timeout=aiohttp.ClientTimeout(total=300))
            assert _now() == 300
            with pytest.raises(aiohttp.ClientConnectorDNSError, match="simulation's network"):
                await session.get("http://nobody.test/")
            with pytest.raises(aiohttp.ClientConnectorError, match="simulation's network"):
                await session.get("http://silent.test:81/")

    simulate(ask)


def test_httpx(tmp_path: Path) -> None:
    httpx = pytest.importorskip("httpx")

    async def ask() -> None:
        async with _cluster() as (_, served):
            async with httpx.AsyncClient(base_url=served.url, verify=_context(served, tmp_path)) as client:
                for _ in range(3):
                    answer = await client.get("/api/v1/namespaces/default")
                    assert answer.json()["metadata"]["name"] == "default"
                assert _connections() == 2          # one, used again
                begun = _now()
                with pytest.raises(httpx.ReadTimeout):
                    await client.get("/api/v1/namespaces?watch=1", timeout=7)
                assert _now() == pytest.approx(begun + 7)
            with pytest.raises(httpx.ConnectError):
                async with httpx.AsyncClient() as client:
                    await client.get("http://nobody.test")

    simulate(ask)


# ------------------------------------------------------------------------------------------------------ the API server


def test_authentication_is_that_of_a_real_cluster(tmp_path: Path) -> None:
    async def ask() -> None:
        async with _cluster() as (cluster, served), aiohttp.ClientSession() as session:
            url = f"{served.url}/api/v1/namespaces/default/configmaps"
            access = served.admin
            assert access.ca is not None
            anonymous = ssl.create_default_context(cadata=access.ca.decode())
            for alias in ("kubernetes.default.svc:443", "pinnace.test:6443"):
                answer = await session.get(f"https://{alias}/version", ssl=anonymous)
                assert (await answer.json())["major"] == "1"
            async with session.get(url, ssl=anonymous) as answer:
                assert answer.status == 403
                assert 'User \\"system:anonymous\\" cannot list' in await answer.text()
            async with session.get(url, ssl=anonymous, headers={"Authorization": "Bearer nonsense"}) as answer:
                assert answer.status == 401
            async with session.get(url, ssl=_context(served, tmp_path)) as answer:
                assert answer.status == 200
            account = await served.service_account("default")
            headers = {"Authorization": f"Bearer {account.token}"}
            async with session.get(url, ssl=anonymous, headers=headers) as answer:
                assert answer.status == 403
                assert "system:serviceaccount:default:default" in await answer.text()
            await cluster.apply(ADMINISTRATOR)
            async with session.get(url, ssl=anonymous, headers=headers) as answer:
                assert answer.status == 200
            with pytest.raises(errors.NotFound):
                await served.service_account("nobody")
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await session.get(url)

    simulate(ask)


def test_a_crash_cuts_and_a_restart_serves_again(tmp_path: Path) -> None:
    async def ask() -> None:
        async with _cluster(nodes=0) as (cluster, served), aiohttp.ClientSession() as session:
            context = _context(served, tmp_path)
            url = f"{served.url}/api/v1/configmaps"
            await cluster.apply(_config_map("one"))
            watch = await session.get(f"{url}?watch=1", ssl=context, timeout=aiohttp.ClientTimeout(total=None))
            assert await watch.content.readline()
            waiting = asyncio.create_task(watch.content.read())
            await cluster.control_plane.crash()
            with pytest.raises(aiohttp.ClientError):
                await waiting
            with pytest.raises(aiohttp.ClientConnectorError, match="nobody listens"):
                await session.get(url, ssl=context)
            await cluster.control_plane.start()
            await served.listening()
            async with session.get(url, ssl=context) as answer:
                assert answer.status == 200

    simulate(ask)


class _Losing:
    """Answers to writes of one name get lost."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner

    async def send(self, request: Request) -> Response:
        response = await self._inner.send(request)
        if b"unlucky" in request.body:
            raise ConnectionResetError("the answer is lost")
        return response

    async def close(self) -> None:
        return None


def test_what_is_wrapped_around_the_server_concerns_its_clients(tmp_path: Path) -> None:
    async def ask() -> None:
        async with (
            Cluster(nodes=0) as cluster,
            await serve(cluster.control_plane, wrap=lambda transport, _: _Losing(transport)) as served,
            aiohttp.ClientSession() as session,
        ):
            context = _context(served, tmp_path)
            url = f"{served.url}/api/v1/namespaces/default/configmaps"
            async with session.post(url, json=_config_map("lucky"), ssl=context) as answer:
                assert answer.status == 201
            with pytest.raises(aiohttp.ServerDisconnectedError):
                await session.post(url, json=_config_map("unlucky"), ssl=context)
            assert (await cluster.get("configmaps", "unlucky")).metadata.name == "unlucky"

    simulate(ask)


# ---------------------------------------------------------------------------------------------------- client libraries


def test_kubernetes_asyncio() -> None:
    kubernetes = pytest.importorskip("kubernetes_asyncio")

    async def write(cluster: Cluster) -> None:
        for number in range(1000):
            await asyncio.sleep(60)
            await cluster.client.patch(core.ConfigMap, "one", "default", {"data": {"x": str(number)}}, type="merge")

    async def ask() -> None:
        async with _cluster(nodes=0) as (cluster, served):
            configuration = kubernetes.client.Configuration()
            await kubernetes.config.load_kube_config_from_dict(served.config(), client_configuration=configuration)
            async with kubernetes.client.ApiClient(configuration) as api:
                v1 = kubernetes.client.CoreV1Api(api)
                await v1.create_namespaced_config_map("default", _config_map("one"))
                with pytest.raises(kubernetes.client.ApiException) as conflict:
                    await v1.create_namespaced_config_map("default", _config_map("one"))
                assert conflict.value.reason == "Conflict"
                found = (await v1.list_namespaced_config_map("default")).items
                assert [item.metadata.name for item in found] == ["kube-root-ca.crt", "one"][-len(found) :]
                begun = _now()
                writing = asyncio.create_task(write(cluster))
                values: list[str] = []
                ended = 0
                while len(values) < 1000:                    # the server ends each watch after its timeout
                    watch = kubernetes.watch.Watch()
                    last = (await v1.list_namespaced_config_map("default")).metadata.resource_version
                    async with watch.stream(
                        v1.list_namespaced_config_map, "default", resource_version=last, timeout_seconds=10_000,
                        field_selector="metadata.name=one",
                    ) as stream:
                        async for event in stream:
                            values.append(event["object"].data["x"])
                    ended += 1
                assert values == [str(number) for number in range(1000)]
                assert ended == 7 and _now() == pytest.approx(begun + 70_000, abs=60)
                await writing

    simulate(ask, threads="inline")


def test_kubernetes_asyncio_says_what_it_needs() -> None:
    kubernetes = pytest.importorskip("kubernetes_asyncio")

    async def ask() -> None:
        async with kubernetes.client.ApiClient(kubernetes.client.Configuration(host="http://nobody.test")) as api:
            with pytest.raises(OutsideWorld, match='_get_netrc_auth.*threads="inline"'):
                await kubernetes.client.CoreV1Api(api).list_namespace()

    simulate(ask)


def test_lightkube() -> None:
    lightkube = pytest.importorskip("lightkube")
    from lightkube.models.meta_v1 import ObjectMeta
    from lightkube.resources.core_v1 import ConfigMap

    async def ask() -> None:
        async with _cluster(nodes=0) as (cluster, served):
            client = lightkube.AsyncClient(config=lightkube.KubeConfig.from_dict(served.config()), namespace="default")
            await client.create(ConfigMap(metadata=ObjectMeta(name="one"), data={"x": ""}))
            assert "one" in [found.metadata.name async for found in client.list(ConfigMap)]

            async def change() -> None:
                await asyncio.sleep(3600)
                await cluster.apply(_config_map("one", "later"))

            changing = asyncio.create_task(change())
            async for kind, found in client.watch(ConfigMap, fields={"metadata.name": "one"}):
                if found.data["x"] == "later":
                    assert kind == "MODIFIED" and _now() >= 3600
                    break
            await changing
            await client.delete(ConfigMap, "one")
            await client.close()

    simulate(ask)


@pytest.mark.filterwarnings("ignore:Kubernetes version:UserWarning")
def test_kr8s() -> None:
    """Reads its certificates in anyio's worker threads."""
    pytest.importorskip("kr8s")
    from kr8s.asyncio import api as connect
    from kr8s.asyncio.objects import Pod

    pod = {"metadata": {"name": "one"}, "spec": {"containers": [{"name": "main", "image": "main"}]}}

    async def ask(seed: int) -> int:
        async with Cluster(nodes=1, seed=seed) as cluster, await serve(cluster.control_plane) as served:
            api = await connect(kubeconfig=served.config())
            made = await Pod(pod, namespace="default", api=api)
            await made.create()
            await made.wait("condition=Ready", timeout=60)
            await made.delete()
            await made.wait("delete", timeout=120)
            await api._session.aclose()
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualLoop)
            return loop.steps

    def run(seed: int) -> int:
        return simulate(lambda: ask(seed), seed=seed, threads="inline")

    assert run(1) == run(1)


# --------------------------------------------------------------------------------------------------------------- kopf


async def _operate(cluster: Cluster, served: Served) -> list[tuple[Any, ...]]:
    """What the handlers of an operator saw in six hours."""
    import kopf

    from pinnace.testing.wallclock import wall_clock

    registry = kopf.OperatorRegistry()
    seen: list[tuple[Any, ...]] = []
    mine: dict[str, Any] = {"labels": {"shadow": "yes"}, "registry": registry}

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        access = served.admin
        return kopf.ConnectionInfo(
            server=access.server, ca_data=access.ca, certificate_data=access.certificate, private_key_data=access.key
        )

    @kopf.on.create("configmaps", **mine)
    async def create(name: str, body: Any, retry: int, **_: Any) -> None:
        seen.append(("create", name, retry, _now()))
        if retry == 0:
            raise kopf.TemporaryError("not yet", delay=600)
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"{name}-shadow"}}
        kopf.adopt(secret, owner=body)
        await cluster.apply(secret)

    @kopf.on.update("configmaps", **mine)
    async def update(name: str, diff: Any, **_: Any) -> None:
        seen.append(("update", name, diff[0][1:], _now()))

    @kopf.timer("configmaps", interval=3600, initial_delay=60, **mine)
    async def tick(name: str, **_: Any) -> None:
        seen.append(("tick", name, _now()))

    @kopf.on.delete("configmaps", **mine)
    async def delete(name: str, **_: Any) -> None:
        seen.append(("delete", name, _now()))

    with wall_clock(cluster.clock, "kopf"):
        ready, stop = asyncio.Event(), asyncio.Event()
        operator = asyncio.create_task(
            kopf.operator(registry=registry, standalone=True, clusterwide=True, ready_flag=ready, stop_flag=stop)
        )
        await ready.wait()
        await cluster.apply(_config_map("one", "1", shadow="yes"), _config_map("other", "1"))
        await cluster.advance(hours=2)
        await cluster.apply(_config_map("one", "2", shadow="yes"))
        await cluster.advance(hours=4)
        finalizers = (await cluster.get("configmaps", "one")).metadata.finalizers
        assert finalizers == ["kopf.zalando.org/KopfFinalizerMarker"]
        seen.append(("store", await _fingerprint(cluster)))
        await cluster.delete("configmaps", "one")
        await cluster.advance(minutes=5)
        for gone in (("configmaps", "one"), ("secrets", "one-shadow")):
            with pytest.raises(errors.NotFound):
                await cluster.get(*gone)
        stop.set()
        await operator
    return seen


async def _fingerprint(cluster: Cluster) -> str:
    page = await cluster.store.list("")
    return hashlib.sha256(repr([(entry.key, entry.value) for entry in page.entries]).encode()).hexdigest()


async def _with_kopf(seed: int) -> dict[str, Any]:
    async with _cluster(nodes=1, seed=seed) as (cluster, served):
        begun, cpu = _now(), time.process_time()
        seen = await _operate(cluster, served)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        return {"begun": begun, "seen": seen, "steps": loop.steps, "cpu": time.process_time() - cpu}


@pytest.mark.filterwarnings("ignore::DeprecationWarning:kopf.*")
def test_a_kopf_operator() -> None:
    pytest.importorskip("kopf")
    run = simulate(lambda: _with_kopf(1), seed=1)
    begun = run["begun"]
    seen = [(*event[:-1], round(event[-1] - begun)) for event in run["seen"] if event[0] != "store"]
    assert [event for event in seen if event[0] != "tick"] == [
        ("create", "one", 0, 0),
        ("create", "one", 1, 600),
        ("update", "one", (("data", "x"), "1", "2"), 7200),
        ("delete", "one", 21600),
    ]
    ticks = [event[-1] for event in seen if event[0] == "tick"]
    assert ticks == [60 + 3600 * hour for hour in range(6)]


_AGAIN = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("clients", sys.argv[1])
clients = importlib.util.module_from_spec(spec)
spec.loader.exec_module(clients)
run = clients.simulate(lambda: clients._with_kopf(int(sys.argv[2])), seed=int(sys.argv[2]))
run.pop("cpu")
print(json.dumps(run))
"""


def test_the_same_seed_gives_the_same_run_of_kopf() -> None:
    pytest.importorskip("kopf")

    def run(seed: int, hash_seed: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-c", _AGAIN, __file__, str(seed)], env=dict(os.environ, PYTHONHASHSEED=hash_seed),
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    first = run(7, "1")
    assert first == run(7, "2")
    assert first["steps"] != run(8, "1")["steps"]
