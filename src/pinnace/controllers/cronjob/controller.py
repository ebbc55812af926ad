"""The cron job controller: what is due, what already runs, what may be forgotten.

Source: https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from pinnace.api.batch import v1 as batch
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.api.times import format as format_time
from pinnace.api.times import parse as parse_time
from pinnace.client.informer import Informers
from pinnace.controllers.cronjob.schedule import around
from pinnace.controllers.owners import CONTROLLER, Owned, controller_reference, index_by_controller
from pinnace.controllers.plan import NORMAL, WARNING, Create, Delete, Emit, Plan, Planner, Ref, Update

_ENDED = ("Complete", "Failed")
SCHEDULED = "batch.kubernetes.io/cronjob-scheduled-timestamp"


class Seen(msgspec.Struct, frozen=True, gc=False):
    cron_job: batch.CronJob
    jobs: tuple[batch.Job, ...]


class CronJobController:
    name = "cronjob"

    def __init__(self, informers: Informers) -> None:
        self.primary = informers.of(batch.CronJob)
        self._jobs = informers.of(batch.Job)
        index_by_controller(self._jobs)
        self.watches = (Owned(self._jobs, "CronJob", "batch", same=_says_the_same, without=_is_over),)

    def observe(self, ref: Ref) -> Seen | None:
        cron_job = self.primary.cache.find(ref)
        if cron_job is None:
            return None
        jobs = self._jobs.cache.by_index(CONTROLLER, cron_job.metadata.uid or "")
        return Seen(cron_job, tuple(jobs))

    def decide(self, seen: Seen, now: datetime) -> Plan:
        return decide(seen, now)


def _says_the_same(old: batch.Job, new: batch.Job) -> bool:
    """Whether a job's change leaves all that is decided by: whether it runs, ended and how, is going, was due when."""
    was, now = old.status, new.status
    return (
        was.conditions == now.conditions
        and was.completionTime == now.completionTime
        and old.metadata.annotations == new.metadata.annotations
        and old.metadata.deletionTimestamp == new.metadata.deletionTimestamp
    )


def _is_over(job: batch.Job) -> bool:
    return _ended(job) is not None


class _Told(msgspec.Struct, gc=False):
    """The jobs told apart: those that run, and how the others ended."""

    running: list[batch.Job] = []
    complete: list[batch.Job] = []
    failed: list[batch.Job] = []


def decide(seen: Seen, now: datetime) -> Plan:
    """The status first (it is what remembers the last start), then history, then what is due."""
    cron_job = seen.cron_job
    planner = Planner()
    told = _tell_apart(seen.jobs)
    status = _status(cron_job, seen.jobs, told, planner)
    current = cron_job if status == cron_job.status else msgspec.structs.replace(cron_job, status=status)
    surplus = _forgotten(cron_job, told)
    if surplus:
        # What cannot be deleted must not keep the status from being told.
        planner.do(*(() if current is cron_job else (Update(current, subresource="status"),)), *surplus)
    unsaid = None if surplus or current is cron_job else current
    if cron_job.metadata.deletionTimestamp is not None or cron_job.spec.suspend:
        return planner.plan(unsaid, final=bool(surplus or unsaid))
    try:
        latest, following = around(cron_job.spec.schedule, _zone(cron_job), now)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        reason = "UnparseableSchedule" if isinstance(error, ValueError) else "UnknownTimeZone"
        planner.do(Emit(WARNING, reason, f"unparseable schedule {cron_job.spec.schedule!r}: {error}"))
        return planner.plan(unsaid, final=bool(surplus or unsaid))
    if following is not None:
        planner.after(following - now)
    due = _due(current, latest)
    if surplus or unsaid:
        return planner.plan(unsaid, final=due is None)
    return _start(cron_job, told.running, due, planner, now) if due is not None else planner.plan()


def upcoming(cron_job: batch.CronJob, now: datetime) -> datetime | None:
    """When its schedule comes next; None if it never does, or is not understood."""
    try:
        return around(cron_job.spec.schedule, _zone(cron_job), now)[1]
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def _tell_apart(jobs: Sequence[batch.Job]) -> _Told:
    told = _Told()
    for job in jobs:
        for condition in reversed(job.status.conditions or ()):     # that it has ended comes last
            if condition.status == "True" and condition.type in _ENDED:
                (told.complete if condition.type == "Complete" else told.failed).append(job)
                break
        else:
            told.running.append(job)
    return told


def _status(
    cron_job: batch.CronJob, jobs: Sequence[batch.Job], told: _Told, planner: Planner
) -> batch.CronJobStatus:
    """Which jobs run, when the last was due, when one last succeeded: all of it as the jobs themselves say."""
    old = cron_job.status
    known = {reference.uid: reference for reference in old.active} if old.active else {}
    if known:
        _tell_of_ended(known, jobs, planner)
    last = old.lastScheduleTime
    for job in jobs:
        due = job.metadata.annotations.get(SCHEDULED) if job.metadata.annotations else None
        if due and due != last:
            due = _in_utc(due)
            if last is None or due > last:
                last = due
    success = old.lastSuccessfulTime
    for job in told.complete:
        completed = job.status.completionTime
        if completed and (success is None or completed > success):
            success = completed
    return batch.CronJobStatus(
        active=[known.get(job.metadata.uid) or _reference(job) for job in told.running] if told.running else None,
        lastScheduleTime=last,
        lastSuccessfulTime=success,
    )


def _tell_of_ended(known: dict[Any, core.ObjectReference], jobs: Sequence[batch.Job], planner: Planner) -> None:
    """Events about jobs that the status still calls active."""
    by_uid = {job.metadata.uid: job for job in jobs}
    for uid, reference in known.items():
        job = by_uid.get(uid)
        ended = _ended(job) if job is not None else None
        if job is None:
            planner.do(Emit(NORMAL, "MissingJob", f"Active job went missing: {reference.name}"))
        elif ended is not None:
            text = f"Saw completed job: {reference.name}, condition: {ended.type}"
            planner.do(Emit(NORMAL, "SawCompletedJob", text))


@lru_cache(maxsize=4096)
def _in_utc(stamp: str) -> str:
    return format_time(parse_time(stamp))


def _ended(job: batch.Job) -> batch.JobCondition | None:
    for condition in job.status.conditions or ():
        if condition.status == "True" and condition.type in _ENDED:
            return condition
    return None


def _reference(job: batch.Job) -> core.ObjectReference:
    data = job.metadata
    return core.ObjectReference(
        apiVersion="batch/v1", kind="Job", name=data.name, namespace=data.namespace, uid=data.uid,
        resourceVersion=data.resourceVersion,
    )  # fmt: skip


def _forgotten(cron_job: batch.CronJob, told: _Told) -> list[Delete]:
    """The oldest finished jobs beyond what is kept."""
    spec = cron_job.spec
    found: list[Delete] = []
    for jobs, limit, default in (
        (told.complete, spec.successfulJobsHistoryLimit, 3),
        (told.failed, spec.failedJobsHistoryLimit, 1),
    ):
        kept = default if limit is None else limit
        if len(jobs) <= kept:
            continue
        staying = [job for job in jobs if job.metadata.deletionTimestamp is None]
        staying.sort(key=lambda job: (job.status.startTime or "", job.metadata.name or ""))
        found += [_delete(job) for job in staying[: max(0, len(staying) - kept)]]
    return found


def _due(cron_job: batch.CronJob, latest: datetime | None) -> datetime | None:
    """The last time that a job should have started and has not."""
    since = cron_job.status.lastScheduleTime or cron_job.metadata.creationTimestamp
    if latest is None or (since and latest <= parse_time(since)):
        return None
    return latest


def _start(
    cron_job: batch.CronJob, running: Sequence[batch.Job], due: datetime, planner: Planner, now: datetime
) -> Plan:
    deadline = cron_job.spec.startingDeadlineSeconds
    if deadline is not None and due + timedelta(seconds=deadline) < now:
        when = due.strftime("%a, %d %b %Y %H:%M:%S +0000")
        planner.do(Emit(WARNING, "MissSchedule", f"Missed scheduled time to start a job: {when}"))
        # Noted, so that it is missed only once.
        status = msgspec.structs.replace(cron_job.status, lastScheduleTime=format_time(due))
        return planner.plan(msgspec.structs.replace(cron_job, status=status))
    if running and cron_job.spec.concurrencyPolicy == "Forbid":
        text = "Not starting job because prior execution is running and concurrency policy is Forbid"
        return Plan((Emit(NORMAL, "JobAlreadyActive", text),), again=planner.again)
    if running and cron_job.spec.concurrencyPolicy == "Replace":
        leaving = [job for job in running if job.metadata.deletionTimestamp is None]
        planner.do(*map(_delete, leaving))
    planner.do(
        Create(
            _job(cron_job, due),
            then=Emit(NORMAL, "SuccessfulCreate", "Created job {name}"),
            otherwise=Emit(WARNING, "FailedCreate", "Error creating job: {error}"),
        )
    )
    return planner.plan()


def _job(cron_job: batch.CronJob, due: datetime) -> batch.Job:
    template = cron_job.spec.jobTemplate
    data = template.metadata or meta.ObjectMeta()
    stamp = due.astimezone(_zone(cron_job)).isoformat().replace("+00:00", "Z")
    return batch.Job(
        metadata=meta.ObjectMeta(
            name=f"{cron_job.metadata.name}-{int(due.timestamp()) // 60}",
            namespace=cron_job.metadata.namespace,
            labels=data.labels,
            annotations={**(data.annotations or {}), SCHEDULED: stamp},
            ownerReferences=[controller_reference(cron_job)],
        ),
        spec=template.spec or batch.JobSpec(),
    )


def _zone(cron_job: batch.CronJob) -> tzinfo:
    name = cron_job.spec.timeZone
    return UTC if not name or name == "UTC" else ZoneInfo(name)


def _delete(job: batch.Job) -> Delete:
    data = job.metadata
    return Delete(
        batch.Job,
        data.namespace or "",
        data.name or "",
        data.uid or "",
        propagation="Background",
        then=Emit(NORMAL, "SuccessfulDelete", "Deleted job {name}"),
        otherwise=Emit(WARNING, "FailedDelete", "Deleted job: {error}"),
    )


