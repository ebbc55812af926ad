"""StatefulSet: order, names, volumes, rolling updates with a partition."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pinnace.api.apps import v1 as apps
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.controllers.plan import Create, Delete, Plan
from pinnace.controllers.statefulset.controller import Seen, decide

from .build import NOW, apply, pod


def stateful(replicas: int, image: str = "v1", *, partition: int | None = 0, **spec: Any) -> apps.StatefulSet:
    rolling = apps.RollingUpdateStatefulSetStrategy(partition=partition)
    values: dict[str, Any] = {
        "replicas": replicas,
        "serviceName": "db",
        "selector": meta.LabelSelector(matchLabels={"app": "web"}),
        "template": core.PodTemplateSpec(
            metadata=meta.ObjectMeta(labels={"app": "web"}),
            spec=core.PodSpec(containers=[core.Container(name="a", image=image)]),
        ),
        "updateStrategy": apps.StatefulSetUpdateStrategy(type="RollingUpdate", rollingUpdate=rolling),
    }
    return apps.StatefulSet(
        metadata=meta.ObjectMeta(name="db", namespace="default", uid="s-1", generation=1),
        spec=apps.StatefulSetSpec(**(values | spec)),
    )


class Run:
    """A stateful set's little world."""

    def __init__(self, start: apps.StatefulSet) -> None:
        self.objects: dict[Any, Any] = {(apps.StatefulSet, "db"): start}
        self.order: list[str] = []

    def of(self, kind: type) -> list[Any]:
        return [o for (k, _), o in self.objects.items() if k is kind]

    @property
    def set(self) -> apps.StatefulSet:
        found: apps.StatefulSet = self.objects[apps.StatefulSet, "db"]
        return found

    def change(self, new: apps.StatefulSet) -> None:
        self.objects[apps.StatefulSet, "db"] = msgspec.structs.replace(new, status=self.set.status)

    def step(self) -> Plan:
        pods, revisions = self.of(core.Pod), self.of(apps.ControllerRevision)
        plan = decide(
            Seen(self.set, tuple(pods), tuple(revisions), tuple(self.of(core.PersistentVolumeClaim))), NOW
        )
        for action in plan.actions:
            if isinstance(action, Create) and isinstance(action.object, core.Pod):
                self.order.append(f"+{action.object.metadata.name}")
            elif isinstance(action, Delete) and action.kind is core.Pod:
                self.order.append(f"-{action.name}")
        return plan

    def settle(self, rounds: int = 60) -> None:
        for _ in range(rounds):
            if not apply(self.step(), self.objects):
                return
            for key, obj in list(self.objects.items()):
                if key[0] is core.Pod and not obj.status.phase:
                    self.objects[key] = msgspec.structs.replace(obj, status=pod("x").status)
        raise AssertionError("still writing")

    def images(self) -> dict[str, str]:
        return {p.metadata.name: p.spec.containers[0].image for p in self.of(core.Pod)}


def test_pods_come_and_go_in_order_and_have_an_identity() -> None:
    run = Run(stateful(3))
    run.settle()
    assert run.order == ["+db-0", "+db-1", "+db-2"]
    first = next(p for p in run.of(core.Pod) if p.metadata.name == "db-1")
    assert (first.spec.hostname, first.spec.subdomain) == ("db-1", "db")
    assert first.metadata.labels["statefulset.kubernetes.io/pod-name"] == "db-1"
    assert first.metadata.labels["apps.kubernetes.io/pod-index"] == "1"
    assert first.metadata.labels["controller-revision-hash"] == run.set.status.updateRevision
    run.order.clear()
    run.change(stateful(1))
    run.settle()
    assert run.order == ["-db-2", "-db-1"]
    assert (run.set.status.replicas, run.set.status.readyReplicas) == (1, 1)


def test_the_next_waits_until_the_last_is_ready() -> None:
    run = Run(stateful(2))
    for _ in range(4):
        apply(run.step(), run.objects)
    assert run.order == ["+db-0"]


def test_parallel_does_not_wait() -> None:
    run = Run(stateful(3, podManagementPolicy="Parallel"))
    apply(run.step(), run.objects)
    apply(run.step(), run.objects)
    assert run.order == ["+db-0", "+db-1", "+db-2"]


def test_a_rolling_update_goes_from_the_top_down_to_the_partition() -> None:
    run = Run(stateful(3))
    run.settle()
    before = run.set.status.currentRevision
    run.order.clear()
    run.change(stateful(3, "v2", partition=1))
    run.settle()
    assert run.order == ["-db-2", "+db-2", "-db-1", "+db-1"]
    assert run.images() == {"db-0": "v1", "db-1": "v2", "db-2": "v2"}
    assert run.set.status.currentRevision == before != run.set.status.updateRevision
    assert (run.set.status.currentReplicas, run.set.status.updatedReplicas) == (1, 2)
    del run.objects[core.Pod, "db-0"]       # below the partition the old revision comes back
    run.settle()
    assert run.images()["db-0"] == "v1"
    run.change(stateful(3, "v2"))
    run.settle()
    assert set(run.images().values()) == {"v2"}
    assert run.set.status.currentRevision == run.set.status.updateRevision


def test_on_delete_replaces_only_what_somebody_deletes() -> None:
    strategy = apps.StatefulSetUpdateStrategy(type="OnDelete")
    run = Run(stateful(2, updateStrategy=strategy))
    run.settle()
    run.change(stateful(2, "v2", updateStrategy=strategy))
    run.settle()
    assert set(run.images().values()) == {"v1"}
    del run.objects[core.Pod, "db-1"]
    run.settle()
    assert run.images() == {"db-0": "v1", "db-1": "v2"}


def test_a_failed_pod_is_made_anew() -> None:
    run = Run(stateful(1))
    run.settle()
    (good,) = run.of(core.Pod)
    run.objects[core.Pod, "db-0"] = msgspec.structs.replace(good, status=core.PodStatus(phase="Failed"))
    run.order.clear()
    run.settle()
    assert run.order == ["-db-0", "+db-0"]


@pytest.mark.parametrize("scaled_away", [False, True])
def test_each_place_has_its_claim_which_stays_unless_told(scaled_away: bool) -> None:
    claims = [core.PersistentVolumeClaimEmbedded(metadata=meta.ObjectMeta(name="data"))]
    policy = apps.StatefulSetPersistentVolumeClaimRetentionPolicy(
        whenScaled="Delete" if scaled_away else "Retain", whenDeleted="Retain"
    )
    more = {"volumeClaimTemplates": claims, "persistentVolumeClaimRetentionPolicy": policy}
    run = Run(stateful(2, **more))
    run.settle()
    assert {c.metadata.name for c in run.of(core.PersistentVolumeClaim)} == {"data-db-0", "data-db-1"}
    first = next(p for p in run.of(core.Pod) if p.metadata.name == "db-0")
    assert first.spec.volumes[0].persistentVolumeClaim.claimName == "data-db-0"
    run.change(stateful(1, **more))
    run.settle()
    owners = run.objects[core.PersistentVolumeClaim, "data-db-1"].metadata.ownerReferences
    assert [o.name for o in owners or ()] == (["db-1"] if scaled_away else [])


@settings(deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["v1", "v2"])), min_size=1, max_size=4),
    parallel=st.booleans(),
)
def test_every_change_comes_to_rest(sizes: list[tuple[int, str]], parallel: bool) -> None:
    policy = {"podManagementPolicy": "Parallel"} if parallel else {}
    run = Run(stateful(*sizes[0], **policy))
    for size, image in sizes:
        run.change(stateful(size, image, **policy))
        run.settle()
        assert run.images() == {f"db-{n}": image for n in range(size)}
        assert run.set.status.currentRevision == run.set.status.updateRevision
