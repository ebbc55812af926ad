"""The laws: each holds where Kubernetes keeps it, and each is able to fail.

First by hand, commit by commit; then with parts of the real control plane broken on purpose.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from pinnace.api import codec
from pinnace.api.apps import v1 as apps
from pinnace.api.batch import v1 as batch
from pinnace.api.core import v1 as core
from pinnace.apiserver.inprocess import ADMIN
from pinnace.base.clock import LoopClock, ManualClock
from pinnace.base.randomness import Randomness
from pinnace.client.client import Client
from pinnace.cluster.settings import Settings
from pinnace.controllers import replicaset
from pinnace.controllers.job import tally
from pinnace.controllers.plan import Create, Plan
from pinnace.scheduler.plugins.node_resources import NodeResourcesFit
from pinnace.store import MemoryStore
from pinnace.store.store import Cause
from pinnace.testing.cluster import START
from pinnace.testing.control_plane import ControlPlane
from pinnace.testing.invariants import Invariants
from pinnace.testing.loop import simulate

Obj = dict[str, Any]


class Story:
    """Commits by hand."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.invariants = Invariants(MemoryStore(self.clock), self.clock)

    def write(self, plural: str, obj: Obj | None, *, by: str = "user", name: str = "", verb: str = "update") -> None:
        place, metadata = plural, obj["metadata"] if obj is not None else {"name": name, "namespace": "default"}
        namespace = "" if plural == "minions" else "default/"
        actor = by if by in ("user", "") else f"system:serviceaccount:kube-system:{by}"
        value = json.dumps(obj).encode() if obj is not None else None
        key = f"/registry/{place}/{namespace}{metadata['name']}"
        asyncio.run(self.invariants.commit(key, value, cause=Cause(actor, verb)))

    def broken(self) -> list[str]:
        return [violation.law for violation in self.invariants.violations]


def pod(name: str, *, owner: str = "", node: str = "", phase: str = "Pending", ready: bool = False, cpu: str = "1",
        **data: Any) -> Obj:  # fmt: skip
    metadata = {"name": name, "namespace": "default", "uid": f"uid-{name}", "creationTimestamp": "2026-01-01T00:00:00Z"}
    if owner:
        metadata |= {"ownerReferences": [
            {"apiVersion": "v1", "kind": "X", "name": owner, "uid": f"uid-{owner}", "controller": True}]}  # type: ignore[dict-item]  # JSON
    conditions = [{"type": "Ready", "status": "True"}] if ready else []
    return {
        "metadata": metadata | data,
        "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]}
        | ({"nodeName": node} if node else {}),
        "status": {"phase": phase, "conditions": conditions},
    }


def serving(name: str, **more: Any) -> Obj:
    return pod(name, phase="Running", ready=True, **more)


def owned(kind: str, name: str, owner: str = "", **spec: Any) -> Obj:
    metadata: Obj = {"name": name, "namespace": "default", "uid": f"uid-{name}"}
    if owner:
        metadata["ownerReferences"] = [
            {"apiVersion": "v1", "kind": "X", "name": owner, "uid": f"uid-{owner}", "controller": True}
        ]
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": {"spec": {"containers": []}}} | spec
    if kind == "sts":
        spec["serviceName"] = name
    return {"metadata": metadata, "spec": spec, "status": {"replicas": 0} if kind != "job" else {}}


DELETING = {"deletionTimestamp": "2026-01-01T00:01:00Z"}


def test_an_object_stays_itself() -> None:
    story = Story()
    story.write("pods", pod("a"))
    story.write("pods", pod("a", uid="another"))
    story.write("pods", pod("a", uid="another", **DELETING))
    story.write("pods", pod("a", uid="another"))
    assert story.broken() == ["an object stays itself"] * 2
    assert "changed its uid from uid-a to another" in str(story.invariants.violations[0])


def test_a_pod_is_bound_once_and_ends_once() -> None:
    story = Story()
    story.write("pods", pod("a", node="n1"))
    story.write("pods", pod("a", node="n1", phase="Failed"))
    assert story.broken() == []
    story.write("pods", pod("a", node="n2", phase="Running"))
    assert sorted(story.broken()) == ["a pod is bound once", "an end is final"]


def test_no_node_is_overcommitted() -> None:
    story = Story()
    story.write("minions", {"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "2", "pods": "3"}}})
    story.write("pods", pod("a", node="n", cpu="1500m"))
    story.write("pods", pod("b", cpu="1"))
    story.write("pods", pod("c", node="n", cpu="500m"))
    assert story.broken() == []
    story.write("pods", pod("b", node="n", cpu="1"))
    assert story.broken() == ["no node is overcommitted"]
    story.write("pods", pod("a", node="n", phase="Succeeded", cpu="1500m"))     # its room is free again
    story.write("pods", pod("d", node="n", cpu="0"))
    assert len(story.broken()) == 1
    story.write("pods", pod("e", node="n", cpu="0"))
    assert len(story.broken()) == 2
    assert "4 pods are on n, which takes 3" in story.invariants.violations[1].what


def test_stateful_pods_start_in_order() -> None:
    story, controller = Story(), "statefulset-controller"
    story.write("apps/statefulsets", owned("sts", "db", replicas=3))
    story.write("pods", pod("db-0", owner="db"), by=controller)
    story.write("pods", serving("db-0", owner="db"))
    story.write("pods", pod("db-1", owner="db"), by=controller)
    assert story.broken() == []
    story.write("pods", pod("db-2", owner="db"), by=controller)
    assert story.broken() == ["stateful pods start in order"]


def test_stateful_pods_are_replaced_one_by_one() -> None:
    story, controller = Story(), "statefulset-controller"
    story.write("apps/statefulsets", owned("sts", "db", replicas=3))
    for ordinal in range(4):
        story.write("pods", serving(f"db-{ordinal}", owner="db"))
    story.write("pods", serving("db-3", owner="db", **DELETING), by=controller)      # scaled down
    story.write("pods", serving("db-2", owner="db", **DELETING), by=controller)
    story.write("pods", None, name="db-2")
    assert story.broken() == []
    story.write("pods", serving("db-1", owner="db", **DELETING), by=controller)
    assert story.broken() == ["stateful pods are replaced one by one"]


def deployment(story: Story, **rolling: Any) -> None:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1} | rolling}
    story.write("apps/deployments", owned("deploy", "web", replicas=3, strategy=strategy))


def test_a_deployment_surges_within_its_bound() -> None:
    story, controller = Story(), "deployment-controller"
    deployment(story)
    story.write("apps/replicasets", owned("rs", "old", "web", replicas=3), by=controller)
    story.write("apps/replicasets", owned("rs", "new", "web", replicas=1), by=controller)
    assert story.broken() == []
    story.write("apps/replicasets", owned("rs", "new", "web", replicas=2), by=controller)
    assert story.broken() == ["a deployment surges within its bound"]


def test_a_deployment_stays_available() -> None:
    story, controller = Story(), "replicaset-controller"
    deployment(story)
    story.write("apps/replicasets", owned("rs", "old", "web", replicas=3))
    for name in "abc":
        story.write("pods", serving(name, owner="old"))
    story.write("pods", serving("a", owner="old", **DELETING), by=controller)
    assert story.broken() == []
    story.write("pods", serving("b", owner="old", **DELETING), by=controller)
    assert story.broken() == ["a deployment stays available"]


def test_a_replica_set_makes_no_pod_too_many() -> None:
    story, controller = Story(), "replicaset-controller"
    story.write("apps/replicasets", owned("rs", "web", replicas=2))
    for name in "ab":
        story.write("pods", pod(name, owner="web"), by=controller)
    story.write("pods", pod("a", owner="web", phase="Failed"))
    story.write("pods", pod("c", owner="web"), by=controller)
    assert story.broken() == []
    story.write("pods", pod("d", owner="web"), by=controller)
    assert story.broken() == ["a replica set makes no pod too many"]


def test_evictions_keep_the_budget() -> None:
    story = Story()
    budget = {
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}}, "status": {"desiredHealthy": 2},
    }  # fmt: skip
    story.write("policy/poddisruptionbudgets", budget)
    for name in "abc":
        story.write("pods", serving(name, labels={"app": "web"}))
    story.clock.advance(60)
    story.write("pods", serving("a", labels={"app": "web"}, **DELETING), verb="create")
    assert story.broken() == []
    story.write("pods", serving("b", labels={"app": "web"}, **DELETING), verb="create")
    assert story.broken() == ["evictions keep the budget"]


def test_a_job_keeps_its_parallelism_and_counts_once() -> None:
    story, controller = Story(), "job-controller"
    job = owned("job", "work", parallelism=1, completions=2)
    story.write("batch/jobs", job)
    story.write("pods", pod("a", owner="work"), by=controller)
    story.write("pods", pod("a", owner="work", phase="Succeeded"))
    story.write("batch/jobs", job | {"status": {"succeeded": 1}}, by=controller)
    story.write("pods", pod("b", owner="work"), by=controller)
    assert story.broken() == []
    story.write("batch/jobs", job | {"status": {"succeeded": 2}}, by=controller)
    assert story.broken() == ["a job counts its pods once"]
    story.write("pods", pod("c", owner="work"), by=controller)
    assert story.broken()[1:] == ["a job keeps its parallelism"]
    done = {"conditions": [{"type": "Complete", "status": "True"}], "succeeded": 2}
    story.write("batch/jobs", job | {"status": done}, by=controller)
    story.write("batch/jobs", job | {"status": {"succeeded": 1}}, by=controller)
    assert story.broken()[2:] == ["a job counts its pods once"] * 3


def test_a_cron_job_starts_one_at_a_time() -> None:
    story, controller = Story(), "cronjob-controller"
    cron = {
        "metadata": {"name": "c", "namespace": "default", "uid": "uid-c"},
        "spec": {"schedule": "* * * * *", "concurrencyPolicy": "Forbid", "jobTemplate": {}},
    }
    story.write("batch/cronjobs", cron)

    def job(name: str, stamp: str, status: Obj) -> Obj:
        made = owned("job", name, "c") | {"status": status}
        made["metadata"]["annotations"] = {"batch.kubernetes.io/cronjob-scheduled-timestamp": stamp}
        return made

    done = {"conditions": [{"type": "Failed", "status": "True"}]}
    story.write("batch/jobs", job("one", "T1", {}), by=controller)
    story.write("batch/jobs", job("one", "T1", done))
    story.write("batch/jobs", job("two", "T2", {}), by=controller)
    assert story.broken() == []
    story.write("batch/jobs", job("three", "T3", {}), by=controller)
    assert story.broken() == ["a cron job starts one at a time"]
    story.write("batch/jobs", job("two", "T2", done))
    story.write("batch/jobs", job("three", "T3", done))
    story.write("batch/jobs", job("again", "T3", {}), by=controller)
    assert "is the second for T3" in story.invariants.violations[1].what


def test_nothing_is_left_behind() -> None:
    story = Story()
    story.write("pods", pod("stuck", finalizers=["x"], **DELETING))
    story.write("pods", pod("orphan", owner="nobody"))
    with pytest.raises(AssertionError, match="and 3 more"):
        asyncio.run(story.invariants.check_rest())       # and the namespace is not there, for two
    told = " ".join(violation.what for violation in story.invariants.violations)
    assert "to be deleted and is still there (finalizers: ['x'])" in told
    assert "has none of its owners left" in told
    assert "namespace that does not exist" in told


def test_a_violation_tells_the_story() -> None:
    story = Story()
    story.write("pods", pod("a", node="n1"))
    story.write("pods", pod("b", node="n1"))
    story.write("pods", pod("a", node="n2"))
    with pytest.raises(AssertionError) as caught:
        story.invariants.check()
    lines = str(caught.value).splitlines()
    assert "default/a was on n1, and is on n2" in lines[0]
    assert [line.split()[3:5] for line in lines[1:]] == [["created", "pods/default/a"], ["changed", "pods/default/a"]]


# What is broken on purpose is caught.


class Forgetful(MemoryStore):
    """Acknowledges the writes of one key, and drops them."""

    async def commit(self, key: str, value: bytes | None, **more: Any) -> int:
        if key.endswith("/default/precious"):
            return self.revision
        return await super().commit(key, value, **more)


class Amnesiac(MemoryStore):
    """Acknowledges a write, and loses it later."""

    def lose(self, key: str) -> None:
        self._history.live.pop(key)
        self._history._keys.remove(key)


def play(work: Callable[[Client, Invariants], Awaitable[None]], store: type[MemoryStore] = MemoryStore) -> list[str]:
    """The real control plane with one node where pods never run; which laws were broken."""
    broken: list[str] = []

    async def main() -> None:
        clock = LoopClock(START, asyncio.get_running_loop())
        invariants = Invariants(store(clock), clock)
        plane = ControlPlane(invariants, Settings(nodes=0, store="memory"), clock, Randomness(2))
        await plane.start()
        client = Client(plane.transport("user"), agent="user", user=ADMIN)
        try:
            status = {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "110"}}
            await client.create(codec.from_dict(core.Node, {"metadata": {"name": "n"}, "status": status}))
            await work(client, invariants)
        finally:
            await plane.close()
        broken.extend(violation.law for violation in invariants.violations)

    simulate(main)
    return broken


def replica_set(replicas: int, cpu: str) -> apps.ReplicaSet:
    container = {"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}
    return codec.from_dict(apps.ReplicaSet, {
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [container], "tolerations": [{"operator": "Exists"}]},
            },
        },
    })  # fmt: skip


async def five_large_pods(client: Client, invariants: Invariants) -> None:
    await client.create(replica_set(5, "900m"))
    await asyncio.sleep(10)


def test_a_scheduler_that_ignores_resources_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    assert play(five_large_pods) == []
    monkeypatch.setattr(NodeResourcesFit, "filter", lambda *_: ())
    assert set(play(five_large_pods)) == {"no node is overcommitted"}


def test_a_controller_that_creates_twice_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    decide = replicaset.decide

    def twice(seen: Any, now: Any) -> Plan:
        plan = decide(seen, now)
        return Plan((*plan.actions, *(a for a in plan.actions if isinstance(a, Create))), plan.status, plan.again)

    monkeypatch.setattr(replicaset, "decide", twice)
    assert "a replica set makes no pod too many" in play(five_large_pods)


def test_a_job_controller_that_forgets_what_it_counted_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    count = tally.count

    def doubling(job: batch.Job, status: batch.JobStatus) -> batch.JobStatus:
        counted = count(job, status)
        return msgspec.structs.replace(counted, succeeded=(counted.succeeded or 0) * 2 or None)

    async def a_job(client: Client, invariants: Invariants) -> None:
        template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}
        job = {"metadata": {"name": "work", "namespace": "default"}, "spec": {"completions": 3, "template": template}}
        await client.create(codec.from_dict(batch.Job, job))
        await asyncio.sleep(1)
        for found in (await client.list(core.Pod, "default")).items:
            status = {"status": {"phase": "Succeeded"}}
            await client.patch(core.Pod, found.metadata.name, "default", status, subresource="status")
        await asyncio.sleep(10)

    assert play(a_job) == []
    monkeypatch.setattr(tally, "count", doubling)
    assert "a job counts its pods once" in play(a_job)


async def precious(client: Client, invariants: Invariants) -> None:
    data = {"metadata": {"name": "precious", "namespace": "default"}}
    made = asyncio.create_task(client.create(codec.from_dict(core.ConfigMap, data)))
    await asyncio.sleep(100)
    made.cancel()


def test_a_store_that_drops_an_acknowledged_write_is_caught() -> None:
    assert "revisions rise" in play(precious, Forgetful)


def test_a_store_that_loses_an_acknowledged_write_is_caught() -> None:
    async def work(client: Client, invariants: Invariants) -> None:
        await precious(client, invariants)
        assert isinstance(invariants.inner, Amnesiac)
        invariants.inner.lose("/registry/configmaps/default/precious")
        with pytest.raises(AssertionError, match=r"nothing acknowledged is lost: .*/precious, written at"):
            await invariants.check_rest()

    play(work, Amnesiac)
