"""The Service's row of the table, and how a service is shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pinnace.api.core import v1 as core
from pinnace.api.kinds import kind_of
from pinnace.apiserver.resource import Column, Resource
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.columns import (
    AGE,
    NAME,
    NONE,
    UNKNOWN,
    balancer_addresses,
    column,
    format_labels,
)
from pinnace.apiserver.resources.connect import SERVICE_PROXY
from pinnace.apiserver.resources.services.reserve import reserve
from pinnace.apiserver.resources.services.strategy import default, prepare_create, prepare_update
from pinnace.apiserver.resources.services.validation import validate, validate_status, validate_update
from pinnace.apiserver.resources.strategy import status_part


def external_address(service: core.Service) -> str:
    spec = service.spec
    match spec.type:
        case "ClusterIP" | "NodePort":
            return ",".join(spec.externalIPs or ()) or NONE
        case "LoadBalancer":
            balancer = balancer_addresses(service.status.loadBalancer.ingress)
            return ",".join([*([balancer] if balancer else []), *(spec.externalIPs or ())]) or "<pending>"
        case "ExternalName":
            return spec.externalName or ""
        case _:
            return UNKNOWN


def ports(service: core.Service) -> str:
    pieces = [
        f"{port.port}:{port.nodePort}/{port.protocol}" if port.nodePort else f"{port.port}/{port.protocol}"
        for port in service.spec.ports or ()
    ]
    return ",".join(pieces) or NONE


def warnings(new: core.Service, old: core.Service | None) -> Iterator[str]:
    if old is not None and new.spec == old.spec:
        return
    spec = new.spec
    for i, address in enumerate(spec.externalIPs or ()):
        if rules.is_ip(address) and spec.type == "ExternalName":
            yield f"spec.externalIPs[{i}] is ignored when spec.type is ExternalName"
    if spec.clusterIP == "None":
        if spec.loadBalancerIP:
            yield "spec.loadBalancerIP is ignored for headless services"
        if spec.externalIPs:
            yield "spec.externalIPs is ignored for headless services"
        if spec.sessionAffinity not in (None, "None"):
            yield "spec.SessionAffinity is ignored for headless services"
    if spec.trafficDistribution == "PreferClose":
        yield "spec.trafficDistribution: PreferClose is deprecated in v1.34+; use PreferSameZone instead"


COLUMNS: tuple[Column[Any], ...] = (
    NAME,
    column("Type", lambda s: s.spec.type or "", "How the service is reached."),
    column("Cluster-IP", lambda s: s.spec.clusterIP or NONE, "Its address within the cluster."),
    column("External-IP", external_address, "Its address from outside."),
    column("Port(s)", ports, "Its ports, with their node ports."),
    AGE,
    column("Selector", lambda s: format_labels(s.spec.selector), "Labels of its pods.", wide=True),
)
SERVICE: Resource[core.Service] = Resource(
    kind=kind_of(core.Service),
    default=default,
    prepare_create=prepare_create,
    prepare_update=prepare_update,
    validate_create=validate,
    validate_update=validate_update,
    # Names become host names, in the strict old sense.
    validate_name=rules.label_1035_messages,
    warnings=warnings,
    columns=COLUMNS,
    fields={
        "spec.clusterIP": lambda s: s.spec.clusterIP or "",
        "spec.type": lambda s: s.spec.type or "",
    },
    subresources=(SERVICE_PROXY, status_part(validate_status)),
    generation=False,
    reserve=reserve,
    returns_deleted=True,
    storage_prefix="services/specs",
)
RESOURCES = (SERVICE,)
