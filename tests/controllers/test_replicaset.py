"""ReplicaSet: how many pods are made or deleted, which go first, and what the status says."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinnace.api import errors
from pinnace.api.apps import v1 as apps
from pinnace.api.core import v1 as core
from pinnace.controllers.plan import Create, Delete, Emit, Failure, Patch
from pinnace.controllers.pods import first_to_go
from pinnace.controllers.replicaset import Seen, decide, report

from .build import NOW, apply, pod, ready, replica_set


def seen(rs: apps.ReplicaSet, *pods: core.Pod) -> Seen:
    assert rs.spec is not None
    return Seen(rs, rs.spec.selector, rs.spec.template, pods)


def test_missing_pods_are_made_from_the_template() -> None:
    plan = decide(seen(replica_set(3), pod("a", owner=replica_set(3))), NOW)
    assert len(plan.actions) == 2
    first = plan.actions[0]
    assert isinstance(first, Create)
    assert first.then == Emit("Normal", "SuccessfulCreate", "Created pod: {name}")
    data = first.object.metadata
    assert (data.generateName, data.labels) == ("web-", {"app": "web"})
    owner = data.ownerReferences[0]
    assert (owner.kind, owner.uid, owner.controller, owner.blockOwnerDeletion) == ("ReplicaSet", "rs-1", True, True)


def test_at_most_five_hundred_at_once() -> None:
    assert len(decide(seen(replica_set(2000)), NOW).actions) == 500


def test_finished_and_terminating_pods_are_replaced() -> None:
    rs = replica_set(2)
    plan = decide(seen(rs, pod("a", owner=rs, phase="Failed"), pod("b", owner=rs, deleted=True)), NOW)
    assert [type(action) for action in plan.actions] == [Create, Create]


def test_a_matching_orphan_is_adopted_and_a_stranger_released() -> None:
    rs = replica_set(1)
    plan = decide(seen(rs, pod("orphan"), pod("stranger", owner=rs, labels={"app": "other"})), NOW)
    adopt, release = plan.actions
    assert isinstance(adopt, Patch) and adopt.patch["metadata"]["ownerReferences"][0]["uid"] == "rs-1"
    assert isinstance(release, Patch)
    assert release.patch["metadata"]["ownerReferences"] == [{"$patch": "delete", "uid": "rs-1"}]


def test_one_that_is_being_deleted_makes_nothing_and_adopts_nothing() -> None:
    rs = replica_set(3)
    gone = msgspec.structs.replace(
        rs, metadata=msgspec.structs.replace(rs.metadata, deletionTimestamp="2026-01-01T11:00:00Z")
    )
    plan = decide(seen(gone, pod("orphan")), NOW)
    assert plan.actions == ()


@pytest.mark.parametrize(
    ("victim", "survivor"),
    [
        (pod("x", node=""), pod("y")),
        (pod("x", phase="Pending"), pod("y")),
        (pod("x", is_ready=False), pod("y")),
        (pod("x", annotations={"controller.kubernetes.io/pod-deletion-cost": "-5"}), pod("y")),
        (pod("x", created="2026-01-01T11:59:00Z"), pod("y", created="2026-01-01T01:00:00Z")),
    ],
)
def test_who_goes_first(victim: core.Pod, survivor: core.Pod) -> None:
    for pods in ((victim, survivor), (survivor, victim)):
        assert first_to_go(pods, pods, 1, NOW) == [victim]


def test_crowded_nodes_lose_first() -> None:
    crowded, alone = pod("x", node="n1"), pod("y", node="n2")
    assert first_to_go([alone, crowded], [alone, crowded, pod("z", node="n1")], 1, NOW) == [crowded]


def test_surplus_is_deleted_by_uid() -> None:
    rs = replica_set(1)
    plan = decide(seen(rs, pod("a", owner=rs), pod("b", owner=rs, is_ready=False)), NOW)
    (delete,) = plan.actions
    assert isinstance(delete, Delete)
    assert (delete.name, delete.uid) == ("b", "uid-b")


def test_the_status_counts() -> None:
    rs = replica_set(3)
    pods = [
        pod("a", owner=rs),
        pod("b", owner=rs, is_ready=False),
        pod("c", owner=rs),
        pod("d", owner=rs, deleted=True),
    ]
    status = decide(seen(rs, *pods), NOW).status.status
    assert (status.replicas, status.readyReplicas, status.availableReplicas) == (3, 2, 2)
    assert (status.terminatingReplicas, status.observedGeneration) == (1, 1)


def test_min_ready_seconds_ask_again_in_time() -> None:
    rs = replica_set(1)
    assert rs.spec is not None
    rs = msgspec.structs.replace(rs, spec=msgspec.structs.replace(rs.spec, minReadySeconds=60))
    young = pod("a", owner=rs)
    assert young.status is not None
    young.status.conditions = [ready(since="2026-01-01T11:59:40Z")]
    plan = decide(seen(rs, young), NOW)
    assert plan.again == timedelta(seconds=40)
    assert plan.status.status.availableReplicas is None
    later = decide(seen(rs, young), NOW + timedelta(seconds=40))
    assert later.status.status.availableReplicas == 1


def test_refusals_become_a_condition_that_goes_again() -> None:
    rs = replica_set(1)
    plan = decide(seen(rs), NOW)
    create = plan.actions[0]
    assert isinstance(create, Create)
    told = report(seen(rs), (Failure(create, errors.Forbidden("no quota")),), NOW).status
    (condition,) = told.status.conditions
    assert (condition.type, condition.reason, condition.message) == ("ReplicaFailure", "FailedCreate", "no quota")
    healed = decide(seen(told, pod("a", owner=rs)), NOW).status
    assert healed.status.conditions is None


@given(
    replicas=st.integers(0, 12),
    pods=st.lists(
        st.tuples(st.sampled_from(["Running", "Pending", "Failed", "Succeeded"]), st.booleans(), st.booleans(),
                  st.booleans()),
        max_size=12,
    ),
)  # fmt: skip
def test_deciding_reaches_a_fixed_point(replicas: int, pods: list[tuple[str, bool, bool, bool]]) -> None:
    rs = replica_set(replicas)
    objects = {(type(rs), "web"): rs}
    for number, (phase, up, deleted, owned) in enumerate(pods):
        name = f"p{number}"
        objects[core.Pod, name] = pod(
            name, owner=rs if owned else None, phase=phase, is_ready=up, deleted=deleted
        )
    for _ in range(6):
        current = objects[type(rs), "web"]
        found = [obj for (kind, _), obj in objects.items() if kind is core.Pod]
        if not apply(decide(seen(current, *found), NOW), objects):
            break
    else:
        raise AssertionError("still writing after six decisions")
    active = [
        p for (kind, _), p in objects.items()
        if kind is core.Pod and p.metadata.ownerReferences and not p.metadata.deletionTimestamp
        and p.status.phase not in ("Failed", "Succeeded")
    ]  # fmt: skip
    assert len(active) == replicas
