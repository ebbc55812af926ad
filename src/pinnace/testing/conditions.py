"""What `wait_for` can wait for: the forms of `kubectl wait --for`, and what a rollout lacks. Pure.

A condition is a function of the object, or of None where there is none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pinnace.api import codec, paths
from pinnace.api.apps import v1 as apps

Condition = Callable[[Any], bool]

_SINGLE_EQUALS = re.compile(r"(?<![=!<>])=(?!=)")


class RolloutFailed(Exception):
    """A Deployment did not get on within its progress deadline."""


def parse(text: str) -> Condition:
    """"Ready", "condition=Ready", "condition=Ready=False", "jsonpath={.status.phase}=Running", "jsonpath={.spec.x}",
    "create" or "delete". Raises ValueError."""
    if text == "delete":
        return lambda obj: obj is None
    if text == "create":
        return lambda obj: obj is not None
    if text.startswith("jsonpath="):
        return _jsonpath(text.removeprefix("jsonpath="))
    name, _, status = text.removeprefix("condition=").partition("=")
    if not name or "{" in text:
        raise ValueError(
            f"{text!r} cannot be waited for: condition=NAME[=STATUS], jsonpath={{PATH}}[=VALUE], create, delete "
            "or a function can"
        )
    return _condition(name.lower(), (status or "true").lower())


def _condition(name: str, status: str) -> Condition:
    def holds(obj: Any) -> bool:
        if obj is None:
            return False
        own = getattr(obj, "status", None)
        for each in getattr(own, "conditions", None) or ():
            if (each.type or "").lower() != name:
                continue
            # What was observed of an earlier generation says nothing of this one.
            observed = getattr(each, "observedGeneration", None) or getattr(own, "observedGeneration", None)
            if observed is not None and observed < (codec.metadata(obj).generation or 0):
                return False
            return (each.status or "").lower() == status
        return False

    return holds


def _jsonpath(text: str) -> Condition:
    parts = _SINGLE_EQUALS.split(text, maxsplit=1)
    value = parts[1].strip("'\"") if len(parts) == 2 else None
    if value == "":
        raise ValueError(f"jsonpath={text}: there is no value after the equal sign")
    template = paths.parse(paths.relaxed(parts[0].strip("'\"")))

    def holds(obj: Any) -> bool:
        found = template.values(codec.to_dict(obj)) if obj is not None else []
        if value is None:
            return bool(found)
        if len(found) > 1:
            raise ValueError(f"jsonpath={text} finds more than one value")
        return bool(found) and paths.shown(found[0]).strip() == value.strip()

    return holds


def rollout_lacks(obj: Any) -> str:
    """What a rollout still waits for, as `kubectl rollout status` puts it; empty if it is done.

    Raises RolloutFailed for a Deployment past its deadline, ValueError for what does not roll out."""
    status, generation = obj.status, codec.metadata(obj).generation or 0
    if not isinstance(obj, apps.Deployment | apps.DaemonSet | apps.StatefulSet):
        raise ValueError(f"{type(obj).__name__} has no rollout")
    strategy = obj.spec.strategy if isinstance(obj, apps.Deployment) else obj.spec.updateStrategy
    if not isinstance(obj, apps.Deployment) and (strategy.type or "RollingUpdate") != "RollingUpdate":
        raise ValueError(f"a rollout's status is known of the strategy RollingUpdate only, not of {strategy.type}")
    if (status.observedGeneration or 0) < generation:
        return "its update to be observed"
    match obj:
        case apps.Deployment():
            return _deployment_lacks(obj)
        case apps.DaemonSet():
            return _daemon_set_lacks(obj)
        case _:
            return _stateful_set_lacks(obj)


def _deployment_lacks(obj: apps.Deployment) -> str:
    status, wanted = obj.status, 1 if obj.spec.replicas is None else obj.spec.replicas
    for each in status.conditions or ():
        if each.type == "Progressing" and each.reason == "ProgressDeadlineExceeded":
            raise RolloutFailed(f'deployment "{codec.metadata(obj).name}" exceeded its progress deadline')
    total, updated, available = status.replicas or 0, status.updatedReplicas or 0, status.availableReplicas or 0
    if updated < wanted:
        return f"{updated} of {wanted} replicas are updated"
    if total > updated:
        return f"{total - updated} old replicas still have to go"
    if available < updated:
        return f"{available} of {updated} updated replicas are available"
    return ""


def _daemon_set_lacks(obj: apps.DaemonSet) -> str:
    wanted = obj.status.desiredNumberScheduled or 0
    updated, available = obj.status.updatedNumberScheduled or 0, obj.status.numberAvailable or 0
    if updated < wanted:
        return f"{updated} of {wanted} pods are updated"
    if available < wanted:
        return f"{available} of {wanted} updated pods are available"
    return ""


def _stateful_set_lacks(obj: apps.StatefulSet) -> str:
    status, wanted = obj.status, 1 if obj.spec.replicas is None else obj.spec.replicas
    ready, updated = status.readyReplicas or 0, status.updatedReplicas or 0
    if ready < wanted:
        return f"{ready} of {wanted} pods are ready"
    rolling = obj.spec.updateStrategy.rollingUpdate
    partition = (rolling.partition if rolling is not None else 0) or 0
    if partition:
        return "" if updated >= wanted - partition else f"{updated} of {wanted - partition} pods are updated"
    if status.updateRevision != status.currentRevision:
        return f"{updated} of {wanted} pods are updated"
    return ""
