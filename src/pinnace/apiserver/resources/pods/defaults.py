"""What a Pod gets that a pod template does not, and what the server decides when one is created.

`default` runs on whatever was decoded; `prepare_create` afterwards. Upstream: SetDefaults_Pod and podStrategy.
"""

from __future__ import annotations

from pinnace.api.core import v1 as core
from pinnace.api.quantity import parse_quantity
from pinnace.apiserver.resource import Context
from pinnace.apiserver.resources.podspec.defaults import default_pod_spec


def default(pod: core.Pod) -> None:
    spec = pod.spec
    default_pod_spec(spec)
    for container in spec.containers or ():
        _requests_from_limits(container)
    for container in spec.initContainers or ():
        _requests_from_limits(container)
    if spec.resources is not None and spec.resources.limits:
        spec.resources.requests = _pod_requests(spec)
    if spec.enableServiceLinks is None:
        spec.enableServiceLinks = True
    if spec.hostNetwork:
        for container in (*(spec.containers or ()), *(spec.initContainers or ())):
            for port in container.ports or ():
                if not port.hostPort:
                    port.hostPort = port.containerPort


def _requests_from_limits(container: core.Container) -> None:
    resources = container.resources
    if not resources.limits:
        return
    if not resources.requests:
        resources.requests = dict(resources.limits)
        return
    for name, quantity in resources.limits.items():
        resources.requests.setdefault(name, quantity)


def _pod_requests(spec: core.PodSpec) -> dict[str, str | int | float]:
    """Pod level requests where only limits are given: what the containers ask for together, else the limit."""
    assert spec.resources is not None and spec.resources.limits is not None
    requests: dict[str, str | int | float] = dict(spec.resources.requests or {})
    for name, limit in spec.resources.limits.items():
        if name in requests:
            continue
        asked = [
            parse_quantity(own[name])
            for container in spec.containers
            if name in (own := container.resources.requests or {})
        ]
        if asked and name in ("cpu", "memory"):
            total = asked[0]
            for more in asked[1:]:
                total = total + more
            requests[name] = str(total)
        else:
            requests[name] = limit
    return requests


def prepare_create(pod: core.Pod, context: Context) -> None:
    """A new pod is Pending; everything else in its status comes from others."""
    pod.status = core.PodStatus(phase="Pending", qosClass=qos_class(pod.spec))
    if pod.spec.schedulingGates:
        pod.status.conditions = [
            core.PodCondition(
                type="PodScheduled",
                status="False",
                reason="SchedulingGated",
                message="Scheduling is blocked due to non-empty scheduling gates",
            )
        ]


def qos_class(spec: core.PodSpec) -> str:
    """Guaranteed, Burstable or BestEffort, from cpu and memory of all containers (or of the pod itself)."""
    asking: tuple[core.PodSpec | core.Container, ...] = (*(spec.containers or ()), *(spec.initContainers or ()))
    if spec.resources is not None and (spec.resources.requests or spec.resources.limits):
        asking = (spec,)
    named = False
    guaranteed = True
    for one in asking:
        resources = one.resources
        if resources is None or not (resources.requests or resources.limits):
            guaranteed = False
            continue
        requests, limits = resources.requests or {}, resources.limits or {}
        for name in ("cpu", "memory"):
            request, limit = requests.get(name), limits.get(name)
            request = None if request is None or not parse_quantity(request) else request
            limit = None if limit is None or not parse_quantity(limit) else limit
            if request is not None or limit is not None:
                named = True
            if limit is None or (request is not None and parse_quantity(request) != parse_quantity(limit)):
                guaranteed = False
    if not named:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"
