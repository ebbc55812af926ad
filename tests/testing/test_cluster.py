"""A whole cluster on simulated time: what issue 3 shows first."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys

import pytest

from pinnace.testing.cluster import Cluster
from pinnace.testing.loop import simulate

HOURLY = """
apiVersion: batch/v1
kind: CronJob
metadata: {name: backup}
spec:
  schedule: "0 * * * *"
  successfulJobsHistoryLimit: 3
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers: [{name: backup, image: backup}]
"""
WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "web:1"}]}
"""


def test_backup_runs_each_hour() -> None:
    async def day() -> None:
        async with Cluster(nodes=3, seed=7) as cluster:
            await cluster.apply(HOURLY)
            await cluster.advance(hours=24)
            jobs = await cluster.list("jobs", "default")
            assert sum(job.status.succeeded or 0 for job in jobs) == 3

    simulate(day, seed=7)


def test_a_deployment_rolls() -> None:
    async def roll() -> None:
        async with Cluster(nodes=2) as cluster:
            await cluster.apply(WEB)
            await cluster.wait_for("deploy", "web", condition=lambda d: d.status.readyReplicas == 3)
            await cluster.apply(WEB.replace("web:1", "web:2"))
            await cluster.settle()
            pods = await cluster.list("po", "default")
            assert [pod.spec.containers[0].image for pod in pods] == ["web:2"] * 3
            with pytest.raises(TimeoutError, match="virtual seconds"):
                await cluster.wait_for("pods", "absent", condition="Ready", timeout=5)

    simulate(roll)


def _trace(seed: int) -> str:
    """Every commit of some hours, with a rollout and a node that is lost, in order."""

    async def run() -> str:
        async with Cluster(nodes=3, seed=seed) as cluster:
            written = hashlib.sha256()
            cluster.store.subscribe(
                lambda change: written.update(f"{change.revision} {change.key} {change.value!r}".encode()),
                after=cluster.store.revision,
            )
            await cluster.apply(WEB, HOURLY)
            cluster.nodes.lose(cluster.nodes.names[0])
            await cluster.advance(hours=1)
            cluster.nodes.restore(cluster.nodes.names[0])
            await cluster.apply(WEB.replace("web:1", "web:2"))
            await cluster.advance(hours=1)
            return written.hexdigest()

    return simulate(run, seed=seed)


def test_the_same_seed_gives_the_same_run() -> None:
    assert _trace(3) == _trace(3) != _trace(4)


def test_the_hash_seed_changes_nothing() -> None:
    def run(hash_seed: str) -> bytes:
        program = f"import runpy; print(runpy.run_path({__file__!r})['_trace'](3))"
        return subprocess.run(
            [sys.executable, "-c", program], env=dict(os.environ, PYTHONHASHSEED=hash_seed), check=True,
            capture_output=True, timeout=120,
        ).stdout  # fmt: skip

    assert run("1") == run("2") != b""


def test_ten_side_by_side_know_nothing_of_each_other() -> None:
    async def one(number: int) -> list[str]:
        async with Cluster(nodes=1, seed=number) as cluster:
            await cluster.apply(WEB.replace("name: web}", f"name: web-{number}}}", 1))
            await cluster.settle()
            return [deployment.metadata.name for deployment in await cluster.list("deploy")]

    async def all_of_them() -> list[list[str]]:
        return await asyncio.gather(*(one(number) for number in range(10)))

    assert simulate(all_of_them) == [[f"web-{number}"] for number in range(10)]


def test_an_hour_of_history_is_kept() -> None:
    async def ask() -> list[str]:
        async with Cluster() as cluster:
            await cluster.apply(WEB)
            await cluster.scale("deploy/web", replicas=5)
            await cluster.advance(minutes=50)
            story = await cluster.why("deploy/web")
            return [change.field for write in story for change in write.changes]

    assert "spec.replicas" in simulate(ask)
