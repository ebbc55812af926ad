"""Nodes: silence, taints, evictions, pods without a node, addresses."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from pinnace.api.coordination import v1 as coordination
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.base.clock import LoopClock
from pinnace.base.randomness import Randomness
from pinnace.client.client import Client
from pinnace.client.events import EventRecorder
from pinnace.client.informer import Added, Deleted, Informers, Updated
from pinnace.controllers import node_lifecycle, podgc, taint_eviction
from pinnace.controllers.node_ipam import Allocator
from pinnace.controllers.node_lifecycle import Seen, decide
from pinnace.controllers.plan import Delete, Emit, Patch, Plan, Ref
from pinnace.controllers.runner import Runner
from pinnace.testing.loop import simulate

from .build import NOW, pod
from .conftest import World
from .fake import FakeServer

GRACE = timedelta(seconds=50)


def node(ready: str | None = "True", *, taints: list[core.Taint] | None = None, **spec: Any) -> core.Node:
    conditions = [core.NodeCondition(type="Ready", status=ready)] if ready else None
    return core.Node(
        metadata=meta.ObjectMeta(name="n1", uid="n-1", resourceVersion="5"),
        spec=core.NodeSpec(taints=taints, **spec),
        status=core.NodeStatus(conditions=conditions),
    )


def taints_of(patch: object) -> list[tuple[str, str]]:
    assert isinstance(patch, Patch)
    return [(t["key"].partition("/")[2], t["effect"]) for t in patch.patch["spec"]["taints"] or ()]


def test_a_node_that_is_heard_is_left_alone_until_it_would_be_overdue() -> None:
    plan = decide(Seen(node(), NOW - timedelta(seconds=20)), NOW, GRACE)
    assert (plan.actions, plan.again) == ((), timedelta(seconds=30))


def test_silence_makes_it_unknown() -> None:
    patch, event = decide(Seen(node(), NOW - GRACE), NOW, GRACE).actions
    assert isinstance(patch, Patch) and patch.subresource == "status"
    found = {c["type"]: (c["status"], c["reason"]) for c in patch.patch["status"]["conditions"]}
    assert found["Ready"] == ("Unknown", "NodeStatusUnknown")
    assert found["MemoryPressure"] == ("Unknown", "NodeStatusNeverUpdated")
    assert event == Emit("Normal", "NodeNotReady", "Node n1 status is now: NodeNotReady")


def test_a_new_node_has_longer() -> None:
    assert decide(Seen(node(None), NOW - GRACE), NOW, GRACE).again == timedelta(seconds=10)


@pytest.mark.parametrize(
    ("ready", "expected"),
    [
        ("True", []),
        ("False", [("not-ready", "NoExecute"), ("not-ready", "NoSchedule")]),
        ("Unknown", [("unreachable", "NoExecute"), ("unreachable", "NoSchedule")]),
    ],
)
def test_taints_follow_conditions(ready: str, expected: list[tuple[str, str]]) -> None:
    other = core.Taint(key="gpu", value="yes", effect="NoSchedule")
    stale = core.Taint(key="node.kubernetes.io/memory-pressure", effect="NoSchedule")
    (patch,) = decide(Seen(node(ready, taints=[other, stale]), NOW), NOW, GRACE).actions
    assert [t for t in taints_of(patch) if t[0]] == expected
    assert isinstance(patch, Patch) and patch.patch["spec"]["taints"][0]["key"] == "gpu"
    now_has = [other, *(core.Taint(**t) for t in patch.patch["spec"]["taints"][1:])]
    assert decide(Seen(node(ready, taints=now_has), NOW), NOW, GRACE).actions == ()


def test_when_all_are_down_nobody_is_evicted() -> None:
    (patch,) = decide(Seen(node("Unknown"), NOW, all_down=True), NOW, GRACE).actions
    assert taints_of(patch) == [("unreachable", "NoSchedule")]


def test_a_node_that_has_not_spoken_keeps_admissions_taint_and_a_cordoned_one_gets_its_own() -> None:
    fresh = node(None, taints=[core.Taint(key=node_lifecycle.NOT_READY, effect="NoSchedule")])
    assert decide(Seen(fresh, NOW), NOW, GRACE).actions == ()
    (patch,) = decide(Seen(node(unschedulable=True), NOW), NOW, GRACE).actions
    assert taints_of(patch) == [("unschedulable", "NoSchedule")]


def test_pods_of_a_node_that_is_not_ready_get_no_traffic() -> None:
    patch, event, _ = decide(Seen(node("False"), NOW, (pod("a"),)), NOW, GRACE).actions
    assert isinstance(patch, Patch) and patch.kind is core.Pod
    assert patch.patch["status"]["conditions"][0] | {"lastTransitionTime": ""} == {
        "type": "Ready", "status": "False", "lastTransitionTime": ""
    }  # fmt: skip
    assert isinstance(event, Emit) and (event.type, event.message) == ("Warning", "Node is not ready")


TAINT = core.Taint(key=node_lifecycle.UNREACHABLE, effect="NoExecute")


@pytest.mark.parametrize(
    ("tolerations", "expected"),
    [
        ([], 0.0),
        ([core.Toleration(operator="Exists")], None),
        ([core.Toleration(key=TAINT.key, operator="Exists", effect="NoExecute", tolerationSeconds=300)], 300.0),
        ([core.Toleration(key=TAINT.key, operator="Exists", tolerationSeconds=300),
          core.Toleration(operator="Exists", tolerationSeconds=20)], 20.0),
        ([core.Toleration(key=TAINT.key, operator="Equal", value="x")], 0.0),
        ([core.Toleration(key=TAINT.key, operator="Exists", effect="NoSchedule")], 0.0),
    ],
)  # fmt: skip
def test_how_long_a_pod_may_stay(tolerations: list[core.Toleration], expected: float | None) -> None:
    p = pod("a")
    assert p.spec is not None
    p.spec.tolerations = tolerations
    assert taint_eviction.stay(p, (TAINT,)) == expected


def test_eviction_says_why_first() -> None:
    emit, patch, delete = taint_eviction.decide(taint_eviction.Seen(pod("a"), (TAINT,), NOW), NOW).actions
    assert emit == Emit("Normal", "TaintManagerEviction", "Marking for deletion Pod default/a")
    assert isinstance(patch, Patch)
    assert patch.patch["status"]["conditions"][0]["reason"] == "DeletionByTaintManager"
    assert isinstance(delete, Delete)


def test_pod_garbage_collection() -> None:
    lost = podgc.Seen(pod("a"), None, NOW - timedelta(seconds=10))
    assert podgc.decide(lost, NOW).again == timedelta(seconds=30)
    fail, delete = podgc.decide(podgc.Seen(pod("a"), None, NOW - timedelta(seconds=40)), NOW).actions
    assert isinstance(fail, Patch) and fail.patch["status"]["phase"] == "Failed"
    assert isinstance(delete, Delete) and delete.grace_period == 0
    unscheduled = pod("b", node="", deleted=True)
    fail, delete = podgc.decide(podgc.Seen(unscheduled), NOW).actions
    assert isinstance(fail, Patch) and fail.patch["status"] == {"phase": "Failed"}
    assert isinstance(delete, Delete)
    assert podgc.decide(podgc.Seen(pod("c", node="")), NOW).actions == ()
    assert podgc.decide(podgc.Seen(pod("d"), node()), NOW).actions == ()


def test_pods_that_only_a_finalizer_holds_are_not_deleted_again_and_again() -> None:
    held = pod("a", node="", deleted=True, finalizers=["batch.kubernetes.io/job-tracking"])
    held.metadata.deletionGracePeriodSeconds = 0
    (fail,) = podgc.decide(podgc.Seen(held), NOW).actions
    assert isinstance(fail, Patch)
    held.status.phase = "Failed"
    assert podgc.decide(podgc.Seen(held), NOW).actions == ()


def test_subnets_are_handed_out_once_and_come_back() -> None:
    allocator = Allocator("10.244.0.0/22", 24)
    allocator.occupy("old", "10.244.1.0/24")
    assert [allocator.allocate(name) for name in "abc"] == ["10.244.0.0/24", "10.244.2.0/24", "10.244.3.0/24"]
    assert allocator.allocate("a") == "10.244.0.0/24"
    assert allocator.allocate("d") is None
    allocator.release("old")
    assert allocator.allocate("d") == "10.244.1.0/24"


async def renew(world: World, name: str) -> None:
    world.renewals = getattr(world, "renewals", 0) + 1   # type: ignore[attr-defined]
    await world.client.patch(
        coordination.Lease, name, "kube-node-lease",
        {"spec": {"renewTime": f"2026-01-01T00:00:{world.renewals % 60:02}.000000Z"}},   # type: ignore[attr-defined]
    )  # fmt: skip


async def test_a_lost_nodes_pods_are_evicted_while_another_lives(world: World) -> None:
    for name in ("n1", "n2"):
        fresh = node()
        await world.client.create(msgspec.structs.replace(fresh, metadata=meta.ObjectMeta(name=name)))
        status = {"conditions": [{"type": "Ready", "status": "True"}]}
        await world.client.patch(core.Node, name, "", {"status": status}, subresource="status")
        lease = meta.ObjectMeta(name=name, namespace="kube-node-lease")
        await world.client.create(coordination.Lease(metadata=lease, spec=coordination.LeaseSpec(renewTime="x")))
        await world.client.create(pod(f"on-{name}", node=name))
    await world.settle()
    assert sorted(n["spec"]["podCIDR"] for n in world.objects("nodes")) == ["10.244.0.0/24", "10.244.1.0/24"]

    def lost() -> dict[str, Any]:
        return world.server.objects["pods"]["default", "on-n2"]

    async with asyncio.timeout(10):
        while "deletionTimestamp" not in lost()["metadata"]:
            await renew(world, "n1")
            await asyncio.sleep(0.05)
    await renew(world, "n1")
    nodes = {n["metadata"]["name"]: n for n in world.objects("nodes")}
    ready = {name: n["status"]["conditions"][0]["status"] for name, n in nodes.items()}
    assert ready == {"n1": "True", "n2": "Unknown"}
    assert [t["effect"] for t in nodes["n2"]["spec"]["taints"]] == ["NoExecute", "NoSchedule"]
    assert "deletionTimestamp" not in world.server.objects["pods"]["default", "on-n1"]["metadata"]
    assert world.events("TaintManagerEviction") == ["Marking for deletion Pod default/on-n2"]


def test_finished_pods_are_too_many_only_when_one_more_has_finished() -> None:
    informer: Any = SimpleNamespace(cache=SimpleNamespace(get=lambda namespace, name: pods.get(name)))
    pods = {name: pod(name, phase="Succeeded", created=f"2026-01-01T0{n}:00:00Z") for n, name in enumerate("abc")}
    finished = podgc._Finished(informer, 2)
    woken: list[Ref] = []
    tell = finished.handler(lambda ref, because: woken.append(ref))
    for name in "cb":
        tell(Added(pods[name]))
    assert woken == [] and finished.surplus() == ()
    tell(Updated(pods["a"], pod("a")))
    assert woken == [("", "")] and finished.surplus() == (pods["a"],)
    tell(Updated(pods["a"], pods["a"]))
    tell(Updated(pod("a", phase="Succeeded", deleted=True), pods["a"]))
    tell(Deleted(pods["b"]))
    assert len(woken) == 1 and finished.surplus() == ()


def test_a_pods_change_concerns_the_collector_when_it_is_bound_or_deleted() -> None:
    cache = SimpleNamespace(get=lambda namespace, name: node() if name == "n1" else None)
    informer = SimpleNamespace(cache=cache, add_index=lambda name, index: None)
    informers: Any = SimpleNamespace(of=lambda kind: informer)
    concerns = podgc.PodGarbageCollector(informers, SimpleNamespace()).concerns   # type: ignore[arg-type]  # no clock
    free, here, astray = pod("p", node=""), pod("p"), pod("p", node="n2")
    assert [concerns(Added(p)) for p in (free, here, astray)] == [False, False, True]
    assert concerns(Updated(astray, free)) and not concerns(Updated(here, free))
    assert not concerns(Updated(astray, astray)), "the node's own changes tell the rest"
    assert concerns(Updated(pod("p", deleted=True), here))
    assert not concerns(Deleted(pod("p", deleted=True)))


def test_a_pods_change_concerns_the_evictor_under_taints_alone() -> None:
    tainted = node(taints=[core.Taint(key="k", effect="NoExecute")])
    now = NOW
    nodes = SimpleNamespace(cache=SimpleNamespace(get=lambda namespace, name: tainted))
    here = pod("p")
    cache = SimpleNamespace(find=lambda ref: here, by_index=lambda index, value: [here])
    pods = SimpleNamespace(cache=cache, add_index=lambda name, index: None)
    informers: Any = SimpleNamespace(of=lambda kind: pods if kind is core.Pod else nodes)
    clock: Any = SimpleNamespace(now=lambda: now)
    evictor = taint_eviction.TaintEvictionController(informers, clock)
    assert not evictor.concerns(Added(here))
    assert list(evictor._of_node(Added(tainted))) == [("default", "p")]
    assert list(evictor._of_node(Updated(tainted, tainted))) == []
    assert evictor.concerns(Updated(here, here))
    seen = evictor.observe(("default", "p"))
    now += timedelta(seconds=5)
    again = evictor.observe(("default", "p"))
    assert seen is not None and seen == again, "the time counts from when it was first seen there"
    assert evictor.concerns(Deleted(here)), "it is remembered"
    here = msgspec.structs.replace(here, metadata=msgspec.structs.replace(here.metadata, uid="another"))
    third = evictor.observe(("default", "p"))
    assert third is not None and third.since == now, "another pod of that name has its own time"
    tainted = node()
    assert list(evictor._of_node(Updated(node(), node(taints=[core.Taint(key="k", effect="NoExecute")])))) == [
        ("default", "p")
    ]
    assert evictor.observe(("default", "p")) is None and not evictor.concerns(Deleted(here))
    assert not evictor.concerns(Updated(here, here))


def test_a_node_that_is_heard_is_not_looked_at_and_its_silence_is_noticed_in_time() -> None:
    async def run() -> tuple[int, float]:
        loop = asyncio.get_running_loop()
        clock = LoopClock(NOW, loop)
        client = Client(FakeServer(clock))
        informers = Informers(client, clock, Randomness(1))
        controller = node_lifecycle.NodeLifecycleController(informers, clock, GRACE.total_seconds())
        looks: list[node_lifecycle.Seen] = []

        def look(seen: node_lifecycle.Seen, now: datetime) -> Plan:
            looks.append(seen)
            return decide(seen, now, GRACE)

        controller.decide = look   # type: ignore[method-assign]
        recorder = EventRecorder(client, "node-controller", clock=clock, randomness=Randomness(2))
        runner = Runner(controller, client, recorder, clock=clock)
        tasks = [asyncio.create_task(part.run()) for part in (informers, recorder, runner)]
        data = meta.ObjectMeta(name="n1", namespace="kube-node-lease")
        lease = await client.create(coordination.Lease(metadata=data, spec=coordination.LeaseSpec(renewTime="0")))
        await client.create(node())
        status = {"conditions": [{"type": "Ready", "status": "True"}]}
        await client.patch(core.Node, "n1", "", {"status": status}, subresource="status")
        await asyncio.sleep(1)
        first = len(looks)
        for number in range(60):
            await asyncio.sleep(10)
            spec = coordination.LeaseSpec(renewTime=str(number + 1))
            lease = await client.update(coordination.Lease(metadata=lease.metadata, spec=spec))
        heard, seen = loop.time(), len(looks)
        while (await client.get(core.Node, "n1")).status.conditions[0].status == "True":   # type: ignore[index]  # noqa: ASYNC110
            await asyncio.sleep(0.5)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return seen - first, loop.time() - heard

    looks, silence = simulate(run)
    assert looks == 0 and 50 <= silence <= 51
