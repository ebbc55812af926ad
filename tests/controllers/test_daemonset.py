"""DaemonSet: which nodes, one pod each, rolling; and disruption budgets."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pinnace.api.apps import v1 as apps
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.api.policy import v1 as policy
from pinnace.controllers import disruption
from pinnace.controllers.daemonset.controller import Seen, decide
from pinnace.controllers.daemonset.placement import Fit, fit, node_of, pinned, tolerant
from pinnace.controllers.plan import Create, Delete

from .build import NOW, apply, pod, replica_set
from .conftest import World


def daemon_set(image: str = "v1", *, unavailable: int | str = 1, surge: int | str = 0) -> apps.DaemonSet:
    return apps.DaemonSet(
        metadata=meta.ObjectMeta(name="agent", namespace="default", uid="ds-1", generation=1),
        spec=apps.DaemonSetSpec(
            selector=meta.LabelSelector(matchLabels={"app": "web"}),
            template=core.PodTemplateSpec(
                metadata=meta.ObjectMeta(labels={"app": "web"}),
                spec=core.PodSpec(containers=[core.Container(name="a", image=image)]),
            ),
            updateStrategy=apps.DaemonSetUpdateStrategy(
                type="RollingUpdate",
                rollingUpdate=apps.RollingUpdateDaemonSet(maxUnavailable=unavailable, maxSurge=surge),
            ),
        ),
    )


def node(name: str, *, labels: dict[str, str] | None = None, taints: list[core.Taint] | None = None) -> core.Node:
    return core.Node(metadata=meta.ObjectMeta(name=name, labels=labels), spec=core.NodeSpec(taints=taints))


def term(key: str, operator: str, *values: str) -> core.Affinity:
    requirement = core.NodeSelectorRequirement(key=key, operator=operator, values=list(values))
    selector = core.NodeSelector(nodeSelectorTerms=[core.NodeSelectorTerm(matchExpressions=[requirement])])
    return core.Affinity(nodeAffinity=core.NodeAffinity(requiredDuringSchedulingIgnoredDuringExecution=selector))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (core.PodSpec(containers=[]), Fit(False, True)),
        (core.PodSpec(containers=[], tolerations=[core.Toleration(operator="Exists")]), Fit(True, True)),
        (core.PodSpec(containers=[], nodeName="other"), Fit(False, False)),
        (core.PodSpec(containers=[], nodeSelector={"disk": "hdd"}), Fit(False, False)),
        (core.PodSpec(containers=[], affinity=term("disk", "In", "ssd")), Fit(False, True)),
        (core.PodSpec(containers=[], affinity=term("cores", "Gt", "8")), Fit(False, False)),
    ],
)
def test_where_a_daemon_belongs(spec: core.PodSpec, expected: Fit) -> None:
    n = node("n1", labels={"disk": "ssd", "cores": "4"}, taints=[core.Taint(key="gpu", effect="NoSchedule")])
    assert fit(spec, n) == expected


def test_daemons_stay_through_their_nodes_troubles_and_are_pinned() -> None:
    spec = tolerant(core.PodSpec(containers=[]))
    troubled = node("n1", taints=[core.Taint(key="node.kubernetes.io/unreachable", effect="NoExecute")])
    assert fit(spec, troubled) == Fit(True, True)
    assert node_of(core.Pod(spec=pinned(spec, "n7"))) == "n7"


def settle(objects: dict[Any, Any], nodes: list[core.Node], *, rounds: int = 40) -> int:
    """Decide until nothing is written, with pods becoming ready; the lowest number of ready pods on the way."""
    least = 10**9
    for _ in range(rounds):
        pods = [o for (kind, _), o in objects.items() if kind is core.Pod]
        revisions = [o for (kind, _), o in objects.items() if kind is apps.ControllerRevision]
        current = objects[apps.DaemonSet, "agent"]
        if not apply(decide(Seen(current, tuple(nodes), tuple(pods), tuple(revisions)), NOW), objects):
            return least
        least = min(least, sum(bool(p.status.phase) for (k, _), p in objects.items() if k is core.Pod))
        for key, obj in list(objects.items()):
            if key[0] is core.Pod and not obj.status.phase:
                up = pod(obj.metadata.name, phase="Running").status
                spec = msgspec.structs.replace(obj.spec, nodeName=node_of(obj))
                objects[key] = msgspec.structs.replace(obj, status=up, spec=spec)
    raise AssertionError("still writing")


@settings(deadline=None)
@given(
    count=st.integers(0, 6),
    unavailable=st.sampled_from([1, 2, "50%"]),
    surge=st.sampled_from([0, 0, 1, "50%"]),
)
def test_one_pod_a_node_and_rolling_to_a_new_template(
    count: int, unavailable: int | str, surge: int | str
) -> None:
    nodes = [node(f"n{n}") for n in range(count)]
    first = daemon_set("v1", unavailable=0 if surge else unavailable, surge=surge)
    objects: dict[Any, Any] = {(apps.DaemonSet, "agent"): first}
    settle(objects, nodes)

    def pods() -> list[core.Pod]:
        return [o for (kind, _), o in objects.items() if kind is core.Pod]

    assert sorted(node_of(p) for p in pods()) == [n.metadata.name for n in nodes]
    status = objects[apps.DaemonSet, "agent"].status
    assert (status.desiredNumberScheduled, status.numberReady) == (count, count)
    second = daemon_set("v2", unavailable=0 if surge else unavailable, surge=surge)
    objects[apps.DaemonSet, "agent"] = msgspec.structs.replace(second, status=status)
    least = settle(objects, nodes)
    assert sorted(node_of(p) for p in pods()) == [n.metadata.name for n in nodes]
    assert {p.spec.containers[0].image for p in pods() if p.spec} <= {"v2"}
    assert objects[apps.DaemonSet, "agent"].status.updatedNumberScheduled == (count or None)
    if surge and count:
        assert least >= count


def test_failed_and_surplus_pods_go() -> None:
    ds = daemon_set()
    objects: dict[Any, Any] = {(apps.DaemonSet, "agent"): ds}
    settle(objects, [node("n1")])
    (revision,) = [o for (k, _), o in objects.items() if k is apps.ControllerRevision]
    (good,) = [o for (k, _), o in objects.items() if k is core.Pod]
    bad = pod("bad", owner=ds, phase="Failed", labels=good.metadata.labels)
    plan = decide(Seen(ds, (node("n1"),), (good, bad), (revision,)), NOW)
    assert [a.name for a in plan.actions if isinstance(a, Delete)] == ["bad"]
    twin = pod("twin", owner=ds, labels=good.metadata.labels, created="2026-01-01T12:30:00Z")
    plan = decide(Seen(ds, (node("n1"),), (good, twin), (revision,)), NOW)
    assert [a.name for a in plan.actions if isinstance(a, Delete)] == ["twin"]
    plan = decide(Seen(ds, (node("n1"), node("n2")), (good,), (revision,)), NOW)
    assert [type(a) for a in plan.actions] == [Create]


def budget(**spec: Any) -> policy.PodDisruptionBudget:
    return policy.PodDisruptionBudget(
        metadata=meta.ObjectMeta(name="web", namespace="default", generation=1),
        spec=policy.PodDisruptionBudgetSpec(selector=meta.LabelSelector(matchLabels={"app": "web"}), **spec),
    )


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"minAvailable": 2}, (1, 3, 2, 4)),
        ({"minAvailable": "50%"}, (1, 3, 2, 4)),
        ({"maxUnavailable": 1}, (0, 3, 3, 4)),
        ({"maxUnavailable": "50%"}, (1, 3, 2, 4)),
        ({"minAvailable": 4}, (0, 3, 4, 4)),
    ],
)
def test_what_a_budget_allows(spec: dict[str, Any], expected: tuple[int, int, int, int]) -> None:
    rs = replica_set(4)
    pods = [pod("a", owner=rs), pod("b", owner=rs), pod("c", owner=rs), pod("d", owner=rs, is_ready=False)]
    seen = disruption.Seen(budget(**spec), tuple(pods), {"rs-1": 4})
    changed = disruption.decide(seen, NOW).status
    status = changed.status
    assert (status.disruptionsAllowed, status.currentHealthy, status.desiredHealthy, status.expectedPods) == expected
    assert status.conditions[0].reason == ("SufficientPods" if expected[0] else "InsufficientPods")
    again = disruption.Seen(changed, tuple(pods), {"rs-1": 4})
    assert disruption.decide(again, NOW) == disruption.Plan()


def test_an_evicted_pod_does_not_count_until_it_is_gone() -> None:
    b = budget(minAvailable=1)
    b.status.disruptedPods = {"a": "2026-01-01T11:59:00Z", "gone": "2026-01-01T11:59:00Z"}
    plan = disruption.decide(disruption.Seen(b, (pod("a"), pod("b")), {}), NOW)
    assert plan.status.status.disruptedPods == {"a": "2026-01-01T11:59:00Z"}
    assert plan.status.status.currentHealthy == 1
    assert plan.again is not None and plan.again.total_seconds() == 60


async def test_a_budget_counts_a_pod_that_comes_and_one_that_goes(world: World) -> None:
    await world.client.create(budget(minAvailable=1))
    made = pod("a", node="")
    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    await world.client.create(made)
    await world.client.patch(core.Pod, "a", "default", {"status": ready}, subresource="status")

    def healthy() -> int:
        (found,) = world.objects("poddisruptionbudgets")
        return int(found.get("status", {}).get("currentHealthy", 0))

    await world.until(lambda: healthy() == 1)
    await world.client.patch(core.Pod, "a", "default", {"metadata": {"labels": {"app": "other"}}})
    await world.until(lambda: healthy() == 0)
