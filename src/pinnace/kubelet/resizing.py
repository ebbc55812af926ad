"""Resources of a running pod that change (KEP-1287): what is asked for, what is granted, what is in force. Pure.

The node grants a change when it fits; until then the pod goes on with what it had (`granted_pod`). What was granted is
then brought into force container by container: in place, or where its `resizePolicy` says so by a restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from pinnace.api import codec
from pinnace.api.core import v1 as core
from pinnace.kubelet.policy import amount, init_containers, is_sidecar, pod_request

RESIZED = ("cpu", "memory")

Allotment = Mapping[str, core.ResourceRequirements]
"""Resources by container name."""


class Progress(msgspec.Struct, frozen=True, gc=False):
    """What the pod's status says of a resize."""

    pending: tuple[str, str] | None = None      # reason and message: Infeasible or Deferred
    fault: str = ""                             # why what was granted could not be brought into force
    under_way: bool = False


def resizable(spec: core.PodSpec) -> Sequence[core.Container]:
    return [*(c for c in init_containers(spec) if is_sidecar(c)), *spec.containers]


def wanted(spec: core.PodSpec) -> dict[str, core.ResourceRequirements]:
    return {c.name: c.resources for c in resizable(spec)}


def reported(pod: core.Pod) -> dict[str, core.ResourceRequirements]:
    """What was in force when the status was written; it is the grant that a restarted kubelet begins with."""
    found = wanted(pod.spec)
    for status in (*(pod.status.initContainerStatuses or ()), *(pod.status.containerStatuses or ())):
        if status.name in found and status.resources is not None:
            found[status.name] = status.resources
    return found


def granted_pod(pod: core.Pod, grant: Allotment) -> core.Pod:
    """The pod as the node runs it."""
    if all(grant.get(c.name, c.resources) == c.resources for c in resizable(pod.spec)):
        return pod

    def with_grant(container: core.Container) -> core.Container:
        return msgspec.structs.replace(container, resources=grant.get(container.name, container.resources))

    spec = msgspec.structs.replace(pod.spec, containers=[with_grant(c) for c in pod.spec.containers])
    if pod.spec.initContainers:
        spec.initContainers = [with_grant(c) for c in pod.spec.initContainers]
    return msgspec.structs.replace(pod, spec=spec)


def obstacle(
    pod: core.Pod, others: Iterable[core.Pod], allocatable: Mapping[str, Any]
) -> tuple[str, str] | None:
    """Why the node cannot grant what the pod asks for: never (Infeasible), or not now (Deferred)."""
    running = list(others)
    for name in RESIZED:
        unit = 1000 if name == "cpu" else 1
        asked, capacity = pod_request(pod.spec, name), amount(allocatable.get(name))
        used = sum(pod_request(other.spec, name) for other in running)
        words = f"{name}, requested: {round(asked * unit)}"
        if asked > capacity + 1e-6:
            return "Infeasible", f"Node didn't have enough capacity: {words}, capacity: {round(capacity * unit)}"
        if asked + used > capacity + 1e-6:
            return "Deferred", (
                f"Node didn't have enough resource: {words}, used: {round(used * unit)}, "
                f"capacity: {round(capacity * unit)}"
            )
    return None


def needs_restart(
    container: core.Container, before: core.ResourceRequirements, after: core.ResourceRequirements
) -> bool:
    """Whether one of the resources that change is declared to be changed by a restart only."""
    restarting = [p.resourceName for p in container.resizePolicy or () if p.restartPolicy == "RestartContainer"]
    return any(
        (getattr(before, words) or {}).get(name) != (getattr(after, words) or {}).get(name)
        for name in restarting for words in ("requests", "limits")
    )  # fmt: skip


def told(pod: core.Pod, grant: Allotment, error: str = "") -> str:
    """The details that events about a resize carry."""
    containers = [{"name": name, "resources": codec.to_dict(resources)} for name, resources in grant.items()]
    details: dict[str, Any] = {"containers": containers, "generation": pod.metadata.generation}
    return codec.encode(details | ({"error": error} if error else {})).decode()
