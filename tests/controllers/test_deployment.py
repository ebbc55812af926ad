"""Deployment: sizes in a rolling update, proportions, revisions, conditions, and where a rollout ends."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pinnace.api import errors
from pinnace.api.apps import v1 as apps
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.controllers.deployment import revisions, scaling, status
from pinnace.controllers.deployment.controller import Seen, decide, report
from pinnace.controllers.deployment.fenceposts import max_surge, max_unavailable, replicas_of
from pinnace.controllers.plan import Create, Delete, Emit, Failure, Patch, Update

from .build import NOW, apply


def template(image: str) -> core.PodTemplateSpec:
    return core.PodTemplateSpec(
        metadata=meta.ObjectMeta(labels={"app": "web"}),
        spec=core.PodSpec(containers=[core.Container(name="web", image=image)]),
    )


def deployment(
    replicas: int, image: str = "v1", *, surge: int | str = "25%", unavailable: int | str = "25%", **spec: Any
) -> apps.Deployment:
    rolling = apps.RollingUpdateDeployment(maxSurge=surge, maxUnavailable=unavailable)
    values: dict[str, Any] = {
        "replicas": replicas,
        "progressDeadlineSeconds": 600,
        "revisionHistoryLimit": 10,
        "selector": meta.LabelSelector(matchLabels={"app": "web"}),
        "strategy": apps.DeploymentStrategy(type="RollingUpdate", rollingUpdate=rolling),
        "template": template(image),
    }
    return apps.Deployment(
        metadata=meta.ObjectMeta(name="web", namespace="default", uid="d-1", generation=1),
        spec=apps.DeploymentSpec(**(values | spec)),
    )


def rs(
    image: str, size: int, available: int | None = None, *, revision: int = 1, age: int = 0, **marks: str
) -> apps.ReplicaSet:
    d = deployment(1, image)
    made = revisions.make_new(d, [], size)
    marks_ = {revisions.REVISION: str(revision)} | {
        f"deployment.kubernetes.io/{key.replace('_', '-')}": value for key, value in marks.items()
    }
    up = size if available is None else available
    return msgspec.structs.replace(
        made,
        metadata=msgspec.structs.replace(
            made.metadata, uid=f"uid-{image}", annotations=marks_, generation=1,
            creationTimestamp=f"2026-01-01T10:{age:02}:00Z",
        ),
        status=apps.ReplicaSetStatus(replicas=size, readyReplicas=up, availableReplicas=up, observedGeneration=1),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("replicas", "surge", "unavailable", "expected"),
    [
        (10, "25%", "25%", (3, 2)),
        (1, "25%", "25%", (1, 0)),
        (10, 0, 0, (0, 1)),
        (2, 5, 5, (5, 2)),
        (0, "25%", "25%", (0, 0)),
        (10, "30%", "30%", (3, 3)),
    ],
)
def test_fenceposts(replicas: int, surge: int | str, unavailable: int | str, expected: tuple[int, int]) -> None:
    d = deployment(replicas, surge=surge, unavailable=unavailable)
    assert (max_surge(d), max_unavailable(d)) == expected


def test_a_new_deployment_makes_its_replica_set_at_full_size() -> None:
    plan = decide(Seen(deployment(3), ()), NOW)
    create, own = plan.actions
    assert isinstance(create, Create)
    made = create.object
    digest = made.metadata.labels["pod-template-hash"]
    assert made.metadata.name == f"web-{digest}"
    assert made.spec.selector.matchLabels == {"app": "web", "pod-template-hash": digest}
    assert made.spec.template.metadata.labels == {"app": "web", "pod-template-hash": digest}
    assert made.spec.replicas == 3
    assert made.metadata.annotations == {
        revisions.REVISION: "1", revisions.DESIRED_REPLICAS: "3", revisions.MAX_REPLICAS: "4"
    }  # fmt: skip
    assert create.then == Emit("Normal", "ScalingReplicaSet", "Scaled up replica set {name} from 0 to 3")
    assert isinstance(own, Update)
    assert own.object.metadata.annotations == {revisions.REVISION: "1"}


def test_annotations_travel_to_the_replica_set_but_not_those_of_kubectl() -> None:
    d = deployment(1)
    applied = "kubectl.kubernetes.io/last-applied-configuration"
    d.metadata.annotations = {"kubernetes.io/change-cause": "v1", applied: "{}"}
    create = decide(Seen(d, ()), NOW).actions[0]
    assert isinstance(create, Create)
    assert create.object.metadata.annotations["kubernetes.io/change-cause"] == "v1"
    assert applied not in create.object.metadata.annotations


@pytest.mark.parametrize(
    ("new", "old", "up", "down"),
    [
        # 10 replicas, surge 3, unavailable 2: (size, available) of new and old
        ((0, 0), (10, 10), {"new": 3}, {"old": 8}),
        ((3, 0), (10, 10), {}, {"old": 8}),
        ((5, 3), (8, 8), {}, {"old": 5}),
        ((10, 10), (0, 0), {}, {}),
        ((12, 12), (0, 0), {"new": 10}, {}),
        ((3, 0), (10, 6), {}, {"old": 8}),     # not available anyway: those go first
        ((5, 0), (8, 8), {}, {}),
    ],
)
def test_rolling_steps(
    new: tuple[int, int], old: tuple[int, int], up: dict[str, int], down: dict[str, int]
) -> None:
    d = deployment(10, "v2")
    newer, older = rs("v2", *new), rs("v1", *old)
    names = {newer.metadata.name: "new", older.metadata.name: "old"}
    assert {names[name]: size for name, size in scaling.roll_up(d, newer, [older]).items()} == up
    assert {names[name]: size for name, size in scaling.roll_down(d, newer, [older]).items()} == down


def test_pods_that_are_to_go_do_not_count_as_serving() -> None:
    """Scaled from 3 to 2, then rolled, before the old replica set's status tells of the third pod's end."""
    d = deployment(2, "v2", surge=0, unavailable=1)
    old, new = rs("v1", 2, 3), rs("v2", 0, revision=2)
    assert scaling.roll_down(d, new, [old]) == {scaling.name_of(old): 1}


def test_resizing_in_the_middle_keeps_proportions() -> None:
    marks = {"desired_replicas": "10", "max_replicas": "13"}
    newer, older = rs("v2", 5, age=1, revision=2, **marks), rs("v1", 8, **marks)
    d = deployment(20, "v2")
    sizes = scaling.resize(d, newer, [older])
    assert sum(sizes.values()) == 25
    assert (sizes[older.metadata.name or ""], sizes[newer.metadata.name or ""]) == (15, 10)
    plan = decide(Seen(d, (newer, older)), NOW)
    assert all(isinstance(action, Patch | Update) for action in plan.actions)


def test_a_paused_deployment_scales_but_does_not_roll() -> None:
    d = deployment(5, "v2", paused=True)
    d = msgspec.structs.replace(d, status=status.paused_or_resumed(d, NOW))
    older = rs("v1", 3, desired_replicas="3", max_replicas="4")
    (patch,) = decide(Seen(d, (older,)), NOW).actions
    assert isinstance(patch, Patch)
    assert (patch.name, patch.patch["spec"]) == (older.metadata.name, {"replicas": 5})
    assert patch.then == Emit(
        "Normal", "ScalingReplicaSet", f"Scaled up replica set {older.metadata.name} from 3 to 5"
    )


def test_recreate_waits_for_the_old_pods() -> None:
    d = deployment(3, "v2", strategy=apps.DeploymentStrategy(type="Recreate"))
    older = rs("v1", 3, desired_replicas="3", max_replicas="3")
    (down,) = decide(Seen(d, (older,), old_pods_running=True), NOW).actions
    assert isinstance(down, Patch) and down.patch["spec"] == {"replicas": 0}
    empty = rs("v1", 0)
    assert decide(Seen(d, (empty,), old_pods_running=True), NOW).actions == ()
    create = decide(Seen(d, (empty,)), NOW).actions[0]
    assert isinstance(create, Create) and create.object.spec.replicas == 3


def test_history_beyond_the_limit_goes_oldest_first() -> None:
    d = deployment(1, "v4", revisionHistoryLimit=1)
    newest = rs("v4", 1, revision=4, desired_replicas="1", max_replicas="2")
    d.metadata.annotations = {revisions.REVISION: "4"}
    done = status.rolled(d, newest, [newest], NOW)
    d = msgspec.structs.replace(d, status=done)
    olds = [rs(f"v{n}", 0, revision=n, age=n) for n in (1, 2, 3)]
    plan = decide(Seen(d, (*olds, newest)), NOW)
    assert [a.name for a in plan.actions if isinstance(a, Delete)] == [o.metadata.name for o in olds[:2]]


def test_a_stuck_rollout_passes_its_deadline() -> None:
    d = deployment(1, progressDeadlineSeconds=60)
    waiting = rs("v1", 1, 0, desired_replicas="1", max_replicas="2")
    d.metadata.annotations = {revisions.REVISION: "1"}
    plan = decide(Seen(d, (waiting,)), NOW)
    d = plan.status
    assert plan.again is not None and plan.again <= timedelta(seconds=61)
    late = decide(Seen(d, (waiting,)), NOW + timedelta(seconds=61)).status
    progressing = status.condition(late.status, "Progressing")
    assert progressing is not None
    assert (progressing.status, progressing.reason) == ("False", "ProgressDeadlineExceeded")
    assert progressing.message == f'ReplicaSet "{waiting.metadata.name}" has timed out progressing.'


def test_a_name_taken_by_another_template_changes_the_hash() -> None:
    d = deployment(1)
    create = decide(Seen(d, ()), NOW).actions[0]
    assert isinstance(create, Create)
    taken = report(Seen(d, ()), (Failure(create, errors.AlreadyExists("")),), NOW)
    assert taken.status.status.collisionCount == 1
    again = decide(Seen(taken.status, ()), NOW).actions[0]
    assert isinstance(again, Create)
    assert again.object.metadata.name != create.object.metadata.name


def _live(sets: list[apps.ReplicaSet], up: bool) -> dict[tuple[type, str], Any]:
    """What the replica set controller and the nodes would make of the sizes."""
    out: dict[tuple[type, str], Any] = {}
    for item in sets:
        size = replicas_of(item)
        state = apps.ReplicaSetStatus(
            replicas=size, readyReplicas=size if up else 0, availableReplicas=size if up else 0,
            observedGeneration=item.metadata.generation,
        )  # fmt: skip
        out[apps.ReplicaSet, item.metadata.name or ""] = msgspec.structs.replace(item, status=state)
    return out


@settings(deadline=None)
@given(
    replicas=st.integers(0, 20),
    surge=st.sampled_from([0, 1, 3, "25%", "100%"]),
    unavailable=st.sampled_from([0, 1, 2, "25%", "50%"]),
    old=st.lists(st.integers(0, 12), max_size=3),
    recreate=st.booleans(),
)
def test_every_rollout_ends(
    replicas: int, surge: int | str, unavailable: int | str, old: list[int], recreate: bool
) -> None:
    d = deployment(replicas, "new", surge=surge, unavailable=unavailable)
    if recreate:
        assert d.spec is not None
        d.spec.strategy = apps.DeploymentStrategy(type="Recreate")
    sets = [rs(f"v{n}", size, age=n, revision=n + 1) for n, size in enumerate(old)]
    objects: dict[tuple[type, str], Any] = {(apps.Deployment, "web"): d, **_live(sets, True)}
    writes = 1
    for _ in range(80):
        current = objects[apps.Deployment, "web"]
        found = tuple(obj for (kind, _), obj in objects.items() if kind is apps.ReplicaSet)
        floor = replicas - max_unavailable(current)
        writes = apply(decide(Seen(current, found), NOW), objects)
        sets = [obj for (kind, _), obj in objects.items() if kind is apps.ReplicaSet]
        if not recreate and sum(old) >= floor and sum(old) <= replicas + max_surge(current):
            assert sum(map(replicas_of, sets)) >= min(floor, sum(old))
            assert sum(map(replicas_of, sets)) <= replicas + max_surge(current)
        objects |= _live(sets, True)
        if not writes:
            break
    assert not writes, "still writing"
    newest = revisions.find_new(d, sets)
    assert newest is not None and replicas_of(newest) == replicas
    assert scaling.total(item for item in sets if item is not newest) == 0
    final = objects[apps.Deployment, "web"].status
    assert status.is_complete(d, final)
