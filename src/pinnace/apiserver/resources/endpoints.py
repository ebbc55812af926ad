"""Endpoints and EndpointSlices: the addresses behind services."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pinnace.api.core import v1 as core
from pinnace.api.discovery import v1 as discovery
from pinnace.api.fields import FieldError, duplicate, invalid, not_supported, required, too_many
from pinnace.api.kinds import kind_of
from pinnace.apiserver.resource import Column, Context, Resource
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.columns import AGE, NAME, NONE, UNSET, column
from pinnace.apiserver.resources.podspec.containers import PROTOCOLS
from pinnace.apiserver.resources.services.validation import non_special

MAX_ENDPOINTS = 1000
MAX_PORTS = 20000
ADDRESS_TYPES = ("FQDN", "IPv4", "IPv6")


def default(endpoints: core.Endpoints) -> None:
    for subset in endpoints.subsets or ():
        for port in subset.ports or ():
            if not port.protocol:
                port.protocol = "TCP"


def validate(endpoints: core.Endpoints) -> Iterator[FieldError]:
    for i, subset in enumerate(endpoints.subsets or ()):
        path = f"subsets[{i}]"
        if not subset.addresses and not subset.notReadyAddresses:
            yield required(path, "must specify `addresses` or `notReadyAddresses`")
        for word in ("addresses", "notReadyAddresses"):
            for j, address in enumerate(getattr(subset, word) or ()):
                here = f"{path}.{word}[{j}]"
                bad = rules.ip_address(f"{here}.ip", address.ip)
                yield from bad or non_special(f"{here}.ip", address.ip)
                if address.hostname:
                    yield from rules.dns_label(f"{here}.hostname", address.hostname)
                if address.nodeName is not None:
                    yield from rules.dns_subdomain(f"{here}.nodeName", address.nodeName)
        for j, port in enumerate(subset.ports or ()):
            here = f"{path}.ports[{j}]"
            if port.name:
                yield from rules.dns_label(f"{here}.name", port.name)
            elif len(subset.ports or ()) > 1:
                yield required(f"{here}.name")
            yield from rules.port_number(f"{here}.port", port.port)
            if port.protocol not in PROTOCOLS:
                yield not_supported(f"{here}.protocol", port.protocol, PROTOCOLS)


def shown(endpoints: core.Endpoints) -> str:
    """The first three, and how many more."""
    found = [
        f"[{address.ip}]:{port.port}" if ":" in address.ip else f"{address.ip}:{port.port}"
        for subset in endpoints.subsets or ()
        for port in subset.ports or ()
        for address in subset.addresses or ()
    ] or [address.ip for s in endpoints.subsets or () if not s.ports for address in s.addresses or ()]
    return _first_three(found) or NONE


def _first_three(found: list[str]) -> str:
    text = ",".join(found[:3])
    return f"{text} + {len(found) - 3} more..." if len(found) > 3 else text


def default_slice(piece: discovery.EndpointSlice) -> None:
    for port in piece.ports or ():
        if port.name is None:
            port.name = ""
        if port.protocol is None:
            port.protocol = "TCP"


def _prepare_slice(piece: discovery.EndpointSlice, _: Context) -> None:
    piece.metadata.generation = 1


def validate_slice(piece: discovery.EndpointSlice) -> Iterator[FieldError]:
    if not piece.addressType:
        yield required("addressType")
    elif piece.addressType not in ADDRESS_TYPES:
        yield not_supported("addressType", piece.addressType, ADDRESS_TYPES)
    endpoints, ports = piece.endpoints or (), piece.ports or ()
    if len(endpoints) > MAX_ENDPOINTS:
        yield too_many("endpoints", len(endpoints), MAX_ENDPOINTS)
    else:
        for i, endpoint in enumerate(endpoints):
            yield from _endpoint(endpoint, piece.addressType, f"endpoints[{i}]")
    if len(ports) > MAX_PORTS:
        yield too_many("ports", len(ports), MAX_PORTS)
    names: set[str] = set()
    for i, port in enumerate(ports):
        here = f"ports[{i}]"
        if port.name:
            yield from rules.dns_label(f"{here}.name", port.name)
        if (port.name or "") in names:
            yield duplicate(f"{here}.name", port.name)
        names.add(port.name or "")
        if not port.protocol:
            yield required(f"{here}.protocol")
        elif port.protocol not in PROTOCOLS:
            yield not_supported(f"{here}.protocol", port.protocol, PROTOCOLS)
        if port.appProtocol is not None:
            yield from rules.qualified_name(f"{here}.appProtocol", port.appProtocol)


def _endpoint(endpoint: discovery.Endpoint, kind: str, path: str) -> Iterator[FieldError]:
    addresses = endpoint.addresses
    if not addresses:
        yield required(f"{path}.addresses", "must contain at least 1 address")
    elif len(addresses) > 100:
        yield too_many(f"{path}.addresses", len(addresses), 100)
    for i, address in enumerate(addresses):
        here = f"{path}.addresses[{i}]"
        if address in addresses[:i]:
            yield duplicate(here, address)
        if kind == "FQDN":
            yield from rules.dns_subdomain(here, address)
        elif kind in ("IPv4", "IPv6"):
            if not rules.is_ip(address) or (":" in address) != (kind == "IPv6"):
                yield invalid(here, address, f"must be a valid {kind} address")
            else:
                yield from non_special(here, address)
    if endpoint.nodeName is not None:
        yield from rules.dns_subdomain(f"{path}.nodeName", endpoint.nodeName)
    if endpoint.hostname is not None:
        yield from rules.dns_label(f"{path}.hostname", endpoint.hostname)


def _validate_slice_update(
    new: discovery.EndpointSlice, old: discovery.EndpointSlice
) -> Iterator[FieldError]:
    yield from validate_slice(new)
    yield from rules.immutable("addressType", new.addressType, old.addressType)


def _slice_ports(piece: discovery.EndpointSlice) -> str:
    return _first_three([str(p.port) if p.port is not None else "*" for p in piece.ports or ()]) or UNSET


def _slice_addresses(piece: discovery.EndpointSlice) -> str:
    return _first_three([address for e in piece.endpoints or () for address in e.addresses]) or UNSET


ENDPOINTS: Resource[core.Endpoints] = Resource(
    kind=kind_of(core.Endpoints),
    default=default,
    validate_create=validate,
    validate_update=lambda new, _: validate(new),
    warnings=lambda *_: ("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",),
    columns=(NAME, column("Endpoints", shown, "Addresses and ports that are ready."), AGE),
    generation=False,
    storage_prefix="services/endpoints",
)
SLICE_COLUMNS: tuple[Column[Any], ...] = (
    NAME,
    column("AddressType", lambda e: e.addressType, "IPv4, IPv6 or FQDN."),
    column("Ports", _slice_ports, "Ports of the endpoints."),
    column("Endpoints", _slice_addresses, "Their addresses."),
    AGE,
)
ENDPOINT_SLICE: Resource[discovery.EndpointSlice] = Resource(
    kind=kind_of(discovery.EndpointSlice),
    default=default_slice,
    prepare_create=_prepare_slice,
    validate_create=validate_slice,
    validate_update=_validate_slice_update,
    columns=SLICE_COLUMNS,
)
RESOURCES = (ENDPOINTS, ENDPOINT_SLICE)
