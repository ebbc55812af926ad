"""Job: counting without losing or doubling, backoff, endings, suspension, indexes, the failure policy."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pinnace.api.batch import v1 as batch
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.controllers import ttl_after_finished
from pinnace.controllers.job import indexes
from pinnace.controllers.job.controller import Seen, decide, is_finished
from pinnace.controllers.job.tally import FINALIZER
from pinnace.controllers.plan import Create, Delete, Emit, Patch, Update

from .build import NOW, apply, pod


def job(**spec: Any) -> batch.Job:
    values: dict[str, Any] = {
        "parallelism": 1,
        "completions": 1,
        "backoffLimit": 6,
        "selector": meta.LabelSelector(matchLabels={"app": "web"}),
        "template": core.PodTemplateSpec(
            metadata=meta.ObjectMeta(labels={"app": "web"}),
            spec=core.PodSpec(containers=[core.Container(name="work")], restartPolicy="Never"),
        ),
    }
    return batch.Job(
        metadata=meta.ObjectMeta(name="work", namespace="default", uid="job-1", generation=1),
        spec=batch.JobSpec(**(values | spec)),
        status=batch.JobStatus(startTime="2026-01-01T12:00:00Z"),
    )


def worker(of: batch.Job, name: str, phase: str, **more: Any) -> core.Pod:
    return pod(name, owner=of, phase=phase, finalizers=[FINALIZER], **more)


def test_pods_of_a_job_that_is_gone_are_let_go() -> None:
    gone = job()
    plan = decide(Seen(None, (), (worker(gone, "a", "Running"), worker(gone, "b", "Succeeded"))), NOW)
    assert [action.name for action in plan.actions if isinstance(action, Patch)] == ["a", "b"]
    assert plan.status is None
    assert all(FINALIZER in str(action) for action in plan.actions)


def run(start: batch.Job, pods: list[core.Pod], now: datetime = NOW) -> tuple[batch.Job, dict[Any, Any], list[Any]]:
    """Decide until nothing is written."""
    objects: dict[Any, Any] = {(batch.Job, "work"): start} | {(core.Pod, p.metadata.name): p for p in pods}
    actions: list[Any] = []
    for _ in range(12):
        found = tuple(obj for (kind, _), obj in objects.items() if kind is core.Pod)
        plan = decide(Seen(objects[batch.Job, "work"], found), now)
        actions += plan.actions
        if not apply(plan, objects):
            break
    else:
        raise AssertionError("still writing")
    return objects[batch.Job, "work"], objects, actions


def conditions(of: batch.Job) -> list[tuple[str, str, str | None]]:
    assert of.status is not None
    return [(c.type, c.status, c.reason) for c in of.status.conditions or ()]


def test_pods_are_made_with_the_tracking_finalizer_after_the_start_is_written() -> None:
    fresh = msgspec.structs.replace(job(parallelism=2, completions=3), status=batch.JobStatus())
    plan = decide(Seen(fresh, ()), NOW)
    assert plan.status.status.startTime == "2026-01-01T12:00:00Z"
    assert plan.status.status.active == 2      # told with them, not in a status of its own
    assert [type(action) for action in plan.actions] == [Create, Create]
    assert plan.actions[0].object.metadata.finalizers == [FINALIZER]   # type: ignore[union-attr]
    assert plan.actions[0].object.metadata.generateName == "work-"     # type: ignore[union-attr]


def test_counting_notes_first_then_lets_go_then_counts() -> None:
    j = job(completions=2)
    done = worker(j, "a", "Succeeded")
    update, patch = decide(Seen(j, (done,)), NOW).actions
    assert isinstance(update, Update) and isinstance(patch, Patch)
    noted = update.object
    assert noted.status.uncountedTerminatedPods.succeeded == ["uid-a"]
    assert noted.status.succeeded is None
    assert patch.patch["metadata"]["$deleteFromPrimitiveList/finalizers"] == [FINALIZER]
    assert decide(Seen(noted, (done,)), NOW).actions == (patch,)     # if it failed at first
    free = pod("a", owner=j, phase="Succeeded")
    counted = decide(Seen(noted, (free,)), NOW)
    assert counted.status.status.succeeded == 1
    assert counted.status.status.uncountedTerminatedPods == batch.UncountedTerminatedPods()


def test_the_last_count_and_the_end_are_one_status() -> None:
    j = job()
    update = decide(Seen(j, (worker(j, "a", "Succeeded"),)), NOW).actions[0]
    assert isinstance(update, Update)
    ended = decide(Seen(update.object, (pod("a", owner=j, phase="Succeeded"),)), NOW)
    assert ended.status.status.succeeded == 1 and is_finished(ended.status)
    assert ended.actions == (Emit("Normal", "Completed", "Job completed"),)


def test_completion() -> None:
    j = job()
    finished, objects, actions = run(j, [worker(j, "a", "Succeeded")])
    assert conditions(finished) == [
        ("SuccessCriteriaMet", "True", "CompletionsReached"), ("Complete", "True", "CompletionsReached")
    ]  # fmt: skip
    assert finished.status is not None
    assert (finished.status.succeeded, finished.status.completionTime) == (1, "2026-01-01T12:00:00Z")
    assert Emit("Normal", "Completed", "Job completed") in actions
    assert objects[core.Pod, "a"].metadata.finalizers == []


def test_too_many_failures_end_the_job_and_stop_the_rest() -> None:
    j = job(backoffLimit=1, parallelism=3, completions=3)
    pods = [worker(j, "a", "Failed"), worker(j, "b", "Failed"), worker(j, "c", "Running")]
    finished, _, actions = run(j, pods)
    assert conditions(finished)[-1] == ("Failed", "True", "BackoffLimitExceeded")
    assert [a.name for a in actions if isinstance(a, Delete)] == ["c"]
    assert Emit("Warning", "BackoffLimitExceeded", "Job has reached the specified backoff limit") in actions


def test_the_deadline_ends_it_in_time() -> None:
    j = job(activeDeadlineSeconds=30)
    plan = decide(Seen(j, (worker(j, "a", "Running"),)), NOW + timedelta(seconds=10))
    assert plan.again == timedelta(seconds=20)
    finished, _, _ = run(j, [worker(j, "a", "Running")], NOW + timedelta(seconds=30))
    assert conditions(finished)[-1] == ("Failed", "True", "DeadlineExceeded")


def test_failed_pods_are_replaced_after_a_growing_wait() -> None:
    j = job()
    ended = core.ContainerStateTerminated(exitCode=1, finishedAt="2026-01-01T12:00:00Z")
    dead = [pod(name, owner=j, phase="Failed") for name in "ab"]
    for one in dead:
        assert one.status is not None
        one.status.containerStatuses = [core.ContainerStatus(name="work", state=core.ContainerState(terminated=ended))]
    assert decide(Seen(j, tuple(dead[:1])), NOW).again == timedelta(seconds=10)
    plan = decide(Seen(j, tuple(dead)), NOW)
    assert plan.again == timedelta(seconds=20)
    assert not any(isinstance(action, Create) for action in plan.actions)
    assert isinstance(decide(Seen(j, tuple(dead)), NOW + timedelta(seconds=20)).actions[0], Create)


def test_suspending_stops_and_resuming_starts_the_clock_anew() -> None:
    j = job(suspend=True)
    stopped, objects, actions = run(j, [worker(j, "a", "Running")])
    assert (core.Pod, "a") not in objects
    assert Emit("Normal", "Suspended", "Job suspended") in actions
    assert stopped.status is not None and stopped.status.startTime is None
    resumed = msgspec.structs.replace(stopped, spec=job().spec)
    later = NOW + timedelta(minutes=1)
    going, _, actions = run(resumed, [], later)
    assert going.status is not None and going.status.startTime == "2026-01-01T12:01:00Z"
    assert ("Suspended", "False", "JobResumed") in conditions(going)


def test_an_indexed_job_runs_each_index_once() -> None:
    j = job(completionMode="Indexed", completions=3, parallelism=3)
    done = worker(j, "x", "Succeeded", annotations={indexes.ANNOTATION: "1"})
    _, objects, actions = run(j, [done])
    made = [a.object for a in actions if isinstance(a, Create)]
    assert [m.metadata.annotations[indexes.ANNOTATION] for m in made] == ["0", "2"]
    assert [m.spec.hostname for m in made] == ["work-0", "work-2"]
    assert made[0].spec.containers[0].env[0].name == "JOB_COMPLETION_INDEX"
    assert objects[batch.Job, "work"].status.completedIndexes == "1"


def indexed(j: batch.Job, index: int, phase: str, name: str = "") -> core.Pod:
    return worker(j, name or f"i{index}", phase, annotations={indexes.ANNOTATION: str(index)})


def test_indexes_fail_on_their_own() -> None:
    j = job(completionMode="Indexed", completions=3, parallelism=3, backoffLimitPerIndex=0, backoffLimit=100)
    pods = [indexed(j, 0, "Failed"), indexed(j, 1, "Succeeded"), indexed(j, 2, "Running")]
    going, _, actions = run(j, pods)
    assert going.status is not None
    assert (going.status.failedIndexes, going.status.completedIndexes) == ("0", "1")
    assert not any(isinstance(action, Create) for action in actions)
    over, _, _ = run(j, [*pods[:2], indexed(j, 2, "Succeeded")])
    assert conditions(over)[-1] == ("Failed", "True", "FailedIndexes")
    strict = job(
        completionMode="Indexed", completions=3, parallelism=3, backoffLimitPerIndex=0, backoffLimit=100,
        maxFailedIndexes=0,
    )  # fmt: skip
    stopped, objects, _ = run(strict, pods)
    assert conditions(stopped)[-1] == ("Failed", "True", "MaxFailedIndexesExceeded")
    assert (core.Pod, "i2") not in objects


def test_a_failed_index_rests_alone() -> None:
    j = job(completionMode="Indexed", completions=2, parallelism=2, backoffLimitPerIndex=1, backoffLimit=100)
    dead = indexed(j, 0, "Failed")
    assert dead.status is not None
    ended = core.ContainerStateTerminated(exitCode=1, finishedAt="2026-01-01T12:00:00Z")
    dead.status.containerStatuses = [core.ContainerStatus(name="work", state=core.ContainerState(terminated=ended))]
    _, _, actions = run(j, [dead])
    made = [a.object.metadata.annotations[indexes.ANNOTATION] for a in actions if isinstance(a, Create)]
    assert made == ["1"]
    _, _, actions = run(j, [dead], NOW + timedelta(seconds=10))
    made = [a.object.metadata.annotations[indexes.ANNOTATION] for a in actions if isinstance(a, Create)]
    assert made == ["0", "1"]


def test_the_success_policy() -> None:
    policy = batch.SuccessPolicy(rules=[batch.SuccessPolicyRule(succeededIndexes="0-1", succeededCount=1)])
    j = job(completionMode="Indexed", completions=3, parallelism=3, successPolicy=policy)
    pods = [indexed(j, 0, "Running"), indexed(j, 1, "Succeeded"), indexed(j, 2, "Running")]
    over, _, actions = run(j, pods)
    assert conditions(over) == [("SuccessCriteriaMet", "True", "SuccessPolicy"), ("Complete", "True", "SuccessPolicy")]
    assert sorted(a.name for a in actions if isinstance(a, Delete)) == ["i0", "i2"]
    going, _, _ = run(j, [indexed(j, 0, "Running"), indexed(j, 1, "Running"), indexed(j, 2, "Succeeded")])
    assert not is_finished(going)


@pytest.mark.parametrize(("text", "found"), [("", set()), ("0-2,5", {0, 1, 2, 5}), ("0,1,3", {0, 1, 3})])
def test_indexes_as_text(text: str, found: set[int]) -> None:
    assert indexes.parse(text) == found
    assert indexes.format(found) == text


def test_the_failure_policy() -> None:
    policy = batch.PodFailurePolicy(rules=[
        batch.PodFailurePolicyRule(
            action="Ignore",
            onPodConditions=[batch.PodFailurePolicyOnPodConditionsPattern(type="DisruptionTarget", status="True")],
        ),
        batch.PodFailurePolicyRule(
            action="FailJob", onExitCodes=batch.PodFailurePolicyOnExitCodesRequirement(operator="In", values=[42])
        ),
    ])  # fmt: skip
    j = job(podFailurePolicy=policy, backoffLimit=0)
    disrupted = worker(j, "a", "Failed")
    assert disrupted.status is not None
    disrupted.status.conditions = [core.PodCondition(type="DisruptionTarget", status="True")]
    going, _, _ = run(j, [disrupted])
    assert not is_finished(going)
    broken = worker(j, "b", "Failed")
    ended = core.ContainerState(terminated=core.ContainerStateTerminated(exitCode=42))
    assert broken.status is not None
    broken.status.containerStatuses = [core.ContainerStatus(name="work", state=ended)]
    over, _, _ = run(j, [broken])
    assert conditions(over)[-1] == ("Failed", "True", "PodFailurePolicy")
    assert over.status is not None and over.status.conditions is not None
    assert over.status.conditions[-1].message == (
        "Container work for pod default/b failed with exit code 42 matching FailJob rule at index 1"
    )


def test_time_to_live() -> None:
    over, _, _ = run(job(), [worker(job(), "a", "Succeeded")])
    kept = msgspec.structs.replace(over, spec=msgspec.structs.replace(over.spec, ttlSecondsAfterFinished=60))
    assert ttl_after_finished.decide(ttl_after_finished.Seen(kept), NOW).again == timedelta(seconds=60)
    (delete,) = ttl_after_finished.decide(ttl_after_finished.Seen(kept), NOW + timedelta(seconds=60)).actions
    assert isinstance(delete, Delete)
    assert ttl_after_finished.decide(ttl_after_finished.Seen(over), NOW).actions == ()


@settings(deadline=None)
@given(
    completions=st.one_of(st.none(), st.integers(0, 6)),
    parallelism=st.integers(0, 4),
    suspend=st.booleans(),
    phases=st.lists(st.sampled_from(["Running", "Pending", "Succeeded", "Failed"]), max_size=8),
)
def test_deciding_reaches_a_fixed_point(
    completions: int | None, parallelism: int, suspend: bool, phases: list[str]
) -> None:
    j = job(completions=completions, parallelism=parallelism, suspend=suspend)
    end, objects, _ = run(j, [worker(j, f"p{n}", phase) for n, phase in enumerate(phases)])
    assert end.status is not None
    assert (end.status.succeeded or 0) == phases.count("Succeeded")
    assert (end.status.failed or 0) == phases.count("Failed")
    tracked = [p for (kind, _), p in objects.items() if kind is core.Pod and FINALIZER in (p.metadata.finalizers or [])]
    assert not any(p.status.phase in ("Succeeded", "Failed") for p in tracked)
