"""Cluster DNS endpoints: every ready node answers DNS, and the Service kube-system/kube-dns says so.

Upstream runs CoreDNS as pods; here each node's own process serves the cluster's names, so the Service has no
selector and its EndpointSlices list nodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from pinnace.api.core import v1 as core
from pinnace.api.discovery import v1 as discovery
from pinnace.api.meta import v1 as meta
from pinnace.client.informer import Event, Informers
from pinnace.controllers.endpoints.slices import MANAGED_BY, SERVICE_NAME, ZONE
from pinnace.controllers.node_lifecycle import is_ready
from pinnace.controllers.owners import controller_reference
from pinnace.controllers.plan import NOTHING, Action, Create, Delete, Plan, Ref, Related, Update

SERVICE = _NAMESPACE, _NAME = "kube-system", "kube-dns"
MANAGER = "cluster-dns.pinnace"
PORT = 10053
_PER_SLICE = 100
_PORTS = [
    discovery.EndpointPort(name="dns", port=PORT, protocol="UDP"),
    discovery.EndpointPort(name="dns-tcp", port=PORT, protocol="TCP"),
]


class Seen(msgspec.Struct, frozen=True):
    service: core.Service
    nodes: tuple[core.Node, ...]
    slices: tuple[discovery.EndpointSlice, ...]


class ClusterDnsController:
    name = "cluster-dns"
    pause = 0.5   # thousands of nodes may come at once

    def __init__(self, informers: Informers) -> None:
        self.primary = informers.of(core.Service, namespace=_NAMESPACE)
        self._nodes = informers.of(core.Node)
        self._slices = informers.of(discovery.EndpointSlice)
        self.watches = (
            Related(self._nodes, _of_node),
            Related(self._slices, _of_slice),
        )

    def observe(self, ref: Ref) -> Seen | None:
        service = self.primary.cache.find(ref)
        if service is None or ref != SERVICE:
            return None
        nodes = sorted(filter(is_ready, self._nodes.cache), key=lambda node: node.metadata.name or "")
        slices = [slice for slice in self._slices.cache.list(_NAMESPACE) if _is_ours(slice)]
        return Seen(service, tuple(nodes), tuple(slices))

    def decide(self, seen: Seen, now: datetime) -> Plan:
        return decide(seen)


def _is_ours(slice: discovery.EndpointSlice) -> bool:
    return (slice.metadata.labels or {}).get(MANAGED_BY) == MANAGER


def _of_node(event: Event[core.Node]) -> Iterable[Ref]:
    old, new = event.old, event.new
    if old is None or new is None or _endpoint_of(old) != _endpoint_of(new):
        yield SERVICE


def _of_slice(event: Event[discovery.EndpointSlice]) -> Iterable[Ref]:
    slice = event.old if event.new is None else event.new
    if _is_ours(slice):
        yield SERVICE


def _endpoint_of(node: core.Node) -> tuple[bool, tuple[str, ...]]:
    return is_ready(node), tuple(_addresses(node))


def _addresses(node: core.Node) -> list[str]:
    addresses = (node.status.addresses if node.status is not None else None) or ()
    return [address.address for address in addresses if address.type == "InternalIP"]


def decide(seen: Seen) -> Plan:
    if seen.service.metadata.deletionTimestamp is not None or (
        seen.service.spec is not None and seen.service.spec.selector
    ):
        return NOTHING   # somebody runs DNS of their own behind this name
    actions: list[Action] = []
    for family in ("IPv4", "IPv6"):
        endpoints = [e for node in seen.nodes for e in _endpoint(node, family)]
        own = [slice for slice in seen.slices if slice.addressType == family]
        actions += _place(seen.service, family, endpoints, own)
    return Plan(tuple(actions))


def _place(
    service: core.Service, family: str, endpoints: list[discovery.Endpoint], own: list[discovery.EndpointSlice]
) -> list[Action]:
    """Each node keeps the slice that it is in; new ones go where there is room."""
    missing = {endpoint.nodeName: endpoint for endpoint in endpoints}
    kept = [
        (slice, [missing.pop(e.nodeName) for e in slice.endpoints or () if e.nodeName in missing]) for slice in own
    ]
    new = list(missing.values())
    actions: list[Action] = []
    for slice, stay in kept:
        room = _PER_SLICE - len(stay)
        filled = stay + new[:room]
        del new[:room]
        data = slice.metadata
        if not filled:
            actions.append(Delete(discovery.EndpointSlice, data.namespace or "", data.name or "", data.uid or ""))
        elif filled != slice.endpoints or slice.ports != _PORTS:
            actions.append(Update(msgspec.structs.replace(slice, endpoints=filled, ports=_PORTS)))
    chunks = [new[start : start + _PER_SLICE] for start in range(0, len(new), _PER_SLICE)]
    return actions + [Create(_slice(service, family, chunk)) for chunk in chunks]


def _endpoint(node: core.Node, family: str) -> Iterable[discovery.Endpoint]:
    for address in _addresses(node):
        if (":" in address) == (family == "IPv6"):
            yield discovery.Endpoint(
                addresses=[address],
                conditions=discovery.EndpointConditions(ready=True, serving=True, terminating=False),
                nodeName=node.metadata.name,
                zone=(node.metadata.labels or {}).get(ZONE),
            )


def _slice(service: core.Service, family: str, endpoints: list[discovery.Endpoint]) -> discovery.EndpointSlice:
    return discovery.EndpointSlice(
        metadata=meta.ObjectMeta(
            generateName=f"{_NAME}-nodes-",
            namespace=service.metadata.namespace,
            labels={SERVICE_NAME: service.metadata.name or "", MANAGED_BY: MANAGER},
            ownerReferences=[controller_reference(service)],
        ),
        addressType=family,
        endpoints=endpoints,
        ports=_PORTS,
    )
