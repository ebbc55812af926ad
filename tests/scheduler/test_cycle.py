"""The cycle over tables of pods and nodes: what fits, what is preferred, what is said when nothing fits."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pinnace.api import codec
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.base.randomness import Randomness
from pinnace.scheduler.cycle import Cycle, Placement, Unschedulable
from pinnace.scheduler.nodes import Nodes
from pinnace.scheduler.plugins.registry import PLUGINS
from pinnace.scheduler.podinfo import pod_info, pod_requests
from pinnace.scheduler.preemption import preempt


def node(name: str, *, cpu: str = "2", memory: str = "4Gi", pods: str = "110", **more: Any) -> core.Node:
    labels = {"kubernetes.io/hostname": name, **more.pop("labels", {})}
    return codec.from_dict(
        core.Node,
        {
            "metadata": {"name": name, "labels": labels},
            "spec": more,
            "status": {"allocatable": {"cpu": cpu, "memory": memory, "pods": pods}},
        },
    )


def pod(name: str, *, cpu: str = "", memory: str = "", labels: dict[str, str] | None = None, **spec: Any) -> core.Pod:
    requests = {key: value for key, value in (("cpu", cpu), ("memory", memory)) if value}
    container = {"name": "c", "image": "i", "resources": {"requests": requests}, "ports": spec.pop("ports", [])}
    return codec.from_dict(
        core.Pod,
        {
            "metadata": {"name": name, "namespace": "default", "uid": name, "labels": labels or {}},
            "spec": {"containers": [container], **spec},
        },
    )


def cluster(*nodes: core.Node, placed: dict[str, list[core.Pod]] | None = None) -> Nodes:
    known = Nodes()
    for one in nodes:
        known.set_node(one)
    for name, pods in (placed or {}).items():
        for one in pods:
            known.assume(pod_info(one), name)
    return known


def cycle() -> Cycle:
    return Cycle(PLUGINS, Randomness(1))


def place(wanted: core.Pod, nodes: Nodes) -> str:
    result = cycle().schedule(pod_info(wanted), nodes)
    return result.node if isinstance(result, Placement) else result.message


ZONES = {"topology": "z"}

CASES = [
    ("no nodes", pod("p"), cluster(), "no nodes available to schedule pods"),
    ("fits", pod("p", cpu="1"), cluster(node("a")), "a"),
    ("cpu", pod("p", cpu="3"), cluster(node("a"), node("b")), "0/2 nodes are available: 2 Insufficient cpu."),
    (
        "cpu and memory",
        pod("p", cpu="3", memory="5Gi"),
        cluster(node("a")),
        "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory.",
    ),
    ("pods", pod("p"), cluster(node("a", pods="0")), "0/1 nodes are available: 1 Too many pods."),
    ("cordoned", pod("p"), cluster(node("a", unschedulable=True), node("b")), "b"),
    (
        "all cordoned",
        pod("p"),
        cluster(node("a", unschedulable=True)),
        "0/1 nodes are available: 1 node(s) were unschedulable.",
    ),
    (
        "taint",
        pod("p"),
        cluster(node("a", taints=[{"key": "k", "value": "v", "effect": "NoSchedule"}])),
        "0/1 nodes are available: 1 node(s) had untolerated taint(s).",
    ),
    (
        "tolerated",
        pod("p", tolerations=[{"key": "k", "operator": "Exists"}]),
        cluster(node("a", taints=[{"key": "k", "value": "v", "effect": "NoSchedule"}])),
        "a",
    ),
    (
        "preferred taint",
        pod("p"),
        cluster(node("a", taints=[{"key": "k", "effect": "PreferNoSchedule"}]), node("b")),
        "b",
    ),
    ("selector", pod("p", nodeSelector={"disk": "ssd"}), cluster(node("a"), node("b", labels={"disk": "ssd"})), "b"),
    (
        "selector fails",
        pod("p", nodeSelector={"disk": "ssd"}),
        cluster(node("a")),
        "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
    ),
    ("least allocated", pod("p", cpu="100m"), cluster(node("a"), node("b"), placed={"a": [pod("x", cpu="1")]}), "b"),
    (
        "host port",
        pod("p", ports=[{"containerPort": 80, "hostPort": 80}]),
        cluster(node("a"), placed={"a": [pod("x", ports=[{"containerPort": 80, "hostPort": 80}])]}),
        "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.",
    ),
    (
        "anti-affinity",
        pod("p", labels={"app": "w"}, affinity={"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "w"}}}]}}),
        cluster(node("a"), node("b"), placed={"a": [pod("x", labels={"app": "w"})]}),
        "b",
    ),
    (
        "affinity",
        pod("p", affinity={"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}}]}}),
        cluster(node("a"), node("b"), placed={"b": [pod("x", labels={"app": "db"})]}),
        "b",
    ),
    (
        "existing anti-affinity",
        pod("p", labels={"app": "w"}),
        cluster(node("a"), placed={"a": [pod("x", affinity={"podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "w"}}}]}})]}),
        "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules.",
    ),
    (
        "spread",
        pod("p", labels={"app": "w"}, topologySpreadConstraints=[{
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "w"}}}]),
        cluster(node("a"), node("b"), placed={"a": [pod("x", labels={"app": "w"})]}),
        "b",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("wanted", "nodes", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_placement(wanted: core.Pod, nodes: Nodes, expected: str) -> None:
    assert place(wanted, nodes) == expected


def test_assumed_pods_take_their_place_until_they_are_dropped() -> None:
    nodes = cluster(node("a", cpu="1"))
    first = pod_info(pod("first", cpu="800m"))
    nodes.assume(first, "a")
    assert place(pod("second", cpu="800m"), nodes) == "0/1 nodes are available: 1 Insufficient cpu."
    nodes.drop_pod("first")
    assert place(pod("second", cpu="800m"), nodes) == "a"


def test_what_is_remembered_of_a_node_is_forgotten_when_it_changes() -> None:
    nodes = cluster(node("a"))
    one = cycle()
    assert isinstance(one.schedule(pod_info(pod("p", cpu="1")), nodes), Placement)
    nodes.set_node(node("a", unschedulable=True))
    assert isinstance(one.schedule(pod_info(pod("q", cpu="1")), nodes), Unschedulable)


def test_news_of_a_placed_pod_that_move_nothing_leave_what_is_remembered_of_its_node() -> None:
    nodes = cluster(node("a"))
    first = pod("first", cpu="800m")
    nodes.assume(pod_info(first), "a")
    info = nodes.all()[0]
    before = info.generation
    bound = msgspec.structs.replace(first, spec=msgspec.structs.replace(first.spec, nodeName="a"))
    running = msgspec.structs.replace(bound, status=core.PodStatus(phase="Running"))
    for version in (bound, running):
        nodes.set_pod(version)
        assert info.pods["first"].pod is version and info.generation == before
    assert not nodes.is_assumed("first")
    larger = pod("first", cpu="900m")
    nodes.set_pod(msgspec.structs.replace(larger, spec=msgspec.structs.replace(larger.spec, nodeName="a")))
    assert info.requested["cpu"] == 900 and info.generation > before


def test_first_pods_of_many_owners_share_what_is_remembered() -> None:
    nodes, one = cluster(node("a"), node("b")), cycle()
    for owner in ("x", "y"):
        owned = pod(owner)
        reference = meta.OwnerReference(apiVersion="v1", kind="K", name=owner, uid=owner, controller=True)
        owned.metadata.ownerReferences = [reference]
        assert isinstance(one.schedule(pod_info(owned), nodes), Placement)
    assert len(one._shapes) == 1


def test_requests_count_init_containers_and_sidecars_as_upstream_does() -> None:
    def container(cpu: str, restart: str = "") -> dict[str, Any]:
        return {"name": cpu, "resources": {"requests": {"cpu": cpu}}} | ({"restartPolicy": restart} if restart else {})

    init = [container("3"), container("500m", "Always"), container("1")]
    made = codec.from_dict(core.Pod, {"spec": {"containers": [container("1"), container("1")], "initContainers": init}})
    assert pod_requests(made) == {"cpu": 3000}
    made.spec.initContainers[0].resources.requests = {"cpu": "100m"}
    assert pod_requests(made) == {"cpu": 2500}


def test_preemption_takes_as_few_and_as_unimportant_pods_as_it_can() -> None:
    nodes = cluster(
        node("a", cpu="1"),
        node("b", cpu="1"),
        placed={"a": [pod("a1", cpu="1", priority=5)], "b": [pod("b1", cpu="500m", priority=1), pod("b2", cpu="500m")]},
    )
    one = cycle()
    wanted = pod_info(pod("p", cpu="500m", priority=10))
    failed = one.schedule(wanted, nodes)
    assert isinstance(failed, Unschedulable)
    found = preempt(wanted, failed, nodes, one, lambda info: False)
    assert (found.node, [victim.uid for victim in found.victims]) == ("b", ["b2"])
    spared = preempt(wanted, failed, nodes, one, lambda info: info.uid == "b2")
    assert (spared.node, [victim.uid for victim in spared.victims]) == ("b", ["b1"])


def test_preemption_says_why_it_does_not_help() -> None:
    nodes = cluster(node("a", cpu="1"), node("b", unschedulable=True))
    one = cycle()
    wanted = pod_info(pod("p", cpu="4"))
    failed = one.schedule(wanted, nodes)
    assert isinstance(failed, Unschedulable)
    assert preempt(wanted, failed, nodes, one, lambda info: False).message == (
        "0/2 nodes are available: 2 Preemption is not helpful for scheduling."
    )
