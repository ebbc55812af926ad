"""Ingresses and their classes, network policies, and the objects that describe service addresses."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

from pinnace.api.fields import FieldError, forbidden, invalid, not_supported, required
from pinnace.api.kinds import kind_of
from pinnace.api.networking import v1 as networking
from pinnace.apiserver.resource import Column, Resource
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.columns import (
    AGE,
    NAME,
    NONE,
    balancer_addresses,
    column,
    format_selector,
)
from pinnace.apiserver.resources.podspec.containers import PROTOCOLS
from pinnace.apiserver.resources.selectors import validate_selector
from pinnace.apiserver.resources.strategy import keep_status, reset_status, status_part

PATH_TYPES = ("Exact", "ImplementationSpecific", "Prefix")
CLASS_ANNOTATION = "kubernetes.io/ingress.class"
DEFAULT_CLASS = "ingressclass.kubernetes.io/is-default-class"


def validate_ingress(ingress: networking.Ingress) -> Iterator[FieldError]:
    spec = ingress.spec
    if not spec.rules and spec.defaultBackend is None:
        yield invalid(
            "spec", _list(spec.rules), "either `defaultBackend` or `rules` must be specified"
        )
    if spec.defaultBackend is not None:
        yield from _backend(spec.defaultBackend, "spec.defaultBackend")
    for i, rule in enumerate(spec.rules or ()):
        path = f"spec.rules[{i}]"
        if rule.host:
            yield from _host(rule.host, f"{path}.host")
        if rule.http is not None:
            if not rule.http.paths:
                yield required(f"{path}.http.paths")
            for j, entry in enumerate(rule.http.paths):
                yield from _path(entry, f"{path}.http.paths[{j}]")
    for i, tls in enumerate(spec.tls or ()):
        for j, host in enumerate(tls.hosts or ()):
            yield from _host(host, f"spec.tls[{i}].hosts[{j}]")
        if tls.secretName:
            yield from rules.dns_subdomain(f"spec.tls[{i}].secretName", tls.secretName)
    if spec.ingressClassName is not None:
        yield from rules.dns_subdomain("spec.ingressClassName", spec.ingressClassName)


def create_ingress(ingress: networking.Ingress) -> Iterator[FieldError]:
    yield from validate_ingress(ingress)
    named = (ingress.metadata.annotations or {}).get(CLASS_ANNOTATION)
    if named and ingress.spec.ingressClassName is not None and named != ingress.spec.ingressClassName:
        yield invalid(
            "annotations.kubernetes.io/ingress.class",
            named,
            "must match `ingressClassName` when both are specified",
        )


def _list(value: Any) -> Any:
    return value if value is not None else []


def _host(host: str, path: str) -> Iterator[FieldError]:
    if rules.is_ip(host):
        yield invalid(path, host, "must be a DNS name, not an IP address")
    elif host.startswith("*."):
        yield from rules.dns_subdomain(path, host[2:])
    else:
        yield from rules.dns_subdomain(path, host)


def _path(entry: networking.HTTPIngressPath, path: str) -> Iterator[FieldError]:
    if not entry.pathType:
        yield required(f"{path}.pathType", "pathType must be specified")
    elif entry.pathType not in PATH_TYPES:
        yield not_supported(f"{path}.pathType", entry.pathType, PATH_TYPES)
    elif entry.pathType in ("Exact", "Prefix"):
        if not (entry.path or "").startswith("/"):
            yield invalid(f"{path}.path", entry.path or "", "must be an absolute path")
        for bad in ("//", "/./", "/../", "%2f", "%2F"):
            if bad in (entry.path or ""):
                yield invalid(f"{path}.path", entry.path, f"must not contain '{bad}'")
        for bad in ("/..", "/."):
            if (entry.path or "").endswith(bad):
                yield invalid(f"{path}.path", entry.path, f"cannot end with '{bad}'")
    elif entry.path and not entry.path.startswith("/"):
        yield invalid(f"{path}.path", entry.path, "must be an absolute path")
    yield from _backend(entry.backend, f"{path}.backend")


def _backend(backend: networking.IngressBackend, path: str) -> Iterator[FieldError]:
    service, resource = backend.service, backend.resource
    if service is not None and resource is not None:
        yield invalid(path, "", "cannot set both resource and service backends")
    elif resource is not None:
        if not resource.kind:
            yield required(f"{path}.resource.kind")
        if not resource.name:
            yield required(f"{path}.resource.name")
    elif service is not None:
        if not service.name:
            yield required(f"{path}.service.name")
        else:
            for message in rules.label_1035_messages(service.name):
                yield invalid(f"{path}.service.name", service.name, message)
        port = service.port
        if port.name and port.number:
            yield invalid(f"{path}", "", "cannot set both port name & port number")
        elif port.name:
            yield from rules.port_name(f"{path}.service.port.name", port.name)
        elif port.number:
            yield from rules.port_number(f"{path}.service.port.number", port.number)
        else:
            yield required(f"{path}", "port name or number is required")
    else:
        yield invalid(path, "", "resource or service backend is required")


def ingress_warnings(new: networking.Ingress, old: networking.Ingress | None) -> Iterator[str]:
    if old is None and CLASS_ANNOTATION in (new.metadata.annotations or {}):
        yield f"annotation \"{CLASS_ANNOTATION}\" is deprecated, please use 'spec.ingressClassName' instead"


def _hosts(ingress: networking.Ingress) -> str:
    found = [rule.host for rule in ingress.spec.rules or () if rule.host]
    if not found:
        return "*"
    count = len(ingress.spec.rules or ())
    return ",".join(found[:3]) + (f" + {count - 3} more..." if count > 3 else "")


INGRESS_COLUMNS: tuple[Column[Any], ...] = (
    NAME,
    column("Class", lambda i: i.spec.ingressClassName or NONE, "Which controller serves it."),
    column("Hosts", _hosts, "Host names of its rules."),
    column("Address", lambda i: balancer_addresses(i.status.loadBalancer.ingress), "Where it is reached."),
    column("Ports", lambda i: "80, 443" if i.spec.tls else "80", "Its ports."),
    AGE,
)


def default_class(ingress_class: networking.IngressClass) -> None:
    parameters = ingress_class.spec.parameters
    if parameters is not None and parameters.scope is None:
        parameters.scope = "Cluster"


def validate_class(ingress_class: networking.IngressClass) -> Iterator[FieldError]:
    spec = ingress_class.spec
    if not spec.controller:
        yield required("spec.controller")
    else:
        if len(spec.controller) > 250:
            yield FieldError(
                "FieldValueTooLong", "spec.controller", "", "may not be more than 250 bytes"
            )
        domain, slash, rest = spec.controller.partition("/")
        if not slash or not rest:
            yield invalid(
                "spec.controller", spec.controller, 'must be a domain-prefixed path (such as "acme.io/foo")'
            )
        else:
            yield from (
                invalid("spec.controller", domain, message) for message in rules.subdomain_messages(domain)
            )
    parameters = spec.parameters
    if parameters is not None:
        if not parameters.kind:
            yield required("spec.parameters.kind", "kind is required")
        if not parameters.name:
            yield required("spec.parameters.name", "name is required")
        if parameters.scope == "Namespace" and not parameters.namespace:
            yield required("spec.parameters.namespace", '`parameters.scope` is set to \'Namespace\'')
        elif parameters.scope == "Cluster" and parameters.namespace:
            yield forbidden("spec.parameters.namespace", "`parameters.scope` is set to 'Cluster'")
        elif parameters.scope not in ("Cluster", "Namespace"):
            yield not_supported("spec.parameters.scope", parameters.scope, ("Cluster", "Namespace"))


def update_class(
    new: networking.IngressClass, old: networking.IngressClass
) -> Iterator[FieldError]:
    yield from validate_class(new)
    yield from rules.immutable("spec.controller", new.spec.controller, old.spec.controller)


def _parameters(ingress_class: networking.IngressClass) -> str:
    reference = ingress_class.spec.parameters
    if reference is None:
        return NONE
    kind = f"{reference.kind}.{reference.apiGroup}" if reference.apiGroup else reference.kind
    return f"{kind}/{reference.name}"


def default_policy(policy: networking.NetworkPolicy) -> None:
    spec = policy.spec
    for rule in (*(spec.ingress or ()), *(spec.egress or ())):
        for port in rule.ports or ():
            if not port.protocol:
                port.protocol = "TCP"
    if not spec.policyTypes:
        spec.policyTypes = ["Ingress", "Egress"] if spec.egress else ["Ingress"]


def validate_policy(policy: networking.NetworkPolicy) -> Iterator[FieldError]:
    spec = policy.spec
    yield from validate_selector(spec.podSelector, "spec.podSelector")
    for i, ingress in enumerate(spec.ingress or ()):
        yield from _policy_ports(ingress.ports, f"spec.ingress[{i}].ports")
        for j, peer in enumerate(ingress.from_ or ()):
            yield from _peer(peer, f"spec.ingress[{i}].from[{j}]")
    for i, egress in enumerate(spec.egress or ()):
        yield from _policy_ports(egress.ports, f"spec.egress[{i}].ports")
        for j, peer in enumerate(egress.to or ()):
            yield from _peer(peer, f"spec.egress[{i}].to[{j}]")
    types = spec.policyTypes or []
    if len(types) > 2:
        yield invalid("spec.policyTypes", types, "may not specify more than two policyTypes")
        return
    for i, word in enumerate(types):
        if word not in ("Ingress", "Egress"):
            yield not_supported(f"spec.policyTypes[{i}]", word, ("Egress", "Ingress"))


def _policy_ports(ports: list[networking.NetworkPolicyPort] | None, path: str) -> Iterator[FieldError]:
    for i, port in enumerate(ports or ()):
        here = f"{path}[{i}]"
        if port.protocol is not None and port.protocol not in PROTOCOLS:
            yield not_supported(f"{here}.protocol", port.protocol, PROTOCOLS)
        if port.port is not None:
            if isinstance(port.port, int):
                yield from rules.port_number(f"{here}.port", port.port)
                if port.endPort is not None:
                    if port.endPort < port.port:
                        yield invalid(f"{here}.endPort", port.port, "must be greater than or equal to `port`")
                    yield from rules.port_number(f"{here}.endPort", port.endPort)
            else:
                if port.endPort is not None:
                    yield invalid(f"{here}.endPort", port.endPort, "may not be specified when `port` is non-numeric")
                yield from rules.port_name(f"{here}.port", port.port)
        elif port.endPort is not None:
            yield invalid(f"{here}.endPort", port.endPort, "may not be specified when `port` is not specified")


def _peer(peer: networking.NetworkPolicyPeer, path: str) -> Iterator[FieldError]:
    peers = 0
    if peer.podSelector is not None:
        peers += 1
        yield from validate_selector(peer.podSelector, f"{path}.podSelector")
    if peer.namespaceSelector is not None:
        peers += 1
        yield from validate_selector(peer.namespaceSelector, f"{path}.namespaceSelector")
    if peer.ipBlock is not None:
        peers += 1
        yield from _block(peer.ipBlock, f"{path}.ipBlock")
    if peers == 0:
        yield required(path, "must specify a peer")
    elif peers > 1 and peer.ipBlock is not None:
        yield forbidden(path, "may not specify both ipBlock and another peer")


def _block(block: networking.IPBlock, path: str) -> Iterator[FieldError]:
    if not block.cidr:
        yield required(f"{path}.cidr")
        return
    bad = rules.cidr(f"{path}.cidr", block.cidr)
    yield from bad
    for i, text in enumerate(block.except_ or ()):
        wrong = rules.cidr(f"{path}.except[{i}]", text)
        yield from wrong
        if bad or wrong:
            continue
        outer, inner = ipaddress.ip_network(block.cidr, strict=False), ipaddress.ip_network(text, strict=False)
        inside = inner.version == outer.version and inner.network_address in outer
        if not inside or inner.prefixlen <= outer.prefixlen:
            yield invalid(f"{path}.except[{i}]", text, f'must be a strict subset of `cidr`: "{block.cidr}"')


def validate_address(address: networking.IPAddress) -> Iterator[FieldError]:
    parent = address.spec.parentRef
    if not parent.resource:
        yield required("spec.parentRef.resource")
    if not parent.name:
        yield required("spec.parentRef.name")


def address_name(name: str) -> tuple[str, ...]:
    if rules.is_ip(name) and str(ipaddress.ip_address(name)) == name:
        return ()
    return ("must be a valid IP address in canonical form",)


def _parent(address: networking.IPAddress) -> str:
    parent = address.spec.parentRef
    group = f".{parent.group}" if parent.group else ""
    where = f"{parent.namespace}/" if parent.namespace else ""
    return f"{parent.resource}{group}/{where}{parent.name}".lower()


def validate_range(service_range: networking.ServiceCIDR) -> Iterator[FieldError]:
    cidrs = service_range.spec.cidrs or []
    if not cidrs:
        yield required("spec.cidrs", "at least one CIDR required")
    if len(cidrs) > 2:
        yield invalid("spec", service_range.spec, "may only hold up to 2 values")
    for i, text in enumerate(cidrs):
        yield from rules.cidr(f"spec.cidrs[{i}]", text)


def update_range(new: networking.ServiceCIDR, old: networking.ServiceCIDR) -> Iterator[FieldError]:
    yield from validate_range(new)
    if old.spec.cidrs and (new.spec.cidrs or [])[:1] != old.spec.cidrs[:1]:
        yield invalid("spec.cidrs[0]", new.spec.cidrs, "field is immutable")


INGRESS: Resource[networking.Ingress] = Resource(
    kind=kind_of(networking.Ingress),
    prepare_create=reset_status,
    prepare_update=keep_status,
    validate_create=create_ingress,
    validate_update=lambda new, _: validate_ingress(new),
    warnings=ingress_warnings,
    columns=INGRESS_COLUMNS,
    subresources=(status_part(),),
    storage_prefix="ingress",
)
INGRESS_CLASS: Resource[networking.IngressClass] = Resource(
    kind=kind_of(networking.IngressClass),
    default=default_class,
    validate_create=validate_class,
    validate_update=update_class,
    columns=(
        NAME,
        column("Controller", lambda c: c.spec.controller or "", "Who serves the class."),
        column("Parameters", _parameters, "Where its settings are."),
        AGE,
    ),
)
NETWORK_POLICY: Resource[networking.NetworkPolicy] = Resource(
    kind=kind_of(networking.NetworkPolicy),
    default=default_policy,
    validate_create=validate_policy,
    validate_update=lambda new, _: validate_policy(new),
    columns=(
        NAME,
        column("Pod-Selector", lambda p: format_selector(p.spec.podSelector), "Pods it is about."),
        AGE,
    ),
)
IP_ADDRESS: Resource[networking.IPAddress] = Resource(
    kind=kind_of(networking.IPAddress),
    validate_create=validate_address,
    validate_update=lambda new, old: rules.immutable("spec.parentRef", new.spec.parentRef, old.spec.parentRef),
    validate_name=address_name,
    columns=(NAME, column("ParentRef", _parent, "Who has the address."), AGE),
    generation=False,
)
SERVICE_CIDR: Resource[networking.ServiceCIDR] = Resource(
    kind=kind_of(networking.ServiceCIDR),
    prepare_create=reset_status,
    prepare_update=keep_status,
    validate_create=validate_range,
    validate_update=update_range,
    columns=(NAME, column("CIDRs", lambda s: ",".join(s.spec.cidrs or ()), "Its ranges."), AGE),
    subresources=(status_part(),),
    generation=False,
)
RESOURCES = (INGRESS, INGRESS_CLASS, NETWORK_POLICY, IP_ADDRESS, SERVICE_CIDR)
