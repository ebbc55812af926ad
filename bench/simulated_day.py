"""Row `simulated-day`: 24 hours of a busy cluster on simulated time, and what a cluster of a test costs.

All in this process and one thread; CPU is counted, not time, since nothing waits for anything.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time

from bench import budget
from bench.figures import Figure, Target
from pinnace.testing.cluster import Cluster
from pinnace.testing.loop import simulate

_HOURS = 24
NODES = 3
_CRONJOBS = 50
_DEPLOYMENTS, _REPLICAS = 20, 3
_LOSS = 3                 # hours between two losses of a node
_FURTHER = 20
_CRONJOB = """
apiVersion: batch/v1
kind: CronJob
metadata: {{name: job-{number}}}
spec:
  schedule: "*/{minutes} * * * *"
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers: [{{name: job, image: job}}]
"""
_DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web-{number}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web-{number}}}}}
  template:
    metadata: {{labels: {{app: web-{number}}}}}
    spec: {{containers: [{{name: web, image: "web:{hour}"}}]}}
"""


class NotAsExpected(Exception):
    """The simulated cluster did not do what it had to."""


def simulated_day() -> list[Figure]:
    """CronJobs from each minute to each hour, Deployments that roll each hour, a node lost each third for that hour."""
    seconds, commits, turns = simulate(_day, seed=1)
    return [
        Figure(f"{_HOURS} simulated hours, {_CRONJOBS} CronJobs", seconds, "s CPU", target=budget.SIMULATED_DAY),
        Figure("  commits in it", commits, "", more=True),
        Figure("  CPU of each", seconds / commits * 1e6, "us"),
        Figure("  turns of the loop for each", turns / commits, ""),
        *_idle(1, budget.IDLE_DAY),
        *_idle(3, budget.IDLE_DAY_OF_THREE),
        *_further(),
    ]


async def _day() -> tuple[float, int, int]:
    async with Cluster(nodes=NODES, seed=1) as cluster:
        started, revision = time.process_time(), cluster.store.revision
        await keep_busy(cluster, _HOURS)
        return time.process_time() - started, cluster.store.revision - revision, _turns()


async def keep_busy(cluster: Cluster, hours: int) -> None:
    """The work of a busy day, in a cluster of `NODES`. Raises NotAsExpected."""
    for hour in range(hours):
        await (roll(cluster, hour) if hour else fill(cluster))
        lost = cluster.nodes.names[hour // _LOSS % NODES] if hour % _LOSS == _LOSS - 1 else ""
        if lost:
            cluster.nodes.lose(lost)
        await cluster.advance(hours=1)
        if lost:
            cluster.nodes.restore(lost)
        await _check(cluster, hour)


async def fill(cluster: Cluster) -> None:
    """What a busy day begins with."""
    for number in range(_CRONJOBS):
        minutes = 1 + number * 59 // (_CRONJOBS - 1)
        await cluster.apply(_CRONJOB.format(number=number, minutes=minutes))
    await roll(cluster, 0)


async def roll(cluster: Cluster, hour: int) -> None:
    """All deployments get the image of the hour."""
    for number in range(_DEPLOYMENTS):
        await cluster.apply(_DEPLOYMENT.format(number=number, replicas=_REPLICAS, hour=hour))


async def _check(cluster: Cluster, hour: int) -> None:
    pods = await cluster.list("pods", "default")
    images = [
        pod.spec.containers[0].image for pod in pods
        if (pod.metadata.labels or {}).get("app") and not pod.metadata.deletionTimestamp
    ]  # fmt: skip
    if images != [f"web:{hour}"] * (_DEPLOYMENTS * _REPLICAS):
        raise NotAsExpected(f"after hour {hour} there were {len(images)} pods of Deployments")
    if not any(pod.status.phase == "Succeeded" for pod in pods):
        raise NotAsExpected(f"after hour {hour} no pod of a CronJob had succeeded")


def _idle(nodes: int, target: Target) -> list[Figure]:
    async def day() -> float:
        async with Cluster(nodes=nodes, seed=1) as cluster:
            started = time.process_time()
            await cluster.advance(hours=_HOURS)
            return time.process_time() - started

    what = f"the same with nothing to do, {nodes} node{'s' * (nodes > 1)}"
    return [Figure(what, simulate(day, seed=1), "s CPU", target=target)]


def _further() -> list[Figure]:
    """Clusters of one process after its first: that one's share of imports and keys is paid once."""

    async def once() -> None:
        async with Cluster(seed=1):
            pass

    taken = []
    for _ in range(_FURTHER):
        started = time.process_time()
        simulate(once, seed=1)
        taken.append(time.process_time() - started)
    return [
        Figure("a further cluster in the process", statistics.median(taken) * 1000, "ms CPU", target=budget.FURTHER)
    ]


def _turns() -> int:
    return int(getattr(asyncio.get_running_loop(), "steps", 0))


if __name__ == "__main__":
    for _figure in simulated_day():
        sys.stdout.write(f"{_figure.what:60} {_figure.value:10.2f} {_figure.unit}\n")
