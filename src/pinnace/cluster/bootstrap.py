"""The objects that every cluster has from its start, and that are put back at each start where they are missing."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from pinnace.api import codec
from pinnace.api.core import v1 as core
from pinnace.api.discovery import v1 as discovery
from pinnace.api.errors import AlreadyExists, Conflict, NotFound
from pinnace.api.kinds import kind_of
from pinnace.api.meta import v1 as meta
from pinnace.api.networking import v1 as networking
from pinnace.api.rbac import v1 as rbac
from pinnace.api.scheduling import v1 as scheduling
from pinnace.apiserver.authorization.policy import roles
from pinnace.client.client import Client
from pinnace.cluster.settings import Settings

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
_AUTOUPDATE = "rbac.authorization.kubernetes.io/autoupdate"
_AT_A_TIME = 64


async def ensure_access(client: Client) -> None:
    """Make the namespaces, and the roles without which a node that asks too early is refused and comes back later."""
    await asyncio.gather(_create_missing(client, namespaces()), _ensure_rbac(client, cluster=True))


async def ensure(client: Client, settings: Settings, *, address: str, port: int) -> None:
    """Make what else is missing; let default/kubernetes point to the API server. After `ensure_access`.

    `address` may be empty: then the Service has no endpoints (a server that only this machine's loopback reaches)."""
    await _ensure_rbac(client, cluster=False)
    others = [*priority_classes(), service_cidr(settings), *services(settings)]
    await _create_missing(client, others)
    if address:
        for endpoints in kubernetes_endpoints(address, port):
            await _apply(client, endpoints)


def objects(settings: Settings) -> Iterator[Any]:
    """All that `ensure_access` and `ensure` make for a server without an address, in an order in which it can be
    made."""
    role, binding = dns_rights()
    yield from namespaces()
    yield from (*roles.cluster_roles(), role, *roles.cluster_role_bindings(), binding, renewal_rights())
    yield from (*roles.roles(), *roles.role_bindings())
    yield from (*priority_classes(), service_cidr(settings), *services(settings))


async def forget_nodes(client: Client, settings: Settings) -> None:
    """Delete the Node objects of nodes that the cluster had before its owner wanted fewer; their pods go with them."""
    wanted = {*settings.node_names(), *settings.simulated_names()}
    pattern = re.compile(rf"{re.escape(settings.name)}-(node|simulated)-\d+")
    for node in (await client.list(core.Node)).items:
        name = node.metadata.name or ""
        if pattern.fullmatch(name) and name not in wanted:
            with contextlib.suppress(NotFound):
                await client.delete(core.Node, name)


def namespaces() -> Iterator[core.Namespace]:
    for name in NAMESPACES:
        yield core.Namespace(metadata=meta.ObjectMeta(name=name))


def priority_classes() -> Iterator[scheduling.PriorityClass]:
    texts = {
        "system-cluster-critical": (
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if "
            "necessary.",
        ),
        "system-node-critical": (
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
    }
    for name, (value, description) in texts.items():
        yield scheduling.PriorityClass(
            metadata=meta.ObjectMeta(name=name),
            value=value,
            description=description,
            preemptionPolicy="PreemptLowerPriority",
        )


def service_cidr(settings: Settings) -> networking.ServiceCIDR:
    return networking.ServiceCIDR(
        metadata=meta.ObjectMeta(name="kubernetes"),
        spec=networking.ServiceCIDRSpec(cidrs=[settings.service_cidr]),
    )


def services(settings: Settings) -> Iterator[core.Service]:
    """default/kubernetes and kube-system/kube-dns; both without a selector: their endpoints are written here and by
    the cluster-dns controller."""
    yield core.Service(
        metadata=meta.ObjectMeta(
            name="kubernetes",
            namespace="default",
            labels={"component": "apiserver", "provider": "kubernetes"},
        ),
        spec=core.ServiceSpec(
            clusterIP=settings.kubernetes_ip,
            ports=[core.ServicePort(name="https", port=443, protocol="TCP", targetPort=settings.api_port or 6443)],
        ),
    )
    yield core.Service(
        metadata=meta.ObjectMeta(
            name="kube-dns",
            namespace="kube-system",
            labels={"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"},
        ),
        spec=core.ServiceSpec(
            clusterIP=settings.dns_ip,
            ports=[
                core.ServicePort(name="dns", port=53, protocol="UDP", targetPort=10053),
                core.ServicePort(name="dns-tcp", port=53, protocol="TCP", targetPort=10053),
            ],
        ),
    )


def dns_rights() -> tuple[rbac.ClusterRole, rbac.ClusterRoleBinding]:
    """What CoreDNS gets in other clusters. Here DNS shares kube-proxy's process, watches and identity on each node."""
    name = "system:coredns"
    rules = [
        rbac.PolicyRule(
            apiGroups=[""], resources=["endpoints", "services", "pods", "namespaces"], verbs=["list", "watch"]
        ),
        rbac.PolicyRule(apiGroups=["discovery.k8s.io"], resources=["endpointslices"], verbs=["list", "watch"]),
    ]
    subject = rbac.Subject(kind="User", apiGroup=roles.GROUP, name="system:kube-proxy")
    return (
        rbac.ClusterRole(metadata=meta.ObjectMeta(name=name), rules=rules),
        rbac.ClusterRoleBinding(
            metadata=meta.ObjectMeta(name=name),
            roleRef=rbac.RoleRef(apiGroup=roles.GROUP, kind="ClusterRole", name=name),
            subjects=[subject],
        ),
    )


def renewal_rights() -> rbac.ClusterRoleBinding:
    """Nodes may have their client certificates renewed: what kubeadm binds, under the name of the documentation page
    "TLS bootstrapping"."""
    return rbac.ClusterRoleBinding(
        metadata=meta.ObjectMeta(name="auto-approve-renewals-for-nodes"),
        roleRef=rbac.RoleRef(
            apiGroup=roles.GROUP, kind="ClusterRole",
            name="system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        ),
        subjects=[rbac.Subject(kind="Group", apiGroup=roles.GROUP, name="system:nodes")],
    )  # fmt: skip


def kubernetes_endpoints(address: str, port: int) -> tuple[core.Endpoints, discovery.EndpointSlice]:
    """Where the API server is, as Service default/kubernetes has it."""
    labels = {"endpointslice.kubernetes.io/skip-mirror": "true"}
    endpoints = core.Endpoints(
        metadata=meta.ObjectMeta(name="kubernetes", namespace="default", labels=labels),
        subsets=[
            core.EndpointSubset(
                addresses=[core.EndpointAddress(ip=address)],
                ports=[core.EndpointPort(name="https", port=port, protocol="TCP")],
            )
        ],
    )
    piece = discovery.EndpointSlice(
        metadata=meta.ObjectMeta(
            name="kubernetes", namespace="default", labels={"kubernetes.io/service-name": "kubernetes"}
        ),
        addressType="IPv4",
        endpoints=[
            discovery.Endpoint(addresses=[address], conditions=discovery.EndpointConditions(ready=True))
        ],
        ports=[discovery.EndpointPort(name="https", port=port, protocol="TCP")],
    )
    return endpoints, piece


async def _ensure_rbac(client: Client, *, cluster: bool) -> None:
    """What is bound in the whole cluster, or (once the namespaces are there) in a namespace; all kinds at once."""
    role, binding = dns_rights()
    wanted: dict[type[Any], list[Any]] = (
        {
            rbac.ClusterRole: [*roles.cluster_roles(), role],
            rbac.ClusterRoleBinding: [*roles.cluster_role_bindings(), binding, renewal_rights()],
        }
        if cluster
        else {rbac.Role: list(roles.roles()), rbac.RoleBinding: list(roles.role_bindings())}
    )
    await asyncio.gather(*(_bring_up_to_date(client, kind, objects) for kind, objects in wanted.items()))


async def _bring_up_to_date(client: Client, kind: type[Any], objects: list[Any]) -> None:
    there = {_key(found): found for found in (await client.list(kind)).items}
    await _create_missing(client, [obj for obj in objects if _key(obj) not in there])
    for obj in objects:
        found = there.get(_key(obj))
        if found is not None and _outdated(found, obj):
            await _apply(client, obj)


def _outdated(found: Any, wanted: Any) -> bool:
    """Upstream's reconciliation, for what its owner has not opted out of: default rules and subjects come back.
    Aggregated roles get their rules from a controller."""
    if (found.metadata.annotations or {}).get(_AUTOUPDATE) != "true":
        return False
    if isinstance(wanted, rbac.ClusterRole) and wanted.aggregationRule is not None:
        return False
    part = "rules" if hasattr(wanted, "rules") else "subjects"
    return bool((getattr(found, part) or []) != (getattr(wanted, part) or []))


async def _create_missing(client: Client, objects: Iterable[Any]) -> None:
    slots = asyncio.Semaphore(_AT_A_TIME)

    async def create(obj: Any) -> None:
        async with slots:
            try:
                await client.create(obj)
            except AlreadyExists:
                return

    await asyncio.gather(*map(create, objects))


async def _apply(client: Client, wanted: Any) -> None:
    """Make the object, or bring the one that is there to the same content."""
    try:
        await client.create(wanted)
        return
    except AlreadyExists:
        pass
    kind = kind_of(wanted).type
    namespace, name = _key(wanted)
    for _ in range(5):
        found = await client.get(kind, name, namespace)
        fresh = msgspec.structs.replace(codec.copy(wanted), metadata=codec.copy(found.metadata))
        fresh.metadata.labels = {**(found.metadata.labels or {}), **(wanted.metadata.labels or {})} or None
        try:
            await client.update(fresh)
            return
        except Conflict:
            continue


def _key(obj: Any) -> tuple[str, str]:
    return obj.metadata.namespace or "", obj.metadata.name or ""
