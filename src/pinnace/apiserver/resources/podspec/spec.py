"""Validation of a whole pod spec and of a pod template, in upstream's order. Pure: findings come as they are made."""

from __future__ import annotations

from collections.abc import Iterator

from pinnace.api.core import v1 as core
from pinnace.api.fields import FieldError, duplicate, forbidden, invalid, not_supported, required
from pinnace.api.quantity import parse_quantity
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.metadata import validate_annotations, validate_labels
from pinnace.apiserver.resources.podspec.containers import (
    PodFacts,
    validate_containers,
    validate_ephemeral_containers,
    validate_init_containers,
)
from pinnace.apiserver.resources.podspec.known import GoodSpecs
from pinnace.apiserver.resources.podspec.quantities import (
    validate_container_resource_name,
    validate_quantity,
    validate_requirements,
)
from pinnace.apiserver.resources.podspec.scheduling import (
    validate_affinity,
    validate_spread,
    validate_tolerations,
)
from pinnace.apiserver.resources.podspec.security import validate_host_users, validate_pod_security
from pinnace.apiserver.resources.podspec.volumes import validate_volumes

RESTART_POLICIES = ("Always", "OnFailure", "Never")
DNS_POLICIES = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
MAX_INT32 = (1 << 31) - 1
_good_in_templates = GoodSpecs()


def validate_pod_template(template: core.PodTemplateSpec, path: str) -> Iterator[FieldError]:
    about = template.metadata
    if about.labels:
        yield from validate_labels(about.labels, f"{path}.labels")
    if about.annotations:
        yield from validate_annotations(about.annotations, f"{path}.annotations")
    yield from _good_in_templates.judge(validate_pod_spec, template.spec, f"{path}.spec")
    if template.spec.ephemeralContainers:
        yield forbidden(f"{path}.spec.ephemeralContainers", "ephemeral containers not allowed in pod template")


def validate_pod_spec(spec: core.PodSpec, path: str, *, pod_name: str | None = None) -> Iterator[FieldError]:
    """`pod_name` is given for a Pod itself (possibly empty), None for templates."""
    if spec.terminationGracePeriodSeconds is None:
        yield required(f"{path}.terminationGracePeriodSeconds")
    volumes = spec.volumes or ()
    if volumes:
        yield from validate_volumes(volumes, pod_name or "", f"{path}.volumes")
    if spec.resourceClaims:
        yield from _claims(spec.resourceClaims, f"{path}.resourceClaims")
    facts = PodFacts(
        volumes={volume.name: volume for volume in volumes},
        claims=[claim.name for claim in spec.resourceClaims or () if claim.name],
        grace=spec.terminationGracePeriodSeconds,
        restart_policy=spec.restartPolicy or "",
        host_users=spec.hostUsers is not False,
        is_pod=pod_name is not None,
    )
    containers, init = spec.containers, spec.initContainers or ()
    yield from validate_containers(containers, facts, f"{path}.containers")
    if init:
        yield from validate_init_containers(init, containers, facts, f"{path}.initContainers")
    if spec.ephemeralContainers:
        yield from validate_ephemeral_containers(
            spec.ephemeralContainers, (*containers, *init), facts, f"{path}.ephemeralContainers"
        )
    if spec.resources is not None:
        yield from _pod_resources(spec, facts, f"{path}.resources")
    yield from _host_network(spec, facts.is_pod, path)
    yield from _policies(spec, path)
    if spec.nodeSelector:
        yield from validate_labels(spec.nodeSelector, f"{path}.nodeSelector")
    if spec.securityContext is not None:
        yield from validate_pod_security(spec.securityContext, spec, f"{path}.securityContext")
    if spec.affinity is not None:
        yield from validate_affinity(spec.affinity, f"{path}.affinity")
    if spec.dnsConfig is not None or spec.dnsPolicy == "None":
        yield from _dns(spec, f"{path}.dnsConfig")
    yield from _gates(spec, path)
    if spec.topologySpreadConstraints:
        yield from validate_spread(spec.topologySpreadConstraints, f"{path}.topologySpreadConstraints")
    yield from validate_host_users(spec, path)
    yield from _names(spec, path)
    if spec.tolerations:
        yield from validate_tolerations(spec.tolerations, f"{path}.tolerations")
    for i, alias in enumerate(spec.hostAliases or ()):
        yield from rules.ip_address(f"{path}.hostAliases[{i}].ip", alias.ip)
        for j, name in enumerate(alias.hostnames or ()):
            yield from rules.dns_subdomain(f"{path}.hostAliases[{i}].hostnames[{j}]", name)
    yield from _classes(spec, path)


def _policies(spec: core.PodSpec, path: str) -> Iterator[FieldError]:
    if spec.restartPolicy not in RESTART_POLICIES:
        where = f"{path}.restartPolicy"
        yield not_supported(where, spec.restartPolicy, sorted(RESTART_POLICIES)) if spec.restartPolicy else (
            required(where)
        )
    if spec.dnsPolicy not in DNS_POLICIES:
        where = f"{path}.dnsPolicy"
        yield not_supported(where, spec.dnsPolicy, sorted(DNS_POLICIES)) if spec.dnsPolicy else required(where)


def _names(spec: core.PodSpec, path: str) -> Iterator[FieldError]:
    if spec.serviceAccountName:
        yield from rules.dns_subdomain(f"{path}.serviceAccountName", spec.serviceAccountName)
    if spec.nodeName:
        yield from rules.dns_subdomain(f"{path}.nodeName", spec.nodeName)
    deadline = spec.activeDeadlineSeconds
    if deadline is not None and not 1 <= deadline <= MAX_INT32:
        yield invalid(
            f"{path}.activeDeadlineSeconds", deadline, f"must be between 1 and {MAX_INT32}, inclusive"
        )
    if spec.hostname:
        yield from rules.dns_label(f"{path}.hostname", spec.hostname)
    if spec.subdomain:
        yield from rules.dns_label(f"{path}.subdomain", spec.subdomain)


def _classes(spec: core.PodSpec, path: str) -> Iterator[FieldError]:
    if spec.priorityClassName:
        yield from rules.dns_subdomain(f"{path}.priorityClassName", spec.priorityClassName)
    if spec.runtimeClassName is not None:
        yield from rules.dns_subdomain(f"{path}.runtimeClassName", spec.runtimeClassName)
    if spec.preemptionPolicy is not None and spec.preemptionPolicy not in ("PreemptLowerPriority", "Never"):
        where = f"{path}.preemptionPolicy"
        if spec.preemptionPolicy:
            yield not_supported(where, spec.preemptionPolicy, ("Never", "PreemptLowerPriority"))
        else:
            yield required(where)
    for name, quantity in (spec.overhead or {}).items():
        yield from validate_container_resource_name(name, f"{path}.overhead[{name}]")
        yield from validate_quantity(name, quantity, f"{path}.overhead[{name}]")
    if spec.os is not None:
        if not spec.os.name:
            yield required(f"{path}.os.name")
        elif spec.os.name not in ("linux", "windows"):
            yield not_supported(f"{path}.os", spec.os.name, ("linux", "windows"))


def _host_network(spec: core.PodSpec, is_pod: bool, path: str) -> Iterator[FieldError]:
    if not spec.hostNetwork:
        return
    for i, container in enumerate(spec.containers):
        for j, port in enumerate(container.ports or ()):
            host = port.hostPort or 0
            if (is_pod or host) and host != port.containerPort:
                yield invalid(
                    f"{path}.containers[{i}].ports[{j}].hostPort",
                    host,
                    "must match `containerPort` when `hostNetwork` is true",
                )


def _gates(spec: core.PodSpec, path: str) -> Iterator[FieldError]:
    for i, ready in enumerate(spec.readinessGates or ()):
        yield from rules.qualified_name(f"{path}.readinessGates[{i}].conditionType", ready.conditionType)
    seen: set[str] = set()
    for i, gate in enumerate(spec.schedulingGates or ()):
        here = f"{path}.schedulingGates[{i}]"
        yield from rules.qualified_name(here, gate.name)
        if gate.name in seen:
            yield duplicate(here, gate.name)
        seen.add(gate.name)


def _dns(spec: core.PodSpec, path: str) -> Iterator[FieldError]:
    config = spec.dnsConfig
    if spec.dnsPolicy == "None":
        if config is None:
            yield required(path, "must provide `dnsConfig` when `dnsPolicy` is None")
            return
        if not config.nameservers:
            yield required(
                f"{path}.nameservers", "must provide at least one DNS nameserver when `dnsPolicy` is None"
            )
            return
    if config is None:
        return
    servers, searches = config.nameservers or [], config.searches or []
    if len(servers) > 3:
        yield invalid(f"{path}.nameservers", servers, "must not have more than 3 nameservers")
    for i, server in enumerate(servers):
        yield from rules.ip_address(f"{path}.nameservers[{i}]", server)
    if len(searches) > 32:
        yield invalid(f"{path}.searches", searches, "must not have more than 32 search paths")
    if len(" ".join(searches)) > 2048:
        yield invalid(
            f"{path}.searches",
            searches,
            "must not have more than 2048 characters (including spaces) in the search list",
        )
    for i, search in enumerate(searches):
        if search != ".":
            yield from rules.search_domain(f"{path}.searches[{i}]", search.removesuffix("."))
    for i, option in enumerate(config.options or ()):
        if not option.name:
            yield required(f"{path}.options[{i}]", "must not be empty")


def _claims(claims: list[core.PodResourceClaim], path: str) -> Iterator[FieldError]:
    names: set[str] = set()
    for i, claim in enumerate(claims):
        here = f"{path}[{i}]"
        if not claim.name:
            yield required(f"{here}.name")
        elif claim.name in names:
            yield duplicate(f"{here}.name", claim.name)
        else:
            yield from rules.dns_label(f"{here}.name", claim.name)
            names.add(claim.name)
        direct, template = claim.resourceClaimName, claim.resourceClaimTemplateName
        if direct is not None and template is not None:
            yield invalid(
                here, claim, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"
            )
        if direct is None and template is None:
            yield invalid(here, claim, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`")
        if direct is not None:
            yield from rules.dns_subdomain(f"{here}.resourceClaimName", direct)
        if template is not None:
            yield from rules.dns_subdomain(f"{here}.resourceClaimTemplateName", template)


def _pod_resources(spec: core.PodSpec, facts: PodFacts, path: str) -> Iterator[FieldError]:
    assert spec.resources is not None
    if spec.resources.claims is not None:
        yield forbidden(f"{path}.claims", "claims cannot be set for Resources at pod-level")
    yield from validate_requirements(spec.resources, facts.claims, path, pod=True)
    limits = spec.resources.limits or {}
    for i, container in enumerate(spec.containers):
        for name, quantity in (container.resources.limits or {}).items():
            if name in limits and parse_quantity(quantity) > parse_quantity(limits[name]):
                yield invalid(
                    f"{path}.containers[{i}][{name}].limits",
                    str(quantity),
                    f"must be less than or equal to pod limits of {limits[name]}",
                )
    for name, quantity in (spec.resources.requests or {}).items():
        asked = [
            parse_quantity(own[name])
            for container in spec.containers
            if name in (own := container.resources.requests or {})
        ]
        if asked:
            total = asked[0]
            for more in asked[1:]:
                total = total + more
            if total > parse_quantity(quantity):
                yield invalid(
                    f"{path}.requests[{name}]",
                    str(quantity),
                    f"must be greater than or equal to aggregate container requests of {total}",
                )
