"""Rows `bind`, `schedule` and `simulated`: many pods on many nodes, none of which exist."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from bench import budget, load
from bench.api import ask, job, pod, with_account
from bench.clusters import Cluster, running
from bench.figures import Figure
from bench.pods import Seen, watching
from pinnace.api import codec
from pinnace.api.core import v1 as core
from pinnace.base.randomness import Randomness
from pinnace.client.client import Client
from pinnace.scheduler.cycle import Cycle, Placement
from pinnace.scheduler.nodes import Nodes
from pinnace.scheduler.plugins.registry import PLUGINS
from pinnace.scheduler.podinfo import pod_info

_PODS_URL = "/api/v1/namespaces/default/pods"
_BOUND_NODES, _BOUND_PODS = 100, 1000
_BOUND_SECONDS = 60.0
_CYCLE_NODES, _CYCLE_PODS = 5000, 5000
_CYCLE_SECONDS = 20.0
_MANY_NODES, _MANY_PODS = 5000, 10_000
_MANY_SECONDS = 60.0               # for the nodes, and again for the pods


class NotReached(Exception):
    """A goal was not reached in its time; says how far it was."""


def bind() -> list[Figure]:
    """From the first request to the last binding seen by a watch; creating the pods is part of it."""
    with running("--nodes", "0", "--simulated-nodes", str(_BOUND_NODES)) as cluster:
        with_account(cluster)
        took = ask(cluster, lambda client: _until(client, cluster, _BOUND_PODS, _bound, _BOUND_SECONDS))
    return [Figure(f"{_BOUND_PODS:,} pods bound on {_BOUND_NODES} nodes", took, "s", target=budget.BOUND)]


def schedule() -> list[Figure]:
    """Decisions alone, in this process: no API, no binding. Upstream's figure has both in it."""
    nodes, cycle = Nodes(), Cycle(PLUGINS, Randomness(1))
    for number in range(_CYCLE_NODES):
        nodes.set_node(_node(number))
    placed, start = 0, time.perf_counter()
    while placed < _CYCLE_PODS and time.perf_counter() - start < _CYCLE_SECONDS:
        info = pod_info(_pod(placed))
        result = cycle.schedule(info, nodes)
        if not isinstance(result, Placement):
            raise NotReached(f"pod {placed}: {result.message}")
        nodes.assume(info, result.node)
        placed += 1
    rate = placed / (time.perf_counter() - start)
    return [Figure(f"schedule on {_CYCLE_NODES:,} nodes, decisions", rate, "/s", more=True, target=budget.SCHEDULED)]


def simulated() -> list[Figure]:
    """The whole way through the API server: registration of the nodes, then the pods until all are Running."""
    with running("--nodes", "0", "--simulated-nodes", str(_MANY_NODES), seconds=_MANY_SECONDS) as cluster:
        with_account(cluster)
        took = ask(cluster, lambda client: _until(client, cluster, _MANY_PODS, _running, _MANY_SECONDS))
        ready = cluster.took
    return [
        Figure(f"{_MANY_NODES:,} simulated nodes Ready", ready, "s", target=budget.NODES_READY),
        Figure(f"{_MANY_PODS:,} pods Running on them", took, "s", target=budget.PODS_RUNNING),
        Figure("  created, bound and Running", _MANY_PODS / took, "/s", more=True),
    ]


async def _until(
    client: Client, cluster: Cluster, pods: int, part: Callable[[Seen], dict[str, float]], seconds: float
) -> float:
    async with watching(client) as seen:
        creating = job(cluster, _PODS_URL, method="POST", body=pod("many-%NUMBER%", gated=False), total=pods)
        created = asyncio.create_task(asyncio.to_thread(load.run, creating))
        try:
            await seen.until(lambda: len(part(seen)) >= pods, seconds)
        except TimeoutError:
            raise NotReached(
                f"of {pods} pods {len(seen.bound)} were bound, {len(seen.running)} Running after {seconds:.0f} s"
            ) from None
        finally:
            loaded = await created
        return max(part(seen).values()) - loaded.began


def _bound(seen: Seen) -> dict[str, float]:
    return seen.bound


def _running(seen: Seen) -> dict[str, float]:
    return seen.running


def _node(number: int) -> core.Node:
    name, zone = f"node-{number}", f"zone-{number % 3}"
    labels = {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone}
    allocatable = {"cpu": "4", "memory": "32Gi", "pods": "110"}
    return codec.from_dict(
        core.Node, {"metadata": {"name": name, "labels": labels}, "status": {"allocatable": allocatable}}
    )


def _pod(number: int) -> core.Pod:
    name = f"pod-{number}"
    container = {"name": "main", "image": "pause", "resources": {"requests": {"cpu": "100m", "memory": "500Mi"}}}
    return codec.from_dict(
        core.Pod,
        {"metadata": {"name": name, "namespace": "default", "uid": name}, "spec": {"containers": [container]}},
    )
