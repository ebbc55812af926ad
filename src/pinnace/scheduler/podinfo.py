"""What scheduling needs to know of a pod, worked out once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pinnace.api.core import v1 as core
from pinnace.api.quantity import parse_quantity

CPU, MEMORY, EPHEMERAL, PODS = "cpu", "memory", "ephemeral-storage", "pods"

# What scoring takes a container to use that does not say (upstream: util/pod_resources.go).
_UNSAID_MILLI_CPU = 100
_UNSAID_MEMORY = 200 * 1024 * 1024

Port = tuple[str, str, int]      # (host IP, protocol, host port)
Key = tuple[str, str]            # (namespace, name)


@dataclass(frozen=True, slots=True)
class PodInfo:
    """A pod with its requests in whole units (cpu in thousandths), its host ports and its affinity terms."""

    pod: core.Pod
    requests: Mapping[str, int]
    scored: tuple[int, int]                       # (cpu, memory) with the unsaid filled in
    ports: tuple[Port, ...]
    priority: int
    affinity: tuple[core.PodAffinityTerm, ...] = ()            # required
    anti_affinity: tuple[core.PodAffinityTerm, ...] = ()       # required
    owner: str = ""                                            # uid of its controller
    shape: bytes = field(default=b"", repr=False)              # equal for pods that fit the same nodes

    @property
    def key(self) -> Key:
        return self.pod.metadata.namespace or "", self.pod.metadata.name or ""

    @property
    def uid(self) -> str:
        return self.pod.metadata.uid or ""


def pod_info(pod: core.Pod) -> PodInfo:
    """Works out a pod."""
    requests = pod_requests(pod)
    affinity = pod.spec.affinity
    required = affinity.podAffinity if affinity is not None else None
    forbidden = affinity.podAntiAffinity if affinity is not None else None
    spec = pod.spec
    ports = tuple(
        (port.hostIP or "0.0.0.0", port.protocol or "TCP", port.hostPort)
        for container in (*(spec.initContainers or ()), *(spec.containers or ()))
        for port in container.ports or ()
        if port.hostPort and (not _is_plain_init(spec, container))
    )
    owner = next((ref.uid for ref in pod.metadata.ownerReferences or () if ref.controller), "")
    return PodInfo(
        pod=pod,
        requests=requests,
        scored=_scored(pod, requests),
        ports=ports,
        priority=spec.priority or 0,
        affinity=tuple((required.requiredDuringSchedulingIgnoredDuringExecution if required else None) or ()),
        anti_affinity=tuple((forbidden.requiredDuringSchedulingIgnoredDuringExecution if forbidden else None) or ()),
        owner=owner,
        shape=_shape(pod, requests, ports, owner),
    )


def pod_requests(pod: core.Pod) -> dict[str, int]:
    """What the pod asks of a node: its containers together, or its largest init container if that is more, and
    its overhead. Sidecars (init containers that restart) count from their start on (KEP-753)."""
    spec = pod.spec
    total: dict[str, int] = {}
    for container in spec.containers or ():
        _add(total, _requests(container.resources))
    largest: dict[str, int] = {}
    sidecars: dict[str, int] = {}
    for container in spec.initContainers or ():
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
    if spec.resources is not None and spec.resources.requests:       # pod-level resources (KEP-2837)
        total.update(_units(spec.resources.requests))
    if spec.overhead:
        _add(total, _units(spec.overhead))
    return {name: amount for name, amount in total.items() if amount}


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


def _is_plain_init(spec: core.PodSpec, container: core.Container) -> bool:
    return container in (spec.initContainers or ()) and container.restartPolicy != "Always"


def _shape(pod: core.Pod, requests: Mapping[str, int], ports: Iterable[Port], owner: str) -> bytes:
    spec = pod.spec
    parts = (
        sorted(requests.items()), sorted(ports), spec.nodeName, spec.nodeSelector, spec.affinity, spec.tolerations,
        [container.image for container in spec.containers or ()], owner,
    )  # fmt: skip
    return msgspec.msgpack.encode(parts)
