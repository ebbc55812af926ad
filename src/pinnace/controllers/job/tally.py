"""A job's pods, told apart, and what their counts make of the job's status."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import msgspec

from pinnace.api.batch import v1 as batch
from pinnace.api.core import v1 as core
from pinnace.api.times import format as format_time
from pinnace.api.times import parse as parse_time
from pinnace.controllers import pods as podlib
from pinnace.controllers.job import indexes
from pinnace.controllers.job.policy import judge

FINALIZER = "batch.kubernetes.io/job-tracking"
_NONE: frozenset[str] = frozenset()
_NO_INDEXES: frozenset[int] = frozenset()
_BACKOFF, _BACKOFF_MAXIMUM = 10.0, 600.0


class Tally(msgspec.Struct, frozen=True, gc=False):
    """`succeeded` and `failed` are finished pods that the status does not know yet; `successes` and `failures` are the
    numbers of all: counted, noted and new. (For an Indexed job, of indexes that have a success.)"""

    active: Sequence[core.Pod]
    terminating: Sequence[core.Pod]
    succeeded: Sequence[core.Pod]
    failed: Sequence[core.Pod]
    successes: int = 0
    failures: int = 0
    failure: str = ""              # what the failure policy ends the job for
    ignored: Sequence[core.Pod] = ()
    failed_indexes: frozenset[int] = frozenset()
    noted: frozenset[str] = frozenset()          # uids of finished pods that the status has noted, but not counted


def is_tracked(pod: core.Pod) -> bool:
    return pod.metadata.finalizers is not None and FINALIZER in pod.metadata.finalizers


def is_indexed(job: batch.Job) -> bool:
    return job.spec.completionMode == "Indexed"


def replaces_only_failed(job: batch.Job) -> bool:
    """Whether a terminating pod is replaced only when it has ended."""
    policy = job.spec.podReplacementPolicy
    return policy == "Failed" or (not policy and job.spec.podFailurePolicy is not None)


def recorded(noted: batch.UncountedTerminatedPods) -> frozenset[str]:
    """The uids of finished pods that are noted, but not yet counted."""
    return frozenset((*(noted.succeeded or ()), *(noted.failed or ())))


def tell_apart(job: batch.Job, pods: Sequence[core.Pod]) -> Tally:
    status, noted = job.status, job.status.uncountedTerminatedPods
    known = recorded(noted) if noted is not None and (noted.succeeded or noted.failed) else _NONE
    done = indexes.parse(status.completedIndexes) if job.spec.completionMode == "Indexed" else None
    active, terminating, succeeded, failed, ignored = [], [], [], [], []   # type: ignore[var-annotated]  # five of a kind
    failure = ""
    for pod in pods:
        phase = pod.status.phase
        if phase not in podlib.FINISHED:
            if pod.metadata.deletionTimestamp is None:
                active.append(pod)
                continue
            terminating.append(pod)
        if not is_tracked(pod) or (pod.metadata.uid or "") in known:
            continue
        if phase == "Succeeded":
            if done is not None and indexes.of_pod(pod) in done:
                ignored.append(pod)   # a second success of one index
            else:
                succeeded.append(pod)
        elif phase == "Failed" or not replaces_only_failed(job):
            verdict = judge(job.spec.podFailurePolicy, pod)
            failure = failure or verdict.message
            (failed if verdict.counts else ignored).append(pod)
    successes, failures = (status.succeeded or 0) + len(succeeded), (status.failed or 0) + len(failed)
    if noted is not None and known:
        successes += len(noted.succeeded or ())
        failures += len(noted.failed or ())
    if done is not None:
        successes = len(done | indexes.of_pods(succeeded, job.spec.completions or 0))
    return Tally(
        active, terminating, succeeded, failed, successes, failures, failure,
        ignored, failed_indexes(job, pods) if done is not None else _NO_INDEXES, known,
    )  # fmt: skip


def failed_indexes(job: batch.Job, pods: Iterable[core.Pod]) -> frozenset[int]:
    """Indexes that have failed for good: more often than `backoffLimitPerIndex`, or by the failure policy."""
    limit = job.spec.backoffLimitPerIndex
    known = job.status.failedIndexes
    if limit is None and not known:
        return frozenset()
    found = indexes.parse(known)
    if limit is None:
        return frozenset(found)
    counts: dict[int, int] = {}
    for pod in pods:
        index = indexes.of_pod(pod)
        if index is None or podlib.phase(pod) != "Failed":
            continue
        verdict = judge(job.spec.podFailurePolicy, pod)
        counts[index] = counts.get(index, 0) + verdict.counts
        if verdict.fails_index:
            found.add(index)
    found.update(index for index, count in counts.items() if count > limit)
    return frozenset(found)


def completed_indexes(job: batch.Job, tally: Tally) -> set[int]:
    done = indexes.parse(job.status.completedIndexes)
    return done | indexes.of_pods(tally.succeeded, job.spec.completions or 0)


def note(job: batch.Job, status: batch.JobStatus, tally: Tally) -> batch.JobStatus:
    """First of two steps of counting: write down which pods are about to be let go."""
    noted = batch.UncountedTerminatedPods(
        succeeded=[pod.metadata.uid or "" for pod in tally.succeeded] or None,
        failed=[pod.metadata.uid or "" for pod in tally.failed] or None,
    )
    done = status.completedIndexes
    if is_indexed(job):
        done = indexes.format(completed_indexes(job, tally)) or None
    return msgspec.structs.replace(status, uncountedTerminatedPods=noted, completedIndexes=done)


def count(job: batch.Job, status: batch.JobStatus) -> batch.JobStatus:
    """The second step, when those pods have been let go: count them."""
    noted = status.uncountedTerminatedPods or batch.UncountedTerminatedPods()
    succeeded = (status.succeeded or 0) + len(noted.succeeded or ())
    if is_indexed(job):
        succeeded = len(indexes.parse(status.completedIndexes))
    return msgspec.structs.replace(
        status,
        succeeded=succeeded or None,
        failed=((status.failed or 0) + len(noted.failed or ())) or None,
        uncountedTerminatedPods=batch.UncountedTerminatedPods(),
    )


def current(status: batch.JobStatus, tally: Tally) -> batch.JobStatus:
    """The status with the counts of pods that are there now."""
    return msgspec.structs.replace(
        status,
        active=len(tally.active) or None,
        ready=sum(map(podlib.is_ready, tally.active)) if tally.active else 0,
        terminating=len(tally.terminating),
        failedIndexes=indexes.format(tally.failed_indexes) if tally.failed_indexes else status.failedIndexes,
        uncountedTerminatedPods=status.uncountedTerminatedPods or batch.UncountedTerminatedPods(),
    )


def set_condition(
    status: batch.JobStatus, type: str, value: str, reason: str, message: str, now: datetime
) -> batch.JobStatus:
    conditions = list(status.conditions or ())
    stamp = format_time(now)
    for position, old in enumerate(conditions):
        if old.type == type:
            if (old.status, old.reason, old.message) == (value, reason, message):
                return status
            since = old.lastTransitionTime if old.status == value else stamp
            conditions[position] = batch.JobCondition(
                type=type, status=value, reason=reason, message=message,
                lastProbeTime=stamp, lastTransitionTime=since,
            )  # fmt: skip
            return msgspec.structs.replace(status, conditions=conditions)
    conditions.append(
        batch.JobCondition(
            type=type, status=value, reason=reason, message=message, lastProbeTime=stamp, lastTransitionTime=stamp
        )
    )
    return msgspec.structs.replace(status, conditions=conditions)


def conditions(job: batch.Job) -> dict[str, batch.JobCondition]:
    """Those that hold, by type."""
    found = job.status.conditions
    return {condition.type: condition for condition in found if condition.status == "True"} if found else {}


def backoff_left(pods: Sequence[core.Pod], now: datetime) -> timedelta:
    """How long to wait before a failed pod is replaced: 10 s, doubling with each failure since a success."""
    if not any(map(podlib.is_finished, pods)):
        return timedelta()
    failures: list[datetime] = []
    last_success = datetime.min.replace(tzinfo=now.tzinfo)
    for pod in pods:
        if podlib.phase(pod) == "Failed":
            failures.append(finished_at(pod, now))
        elif podlib.phase(pod) == "Succeeded":
            last_success = max(last_success, finished_at(pod, now))
    failures = [moment for moment in failures if moment > last_success]
    if not failures:
        return timedelta()
    delay = min(_BACKOFF * 2 ** min(len(failures) - 1, 16), _BACKOFF_MAXIMUM)
    return max(failures) + timedelta(seconds=delay) - now


def finished_at(pod: core.Pod, now: datetime) -> datetime:
    """When the last container ended; what comes nearest to it where that is not known."""
    status = pod.status
    ends = [
        parse_time(container.state.terminated.finishedAt)
        for container in status.containerStatuses or ()
        if container.state is not None
        and container.state.terminated is not None
        and container.state.terminated.finishedAt
    ]
    if ends:
        return max(ends)
    ready = podlib.condition(pod, "Ready")
    for text in (
        ready.lastTransitionTime if ready is not None else None,
        pod.metadata.deletionTimestamp,
        pod.metadata.creationTimestamp,
    ):
        if text:
            return min(parse_time(text), now)
    return now
