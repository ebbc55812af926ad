"""Faults as the user of a `Cluster` meets them: a line in the test, or drawn from its seed."""

from __future__ import annotations

import pytest

from pinnace.api import errors
from pinnace.testing.cluster import Cluster
from pinnace.testing.loop import simulate

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


def test_the_test_itself_meets_what_it_asks_for() -> None:
    async def run() -> None:
        async with Cluster() as cluster:
            await cluster.apply(WEB)
            cluster.faults.conflict(component="user", kind="deploy", name="web", times=1)
            with pytest.raises(errors.Conflict):
                await cluster.scale("deploy/web", replicas=5)
            await cluster.scale("deploy/web", replicas=5)
            await cluster.rollout_status("deploy/web")
            assert [done.fault for done in cluster.faults.log] == ["conflict"]

    simulate(run)


def test_a_watch_that_was_open_already_can_be_cut_and_slow() -> None:
    async def run() -> None:
        async with Cluster() as cluster:
            cluster.faults.cut_watch(component="kube-controller-manager", kind="deploy", times=1)
            cluster.faults.cut_watch(component="kube-scheduler", kind="pods", clean=False, times=1)
            cluster.faults.slow(20, component="kubelet", kind="pods", verb="watch", times=1)
            await cluster.apply(WEB)
            await cluster.rollout_status("deploy/web")
            assert cluster.elapsed > 20
            assert sorted(done.fault for done in cluster.faults.log) == ["cut_watch", "cut_watch", "slow"]

    simulate(run)


def test_the_test_waits_for_a_server_that_comes_back() -> None:
    async def run() -> None:
        async with Cluster() as cluster:
            cluster.faults.crash_after_commit(component="kube-controller-manager", kind="replicasets", down=5)
            await cluster.apply(WEB)
            await cluster.rollout_status("deploy/web")
            assert cluster.control_plane.crashes >= 1
            cluster.faults.stop()
            await cluster.control_plane.crash(restart_after=3)
            assert len(await cluster.list("pods", "default")) == 3

    simulate(run)


@pytest.mark.parametrize("seed", range(4))
def test_faults_drawn_from_the_seed_spare_the_test(seed: int) -> None:
    async def run() -> dict[str, int]:
        async with Cluster(nodes=2, seed=seed, faults=0.1) as cluster:
            await cluster.apply(WEB)
            await cluster.wait_for("deploy", "web", condition="Available", timeout=900)
            await cluster.advance(minutes=5)
            cluster.faults.stop()
            await cluster.rollout_status("deploy/web")
            assert not [done for done in cluster.faults.log if done.component == "user"]
            return dict(cluster.faults.counts)

    counts = simulate(run, seed=seed)
    assert sum(counts.values()) > 5
    assert counts == simulate(run, seed=seed)
