"""Validation of services, in upstream's order."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from pinnace.api.core import v1 as core
from pinnace.api.fields import FieldError, duplicate, forbidden, invalid, not_supported, required
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.metadata import validate_labels
from pinnace.apiserver.resources.podspec.containers import PROTOCOLS
from pinnace.apiserver.resources.services.strategy import (
    AFFINITY_SECONDS,
    CLUSTER_TYPES,
    HEADLESS,
    externally_accessible,
    is_headless,
    needs_health_check,
)

TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
FAMILIES = ("IPv4", "IPv6")
POLICIES = ("PreferDualStack", "RequireDualStack", "SingleStack")
MAX_AFFINITY_SECONDS = 86400
BALANCER_ONLY = "may only be used when `type` is 'LoadBalancer'"
assert AFFINITY_SECONDS <= MAX_AFFINITY_SECONDS


def validate(service: core.Service) -> Iterator[FieldError]:
    spec = service.spec
    if not spec.ports and not is_headless(spec) and spec.type != "ExternalName":
        yield required("spec.ports")
    yield from _by_type(spec)
    names: set[str] = set()
    for i, port in enumerate(spec.ports or ()):
        yield from _port(port, len(spec.ports or ()) > 1, names, f"spec.ports[{i}]")
    if spec.selector:
        yield from validate_labels(spec.selector, "spec.selector")
    yield from _affinity(spec)
    yield from _addresses(spec)
    for i, address in enumerate(spec.externalIPs or ()):
        bad = rules.ip_address(f"spec.externalIPs[{i}]", address)
        yield from bad or non_special(f"spec.externalIPs[{i}]", address)
    if not spec.type:
        yield required("spec.type")
    elif spec.type not in TYPES:
        yield not_supported("spec.type", spec.type, TYPES)
    yield from _port_conflicts(spec)
    yield from _balancer(spec)
    yield from _traffic(spec)


def _by_type(spec: core.ServiceSpec) -> Iterator[FieldError]:
    if spec.type in ("LoadBalancer", "NodePort") and is_headless(spec):
        yield invalid("spec.clusterIPs[0]", HEADLESS, f"may not be set to 'None' for {spec.type} services")
    if spec.type != "ExternalName":
        return
    why = "may not be set for ExternalName services"
    if spec.clusterIPs:
        yield forbidden("spec.clusterIPs", why)
    if spec.ipFamilies:
        yield forbidden("spec.ipFamilies", why)
    if spec.ipFamilyPolicy is not None:
        yield forbidden("spec.ipFamilyPolicy", why)
    name = (spec.externalName or "").removesuffix(".")
    if name:
        yield from rules.dns_subdomain("spec.externalName", name)
    else:
        yield required("spec.externalName")


def _port(port: core.ServicePort, named: bool, names: set[str], path: str) -> Iterator[FieldError]:
    if named and not port.name:
        yield required(f"{path}.name")
    elif port.name:
        yield from rules.dns_label(f"{path}.name", port.name)
        if port.name in names:
            yield duplicate(f"{path}.name", port.name)
        names.add(port.name)
    yield from rules.port_number(f"{path}.port", port.port)
    if not port.protocol:
        yield required(f"{path}.protocol")
    elif port.protocol not in PROTOCOLS:
        yield not_supported(f"{path}.protocol", port.protocol, PROTOCOLS)
    yield from rules.port(f"{path}.targetPort", port.targetPort)
    if port.appProtocol is not None:
        yield from rules.qualified_name(f"{path}.appProtocol", port.appProtocol)


def _affinity(spec: core.ServiceSpec) -> Iterator[FieldError]:
    if not spec.sessionAffinity:
        yield required("spec.sessionAffinity")
    elif spec.sessionAffinity not in ("ClientIP", "None"):
        yield not_supported("spec.sessionAffinity", spec.sessionAffinity, ("ClientIP", "None"))
    path, config = "spec.sessionAffinityConfig", spec.sessionAffinityConfig
    if spec.sessionAffinity == "None" and config is not None:
        yield forbidden(path, "must not be set when session affinity is None")
    if spec.sessionAffinity != "ClientIP":
        return
    why = "when session affinity type is ClientIP"
    if config is None:
        yield required(path, why)
    elif config.clientIP is None:
        yield required(f"{path}.clientIP", why)
    elif config.clientIP.timeoutSeconds is None:
        yield required(f"{path}.clientIP.timeoutSeconds", why)
    elif not 0 < config.clientIP.timeoutSeconds <= MAX_AFFINITY_SECONDS:
        yield invalid(
            f"{path}.clientIP.timeoutSeconds",
            config.clientIP.timeoutSeconds,
            f"must be greater than 0 and less than {MAX_AFFINITY_SECONDS}",
        )


def _addresses(spec: core.ServiceSpec) -> Iterator[FieldError]:
    if spec.type == "ExternalName":
        return
    families, addresses = spec.ipFamilies or [], spec.clusterIPs or []
    for i, family in enumerate(families):
        if family not in FAMILIES:
            yield not_supported(f"spec.ipFamilies[{i}]", family, FAMILIES)
        elif family in families[:i]:
            yield duplicate(f"spec.ipFamilies[{i}]", family)
    if len(families) > 2:
        yield invalid("spec.ipFamilies", families, "may only hold up to 2 values")
    if spec.ipFamilyPolicy is not None and spec.ipFamilyPolicy not in POLICIES:
        yield not_supported("spec.ipFamilyPolicy", spec.ipFamilyPolicy, POLICIES)
    if spec.clusterIP and not addresses:
        yield required("spec.clusterIPs")
    elif addresses and (spec.clusterIP or "") != addresses[0]:
        yield invalid("spec.clusterIPs", addresses, "first value must match `clusterIP`")
    if len(addresses) > 2:
        yield invalid("spec.clusterIPs", addresses, "may only hold up to 2 values")
    if HEADLESS in addresses:
        if len(addresses) > 1:
            yield invalid("spec.clusterIPs", addresses, "'None' must be the first and only value")
    else:
        for i, address in enumerate(addresses):
            path = f"spec.clusterIPs[{i}]"
            bad = rules.ip_address(path, address)
            yield from bad
            if not bad and i < len(families) and families[i] != ("IPv6" if ":" in address else "IPv4"):
                yield invalid(path, address, f'expected an {families[i]} value as indicated by `ipFamilies[{i}]`')
    if len(addresses) == 2 and len({":" in address for address in addresses}) == 1:
        yield invalid("spec.clusterIPs", addresses, "may specify no more than one IP for each IP family")
    yield from _single_stack(spec, families)


def _single_stack(spec: core.ServiceSpec, families: list[str]) -> Iterator[FieldError]:
    """This cluster's service range is IPv4."""
    if is_headless(spec) and not spec.selector:
        return
    if spec.ipFamilyPolicy == "RequireDualStack" and spec.type in CLUSTER_TYPES:
        yield invalid(
            "spec.ipFamilyPolicy", spec.ipFamilyPolicy, "this cluster is not configured for dual-stack services"
        )
    elif len(families) > 1 and spec.ipFamilyPolicy == "SingleStack":
        yield invalid(
            "spec.ipFamilyPolicy", spec.ipFamilyPolicy, "must be RequireDualStack or PreferDualStack when multiple "
            "`ipFamilies` are specified",
        )
    for i, family in enumerate(families):
        if family == "IPv6":
            yield invalid(f"spec.ipFamilies[{i}]", family, "not configured on this cluster")


def non_special(path: str, value: str) -> Iterator[FieldError]:
    """Addresses that no endpoint or external address may have."""
    address = ipaddress.ip_address(value)
    if address.is_unspecified:
        yield invalid(path, value, f"may not be unspecified ({value})")
    if address.is_loopback:
        yield invalid(path, value, "may not be in the loopback range (127.0.0.0/8, ::1/128)")
    if address.is_link_local:
        yield invalid(path, value, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")
    link_local = "ff02::/16" if address.version == 6 else "224.0.0.0/24"
    if address in ipaddress.ip_network(link_local):
        yield invalid(path, value, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")


def _port_conflicts(spec: core.ServiceSpec) -> Iterator[FieldError]:
    ports = spec.ports or []
    if spec.type == "ClusterIP":
        for i, port in enumerate(ports):
            if port.nodePort:
                yield forbidden(f"spec.ports[{i}].nodePort", "may not be used when `type` is 'ClusterIP'")
    nodes: set[tuple[str | None, int]] = set()
    for i, port in enumerate(ports):
        if port.nodePort:
            if (port.protocol, port.nodePort) in nodes:
                yield duplicate(f"spec.ports[{i}].nodePort", port.nodePort)
            nodes.add((port.protocol, port.nodePort))
    seen: set[tuple[str | None, int]] = set()
    for i, port in enumerate(ports):
        if (port.protocol, port.port) in seen:
            yield duplicate(f"spec.ports[{i}]", {"port": port.port, "protocol": port.protocol})
        seen.add((port.protocol, port.port))


def _balancer(spec: core.ServiceSpec) -> Iterator[FieldError]:
    is_balancer = spec.type == "LoadBalancer"
    if spec.loadBalancerSourceRanges:
        path = "spec.LoadBalancerSourceRanges"
        if not is_balancer:
            yield forbidden(path, BALANCER_ONLY)
        for i, value in enumerate(spec.loadBalancerSourceRanges):
            yield from rules.cidr(f"{path}[{i}]", value.strip())
    if spec.allocateLoadBalancerNodePorts is not None and not is_balancer:
        yield forbidden("spec.allocateLoadBalancerNodePorts", BALANCER_ONLY)
    if is_balancer and spec.allocateLoadBalancerNodePorts is None:
        yield required("allocateLoadBalancerNodePorts")
    if spec.loadBalancerClass is not None:
        if not is_balancer:
            yield forbidden("spec.loadBalancerClass", BALANCER_ONLY)
        yield from rules.qualified_name("spec.loadBalancerClass", spec.loadBalancerClass)


def _traffic(spec: core.ServiceSpec) -> Iterator[FieldError]:
    policy = spec.externalTrafficPolicy
    if not externally_accessible(spec):
        if policy:
            yield invalid(
                "spec.externalTrafficPolicy", policy, "may only be set for externally-accessible services"
            )
    elif not policy:
        yield required("spec.externalTrafficPolicy")
    elif policy not in ("Cluster", "Local"):
        yield not_supported("spec.externalTrafficPolicy", policy, ("Cluster", "Local"))
    check = spec.healthCheckNodePort
    if check:
        if not needs_health_check(spec):
            yield invalid(
                "spec.healthCheckNodePort",
                check,
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
            )
        else:
            yield from rules.port_number("spec.healthCheckNodePort", check)
    internal = spec.internalTrafficPolicy
    if internal is None:
        if spec.type in CLUSTER_TYPES:
            yield required("spec.internalTrafficPolicy")
    elif internal not in ("Cluster", "Local"):
        yield not_supported("spec.internalTrafficPolicy", internal, ("Cluster", "Local"))
    wanted = spec.trafficDistribution
    known = ("PreferClose", "PreferSameNode", "PreferSameZone")
    if wanted is not None and wanted not in known:
        yield not_supported("spec.trafficDistribution", wanted, known)


def validate_update(new: core.Service, old: core.Service) -> Iterator[FieldError]:
    after, before = new.spec, old.spec
    if "ExternalName" not in (after.type, before.type):
        yield from _fixed(after.clusterIPs, before.clusterIPs, "spec.clusterIPs", "clusterIP")
        yield from _fixed(after.ipFamilies, before.ipFamilies, "spec.ipFamilies", "ipFamily")
    if before.type == after.type == "LoadBalancer" and after.loadBalancerClass != before.loadBalancerClass:
        yield invalid("spec.loadBalancerClass", after.loadBalancerClass, "may not change once set")
    checked = needs_health_check(before) and needs_health_check(after)
    if checked and after.healthCheckNodePort != before.healthCheckNodePort:
        yield forbidden("spec.healthCheckNodePort", "field is immutable")
    yield from validate(new)


def _fixed(
    after: list[str] | None, before: list[str] | None, path: str, one: str
) -> Iterator[FieldError]:
    """The first value never changes; a second may come and go, but not become another."""
    new, old = after or [], before or []
    if old and new:
        for i, (is_, was) in enumerate(zip(new, old, strict=False)):
            if is_ != was:
                yield invalid(f"{path}[{i}]", new, "may not change once set")
    elif old and not new:
        yield invalid(f"{path}[0]", None, f"primary {one} can not be unset")


def validate_status(new: core.Service, _: core.Service) -> Iterator[FieldError]:
    ingresses = new.status.loadBalancer.ingress or ()
    if ingresses and new.spec.type != "LoadBalancer":
        yield forbidden(
            "status.loadBalancer.ingress", "may only be used when `spec.type` is 'LoadBalancer'"
        )
    for i, ingress in enumerate(ingresses):
        path = f"status.loadBalancer.ingress[{i}]"
        if ingress.ip:
            yield from rules.ip_address(f"{path}.ip", ingress.ip)
            if ingress.ipMode not in (None, "VIP", "Proxy"):
                yield not_supported(f"{path}.ipMode", ingress.ipMode, ("Proxy", "VIP"))
        elif ingress.ipMode is not None:
            yield forbidden(f"{path}.ipMode", "may not be specified when `ip` is not set")
        if ingress.hostname:
            yield from rules.dns_subdomain(f"{path}.hostname", ingress.hostname)
            if rules.is_ip(ingress.hostname):
                yield invalid(f"{path}.hostname", ingress.hostname, "must be a DNS name, not an IP address")
