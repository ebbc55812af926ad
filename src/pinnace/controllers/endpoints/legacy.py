"""Endpoints (v1): one object a Service, deprecated upstream and still read by many.

Source: https://kubernetes.io/docs/concepts/services-networking/service/#endpoints.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.api.times import format as format_time
from pinnace.client.informer import Event, Informers
from pinnace.controllers import pods as podlib
from pinnace.controllers.endpoints import members
from pinnace.controllers.plan import NOTHING, Create, Delete, Plan, Ref, Related, Update

_MANAGED_BY = "endpoints.kubernetes.io/managed-by"
_MANAGER = "endpoint-controller"
_OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"
_CAPACITY = 1000   # addresses; more are cut off, and an annotation says so


class Seen(msgspec.Struct, frozen=True):
    service: core.Service | None
    pods: tuple[core.Pod, ...]
    endpoints: core.Endpoints | None


class EndpointsController:
    name = "endpoint"

    def __init__(self, informers: Informers) -> None:
        self.primary = informers.of(core.Service)
        self._pods = informers.of(core.Pod)
        self._endpoints = informers.of(core.Endpoints)
        members.index(self.primary, self._pods)
        self.watches = (
            Related(self._pods, members.ServicesOf(self.primary)),
            Related(self._endpoints, _service_of),
        )

    def observe(self, ref: Ref) -> Seen | None:
        service = self.primary.cache.find(ref)
        endpoints = self._endpoints.cache.find(ref)
        if service is None:
            return Seen(None, (), endpoints) if endpoints is not None else None
        return Seen(service, tuple(members.selected(self._pods, service)), endpoints)

    def decide(self, seen: Seen, now: datetime) -> Plan:
        return decide(seen, now)


def _service_of(event: Event[core.Endpoints]) -> Iterable[Ref]:
    obj = event.old if event.new is None else event.new
    yield obj.metadata.namespace or "", obj.metadata.name or ""


def decide(seen: Seen, now: datetime) -> Plan:
    service, current = seen.service, seen.endpoints
    if service is None:
        return _forsaken(current) if current is not None else NOTHING
    if not members.selects(service) or service.metadata.deletionTimestamp is not None:
        return NOTHING
    subsets, cut = _subsets(service, seen.pods)
    labels = {**(service.metadata.labels or {}), _MANAGED_BY: _MANAGER}
    if members.is_headless(service):
        labels[members.HEADLESS_LABEL] = ""
    else:
        labels.pop(members.HEADLESS_LABEL, None)
    marks = {_OVER_CAPACITY: "truncated"} if cut else {}
    if current is None:
        data = meta.ObjectMeta(
            name=service.metadata.name,
            namespace=service.metadata.namespace,
            labels=labels,
            annotations={members.TRIGGER_TIME: format_time(now), **marks},
        )
        return Plan((Create(core.Endpoints(metadata=data, subsets=subsets or None)),))
    old = current.metadata.annotations or {}
    if (
        (current.subsets or []) == subsets
        and (current.metadata.labels or {}) == labels
        and (_OVER_CAPACITY in old) == cut
    ):
        return NOTHING
    kept = {key: value for key, value in old.items() if key != _OVER_CAPACITY}
    annotations = {**kept, members.TRIGGER_TIME: format_time(now), **marks}
    data = msgspec.structs.replace(current.metadata, labels=labels, annotations=annotations)
    return Plan((Update(msgspec.structs.replace(current, metadata=data, subsets=subsets or None)),))


def _forsaken(endpoints: core.Endpoints) -> Plan:
    """Endpoints that this controller made for a service that is gone."""
    data = endpoints.metadata
    if (data.labels or {}).get(_MANAGED_BY) != _MANAGER or data.deletionTimestamp is not None:
        return NOTHING
    return Plan((Delete(core.Endpoints, data.namespace or "", data.name or "", data.uid or ""),))


Address = tuple[bool, core.EndpointAddress]   # whether it is ready


def _subsets(
    service: core.Service, pods: tuple[core.Pod, ...]
) -> tuple[list[core.EndpointSubset], bool]:
    """Addresses that share all ports together, sorted; and whether some were cut off."""
    spec = service.spec or core.ServiceSpec()
    family = members.families(service)[0]
    tolerant = bool(spec.publishNotReadyAddresses)
    by_port: dict[members.Port | None, dict[str, Address]] = {}
    count = 0
    cut = False
    for pod in pods:
        ip = members.address(pod, family)
        if not ip or not members.belongs(pod, terminating=tolerant):
            continue
        if count == _CAPACITY:
            cut = True
            break
        count += 1
        ready = tolerant or podlib.is_ready(pod)
        address = core.EndpointAddress(
            ip=ip,
            nodeName=(pod.spec.nodeName if pod.spec is not None else None) or None,
            targetRef=members.target(pod),
            hostname=members.hostname(service, pod),
        )
        headless_bare = not spec.ports and members.is_headless(service)
        for port in members.ports(service, pod) or ((None,) if headless_bare else ()):
            by_port.setdefault(port, {})[f"{ip}/{pod.metadata.uid}"] = (ready, address)
    together: dict[tuple[str, ...], tuple[list[members.Port], list[Address]]] = {}
    for port, found in by_port.items():
        entry = together.setdefault(tuple(sorted(found)), ([], list(found.values())))
        if port is not None:
            entry[0].append(port)
    subsets = [_subset(ports, addresses) for ports, addresses in together.values()]
    return sorted(subsets, key=_order), cut


def _subset(ports: list[members.Port], addresses: list[Address]) -> core.EndpointSubset:
    ready = sorted((a for up, a in addresses if up), key=lambda a: a.ip or "")
    waiting = sorted((a for up, a in addresses if not up), key=lambda a: a.ip or "")
    wire = [
        core.EndpointPort(
            name=port.name or None, port=port.port, protocol=port.protocol, appProtocol=port.app_protocol or None
        )
        for port in sorted(ports)
    ]
    return core.EndpointSubset(addresses=ready or None, notReadyAddresses=waiting or None, ports=wire or None)


def _order(subset: core.EndpointSubset) -> tuple[str, int]:
    first = (subset.addresses or subset.notReadyAddresses or [core.EndpointAddress(ip="")])[0]
    return first.ip or "", (subset.ports[0].port or 0) if subset.ports else 0
