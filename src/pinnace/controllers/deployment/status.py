"""A deployment's status: counts, and the conditions Available, Progressing and ReplicaFailure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from pinnace.api.apps import v1 as apps
from pinnace.api.times import format as format_time
from pinnace.api.times import parse as parse_time
from pinnace.controllers.deployment.fenceposts import max_unavailable, replicas_of

AVAILABLE = "NewReplicaSetAvailable"
TIMED_OUT = "ProgressDeadlineExceeded"
PAUSED = "DeploymentPaused"
RESUMED = "DeploymentResumed"

_NO_DEADLINE = 2**31 - 1
Conditions = list[apps.DeploymentCondition]


def has_deadline(deployment: apps.Deployment) -> bool:
    seconds = deployment.spec.progressDeadlineSeconds if deployment.spec is not None else None
    return seconds is not None and seconds != _NO_DEADLINE


def condition(status: apps.DeploymentStatus | None, type: str) -> apps.DeploymentCondition | None:
    for condition in (status.conditions if status is not None else None) or ():
        if condition.type == type:
            return condition
    return None


def set_condition(
    status: apps.DeploymentStatus, type: str, value: str, reason: str, message: str, now: datetime
) -> apps.DeploymentStatus:
    """The status with this condition; unchanged if it holds already for that reason."""
    current = condition(status, type)
    if current is not None and (current.status, current.reason) == (value, reason):
        return status
    stamp = format_time(now)
    kept = current is not None and current.status == value
    new = apps.DeploymentCondition(
        type=type,
        status=value,
        reason=reason,
        message=message,
        lastUpdateTime=stamp,
        lastTransitionTime=current.lastTransitionTime if kept and current is not None else stamp,
    )
    return msgspec.structs.replace(status, conditions=[*_without(status, type), new])


def _without(status: apps.DeploymentStatus, type: str) -> Conditions:
    return [c for c in status.conditions or () if c.type != type]


def is_complete(deployment: apps.Deployment, status: apps.DeploymentStatus) -> bool:
    wanted = replicas_of(deployment)
    return (
        (status.updatedReplicas or 0) == wanted
        and (status.replicas or 0) == wanted
        and (status.availableReplicas or 0) == wanted
        and (status.observedGeneration or 0) >= (deployment.metadata.generation or 0)
    )


def counted(
    deployment: apps.Deployment, new: apps.ReplicaSet | None, sets: Sequence[apps.ReplicaSet], now: datetime
) -> apps.DeploymentStatus:
    """Counts and the condition Available; other conditions as they were."""
    wanted = replicas = ready = available = terminating = 0
    for rs in sets:
        wanted += replicas_of(rs)
        if rs.status is not None:
            replicas += rs.status.replicas or 0
            ready += rs.status.readyReplicas or 0
            available += rs.status.availableReplicas or 0
            terminating += rs.status.terminatingReplicas or 0
    old = deployment.status or apps.DeploymentStatus()
    status = msgspec.structs.replace(
        old,
        observedGeneration=deployment.metadata.generation,
        replicas=replicas or None,
        updatedReplicas=(new.status.replicas if new is not None and new.status is not None else 0) or None,
        readyReplicas=ready or None,
        availableReplicas=available or None,
        unavailableReplicas=max(0, wanted - available) or None,
        terminatingReplicas=terminating,
    )
    if available >= replicas_of(deployment) - max_unavailable(deployment):
        return set_condition(status, "Available", "True", "MinimumReplicasAvailable",
                             "Deployment has minimum availability.", now)
    return set_condition(status, "Available", "False", "MinimumReplicasUnavailable",
                         "Deployment does not have minimum availability.", now)


def paused_or_resumed(deployment: apps.Deployment, now: datetime) -> apps.DeploymentStatus:
    """The status with Progressing set to what pausing and resuming do to it."""
    status = deployment.status or apps.DeploymentStatus()
    if not has_deadline(deployment) or deployment.spec is None:
        return status
    current = condition(status, "Progressing")
    if current is not None and current.reason == TIMED_OUT:
        return status
    was_paused = current is not None and current.reason == PAUSED
    if deployment.spec.paused and not was_paused:
        return set_condition(status, "Progressing", "Unknown", PAUSED, "Deployment is paused", now)
    if not deployment.spec.paused and was_paused:
        return set_condition(status, "Progressing", "Unknown", RESUMED, "Deployment is resumed", now)
    return status


def rolled(
    deployment: apps.Deployment, new: apps.ReplicaSet | None, sets: Sequence[apps.ReplicaSet], now: datetime
) -> apps.DeploymentStatus:
    """The whole status while a rollout goes on or rests."""
    status = counted(deployment, new, sets, now)
    if not has_deadline(deployment):
        status = msgspec.structs.replace(status, conditions=_without(status, "Progressing"))
    else:
        status = _progress(deployment, status, new, now)
    failure = _replica_failure(new, sets)
    if failure is None:
        if condition(status, "ReplicaFailure") is None:
            return status
        return msgspec.structs.replace(status, conditions=_without(status, "ReplicaFailure"))
    return set_condition(status, "ReplicaFailure", failure.status, failure.reason or "", failure.message or "", now)


def _progress(
    deployment: apps.Deployment, status: apps.DeploymentStatus, new: apps.ReplicaSet | None, now: datetime
) -> apps.DeploymentStatus:
    current = condition(status, "Progressing")
    settled = (status.replicas or 0) == (status.updatedReplicas or 0)
    if settled and current is not None and current.reason == AVAILABLE:
        return status
    what = f'ReplicaSet "{new.metadata.name}"' if new is not None else f'Deployment "{deployment.metadata.name}"'
    if is_complete(deployment, status):
        return set_condition(status, "Progressing", "True", AVAILABLE, f"{what} has successfully progressed.", now)
    if _moved(deployment.status or apps.DeploymentStatus(), status):
        started = current.lastTransitionTime if current is not None and current.status == "True" else None
        stamp = format_time(now)
        fresh = apps.DeploymentCondition(
            type="Progressing",
            status="True",
            reason="ReplicaSetUpdated",
            message=f"{what} is progressing.",
            lastUpdateTime=stamp,
            lastTransitionTime=started or stamp,
        )
        return msgspec.structs.replace(status, conditions=[*_without(status, "Progressing"), fresh])
    if _overdue(deployment, current, now):
        return set_condition(status, "Progressing", "False", TIMED_OUT, f"{what} has timed out progressing.", now)
    return status


def _moved(before: apps.DeploymentStatus, after: apps.DeploymentStatus) -> bool:
    def old_pods(status: apps.DeploymentStatus) -> int:
        return (status.replicas or 0) - (status.updatedReplicas or 0)

    return (
        (after.updatedReplicas or 0) > (before.updatedReplicas or 0)
        or old_pods(after) < old_pods(before)
        or (after.readyReplicas or 0) > (before.readyReplicas or 0)
        or (after.availableReplicas or 0) > (before.availableReplicas or 0)
    )


def _overdue(deployment: apps.Deployment, current: apps.DeploymentCondition | None, now: datetime) -> bool:
    if current is None or current.reason == AVAILABLE:
        return False
    if current.reason == TIMED_OUT:
        return True
    left = deadline_left(deployment, current, now)
    return left is not None and left <= timedelta()


def deadline_left(
    deployment: apps.Deployment, current: apps.DeploymentCondition | None, now: datetime
) -> timedelta | None:
    """Until the rollout counts as stuck; None if it never will."""
    seconds = deployment.spec.progressDeadlineSeconds if deployment.spec is not None else None
    if seconds is None or not has_deadline(deployment) or current is None or not current.lastUpdateTime:
        return None
    return parse_time(current.lastUpdateTime) + timedelta(seconds=seconds) - now


def _replica_failure(
    new: apps.ReplicaSet | None, sets: Sequence[apps.ReplicaSet]
) -> apps.ReplicaSetCondition | None:
    for rs in ([new] if new is not None else []) + list(sets):
        for found in (rs.status.conditions if rs.status is not None else None) or ():
            if found.type == "ReplicaFailure":
                return found
    return None
