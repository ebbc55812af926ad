"""Services on their way in: defaults, and what follows from a change of type. In place; upstream's svcStrategy."""

from __future__ import annotations

from pinnace.api.core import v1 as core
from pinnace.apiserver.resource import Context

HEADLESS = "None"
CLUSTER_TYPES = ("ClusterIP", "NodePort", "LoadBalancer")
AFFINITY_SECONDS = 10800


def needs_cluster_ip(spec: core.ServiceSpec) -> bool:
    return spec.type in CLUSTER_TYPES


def is_headless(spec: core.ServiceSpec) -> bool:
    return needs_cluster_ip(spec) and HEADLESS in ((spec.clusterIPs or [""])[0], spec.clusterIP)


def needs_node_port(spec: core.ServiceSpec) -> bool:
    return spec.type == "NodePort" or (
        spec.type == "LoadBalancer" and spec.allocateLoadBalancerNodePorts is not False
    )


def needs_health_check(spec: core.ServiceSpec) -> bool:
    return spec.type == "LoadBalancer" and spec.externalTrafficPolicy == "Local"


def externally_accessible(spec: core.ServiceSpec) -> bool:
    return spec.type in ("LoadBalancer", "NodePort") or (spec.type == "ClusterIP" and bool(spec.externalIPs))


def default(service: core.Service) -> None:
    spec = service.spec
    spec.clusterIP = spec.clusterIP or None      # Go leaves out what is empty
    if not spec.sessionAffinity:
        spec.sessionAffinity = "None"
    if spec.sessionAffinity == "None":
        spec.sessionAffinityConfig = None
    elif spec.sessionAffinity == "ClientIP":
        config = spec.sessionAffinityConfig
        if config is None or config.clientIP is None or config.clientIP.timeoutSeconds is None:
            spec.sessionAffinityConfig = core.SessionAffinityConfig(
                clientIP=core.ClientIPConfig(timeoutSeconds=AFFINITY_SECONDS)
            )
    if not spec.type:
        spec.type = "ClusterIP"
    for port in spec.ports or ():
        if not port.protocol:
            port.protocol = "TCP"
        if not port.targetPort:
            port.targetPort = port.port
    if externally_accessible(spec) and not spec.externalTrafficPolicy:
        spec.externalTrafficPolicy = "Cluster"
    if spec.internalTrafficPolicy is None and spec.type in CLUSTER_TYPES:
        spec.internalTrafficPolicy = "Cluster"
    if spec.type == "LoadBalancer":
        if spec.allocateLoadBalancerNodePorts is None:
            spec.allocateLoadBalancerNodePorts = True
        for ingress in service.status.loadBalancer.ingress or ():
            if ingress.ip and ingress.ipMode is None:
                ingress.ipMode = "VIP"


def prepare_create(service: core.Service, _: Context) -> None:
    service.status = core.ServiceStatus()
    spec = service.spec
    if spec.clusterIP and not spec.clusterIPs:
        spec.clusterIPs = [spec.clusterIP]
    set_families(spec)


def set_families(spec: core.ServiceSpec) -> None:
    """IP families of a service: the cluster's one, unless the service says more. External names have none."""
    if spec.type == "ExternalName":
        return
    if is_headless(spec) and not spec.selector:
        # Whoever fills such a service by hand may use both families.
        if spec.ipFamilyPolicy is None:
            spec.ipFamilyPolicy = "RequireDualStack"
        if not spec.ipFamilies:
            both = spec.ipFamilyPolicy != "SingleStack"
            spec.ipFamilies = ["IPv4", "IPv6"] if both else ["IPv4"]
        return
    if spec.ipFamilyPolicy is None:
        several = len(spec.clusterIPs or ()) > 1 or len(spec.ipFamilies or ()) > 1
        spec.ipFamilyPolicy = "RequireDualStack" if several else "SingleStack"
    if not spec.ipFamilies:
        given = [ip for ip in spec.clusterIPs or () if ip != HEADLESS]
        spec.ipFamilies = ["IPv6" if ":" in ip else "IPv4" for ip in given] or ["IPv4"]


def prepare_update(new: core.Service, old: core.Service, _: Context) -> None:
    new.status = old.status
    after, before = new.spec, old.spec
    _keep_allocated(after, before)
    _same_addresses(after, before)
    _drop_by_type(after, before)
    set_families(after)
    if new.spec.type != "LoadBalancer" and old.spec.type == "LoadBalancer":
        new.status = core.ServiceStatus(conditions=old.status.conditions)


def _keep_allocated(after: core.ServiceSpec, before: core.ServiceSpec) -> None:
    """What the server once chose stays chosen when a client leaves it out."""
    if needs_cluster_ip(before) and needs_cluster_ip(after):
        if not after.clusterIP:
            after.clusterIP = before.clusterIP
        if not after.clusterIPs and after.clusterIP == before.clusterIP:
            after.clusterIPs = list(before.clusterIPs or ()) or None
    if needs_node_port(before) and needs_node_port(after):
        used = {(p.protocol, p.nodePort) for p in after.ports or () if p.nodePort}
        known = {(p.protocol, p.port): p.nodePort for p in before.ports or () if p.nodePort}
        for port in after.ports or ():
            was = known.get((port.protocol, port.port))
            if not port.nodePort and was and (port.protocol, was) not in used:
                port.nodePort = was
                used.add((port.protocol, was))
    if needs_health_check(before) and needs_health_check(after) and not after.healthCheckNodePort:
        after.healthCheckNodePort = before.healthCheckNodePort


def _same_addresses(after: core.ServiceSpec, before: core.ServiceSpec) -> None:
    """clusterIP and clusterIPs[0] are one value: whichever the client changed wins."""
    same_list = (after.clusterIPs or []) == (before.clusterIPs or [])
    if (after.clusterIP or "") != (before.clusterIP or ""):
        if same_list:
            after.clusterIPs = [after.clusterIP, *(after.clusterIPs or [])[1:]] if after.clusterIP else None
    elif before.clusterIPs and not after.clusterIPs:
        after.clusterIP = None
    if after.clusterIP and not after.clusterIPs:
        after.clusterIPs = [after.clusterIP]


def _drop_by_type(after: core.ServiceSpec, before: core.ServiceSpec) -> None:
    """Fields that only the old type had, unless the client set them anew."""
    if needs_cluster_ip(before) and not needs_cluster_ip(after):
        if (after.clusterIPs or []) == (before.clusterIPs or []):
            after.clusterIP = after.clusterIPs = None
        if (after.ipFamilies or []) == (before.ipFamilies or []):
            after.ipFamilies = None
        if after.ipFamilyPolicy == before.ipFamilyPolicy:
            after.ipFamilyPolicy = None
    if needs_node_port(before) and not needs_node_port(after):
        was = [(p.protocol, p.port, p.nodePort) for p in before.ports or ()]
        is_ = [(p.protocol, p.port, p.nodePort) for p in after.ports or ()]
        if was == is_:
            for port in after.ports or ():
                port.nodePort = None
    lost_check = needs_health_check(before) and not needs_health_check(after)
    if lost_check and after.healthCheckNodePort == before.healthCheckNodePort:
        after.healthCheckNodePort = None
    if before.type == "LoadBalancer" and after.type != "LoadBalancer":
        if after.allocateLoadBalancerNodePorts == before.allocateLoadBalancerNodePorts:
            after.allocateLoadBalancerNodePorts = None
        if after.loadBalancerClass == before.loadBalancerClass:
            after.loadBalancerClass = None
    withdrawn = externally_accessible(before) and not externally_accessible(after)
    if withdrawn and after.externalTrafficPolicy == before.externalTrafficPolicy:
        after.externalTrafficPolicy = None
