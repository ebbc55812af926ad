"""Rows `pods` and `deployment`: real containers on one node, as a client that watches sees them come and go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from bench import budget
from bench.api import ask, with_account
from bench.clusters import IMAGE, running
from bench.figures import Figure, percentile
from pinnace.api.apps import v1 as apps
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.client.client import Client

_PODS = 20
_REPLICAS = 50
_POD_SECONDS = 20.0            # that one pod may take
_DEPLOYMENT_SECONDS = 90.0     # that all pods of the Deployment may take, each way
# Ends at once when it is told to, as a well-behaved server does.
_COMMAND = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"]
_LABELS = {"app": "bench"}


class Seen:
    """The pods of namespace default as a watch tells of them."""

    def __init__(self) -> None:
        self.ready: dict[str, float] = {}      # name -> when it was first seen Ready
        self.bound: dict[str, float] = {}
        self.running: dict[str, float] = {}
        self.gone: dict[str, float] = {}
        self._changed = asyncio.Event()

    def take(self, type: str, pod: core.Pod, now: float) -> None:
        name = pod.metadata.name or ""
        if type == "DELETED":
            self.gone.setdefault(name, now)
        elif type in ("ADDED", "MODIFIED"):
            if pod.spec.nodeName:
                self.bound.setdefault(name, now)
            if pod.status.phase == "Running":
                self.running.setdefault(name, now)
            if any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions or ()):
                self.ready.setdefault(name, now)
        self._changed.set()

    async def until(self, true: Callable[[], bool], seconds: float) -> None:
        """Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while not true():
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def watching(client: Client) -> AsyncIterator[Seen]:
    """A watch on the pods, open from here on."""
    listed = await client.list(core.Pod, "default", limit=1)
    seen, opened = Seen(), asyncio.Event()

    async def follow() -> None:
        watch = client.watch(core.Pod, "default", resource_version=listed.resourceVersion)
        opened.set()
        async for batch in watch:
            now = time.perf_counter()
            for event in batch:
                seen.take(event.type, event.object, now)

    task = asyncio.create_task(follow())
    try:
        await opened.wait()
        yield seen
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def pods() -> list[Figure]:
    """One pod at a time, from its creation to its being Ready; then each from its deletion to its end."""
    with running(image=True) as cluster:
        with_account(cluster)
        ready, gone = ask(cluster, _lives)
    return [
        Figure("pod create to Ready, p50", percentile(ready, 0.5) * 1000, "ms", target=budget.POD_READY),
        Figure(f"  p99 of {_PODS}", percentile(ready, 0.99) * 1000, "ms"),
        Figure("pod delete to gone, p50", percentile(gone, 0.5) * 1000, "ms", target=budget.POD_GONE),
        Figure(f"  p99 of {_PODS}", percentile(gone, 0.99) * 1000, "ms"),
    ]


async def _lives(client: Client) -> tuple[list[float], list[float]]:
    ready, gone = [], []
    names = [f"life-{number}" for number in range(_PODS)]
    async with watching(client) as seen:
        for name in names:
            start = time.perf_counter()
            await client.create(core.Pod(metadata=meta.ObjectMeta(name=name, namespace="default"), spec=_spec()))
            await seen.until(lambda name=name: name in seen.ready, _POD_SECONDS)  # type: ignore[misc]
            ready.append(seen.ready[name] - start)
        for name in names:
            start = time.perf_counter()
            await client.delete(core.Pod, name, "default")
            await seen.until(lambda name=name: name in seen.gone, _POD_SECONDS)  # type: ignore[misc]
            gone.append(seen.gone[name] - start)
    return ready, gone


def deployment() -> list[Figure]:
    """All replicas Ready after the creation; all gone after scaling to none."""
    with running(image=True) as cluster:
        with_account(cluster)
        up, down = ask(cluster, _scale)
    return [
        Figure(f"Deployment of {_REPLICAS} pods to Ready", up, "s", target=budget.DEPLOYMENT_READY),
        Figure("  back to none", down, "s", target=budget.DEPLOYMENT_GONE),
    ]


async def _scale(client: Client) -> tuple[float, float]:
    wanted = apps.Deployment(
        metadata=meta.ObjectMeta(name="bench", namespace="default"),
        spec=apps.DeploymentSpec(
            replicas=_REPLICAS,
            selector=meta.LabelSelector(matchLabels=_LABELS),
            template=core.PodTemplateSpec(metadata=meta.ObjectMeta(labels=_LABELS), spec=_spec()),
        ),
    )
    async with watching(client) as seen:
        start = time.perf_counter()
        await client.create(wanted)
        await seen.until(lambda: len(seen.ready) >= _REPLICAS, _DEPLOYMENT_SECONDS)
        up = max(seen.ready.values()) - start
        start = time.perf_counter()
        await client.patch(apps.Deployment, "bench", "default", {"spec": {"replicas": 0}})
        await seen.until(lambda: len(seen.gone) >= len(seen.bound), _DEPLOYMENT_SECONDS)
        return up, max(seen.gone.values()) - start


def _spec() -> core.PodSpec:
    return core.PodSpec(containers=[core.Container(name="main", image=IMAGE, command=_COMMAND)])
