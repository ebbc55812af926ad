"""Before a service is committed, the server reserves its cluster IP and node ports.

What is in use is read from the services themselves (the cache is the truth: nothing to repair after a
crash), together with what writes under way hold. A hold lives exactly as long as its write.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakSet

from pinnace.api.core import v1 as core
from pinnace.api.errors import InternalError, Invalid
from pinnace.api.fields import FieldError, invalid
from pinnace.api.kinds import kind_of
from pinnace.api.networking import v1 as networking
from pinnace.apiserver.resource import Context
from pinnace.apiserver.resources.services.allocator import Band, address_band, port_band
from pinnace.apiserver.resources.services.strategy import (
    HEADLESS,
    needs_cluster_ip,
    needs_health_check,
    needs_node_port,
)

if TYPE_CHECKING:
    from pinnace.apiserver.server import ApiServer

TAKEN = "provided port is already allocated"
Owner = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Usage:
    """Numbers in use by services other than the one being written."""

    addresses: frozenset[int]
    ports: frozenset[int]


def numbers_of(spec: core.ServiceSpec) -> tuple[set[int], set[int]]:
    """The addresses and node ports that a service has."""
    addresses = {
        int(ipaddress.ip_address(ip)) for ip in spec.clusterIPs or () if ip and ip != HEADLESS
    }
    ports = {port.nodePort for port in spec.ports or () if port.nodePort}
    if spec.healthCheckNodePort:
        ports.add(spec.healthCheckNodePort)
    return addresses, ports


@dataclass(slots=True)
class Plan:
    """What one service gets. Filled by `decide`, which writes it into the service."""

    findings: list[FieldError] = field(default_factory=list)
    addresses: set[int] = field(default_factory=set)
    ports: set[int] = field(default_factory=set)


def decide(
    spec: core.ServiceSpec, usage: Usage, addresses: Band, ports: Band, cursor: tuple[int, int]
) -> Plan:
    """Pure: chooses and checks, and writes the choice into `spec`. Raises InternalError when a range is full."""
    plan = Plan()
    if needs_cluster_ip(spec) and spec.clusterIP != HEADLESS:
        _address(spec, usage, addresses, cursor[0], plan)
    if needs_node_port(spec):
        _node_ports(spec, usage, ports, cursor[1], plan)
    elif spec.type == "LoadBalancer":
        # Allocation is off, but ports that are named count.
        for i, port in enumerate(spec.ports or ()):
            if port.nodePort:
                _named_port(port.nodePort, f"spec.ports[{i}].nodePort", usage, ports, plan)
    if needs_health_check(spec):
        _health_check(spec, usage, ports, cursor[1], plan)
    return plan


def _address(spec: core.ServiceSpec, usage: Usage, band: Band, cursor: int, plan: Plan) -> None:
    if spec.clusterIPs:
        for text in spec.clusterIPs:
            number = int(ipaddress.ip_address(text))
            if number not in band:
                why = f"failed to allocate IP {text}: the provided network does not match the current range"
            elif number in usage.addresses:
                why = f"failed to allocate IP {text}: provided IP is already allocated"
            else:
                plan.addresses.add(number)
                continue
            plan.findings.append(invalid("spec.clusterIPs", list(spec.clusterIPs), why))
        return
    chosen = band.next(cursor, usage.addresses)
    if chosen is None:
        raise InternalError.of("failed to allocate a serviceIP: range is full")
    plan.addresses.add(chosen)
    spec.clusterIP = str(ipaddress.ip_address(chosen))
    spec.clusterIPs = [spec.clusterIP]


def _node_ports(spec: core.ServiceSpec, usage: Usage, band: Band, cursor: int, plan: Plan) -> None:
    # A port number that is served over several protocols has one node port for all of them.
    shared = {port.port: port.nodePort for port in spec.ports or () if port.nodePort}
    for i, port in enumerate(spec.ports or ()):
        if port.nodePort:
            _named_port(port.nodePort, f"spec.ports[{i}].nodePort", usage, band, plan)
    protocols = {(port.protocol, port.nodePort) for port in spec.ports or () if port.nodePort}
    for port in spec.ports or ():
        if port.nodePort:
            continue
        chosen: int | None = shared.get(port.port)
        if chosen is None or (port.protocol, chosen) in protocols:
            chosen = band.next(cursor, usage.ports | plan.ports)
        if chosen is None:
            raise InternalError.of("failed to allocate a nodePort: range is full")
        port.nodePort = shared[port.port] = cursor = chosen
        protocols.add((port.protocol, chosen))
        plan.ports.add(chosen)


def _named_port(number: int, path: str, usage: Usage, band: Band, plan: Plan) -> None:
    if number not in band:
        why = f"provided port is not in the valid range. The range of valid ports is {band.first}-{band.last}"
        plan.findings.append(invalid(path, number, why))
    elif number in usage.ports:
        plan.findings.append(invalid(path, number, TAKEN))
    else:
        plan.ports.add(number)


def _health_check(spec: core.ServiceSpec, usage: Usage, band: Band, cursor: int, plan: Plan) -> None:
    asked = spec.healthCheckNodePort
    if asked:
        if asked not in band or asked in usage.ports | plan.ports:
            raise InternalError.of(f"failed to allocate requested HealthCheck NodePort {asked}: {TAKEN}")
        plan.ports.add(asked)
        return
    chosen = band.next(cursor, usage.ports | plan.ports)
    if chosen is None:
        raise InternalError.of("failed to allocate a HealthCheck NodePort: range is full")
    spec.healthCheckNodePort = chosen
    plan.ports.add(chosen)


class Hold:
    """The numbers of one write under way. It ends when the write gives it back (call it), or lets go of it: by
    then the cache shows what was committed."""

    __slots__ = ("__weakref__", "addresses", "owner", "ports")

    def __init__(self, owner: Owner, plan: Plan) -> None:
        self.owner = owner
        self.addresses = frozenset(plan.addresses)
        self.ports = frozenset(plan.ports)

    def __call__(self) -> None:
        self.addresses = self.ports = frozenset()


class Reservations:
    """One server's numbers: its ranges, and what writes under way hold."""

    def __init__(self, cidr: str) -> None:
        self.addresses = address_band(cidr)
        self.ports = port_band()
        self._cursor = (0, 0)
        self._holds: WeakSet[Hold] = WeakSet()

    def reserve(self, service: core.Service, services: Iterable[core.Service]) -> Hold:
        """Fills in the service, in place. Raises Invalid, InternalError."""
        owner = (service.metadata.namespace or "", service.metadata.name or "")
        plan = decide(service.spec, self._usage(owner, services), self.addresses, self.ports, self._cursor)
        if plan.findings:
            kind = kind_of(core.Service)
            raise Invalid.of(kind.kind, kind.group, owner[1], plan.findings)
        self._cursor = (
            max(plan.addresses, default=self._cursor[0]),
            max(plan.ports, default=self._cursor[1]),
        )
        hold = Hold(owner, plan)
        self._holds.add(hold)
        return hold

    def _usage(self, owner: Owner, services: Iterable[core.Service]) -> Usage:
        addresses: set[int] = set()
        ports: set[int] = set()
        for service in services:
            if (service.metadata.namespace, service.metadata.name) != owner:
                more_addresses, more_ports = numbers_of(service.spec)
                addresses |= more_addresses
                ports |= more_ports
        for hold in self._holds:
            if hold.owner != owner:
                addresses |= hold.addresses
                ports |= hold.ports
        return Usage(frozenset(addresses), frozenset(ports))


_of_server: WeakKeyDictionary[ApiServer, Reservations] = WeakKeyDictionary()


async def reserve(
    server: ApiServer, new: core.Service, old: core.Service | None, _: Context
) -> Callable[[], None]:
    reservations = _of_server.get(server)
    if reservations is None:
        reservations = _of_server[server] = Reservations(service_range(server))
    if old is not None and numbers_of(new.spec) == numbers_of(old.spec) and not _wants(new.spec):
        return _nothing
    return reservations.reserve(new, server.registry(core.Service).list())


def service_range(server: ApiServer) -> str:
    """The range that the ServiceCIDR `kubernetes` names; before there is one, the server's own setting."""
    entry = server.registry(networking.ServiceCIDR).find("", "kubernetes")
    cidrs = entry.object.spec.cidrs if entry is not None else None
    return cidrs[0] if cidrs else server.service_cidr


def _wants(spec: core.ServiceSpec) -> bool:
    """Something that the server has yet to choose."""
    if needs_cluster_ip(spec) and not spec.clusterIP:
        return True
    if needs_node_port(spec) and any(not port.nodePort for port in spec.ports or ()):
        return True
    return needs_health_check(spec) and not spec.healthCheckNodePort


def _nothing() -> None:
    return None
