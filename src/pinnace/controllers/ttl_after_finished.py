"""Finished jobs go when their time to live is over. Source: KEP-592."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from pinnace.api.batch import v1 as batch
from pinnace.api.times import parse as parse_time
from pinnace.client.informer import Event, Informers
from pinnace.controllers.plan import NOTHING, Delete, Plan, Ref, Watch


class Seen(msgspec.Struct, frozen=True):
    job: batch.Job


class TtlAfterFinishedController:
    name = "ttl-after-finished"

    def __init__(self, informers: Informers) -> None:
        self.primary = informers.of(batch.Job)
        self.watches: tuple[Watch, ...] = ()

    def observe(self, ref: Ref) -> Seen | None:
        job = self.primary.cache.find(ref)
        if job is None or job.spec.ttlSecondsAfterFinished is None:
            return None
        return Seen(job)

    def concerns(self, event: Event[batch.Job]) -> bool:
        return event.new is not None and event.new.spec.ttlSecondsAfterFinished is not None

    def decide(self, seen: Seen, now: datetime) -> Plan:
        return decide(seen, now)


def decide(seen: Seen, now: datetime) -> Plan:
    job = seen.job
    seconds = job.spec.ttlSecondsAfterFinished
    finished = _finished_at(job)
    if seconds is None or finished is None or job.metadata.deletionTimestamp is not None:
        return NOTHING
    left = finished + timedelta(seconds=seconds) - now
    if left > timedelta():
        return Plan(again=left)
    data = job.metadata
    return Plan((
        Delete(
            batch.Job, data.namespace or "", data.name or "", data.uid or "",
            propagation="Foreground", resource_version=data.resourceVersion or "",
        ),
    ))  # fmt: skip


def _finished_at(job: batch.Job) -> datetime | None:
    for condition in (job.status.conditions if job.status is not None else None) or ():
        if condition.type in ("Complete", "Failed") and condition.status == "True":
            return parse_time(condition.lastTransitionTime) if condition.lastTransitionTime else None
    return None
