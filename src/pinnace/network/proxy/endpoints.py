"""Which endpoints a service's traffic may go to, as seen from one node. Pure.

The rules are upstream's (KEP-1669 terminating endpoints, KEP-2086 internalTrafficPolicy, KEP-2433 and KEP-3015
traffic distribution): ready endpoints; if there are none, those that are terminating but still serve; for a
`Local` policy only the node's own; with hints, those meant for this node or its zone, provided that the hints are
complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pinnace.api.core import v1 as core
from pinnace.api.discovery import v1 as discovery

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
HEADLESS_LABEL = "service.kubernetes.io/headless"
ZONE_LABEL = "topology.kubernetes.io/zone"


@dataclass(frozen=True, slots=True)
class ProxyNode:
    """What the proxy knows about its node; the CIDRs are the cluster's."""

    name: str
    ips: tuple[str, ...]
    zone: str = ""
    service_cidrs: tuple[str, ...] = ("10.96.0.0/16",)
    cluster_cidrs: tuple[str, ...] = ("10.244.0.0/16",)


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    ip: str
    port: int
    local: bool = False
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    zones: tuple[str, ...] = ()      # hints: the zones and nodes that should use it
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reachable:
    """`cluster` serves traffic under policy Cluster, `local` under policy Local."""

    cluster: tuple[Endpoint, ...]
    local: tuple[Endpoint, ...]


def is_proxied(service: core.Service) -> bool:
    """Whether the proxy has to do with a service: not headless, not external, not left to another proxy."""
    spec = service.spec
    if spec.type == "ExternalName" or not spec.clusterIP or spec.clusterIP == "None":
        return False
    return PROXY_NAME_LABEL not in (service.metadata.labels or {})


def service_of(slice_: discovery.EndpointSlice) -> tuple[str, str] | None:
    """Namespace and name of the service that a slice belongs to, if the proxy has to do with it."""
    labels = slice_.metadata.labels or {}
    name = labels.get(SERVICE_NAME_LABEL)
    if not name or PROXY_NAME_LABEL in labels or HEADLESS_LABEL in labels:
        return None
    return slice_.metadata.namespace or "", name


def endpoints_of(
    port: core.ServicePort, slices: Iterable[discovery.EndpointSlice], node: str
) -> tuple[Endpoint, ...]:
    """All IPv4 endpoints of one port of a service, in a fixed order; of two with one address the ready one."""
    found: dict[tuple[str, int], Endpoint] = {}
    for slice_ in slices:
        if slice_.addressType != "IPv4":
            continue
        for target in slice_.ports or ():
            same = (target.name or "") == (port.name or "") and (target.protocol or "TCP") == (port.protocol or "TCP")
            if not same or not target.port:
                continue
            for endpoint in slice_.endpoints or ():
                if endpoint.addresses:
                    entry = _entry(endpoint, target.port, node)
                    known = found.get((entry.ip, entry.port))
                    if known is None or (entry.ready and not known.ready):
                        found[entry.ip, entry.port] = entry
    return tuple(sorted(found.values()))


def _entry(endpoint: discovery.Endpoint, port: int, node: str) -> Endpoint:
    conditions = endpoint.conditions or discovery.EndpointConditions()
    ready = conditions.ready is not False
    hints = endpoint.hints or discovery.EndpointHints()
    return Endpoint(
        ip=endpoint.addresses[0],
        port=port,
        local=endpoint.nodeName == node,
        ready=ready,
        serving=ready if conditions.serving is None else conditions.serving,
        terminating=bool(conditions.terminating),
        zones=tuple(zone.name for zone in hints.forZones or ()),
        nodes=tuple(hint.name for hint in hints.forNodes or ()),
    )


def reachable(endpoints: Sequence[Endpoint], node: ProxyNode) -> Reachable:
    usable = _ready_or_serving(endpoints)
    if usable and usable[0].ready:
        usable = _preferred(usable, node)
    return Reachable(usable, _ready_or_serving([endpoint for endpoint in endpoints if endpoint.local]))


def _ready_or_serving(endpoints: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
    ready = tuple(endpoint for endpoint in endpoints if endpoint.ready)
    return ready or tuple(endpoint for endpoint in endpoints if endpoint.serving and endpoint.terminating)


def _preferred(endpoints: tuple[Endpoint, ...], node: ProxyNode) -> tuple[Endpoint, ...]:
    """Those hinted for this node, else for its zone; all of them where hints are incomplete or none is for here."""
    of_node = _hinted(endpoints, node.name, lambda endpoint: endpoint.nodes)
    return of_node or _hinted(endpoints, node.zone, lambda endpoint: endpoint.zones) or endpoints


def _hinted(
    endpoints: tuple[Endpoint, ...], here: str, hints: Callable[[Endpoint], tuple[str, ...]]
) -> tuple[Endpoint, ...]:
    if not here or not all(hints(endpoint) for endpoint in endpoints):
        return ()
    return tuple(endpoint for endpoint in endpoints if here in hints(endpoint))
