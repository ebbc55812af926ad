"""Rows `create`, `get`, `list` and `watch`: what the API server does over TLS, beside a bare server's figures.

The pods have a scheduling gate, so that nothing happens to them: scheduler and controllers see them and let them be.
"""

from __future__ import annotations

import asyncio
import json
import statistics
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import uvloop

from bench import baseline, budget, load
from bench.clusters import Cluster, running
from bench.figures import Figure, Target, percentile
from bench.idle import cpu_seconds
from pinnace.api.core import v1 as core
from pinnace.client.client import Client

T = TypeVar("T")

CONNECTIONS = 16
_SECONDS = 4.0                 # that each rate is taken over
_BARE_SECONDS = 2.0
_LISTED = 10_000
_LISTS = 7
_WATCHERS = 100
_CHANGES = 1000
_PODS = "/api/v1/namespaces/default/pods"
_CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"


def create() -> list[Figure]:
    """Durable: each answer is given after its object is on the disk."""
    with running("--nodes", "0") as cluster:
        with_account(cluster)
        body = pod("create-%NUMBER%")
        result, busy = measured(cluster, job(cluster, _PODS, method="POST", body=body, seconds=_SECONDS))
        with baseline.serving(cluster.pki, body.encode()) as port:
            bare = load.run(job(cluster, _PODS, method="POST", body=body, seconds=_BARE_SECONDS, port=port))
    return rates("durable pod creates", result, busy, budget.CREATES, bare)


def get() -> list[Figure]:
    with running("--nodes", "0") as cluster:
        with_account(cluster)
        load.run(job(cluster, _PODS, method="POST", body=pod("get-%NUMBER%"), total=1))
        path = f"{_PODS}/get-0"
        body = ask(cluster, lambda client: _bytes(client, path))
        result, busy = measured(cluster, job(cluster, path, seconds=_SECONDS))
        with baseline.serving(cluster.pki, body) as port:
            bare = load.run(job(cluster, path, seconds=_BARE_SECONDS, port=port))
    return rates("GET one pod", result, busy, budget.GETS, bare)


def list_() -> list[Figure]:
    with running("--nodes", "0") as cluster:
        with_account(cluster)
        load.run(job(cluster, _PODS, method="POST", body=pod("list-%NUMBER%"), total=_LISTED))
        body = ask(cluster, lambda client: _bytes(client, _PODS))
        found = len(json.loads(body)["items"])
        if found != _LISTED:
            raise load.LoadFailed(f"the list has {found} pods, not {_LISTED}")
        result = load.run(job(cluster, _PODS, connections=1, total=_LISTS))
        with baseline.serving(cluster.pki, body) as port:
            bare = load.run(job(cluster, _PODS, connections=1, total=_LISTS, port=port))
    return [
        Figure(f"LIST {_LISTED:,} pods", statistics.median(result.latencies) * 1000, "ms", target=budget.LIST),
        Figure("  its first, nothing warmed up", result.latencies[0] * 1000, "ms"),
        Figure("  its size", result.bytes / result.requests / 1e6, "MB"),
        Figure("  a bare server, same bytes", statistics.median(bare.latencies) * 1000, "ms"),
    ]


def watch() -> list[Figure]:
    """Every watcher gets every change; writing them is part of the time."""
    body = json.dumps(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "watch-%NUMBER%"}, "data": {"text": "x" * 1000}}
    )
    with running("--nodes", "0") as cluster:
        path = f"{_CONFIG_MAPS}?watch=1&resourceVersion={ask(cluster, _revision)}"
        result = load.run(
            job(cluster, _CONFIG_MAPS, method="POST", body=body, total=_CHANGES, watch=path, watchers=_WATCHERS)
        )
    return [
        Figure(f"watch fan-out to {_WATCHERS} watchers", result.delivered / result.seconds, "events/s", more=True),
        Figure("  changes written meanwhile", result.rate, "/s", more=True),
    ]


def measured(cluster: Cluster, wanted: load.Job) -> tuple[load.Result, float]:
    """What came of a job, and the seconds of CPU that the server spent on it: those hardly depend on what else the
    machine does."""
    server = (cluster.pids()["server"],)
    before = cpu_seconds(server)
    result = load.run(wanted)
    return result, cpu_seconds(server) - before


def rates(what: str, result: load.Result, busy: float, target: Target, bare: load.Result) -> list[Figure]:
    return [
        Figure(what, result.rate, "/s", more=True, target=target),
        Figure("  CPU of the server for each", busy / result.requests * 1000, "ms"),
        Figure("  p50 of each", percentile(result.latencies, 0.5) * 1000, "ms"),
        Figure("  p99 of each", percentile(result.latencies, 0.99) * 1000, "ms"),
        Figure("  a bare server, same bytes", bare.rate, "/s", more=True),
    ]


def job(cluster: Cluster, path: str, *, port: int = 0, **more: Any) -> load.Job:
    """A job with the administrator's certificate."""
    pki = cluster.pki
    settled = {"connections": CONNECTIONS} | more
    return load.Job(
        port=port or cluster.port, ca=str(pki / "ca.crt"), certificate=str(pki / "admin.crt"),
        key=str(pki / "admin.key"), path=path, **settled,
    )  # fmt: skip


def pod(name: str, *, gated: bool = True) -> str:
    """A small pod as JSON."""
    container = {
        "name": "main", "image": "pinnace.local/busybox:1", "command": ["sleep", "3600"],
        "resources": {"requests": {"cpu": "10m", "memory": "10Mi"}},
    }  # fmt: skip
    spec: dict[str, Any] = {"containers": [container]}
    if gated:
        spec["schedulingGates"] = [{"name": "pinnace.dev/bench"}]
    return json.dumps(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "bench"}}, "spec": spec}
    )


def ask(cluster: Cluster, question: Callable[[Client], Awaitable[T]]) -> T:
    """Put a question to the cluster's API."""

    async def once() -> T:
        client = cluster.client()
        try:
            return await question(client)
        finally:
            await client.transport.close()

    return uvloop.run(once())


def with_account(cluster: Cluster) -> None:
    """Wait until pods are admitted: the namespace's service account is there."""

    async def wait(client: Client) -> None:
        async with asyncio.timeout(10):
            async for batch in client.watch(core.ServiceAccount, "default", send_initial_events=True):
                if any(event.type == "ADDED" for event in batch):
                    return

    ask(cluster, wait)


async def _bytes(client: Client, path: str) -> bytes:
    return (await client.call("GET", path)).body


async def _revision(client: Client) -> str:
    return str(json.loads(await _bytes(client, _CONFIG_MAPS))["metadata"]["resourceVersion"])
