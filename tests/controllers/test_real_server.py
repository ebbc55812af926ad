"""The same stories on the real API server, in process and in memory: its defaults, validation and caches."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime

import msgspec
import pytest

from pinnace.api.apps import v1 as apps
from pinnace.api.batch import v1 as batch
from pinnace.api.core import v1 as core
from pinnace.api.discovery import v1 as discovery
from pinnace.api.meta import v1 as meta
from pinnace.apiserver.admission.lifecycle import NamespaceLifecycle
from pinnace.apiserver.inprocess import InProcessTransport
from pinnace.apiserver.resources.table import RESOURCES
from pinnace.apiserver.server import ApiServer
from pinnace.base.clock import LoopClock
from pinnace.base.randomness import Randomness
from pinnace.client.client import Client
from pinnace.controllers.manager import ControllerManager, Options
from pinnace.store.memory import MemoryStore

from .test_manager import deployment, template


class Cluster:
    def __init__(self) -> None:
        clock = LoopClock(datetime(2026, 1, 1, tzinfo=UTC), asyncio.get_running_loop())
        self.server = ApiServer(MemoryStore(clock), RESOURCES, clock, Randomness(1))
        self.server.admission = (NamespaceLifecycle(self.server.objects),)
        self.client = Client(InProcessTransport(self.server))
        self.manager = ControllerManager(
            lambda agent, user: self.client.acting_as(agent, user), clock, Randomness(2), Options(root_ca="PEM")
        )

    async def until(self, condition: Callable[[], Awaitable[bool]], seconds: float = 10) -> None:
        async with asyncio.timeout(seconds):
            while not await condition():   # noqa: ASYNC110  (state that has no event)
                await asyncio.sleep(0.005)

    async def count(self, kind: type, namespace: str = "default") -> int:
        return len((await self.client.list(kind, namespace)).items)

    async def make_ready(self) -> int:
        """Pods that are pending become ready, each with an address; how many."""
        count = 0
        for pod in (await self.client.list(core.Pod)).items:
            if pod.status.phase == "Pending" and not pod.metadata.deletionTimestamp:
                ip = f"10.244.0.{self.server.current_revision() % 250 + 1}"
                status = {
                    "phase": "Running",
                    "podIP": ip,
                    "podIPs": [{"ip": ip}],
                    "conditions": [
                        {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
                    ],
                }
                await self.client.patch(
                    core.Pod, pod.metadata.name or "", pod.metadata.namespace or "", {"status": status},
                    subresource="status", type="strategic",
                )  # fmt: skip
                count += 1
        return count

    async def available(self, replicas: int, revision: str) -> bool:
        await self.make_ready()
        web = await self.client.get(apps.Deployment, "web", "default")
        annotations = web.metadata.annotations or {}
        return (
            annotations.get("deployment.kubernetes.io/revision") == revision
            and (web.status.availableReplicas or 0) == (web.status.replicas or 0) == replicas
            and (web.status.updatedReplicas or 0) == replicas
            and web.status.observedGeneration == web.metadata.generation
        )


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    cluster = Cluster()
    await cluster.server.start()
    task = asyncio.create_task(cluster.manager.run())
    try:
        async with asyncio.timeout(10):
            await cluster.manager.ready.wait()
        await cluster.client.create(core.Namespace(metadata=meta.ObjectMeta(name="default")))
        yield cluster
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await cluster.server.close()


async def test_a_deployment_rolls_and_is_collected(cluster: Cluster) -> None:
    client = cluster.client
    await client.create(deployment(4))
    await cluster.until(lambda: cluster.available(4, "1"))
    web = await client.get(apps.Deployment, "web", "default")
    await client.update(msgspec.structs.replace(web, spec=msgspec.structs.replace(web.spec, template=template("n:2"))))
    await cluster.until(lambda: cluster.available(4, "2"))
    images = {p.spec.containers[0].image for p in (await client.list(core.Pod, "default")).items if p.spec}
    assert images == {"n:2"}
    assert await cluster.count(apps.ReplicaSet) == 2
    await client.delete(apps.Deployment, "web", "default", propagation="Foreground")

    async def empty() -> bool:
        counts = [await cluster.count(kind) for kind in (apps.Deployment, apps.ReplicaSet, core.Pod)]
        return not any(counts)

    await cluster.until(empty)


async def test_a_service_lists_its_pods(cluster: Cluster) -> None:
    client = cluster.client
    await client.create(deployment(3))
    port = core.ServicePort(name="http", port=80, targetPort=8080)
    await client.create(
        core.Service(
            metadata=meta.ObjectMeta(name="web", namespace="default"),
            spec=core.ServiceSpec(selector={"app": "web"}, ports=[port]),
        )
    )
    await cluster.until(lambda: cluster.available(3, "1"))

    async def listed() -> bool:
        slices = (await client.list(discovery.EndpointSlice, "default")).items
        ready = [e for s in slices for e in s.endpoints or () if e.conditions and e.conditions.ready]
        endpoints = (await client.list(core.Endpoints, "default")).items
        old = [a for e in endpoints for s in e.subsets or () for a in s.addresses or ()]
        return len(ready) == len(old) == 3

    await cluster.until(listed)


async def test_a_job_completes(cluster: Cluster) -> None:
    client = cluster.client
    spec = core.PodSpec(containers=[core.Container(name="work", image="i")], restartPolicy="Never")
    await client.create(
        batch.Job(
            metadata=meta.ObjectMeta(name="work", namespace="default"),
            spec=batch.JobSpec(completions=3, parallelism=2, template=core.PodTemplateSpec(spec=spec)),
        )
    )

    async def complete() -> bool:
        for pod in (await client.list(core.Pod, "default")).items:
            if pod.status.phase == "Pending":
                await client.patch(
                    core.Pod, pod.metadata.name or "", "default", {"status": {"phase": "Succeeded"}},
                    subresource="status",
                )  # fmt: skip
        job = await client.get(batch.Job, "work", "default")
        return any(c.type == "Complete" for c in job.status.conditions or ())

    await cluster.until(complete)
    job = await client.get(batch.Job, "work", "default")
    assert job.status.succeeded == 3
    await client.delete(batch.Job, "work", "default", propagation="Background")

    async def empty() -> bool:
        return not await cluster.count(core.Pod)

    await cluster.until(empty)


async def test_a_namespace_goes_with_all_it_holds(cluster: Cluster) -> None:
    client = cluster.client
    await client.create(core.Namespace(metadata=meta.ObjectMeta(name="blue")))
    blue = deployment(2)
    await client.create(msgspec.structs.replace(blue, metadata=meta.ObjectMeta(name="web", namespace="blue")))

    async def running() -> bool:
        return await cluster.count(core.Pod, "blue") == 2 and await cluster.count(core.ServiceAccount, "blue") == 1

    await cluster.until(running)
    await client.delete(core.Namespace, "blue")

    async def gone() -> bool:
        return all(ns.metadata.name != "blue" for ns in (await client.list(core.Namespace)).items)

    await cluster.until(gone)
    assert await cluster.count(core.Pod, "blue") == 0


async def test_fifty_pods_are_made_in_a_moment_and_then_all_is_quiet(cluster: Cluster) -> None:
    loop = asyncio.get_running_loop()
    await cluster.client.create(deployment(50))
    started = loop.time()

    async def made() -> bool:
        return await cluster.count(core.Pod) == 50

    await cluster.until(made)
    assert loop.time() - started < 3.0   # the aim is 0.3 s; the machine is shared
    await cluster.until(lambda: cluster.available(50, "1"))

    async def idle() -> bool:
        return cluster.manager.idle

    await cluster.until(idle)
    before = cluster.server.current_revision()
    await asyncio.sleep(0.2)
    assert cluster.server.current_revision() == before
