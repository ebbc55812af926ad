"""What an object says of itself about what it waits for: conditions, containers that do not run, schedules. Pure;
every line is taken from the object."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pinnace.api.apps import v1 as apps
from pinnace.api.batch import v1 as batch
from pinnace.api.core import v1 as core

_MOST_LINES = 20
_MOST_TEXT = 300
_DEFAULT_SCHEDULER = "default-scheduler"


def state(obj: Any) -> list[str]:
    """What is worth knowing of it, at most 20 lines; nothing if all is well."""
    lines = [*_deletion(obj)]
    match obj:
        case core.Pod():
            lines += _pod(obj)
        case apps.Deployment():
            lines += _deployment(obj)
        case batch.Job():
            lines += _job(obj)
        case batch.CronJob():
            lines += _cron_job(obj)
    return [_line(text) for text in lines[:_MOST_LINES]]


def waits_for_node(pod: core.Pod) -> bool:
    """The scheduler has it before it: it has no node, wants one now, and from our scheduler."""
    ended = pod.status.phase in ("Succeeded", "Failed") or pod.metadata.deletionTimestamp
    ours = (pod.spec.schedulerName or _DEFAULT_SCHEDULER) == _DEFAULT_SCHEDULER
    return not (pod.spec.nodeName or ended or pod.spec.schedulingGates) and ours


def _deletion(obj: Any) -> Iterator[str]:
    meta = obj.metadata
    if meta.deletionTimestamp:
        held = f"; it is held by the finalizers {', '.join(meta.finalizers)}" if meta.finalizers else ""
        yield f"is being deleted, due at {meta.deletionTimestamp}{held}"


def _pod(pod: core.Pod) -> Iterator[str]:
    spec, status = pod.spec, pod.status
    if not spec.nodeName:
        if spec.schedulingGates:
            yield f"waits for its scheduling gates: {', '.join(gate.name for gate in spec.schedulingGates)}"
        elif (spec.schedulerName or _DEFAULT_SCHEDULER) != _DEFAULT_SCHEDULER:
            yield f"waits for the scheduler {spec.schedulerName}"
    if status.phase == "Failed" and status.reason:
        yield f"failed: {_reason(status.reason, status.message)}"
    for found in (*(status.initContainerStatuses or ()), *(status.containerStatuses or ())):
        yield from _container(found, ended=status.phase == "Succeeded")


def _container(found: core.ContainerStatus, *, ended: bool) -> Iterator[str]:
    now, last = found.state, found.lastState.terminated
    if now.waiting is not None:
        yield f"container {found.name} waits: {_reason(now.waiting.reason, now.waiting.message)}"
    elif now.terminated is not None and (now.terminated.exitCode or not ended):
        yield f"container {found.name} has ended with code {_exit(now.terminated)}"
    elif now.running is not None and not found.ready:
        yield f"container {found.name} runs but is not ready"
    if found.restartCount and last is not None:
        times = f"{found.restartCount} times"
        yield f"container {found.name} was restarted {times}; before, it ended with code {_exit(last)}"


def _exit(ended: core.ContainerStateTerminated) -> str:
    return f"{ended.exitCode} ({_reason(ended.reason, ended.message)})"


def _deployment(deployment: apps.Deployment) -> Iterator[str]:
    spec, status = deployment.spec, deployment.status
    wanted = 1 if spec.replicas is None else spec.replicas
    if spec.paused:
        yield "is paused"
    if (status.observedGeneration or 0) < (deployment.metadata.generation or 0):
        yield "the deployment controller has not seen its newest spec yet"
    if (status.availableReplicas or 0) >= wanted and (status.updatedReplicas or 0) >= wanted:
        return
    yield f"{status.updatedReplicas or 0} of {wanted} pods are up to date, {status.availableReplicas or 0} available"
    yield from _conditions(status.conditions or ())


def _job(job: batch.Job) -> Iterator[str]:
    status = job.status
    if job.spec.suspend:
        yield "is suspended"
    if not status.completionTime:
        yield f"pods: {status.active or 0} active, {status.succeeded or 0} succeeded, {status.failed or 0} failed"
    yield from _conditions(condition for condition in status.conditions or () if condition.status == "True")


def _cron_job(cron_job: batch.CronJob) -> Iterator[str]:
    status = cron_job.status
    if cron_job.spec.suspend:
        yield "is suspended"
    yield f"last scheduled at {status.lastScheduleTime}" if status.lastScheduleTime else "was never scheduled"
    if status.active:
        yield f"active: {', '.join(job.name or '' for job in status.active)}"


def _conditions(conditions: Iterable[Any]) -> Iterator[str]:
    for condition in conditions:
        yield f"{condition.type} is {condition.status}: {_reason(condition.reason, condition.message)}"


def _reason(reason: str | None, message: str | None) -> str:
    return ": ".join(text for text in (reason, message) if text) or "no reason given"


def _line(text: str) -> str:
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return text if len(text) <= _MOST_TEXT else text[: _MOST_TEXT - 1] + "…"
