"""CronJobs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from pinnace.api.batch import v1 as batch
from pinnace.api.fields import FieldError, invalid, not_supported, required
from pinnace.api.kinds import kind_of
from pinnace.apiserver.resource import Column, Resource
from pinnace.apiserver.resources.columns import (
    AGE,
    NAME,
    NONE,
    column,
    format_selector,
    since,
    template_columns,
)
from pinnace.apiserver.resources.jobs import default_failure_policy, validate_job_spec
from pinnace.apiserver.resources.podspec.defaults import default_pod_spec
from pinnace.apiserver.resources.podspec.warnings import of_template
from pinnace.apiserver.resources.strategy import (
    keep_status,
    non_negative_counts,
    reset_status,
    status_part,
)

# A job's name gets eleven more characters: the scheduled time.
MAX_NAME = 52
_DESCRIPTORS = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
_MONTHS = {
    "jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6, "jul": 7, "aug": 8, "sep": 9, "oct": 10, "nov": 11,
    "dec": 12,
}  # fmt: skip
_DAYS = {"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6}
_EVERY = re.compile(r"@every (\d+(\.\d+)?(h|ms|m|s|us|ns))+\Z")


def default(cron: batch.CronJob) -> None:
    spec = cron.spec
    job = spec.jobTemplate.spec
    default_pod_spec(job.template.spec)
    if job.podFailurePolicy is not None:
        default_failure_policy(job.podFailurePolicy)
    if not spec.concurrencyPolicy:
        spec.concurrencyPolicy = "Allow"
    if spec.suspend is None:
        spec.suspend = False
    if spec.successfulJobsHistoryLimit is None:
        spec.successfulJobsHistoryLimit = 3
    if spec.failedJobsHistoryLimit is None:
        spec.failedJobsHistoryLimit = 1


def validate(cron: batch.CronJob) -> Iterator[FieldError]:
    yield from _spec(cron.spec)
    if len(cron.metadata.name or "") > MAX_NAME:
        yield invalid("metadata.name", cron.metadata.name, "must be no more than 52 characters")


def _spec(spec: batch.CronJobSpec) -> Iterator[FieldError]:
    if not spec.schedule:
        yield required("spec.schedule")
    else:
        why = schedule_error(spec.schedule)
        if why:
            yield invalid("spec.schedule", spec.schedule, why)
        if "TZ" in spec.schedule:
            yield invalid(
                "spec.schedule", spec.schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
            )
    yield from non_negative_counts(
        spec, "spec", "startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"
    )
    if spec.timeZone is not None:
        yield from _time_zone(spec.timeZone)
    policy = spec.concurrencyPolicy
    if not policy:
        yield required("spec.concurrencyPolicy")
    elif policy not in ("Allow", "Forbid", "Replace"):
        yield not_supported("spec.concurrencyPolicy", policy, ("Allow", "Forbid", "Replace"))
    yield from validate_job_spec(spec.jobTemplate.spec, "spec.jobTemplate.spec")


def _time_zone(zone: str) -> Iterator[FieldError]:
    if not zone:
        yield invalid("spec.timeZone", zone, "timeZone must be nil or non-empty string")
    elif zone.lower() == "local":
        yield invalid(
            "spec.timeZone", zone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"
        )
    elif not re.match(r"[A-Za-z_][-+A-Za-z0-9_/]*\Z", zone):
        yield invalid("spec.timeZone", zone, f"unknown time zone {zone}")


def schedule_error(text: str) -> str:
    """Why a schedule is none; empty if it is one. The scheduler's own parser is the controller's."""
    if text.startswith("@"):
        return "" if text in _DESCRIPTORS or _EVERY.match(text) else f"unrecognized descriptor: {text}"
    parts = [part for part in text.split() if not part.startswith(("TZ=", "CRON_TZ="))]
    if len(parts) != 5:
        return f"expected exactly 5 fields, found {len(parts)}: [{' '.join(parts)}]"
    for part, (low, high) in zip(parts, _RANGES, strict=True):
        for piece in part.split(","):
            why = _piece_error(piece, low, high)
            if why:
                return why
    return ""


def _piece_error(piece: str, low: int, high: int) -> str:
    span, slash, step = piece.partition("/")
    if slash and (not step.isdigit() or int(step) == 0):
        return f"failed to parse int from {step}: strconv.Atoi: parsing \"{step}\": invalid syntax"
    if span in ("*", "?"):
        return ""
    start, dash, end = span.partition("-")
    first, last = _number(start, high), _number(end, high) if dash else None
    if first is None or (dash and last is None):
        bad = start if first is None else end
        return f"failed to parse int from {bad}: strconv.Atoi: parsing \"{bad}\": invalid syntax"
    if first < low:
        return f"beginning of range ({first}) below minimum ({low}): {piece}"
    top = last if last is not None else first
    if top > high:
        return f"end of range ({top}) above maximum ({high}): {piece}"
    if first > top:
        return f"beginning of range ({first}) beyond end of range ({top}): {piece}"
    return ""


def _number(text: str, high: int) -> int | None:
    if text.isdigit():
        return int(text)
    names = _MONTHS if high == 12 else _DAYS if high == 6 else {}
    return names.get(text.lower())


def _last(cron: batch.CronJob, now: datetime) -> str:
    return since(cron.status.lastScheduleTime, now) if cron.status.lastScheduleTime else NONE


def _suspend(cron: batch.CronJob) -> str:
    return {True: "True", False: "False", None: "<unset>"}[cron.spec.suspend]


COLUMNS: tuple[Column[Any], ...] = (
    NAME,
    column("Schedule", lambda c: c.spec.schedule, "When it runs."),
    column("Timezone", lambda c: c.spec.timeZone or NONE, "Whose clock counts."),
    column("Suspend", _suspend, "Whether it is held back."),
    column("Active", lambda c: len(c.status.active or ()), "Jobs that run now.", type="integer"),
    Column("Last Schedule", _last, description="When it ran last."),
    AGE,
    *template_columns(
        lambda c: c.spec.jobTemplate.spec.template, lambda c: format_selector(c.spec.jobTemplate.spec.selector)
    ),
)
CRON_JOB: Resource[batch.CronJob] = Resource(
    kind=kind_of(batch.CronJob),
    default=default,
    prepare_create=reset_status,
    prepare_update=keep_status,
    validate_create=validate,
    validate_update=lambda new, _: _spec(new.spec),
    warnings=of_template("spec.jobTemplate.spec.template"),
    columns=COLUMNS,
    subresources=(status_part(),),
)
RESOURCES = (CRON_JOB,)
