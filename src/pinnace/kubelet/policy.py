"""Small facts about a pod's specification that several pure parts of the kubelet need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from pinnace.api.core import v1 as core
from pinnace.api.quantity import parse_quantity


def init_containers(spec: core.PodSpec) -> Sequence[core.Container]:
    return spec.initContainers or ()


def all_containers(spec: core.PodSpec) -> Sequence[core.Container]:
    """Init containers first, as they run."""
    return [*spec.initContainers, *spec.containers] if spec.initContainers else spec.containers or ()


def ephemeral_containers(spec: core.PodSpec) -> Sequence[core.Container]:
    """What `kubectl debug` added to the pod: all the fields of a container, and `targetContainerName`."""
    return cast("Sequence[core.Container]", spec.ephemeralContainers or ())


def every_container(spec: core.PodSpec) -> Sequence[core.Container]:
    """The pod's own containers, and those that were added to look into it."""
    own = all_containers(spec)
    return [*own, *ephemeral_containers(spec)] if spec.ephemeralContainers else own


def list_of(spec: core.PodSpec, name: str) -> str:
    """The field of the specification that has the container."""
    if spec.initContainers and any(c.name == name for c in spec.initContainers):
        return "initContainers"
    if spec.ephemeralContainers and any(c.name == name for c in spec.ephemeralContainers):
        return "ephemeralContainers"
    return "containers"


def container_named(spec: core.PodSpec, name: str) -> core.Container:
    """Of all that the pod has. KeyError if there is none of that name."""
    for container in spec.containers or ():
        if container.name == name:
            return container
    for container in (*init_containers(spec), *ephemeral_containers(spec)):
        if container.name == name:
            return container
    raise KeyError(name)


def is_sidecar(container: core.Container) -> bool:
    """An init container that is kept running beside the others (KEP-753)."""
    return container.restartPolicy == "Always"


def restart_policy(spec: core.PodSpec) -> str:
    return spec.restartPolicy or "Always"


def restarts(container: core.Container, spec: core.PodSpec, exit_code: int) -> bool:
    """Whether the container is started again after it exited so (KEP-5307 for rules of its own).

    Called only for containers that the pod's end does not concern; for an init container success means done.
    """
    for rule in container.restartPolicyRules or ():
        if rule.action == "Restart" and rule.exitCodes is not None:
            listed = exit_code in (rule.exitCodes.values or ())
            if listed == (rule.exitCodes.operator == "In"):
                return True
    policy = container.restartPolicy or spec.restartPolicy or "Always"
    if spec.initContainers and not is_sidecar(container) and any(container is one for one in spec.initContainers):
        return exit_code != 0 and policy != "Never"
    return policy == "Always" or (policy == "OnFailure" and exit_code != 0)


def qos_class(spec: core.PodSpec) -> str:
    """Guaranteed, Burstable or BestEffort, by cpu and memory of all containers (KEP-753: sidecars included)."""
    pod_level = spec.resources
    scopes: list[Any] = (
        [pod_level] if pod_level is not None and (pod_level.requests or pod_level.limits)
        else [c.resources for c in all_containers(spec)]
    )  # fmt: skip
    asked = False
    guaranteed = bool(scopes)
    for resources in scopes:
        requests, limits = _compute(resources.requests), _compute(resources.limits)
        asked = asked or bool(requests or limits)
        requests = {**limits, **requests}
        if set(limits) != {"cpu", "memory"} or limits != requests:
            guaranteed = False
    if not asked:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def _compute(resources: Any) -> dict[str, float]:
    out = {}
    for name in ("cpu", "memory"):
        if resources and name in resources and (value := amount(resources[name])) > 0:
            out[name] = value
    return out


def amount(quantity: Any) -> float:
    """A quantity as a plain number (cores, bytes); 0 for none."""
    if quantity is None or quantity == "":
        return 0.0
    if isinstance(quantity, int | float):
        return float(quantity)
    return float(parse_quantity(quantity))


def request(container: core.Container, name: str) -> float:
    """What a container asks for; its limit stands in for a missing request."""
    resources = container.resources
    if resources.requests and name in resources.requests:
        return amount(resources.requests[name])
    return limit(container, name)


def limit(container: core.Container, name: str) -> float:
    """0: none."""
    resources = container.resources
    return amount((resources.limits or {}).get(name))


def pod_request(spec: core.PodSpec, name: str) -> float:
    """What the scheduler and the node count for a pod (KEP-753): containers and sidecars together, or the
    largest moment of its initialisation if that is more; its overhead on top."""
    if spec.resources is not None and spec.resources.requests and name in spec.resources.requests:
        base = amount(spec.resources.requests[name])
    else:
        apps = sum(request(c, name) for c in spec.containers or ())
        sidecars = peak = 0.0
        for container in init_containers(spec):
            value = request(container, name)
            if is_sidecar(container):
                sidecars += value
                peak = max(peak, sidecars)
            else:
                peak = max(peak, sidecars + value)
        base = max(apps + sidecars, peak)
    return base + amount((spec.overhead or {}).get(name))


def pod_limit(spec: core.PodSpec, name: str) -> float:
    """The pod's limit: 0 (none) unless all its containers have one."""
    if spec.resources is not None and spec.resources.limits and name in spec.resources.limits:
        return amount(spec.resources.limits[name])
    apps = [limit(c, name) for c in spec.containers or ()]
    sidecars = [limit(c, name) for c in init_containers(spec) if is_sidecar(c)]
    inits = [limit(c, name) for c in init_containers(spec) if not is_sidecar(c)]
    if not all(apps) or not all(sidecars) or not all(inits):
        return 0.0
    return max(sum(apps) + sum(sidecars), sum(sidecars) + max(inits, default=0.0))
