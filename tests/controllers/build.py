"""Objects for tests of pure decisions, and a little server that applies a plan's actions to plain lists."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

import msgspec

from pinnace.api.apps import v1 as apps
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.controllers.plan import Create, Delete, Emit, Patch, Plan, Update

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
_numbers = itertools.count()


def ready(status: str = "True", since: str = "2026-01-01T11:00:00Z") -> core.PodCondition:
    return core.PodCondition(type="Ready", status=status, lastTransitionTime=since)


def pod(
    name: str,
    *,
    owner: Any = None,
    phase: str = "Running",
    is_ready: bool = True,
    labels: dict[str, str] | None = None,
    node: str = "n1",
    ip: str = "",
    deleted: bool = False,
    annotations: dict[str, str] | None = None,
    finalizers: list[str] | None = None,
    created: str = "2026-01-01T11:00:00Z",
) -> core.Pod:
    owners = None
    if owner is not None:
        kind = type(owner).__name__
        owners = [meta.OwnerReference(
            apiVersion=owner.apiVersion, kind=kind, name=owner.metadata.name, uid=owner.metadata.uid, controller=True
        )]  # fmt: skip
    return core.Pod(
        metadata=meta.ObjectMeta(
            name=name,
            namespace="default",
            uid=f"uid-{name}",
            labels=labels if labels is not None else {"app": "web"},
            annotations=annotations,
            finalizers=finalizers,
            ownerReferences=owners,
            creationTimestamp=created,
            deletionTimestamp="2026-01-01T11:30:00Z" if deleted else None,
        ),
        spec=core.PodSpec(containers=[core.Container(name="web")], nodeName=node or None),
        status=core.PodStatus(
            phase=phase,
            conditions=[ready()] if is_ready and phase == "Running" else None,
            podIP=ip or None,
            podIPs=[core.PodIP(ip=ip)] if ip else None,
        ),
    )


def replica_set(replicas: int, **status: Any) -> apps.ReplicaSet:
    return apps.ReplicaSet(
        metadata=meta.ObjectMeta(name="web", namespace="default", uid="rs-1", generation=1),
        spec=apps.ReplicaSetSpec(
            replicas=replicas,
            selector=meta.LabelSelector(matchLabels={"app": "web"}),
            template=core.PodTemplateSpec(
                metadata=meta.ObjectMeta(labels={"app": "web"}),
                spec=core.PodSpec(containers=[core.Container(name="web", image="i")]),
            ),
        ),
        status=apps.ReplicaSetStatus(**status) if status else apps.ReplicaSetStatus(),
    )


def apply(plan: Plan, objects: dict[tuple[type, str], Any]) -> int:
    """Perform a plan on objects by type and name; the number of writes."""
    writes = 0
    for action in plan.actions:
        match action:
            case Emit():
                continue
            case Create(obj):
                name = obj.metadata.name or f"{obj.metadata.generateName}{next(_numbers)}"
                data = msgspec.structs.replace(
                    obj.metadata, name=name, uid=f"uid-{name}", generation=1,
                    creationTimestamp="2026-01-01T12:00:00Z",
                )  # fmt: skip
                objects[type(obj), name] = msgspec.structs.replace(obj, metadata=data)
            case Update(obj):
                objects[type(obj), obj.metadata.name] = obj
            case Delete(kind, _, name):
                objects.pop((kind, name), None)
            case Patch(kind, _, name, patch):
                raw = msgspec.to_builtins(objects[kind, name])
                objects[kind, name] = msgspec.convert(_merge(raw, patch), kind)
        writes += 1
    if plan.status is not None:
        objects[type(plan.status), plan.status.metadata.name] = plan.status
        writes += 1
    return writes


def _merge(old: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    out = dict(old or {})
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            field = key.partition("/")[2]
            out[field] = [item for item in out[field] if item not in value]
        elif key == "ownerReferences" and value and "$patch" in value[0]:
            out[key] = [item for item in out[key] if item["uid"] != value[0]["uid"]]
        else:
            out[key] = _merge(out.get(key), value)
    return out
