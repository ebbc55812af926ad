"""The pods behind a Service, their ports and their readiness: what both endpoint controllers go by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import repeat
from typing import Any, NamedTuple

from pinnace.api.core import v1 as core
from pinnace.client.informer import Event, Informer
from pinnace.controllers import pods as podlib
from pinnace.controllers.plan import Ref

HEADLESS_LABEL = "service.kubernetes.io/headless"
TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"
_BY_LABEL = "label"
_SELECTING = "selecting"      # the services of a namespace that select pods


class Port(NamedTuple):
    """A port as endpoints carry it, resolved for one pod."""

    name: str
    port: int
    protocol: str
    app_protocol: str


def index(services: Informer[core.Service], pods: Informer[core.Pod]) -> None:
    """What `selected` and `ServicesOf` look things up by."""
    services.add_index(_SELECTING, _selecting)
    pods.add_index(_BY_LABEL, _labels)


def _selecting(service: core.Service) -> tuple[str, ...]:
    return (service.metadata.namespace or "",) if _selector(service) else ()


def _labels(pod: core.Pod) -> Iterable[tuple[str, tuple[str, str]]]:
    data = pod.metadata
    return zip(repeat(data.namespace or ""), data.labels.items()) if data.labels else ()


def selected(pods: Informer[core.Pod], service: core.Service) -> list[core.Pod]:
    """The pods that a service selects, in order of their names."""
    selector = _selector(service)
    if not selector:
        return []
    pairs = [(service.metadata.namespace or "", label) for label in selector.items()]
    found = min((pods.cache.by_index(_BY_LABEL, pair) for pair in pairs), key=len)
    chosen = [pod for pod in found if matches(selector, pod)]
    return sorted(chosen, key=lambda pod: pod.metadata.name or "")


def _selector(service: core.Service) -> dict[str, str]:
    return (service.spec.selector if service.spec is not None else None) or {}


def matches(selector: dict[str, str], pod: core.Pod) -> bool:
    labels = pod.metadata.labels or {}
    return all(labels.get(key) == value for key, value in selector.items())


@dataclass(frozen=True, slots=True)
class ServicesOf:
    """The services that a pod's change concerns. Equal for both controllers: it is asked once for the two."""

    services: Informer[core.Service]

    def __call__(self, event: Event[core.Pod]) -> Iterable[Ref]:
        old, new = event.old, event.new
        obj: Any = old if new is None else new
        namespace = obj.metadata.namespace or ""
        selecting = self.services.cache.by_index(_SELECTING, namespace)
        if not selecting or (old is not None and new is not None and _face(old) == _face(new)):
            return ()
        versions = [pod for pod in (old, new) if pod is not None]
        return [
            (namespace, service.metadata.name or "")
            for service in selecting
            if any(matches(_selector(service), version) for version in versions)
        ]


def _face(pod: core.Pod) -> tuple[Any, ...]:
    """What endpoints show of a pod."""
    spec, status = pod.spec, pod.status
    return (
        pod.metadata.labels,
        pod.metadata.deletionTimestamp,
        spec.nodeName,
        spec.hostname,
        spec.subdomain,
        status.podIPs or status.podIP,
        podlib.is_finished(pod),
        podlib.is_ready(pod),
    )


def belongs(pod: core.Pod, *, terminating: bool) -> bool:
    """Whether the pod has an address that may be published."""
    if podlib.is_finished(pod) or not addresses(pod):
        return False
    return terminating or pod.metadata.deletionTimestamp is None


def addresses(pod: core.Pod) -> list[str]:
    status = pod.status
    return [ip.ip for ip in status.podIPs or () if ip.ip] or ([status.podIP] if status.podIP else [])


def address(pod: core.Pod, family: str) -> str:
    """The pod's address of a family (IPv4 or IPv6); empty if it has none."""
    return next((ip for ip in addresses(pod) if (":" in ip) == (family == "IPv6")), "")


def families(service: core.Service) -> tuple[str, ...]:
    spec = service.spec or core.ServiceSpec()
    if spec.ipFamilies:
        return tuple(spec.ipFamilies)
    return ("IPv6",) if ":" in (spec.clusterIP or "") else ("IPv4",)


def is_headless(service: core.Service) -> bool:
    return service.spec is not None and service.spec.clusterIP == "None"


def selects(service: core.Service) -> bool:
    """Whether endpoints are made for it: it has a selector and is no alias."""
    spec = service.spec
    return spec is not None and bool(spec.selector) and spec.type != "ExternalName"


def ports(service: core.Service, pod: core.Pod) -> tuple[Port, ...]:
    """The service's ports as this pod has them; those that it does not name are left out."""
    found: list[Port] = []
    for port in (service.spec.ports if service.spec is not None else None) or ():
        protocol = port.protocol or "TCP"
        number = _number(pod, port.targetPort, protocol, port.port or 0)
        if number is not None:
            found.append(Port(port.name or "", number, protocol, port.appProtocol or ""))
    return tuple(found)


def _number(pod: core.Pod, target: int | str | None, protocol: str, default: int) -> int | None:
    if target is None or target in ("", 0):
        return default
    if isinstance(target, int):
        return target
    spec = pod.spec
    sidecars = [c for c in spec.initContainers or () if c.restartPolicy == "Always"]
    for container in [*(spec.containers or ()), *sidecars]:
        for port in container.ports or ():
            if port.name == target and (port.protocol or "TCP") == protocol:
                number: int = port.containerPort
                return number
    return None


def hostname(service: core.Service, pod: core.Pod) -> str | None:
    """The pod's own DNS name below a headless service, if it asked for one."""
    spec = pod.spec
    same = spec.subdomain == service.metadata.name and pod.metadata.namespace == service.metadata.namespace
    return spec.hostname if spec.hostname and same else None


def target(pod: core.Pod) -> core.ObjectReference:
    data = pod.metadata
    return core.ObjectReference(kind="Pod", namespace=data.namespace, name=data.name, uid=data.uid)
