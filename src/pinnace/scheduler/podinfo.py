"""What scheduling needs to know of a pod, worked out once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.api.quantity import parse_quantity

CPU, MEMORY, EPHEMERAL, PODS = "cpu", "memory", "ephemeral-storage", "pods"

# What scoring takes a container to use that does not say (upstream: util/pod_resources.go).
_UNSAID_MILLI_CPU = 100
_UNSAID_MEMORY = 200 * 1024 * 1024

Port = tuple[str, str, int]      # (host IP, protocol, host port)
Key = tuple[str, str]            # (namespace, name)


@dataclass(slots=True, eq=False)
class PodInfo:
    """A pod with its requests in whole units (cpu in thousandths), its host ports and its affinity terms.

    `pod` is the newest version of which the rest is true.
    """

    pod: core.Pod
    key: Key
    uid: str
    requests: Mapping[str, int]
    scored: tuple[int, int]                       # (cpu, memory) with the unsaid filled in
    ports: tuple[Port, ...]
    priority: int
    affinity: tuple[core.PodAffinityTerm, ...] = ()            # required
    anti_affinity: tuple[core.PodAffinityTerm, ...] = ()       # required
    owner: str = ""                                            # uid of its controller
    shape: bytes = field(default=b"", repr=False)              # equal for pods that fit the same nodes


def pod_info(pod: core.Pod) -> PodInfo:
    """Works out a pod."""
    requests = pod_requests(pod)
    data, spec = pod.metadata, pod.spec
    affinity = spec.affinity
    required = affinity.podAffinity if affinity is not None else None
    forbidden = affinity.podAntiAffinity if affinity is not None else None
    ports = _ports(spec)
    return PodInfo(
        pod,
        (data.namespace or "", data.name or ""),
        data.uid or "",
        requests,
        _scored(pod, requests),
        ports,
        spec.priority or 0,
        tuple((required.requiredDuringSchedulingIgnoredDuringExecution if required else None) or ()),
        tuple((forbidden.requiredDuringSchedulingIgnoredDuringExecution if forbidden else None) or ()),
        _owner(data),
        _shape(pod, requests, ports),
    )


def is_alike(before: core.Pod, after: core.Pod) -> bool:
    """Whether what is worked out for one version of a pod is true for another, which may have got its node."""
    was, now = before.spec, after.spec
    if before.metadata.ownerReferences != after.metadata.ownerReferences:
        return False
    if before.metadata.generation == after.metadata.generation and was.nodeName in (now.nodeName, None, "") and (
        before.metadata.generation
    ):
        return True     # the spec cannot have changed, but by a binding
    return was == now or (not was.nodeName and msgspec.structs.replace(was, nodeName=now.nodeName) == now)


def _owner(data: meta.ObjectMeta) -> str:
    for reference in data.ownerReferences or ():
        if reference.controller:
            return reference.uid
    return ""


def _ports(spec: core.PodSpec) -> tuple[Port, ...]:
    """The host ports that are held as long as the pod runs."""
    found: list[Port] = []
    for container in spec.containers or ():
        if container.ports:
            found += _host_ports(container)
    for container in spec.initContainers or ():
        if container.ports and container.restartPolicy == "Always":
            found += _host_ports(container)
    return tuple(found)


def _host_ports(container: core.Container) -> list[Port]:
    ports = container.ports or ()
    return [(port.hostIP or "0.0.0.0", port.protocol or "TCP", port.hostPort) for port in ports if port.hostPort]


def pod_requests(pod: core.Pod) -> dict[str, int]:
    """What the pod asks of a node: its containers together, or its largest init container if that is more, and
    its overhead. Sidecars (init containers that restart) count from their start on (KEP-753)."""
    spec = pod.spec
    total: dict[str, int] = {}
    for container in spec.containers or ():
        if container.resources is not None and container.resources.requests:
            _add(total, _units(container.resources.requests))
    if spec.initContainers:
        _initialize(total, spec.initContainers)
    if spec.resources is not None and spec.resources.requests:       # pod-level resources (KEP-2837)
        total.update(_units(spec.resources.requests))
    if spec.overhead:
        _add(total, _units(spec.overhead))
    return {name: amount for name, amount in total.items() if amount}


def _initialize(total: dict[str, int], containers: Sequence[core.Container]) -> None:
    """Add to what a pod's own containers ask what its init containers do."""
    largest: dict[str, int] = {}
    sidecars: dict[str, int] = {}
    for container in containers:
        own = _requests(container.resources)
        if container.restartPolicy == "Always":
            _add(sidecars, own)
            _most(largest, sidecars)
        else:
            together = dict(sidecars)
            _add(together, own)
            _most(largest, together)
    _add(total, sidecars)
    _most(total, largest)


def _requests(resources: core.ResourceRequirements | None) -> dict[str, int]:
    return _units(resources.requests or {}) if resources is not None else {}


def _units(quantities: Mapping[str, Any]) -> dict[str, int]:
    return {
        name: parse_quantity(text).milli if name == CPU else parse_quantity(text).value
        for name, text in quantities.items()
    }


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, 0) + amount


def _most(total: dict[str, int], other: Mapping[str, int]) -> None:
    for name, amount in other.items():
        if amount > total.get(name, 0):
            total[name] = amount


def _scored(pod: core.Pod, requests: Mapping[str, int]) -> tuple[int, int]:
    cpu, memory = requests.get(CPU, 0), requests.get(MEMORY, 0)
    for container in pod.spec.containers or ():
        said = (container.resources.requests or {}) if container.resources is not None else {}
        if CPU not in said:
            cpu += _UNSAID_MILLI_CPU
        if MEMORY not in said:
            memory += _UNSAID_MEMORY
    return cpu, memory


def _shape(pod: core.Pod, requests: Mapping[str, int], ports: Iterable[Port]) -> bytes:
    spec = pod.spec
    parts = (
        sorted(requests.items()), sorted(ports), spec.nodeName, spec.nodeSelector, spec.affinity, spec.tolerations,
        [container.image for container in spec.containers or ()], bool(spec.topologySpreadConstraints),
    )  # fmt: skip
    return msgspec.msgpack.encode(parts)
