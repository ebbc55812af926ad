"""The cron job controller: what is due, what already runs, what may be forgotten.

Source: https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from pinnace.api.batch import v1 as batch
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.api.times import format as format_time
from pinnace.api.times import parse as parse_time
from pinnace.client.informer import Informers
from pinnace.controllers.cronjob.schedule import Schedule, parse
from pinnace.controllers.owners import CONTROLLER, Owned, controller_reference, index_by_controller
from pinnace.controllers.plan import NORMAL, WARNING, Create, Delete, Emit, Plan, Planner, Ref

SCHEDULED = "batch.kubernetes.io/cronjob-scheduled-timestamp"


@dataclass(frozen=True, slots=True)
class Seen:
    cron_job: batch.CronJob
    jobs: tuple[batch.Job, ...]


class CronJobController:
    name = "cronjob"

    def __init__(self, informers: Informers) -> None:
        self.primary = informers.of(batch.CronJob)
        self._jobs = informers.of(batch.Job)
        index_by_controller(self._jobs)
        self.watches = (Owned(self._jobs, "CronJob", "batch"),)

    def observe(self, ref: Ref) -> Seen | None:
        cron_job = self.primary.cache.get(*ref)
        if cron_job is None:
            return None
        jobs = self._jobs.cache.by_index(CONTROLLER, cron_job.metadata.uid or "")
        return Seen(cron_job, tuple(jobs))

    def decide(self, seen: Seen, now: datetime) -> Plan:
        return decide(seen, now)


def decide(seen: Seen, now: datetime) -> Plan:
    """The status first (it is what remembers the last start), then history, then what is due."""
    cron_job = seen.cron_job
    planner = Planner()
    status = _status(seen, planner)
    if status != cron_job.status:
        return planner.plan(msgspec.structs.replace(cron_job, status=status))
    planner.do(*_forgotten(cron_job, seen.jobs))
    if cron_job.metadata.deletionTimestamp is not None or cron_job.spec.suspend:
        return planner.plan()
    try:
        schedule = parse(cron_job.spec.schedule, _zone(cron_job))
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        reason = "UnparseableSchedule" if isinstance(error, ValueError) else "UnknownTimeZone"
        return Plan((Emit(WARNING, reason, f"unparseable schedule {cron_job.spec.schedule!r}: {error}"),))
    following = schedule.after(now)
    if following is not None:
        planner.after((following - now).total_seconds())
    if planner.actions:
        return planner.plan()
    due = _due(cron_job, schedule, now)
    return _start(cron_job, seen.jobs, due, planner, now) if due is not None else planner.plan()


def upcoming(cron_job: batch.CronJob, now: datetime) -> datetime | None:
    """When its schedule comes next; None if it never does, or is not understood."""
    try:
        return parse(cron_job.spec.schedule, _zone(cron_job)).after(now)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def _status(seen: Seen, planner: Planner) -> batch.CronJobStatus:
    """Which jobs run, when the last was due, when one last succeeded: all of it as the jobs themselves say."""
    cron_job = seen.cron_job
    old = cron_job.status
    running = [job for job in seen.jobs if _ended(job) is None]
    known = {reference.uid: reference for reference in old.active or ()}
    jobs = {job.metadata.uid: job for job in seen.jobs}
    for uid, reference in known.items():
        job = jobs.get(uid)
        ended = _ended(job) if job is not None else None
        if job is None:
            planner.do(Emit(NORMAL, "MissingJob", f"Active job went missing: {reference.name}"))
        elif ended is not None:
            text = f"Saw completed job: {reference.name}, condition: {ended.type}"
            planner.do(Emit(NORMAL, "SawCompletedJob", text))
    last = old.lastScheduleTime
    success = old.lastSuccessfulTime
    for job in seen.jobs:
        due = (job.metadata.annotations or {}).get(SCHEDULED)
        if due:
            due = format_time(parse_time(due))
            last = max(last or due, due)
        if job.status.completionTime and (ended := _ended(job)) is not None and ended.type == "Complete":
            success = max(success or job.status.completionTime, job.status.completionTime)
    return batch.CronJobStatus(
        active=[known.get(job.metadata.uid) or _reference(job) for job in running] or None,
        lastScheduleTime=last,
        lastSuccessfulTime=success,
    )


def _ended(job: batch.Job) -> batch.JobCondition | None:
    conditions = job.status.conditions or ()
    return next((c for c in conditions if c.type in ("Complete", "Failed") and c.status == "True"), None)


def _reference(job: batch.Job) -> core.ObjectReference:
    data = job.metadata
    return core.ObjectReference(
        apiVersion="batch/v1", kind="Job", name=data.name, namespace=data.namespace, uid=data.uid,
        resourceVersion=data.resourceVersion,
    )  # fmt: skip


def _forgotten(cron_job: batch.CronJob, jobs: Sequence[batch.Job]) -> list[Delete]:
    """The oldest finished jobs beyond what is kept."""
    spec = cron_job.spec
    found: list[Delete] = []
    for type, limit in (("Complete", spec.successfulJobsHistoryLimit), ("Failed", spec.failedJobsHistoryLimit)):
        kept = {"Complete": 3, "Failed": 1}[type] if limit is None else limit
        ended = [job for job in jobs if (c := _ended(job)) is not None and c.type == type]
        ended = [job for job in ended if job.metadata.deletionTimestamp is None]
        ended.sort(key=lambda job: (job.status.startTime or "", job.metadata.name or ""))
        found += [_delete(job) for job in ended[: max(0, len(ended) - kept)]]
    return found


def _due(cron_job: batch.CronJob, schedule: Schedule, now: datetime) -> datetime | None:
    """The last time that a job should have started and has not."""
    since = cron_job.status.lastScheduleTime or cron_job.metadata.creationTimestamp
    latest = schedule.latest(now)
    if latest is None or (since and latest <= parse_time(since)):
        return None
    return latest


def _start(
    cron_job: batch.CronJob, jobs: Sequence[batch.Job], due: datetime, planner: Planner, now: datetime
) -> Plan:
    deadline = cron_job.spec.startingDeadlineSeconds
    if deadline is not None and due + timedelta(seconds=deadline) < now:
        when = due.strftime("%a, %d %b %Y %H:%M:%S +0000")
        planner.do(Emit(WARNING, "MissSchedule", f"Missed scheduled time to start a job: {when}"))
        # Noted, so that it is missed only once.
        status = msgspec.structs.replace(cron_job.status, lastScheduleTime=format_time(due))
        return planner.plan(msgspec.structs.replace(cron_job, status=status))
    running = [job for job in jobs if _ended(job) is None]
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


