"""EndpointSlices: the addresses behind a Service, at most a hundred a slice, changed as little as possible.

Source: KEP-752 and https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from pinnace.api.core import v1 as core
from pinnace.api.discovery import v1 as discovery
from pinnace.api.meta import v1 as meta
from pinnace.api.times import format as format_time
from pinnace.client.informer import Event, Informers
from pinnace.controllers import pods as podlib
from pinnace.controllers.endpoints import members
from pinnace.controllers.owners import controller_reference
from pinnace.controllers.plan import NOTHING, Action, Create, Delete, Plan, Ref, Related, Update

SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
MANAGER = "endpointslice-controller.k8s.io"
ZONE = "topology.kubernetes.io/zone"
_RESERVED = frozenset({SERVICE_NAME, MANAGED_BY, members.HEADLESS_LABEL})
_PER_SLICE = 100


class Seen(msgspec.Struct, frozen=True):
    """`zones`: of the nodes that have one, by node name."""

    service: core.Service
    pods: tuple[core.Pod, ...]
    slices: tuple[discovery.EndpointSlice, ...]
    zones: dict[str, str]


class EndpointSliceController:
    name = "endpointslice"

    def __init__(self, informers: Informers) -> None:
        self.primary = informers.of(core.Service)
        self._pods = informers.of(core.Pod)
        self._slices = informers.of(discovery.EndpointSlice)
        self._nodes = informers.of(core.Node)
        members.index(self.primary, self._pods)
        self._slices.add_index("service", _service_index)
        self.watches = (
            Related(self._pods, members.ServicesOf(self.primary)),
            Related(self._slices, _services_of_slice),
            Related(self._nodes, self._all_of_zone),
        )

    def observe(self, ref: Ref) -> Seen | None:
        service = self.primary.cache.find(ref)
        if service is None:
            return None
        pods = tuple(members.selected(self._pods, service))
        slices = self._slices.cache.by_index("service", ref)
        return Seen(service, pods, tuple(slices), self._zones(pods))

    def decide(self, seen: Seen, now: datetime) -> Plan:
        return decide(seen, now)

    def _zones(self, pods: Iterable[core.Pod]) -> dict[str, str]:
        zones = {}
        for name in {pod.spec.nodeName for pod in pods if pod.spec is not None and pod.spec.nodeName}:
            node = self._nodes.cache.get("", name)
            zone = (node.metadata.labels or {}).get(ZONE) if node is not None else None
            if zone:
                zones[name] = zone
        return zones

    def _all_of_zone(self, event: Event[core.Node]) -> Iterable[Ref]:
        """A node that changes its zone changes what is said of all endpoints on it."""
        old, new = ((n.metadata.labels or {}).get(ZONE) if n is not None else None for n in (event.old, event.new))
        if old != new:
            for service in self.primary.cache:
                yield service.metadata.namespace or "", service.metadata.name or ""


def _service_index(slice: discovery.EndpointSlice) -> Iterable[tuple[str, str]]:
    labels = slice.metadata.labels or {}
    if labels.get(MANAGED_BY) == MANAGER and SERVICE_NAME in labels:
        yield slice.metadata.namespace or "", labels[SERVICE_NAME]


def _services_of_slice(event: Event[discovery.EndpointSlice]) -> Iterable[Ref]:
    found: dict[Ref, None] = {}
    for slice in (event.old, event.new):
        for key in _service_index(slice) if slice is not None else ():
            found[key] = None
    return found


def decide(seen: Seen, now: datetime) -> Plan:
    """The fewest writes after which the slices say what the pods say."""
    if not members.selects(seen.service) or seen.service.metadata.deletionTimestamp is not None:
        return NOTHING
    actions: list[Action] = []
    families = members.families(seen.service)
    for family in families:
        existing = [slice for slice in seen.slices if slice.addressType == family]
        actions += _reconcile(seen, family, existing, now)
    actions += [_delete(slice) for slice in seen.slices if slice.addressType not in families]
    return Plan(tuple(actions))


Ports = tuple[members.Port, ...]


def _reconcile(
    seen: Seen, family: str, existing: Sequence[discovery.EndpointSlice], now: datetime
) -> list[Action]:
    wanted = _wanted(seen, family) or {(): []}    # nothing at all: one slice says so
    actions: list[Action] = []
    spare = [slice for slice in existing if _ports_of(slice) not in wanted]
    for ports, endpoints in wanted.items():
        own = [slice for slice in existing if _ports_of(slice) == ports]
        if not own and spare:
            own = [spare.pop(0)]
        actions += _pack(seen.service, family, ports, endpoints, own, now)
    return actions + [_delete(slice) for slice in spare]


def _wanted(seen: Seen, family: str) -> dict[Ports, list[discovery.Endpoint]]:
    """Endpoints by the ports that they share."""
    found: dict[Ports, list[discovery.Endpoint]] = {}
    for pod in seen.pods:
        address = members.address(pod, family)
        if address and members.belongs(pod, terminating=True):
            ports = tuple(sorted(members.ports(seen.service, pod)))
            found.setdefault(ports, []).append(_endpoint(seen, pod, address))
    return found


def _endpoint(seen: Seen, pod: core.Pod, address: str) -> discovery.Endpoint:
    assert seen.service.spec is not None
    serving = podlib.is_ready(pod)
    terminating = pod.metadata.deletionTimestamp is not None
    ready = bool(seen.service.spec.publishNotReadyAddresses) or (serving and not terminating)
    node = (pod.spec.nodeName if pod.spec is not None else None) or None
    zone = seen.zones.get(node or "")
    return discovery.Endpoint(
        addresses=[address],
        conditions=discovery.EndpointConditions(ready=ready, serving=serving, terminating=terminating),
        hostname=members.hostname(seen.service, pod),
        nodeName=node,
        zone=zone,
        targetRef=members.target(pod),
        hints=_hints(seen.service.spec.trafficDistribution or "", zone, node) if ready else None,
    )


def _hints(distribution: str, zone: str | None, node: str | None) -> discovery.EndpointHints | None:
    """Where an endpoint is to be used from, under `spec.trafficDistribution` (KEP-3015)."""
    zones = [discovery.ForZone(name=zone)] if zone else None
    if distribution in ("PreferClose", "PreferSameZone"):
        return discovery.EndpointHints(forZones=zones) if zones else None
    if distribution == "PreferSameNode" and node:
        return discovery.EndpointHints(forZones=zones, forNodes=[discovery.ForNode(name=node)])
    return None


def _pack(
    service: core.Service,
    family: str,
    ports: Ports,
    endpoints: list[discovery.Endpoint],
    own: Sequence[discovery.EndpointSlice],
    now: datetime,
) -> list[Action]:
    """Keep endpoints where they are; put new ones where a write happens anyway, then where there is room."""
    missing = {_identity(endpoint): endpoint for endpoint in endpoints}
    kept: list[tuple[discovery.EndpointSlice, list[discovery.Endpoint]]] = []
    for slice in own:
        stay = [
            missing.pop(key) for key in map(_identity, slice.endpoints or ()) if key in missing
        ]
        kept.append((slice, stay))
    new = list(missing.values())
    # Slices that change already first, then those with the least room that still hold something.
    for slice, stay in sorted(kept, key=lambda pair: (pair[1] == (pair[0].endpoints or []), -len(pair[1]))):
        room = _PER_SLICE - len(stay) if slice.metadata.deletionTimestamp is None else 0
        stay += new[:room]
        del new[:room]
    actions: list[Action] = []
    empty = not endpoints
    for position, (slice, stay) in enumerate(kept):
        if not stay and not (empty and position == 0):
            actions.append(_delete(slice))
        else:
            actions += _update(service, ports, stay, slice, now)
    chunks = [new[start : start + _PER_SLICE] for start in range(0, len(new), _PER_SLICE)]
    if empty and not kept:
        chunks = [[]]
    actions += [Create(_make(service, family, ports, chunk, now)) for chunk in chunks]
    return actions


def _identity(endpoint: discovery.Endpoint) -> tuple[str, str]:
    target = endpoint.targetRef
    return (endpoint.addresses or [""])[0], (target.uid if target is not None else None) or ""


def _update(
    service: core.Service,
    ports: Ports,
    endpoints: list[discovery.Endpoint],
    slice: discovery.EndpointSlice,
    now: datetime,
) -> list[Action]:
    labels = _labels(service)
    same = endpoints == (slice.endpoints or []) and _ports_of(slice) == ports
    if same and all((slice.metadata.labels or {}).get(k) == v for k, v in labels.items()):
        return []
    annotations = {**(slice.metadata.annotations or {}), members.TRIGGER_TIME: format_time(now)}
    return [
        Update(
            msgspec.structs.replace(
                slice,
                metadata=msgspec.structs.replace(slice.metadata, labels=labels, annotations=annotations),
                endpoints=endpoints,
                ports=_wire_ports(ports),
            )
        )
    ]


def _make(
    service: core.Service, family: str, ports: Ports, endpoints: list[discovery.Endpoint], now: datetime
) -> discovery.EndpointSlice:
    return discovery.EndpointSlice(
        metadata=meta.ObjectMeta(
            generateName=f"{service.metadata.name}-",
            namespace=service.metadata.namespace,
            labels=_labels(service),
            annotations={members.TRIGGER_TIME: format_time(now)},
            ownerReferences=[controller_reference(service)],
        ),
        addressType=family,
        endpoints=endpoints or None,
        ports=_wire_ports(ports) or None,
    )


def _labels(service: core.Service) -> dict[str, str]:
    labels = {k: v for k, v in (service.metadata.labels or {}).items() if k not in _RESERVED}
    labels |= {SERVICE_NAME: service.metadata.name or "", MANAGED_BY: MANAGER}
    return labels | {members.HEADLESS_LABEL: ""} if members.is_headless(service) else labels


def _ports_of(slice: discovery.EndpointSlice) -> Ports:
    return tuple(
        sorted(
            members.Port(port.name or "", port.port or 0, port.protocol or "TCP", port.appProtocol or "")
            for port in slice.ports or ()
        )
    )


def _wire_ports(ports: Ports) -> list[discovery.EndpointPort]:
    return [
        discovery.EndpointPort(
            name=port.name, port=port.port, protocol=port.protocol, appProtocol=port.app_protocol or None
        )
        for port in ports
    ]


def _delete(slice: discovery.EndpointSlice) -> Delete:
    data = slice.metadata
    return Delete(discovery.EndpointSlice, data.namespace or "", data.name or "", data.uid or "")
