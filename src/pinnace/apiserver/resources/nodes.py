"""Nodes: mostly status, written by their kubelets; what may not change about them; roles and addresses as shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pinnace.api.core import v1 as core
from pinnace.api.fields import FieldError, duplicate, forbidden, invalid
from pinnace.api.kinds import kind_of
from pinnace.apiserver.resource import Column, Resource
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.columns import AGE, NAME, NONE, UNKNOWN, column
from pinnace.apiserver.resources.connect import NODE_PROXY
from pinnace.apiserver.resources.podspec.quantities import validate_quantity
from pinnace.apiserver.resources.podspec.scheduling import validate_taints
from pinnace.apiserver.resources.strategy import keep_status, status_part

ROLE_PREFIX = "node-role.kubernetes.io/"
ROLE = "kubernetes.io/role"
ONCE = 'node updates may not change podCIDR except from "" to valid'


def default(node: core.Node) -> None:
    status = node.status
    if status.allocatable is None and status.capacity:
        status.allocatable = dict(status.capacity)
    # The singular field came first; both are kept in step.
    spec = node.spec
    if spec.podCIDR and not spec.podCIDRs:
        spec.podCIDRs = [spec.podCIDR]
    elif spec.podCIDRs and not spec.podCIDR:
        spec.podCIDR = spec.podCIDRs[0]


def validate(node: core.Node) -> Iterator[FieldError]:
    if node.spec.taints:
        yield from validate_taints(node.spec.taints, "metadata.taints")
    yield from _resources(node)
    cidrs = node.spec.podCIDRs or []
    for i, value in enumerate(cidrs):
        yield from rules.cidr(f"spec.podCIDRs[{i}]", value)
    if len(cidrs) > 1:
        families = {":" in value for value in cidrs}
        if len(families) < 2 or len(cidrs) > 2:
            yield invalid("spec.podCIDRs", cidrs, "may specify no more than one CIDR for each IP family")
        for i, value in enumerate(cidrs):
            if value in cidrs[:i]:
                yield duplicate(f"spec.podCIDRs[{i}]", value)


def _resources(node: core.Node) -> Iterator[FieldError]:
    for word, amounts in (("capacity", node.status.capacity), ("allocatable", node.status.allocatable)):
        for name, quantity in (amounts or {}).items():
            yield from validate_quantity(name, quantity, f"status.{word}.{name}")


def validate_update(new: core.Node, old: core.Node) -> Iterator[FieldError]:
    if (new.status.capacity, new.status.allocatable) != (old.status.capacity, old.status.allocatable):
        yield from _resources(new)      # what is there was found good before
    seen: list[core.NodeAddress] = []
    for i, address in enumerate(new.status.addresses or ()):
        if address in seen:
            yield duplicate(f"status.addresses[{i}]", address)
        seen.append(address)
    before, after = old.spec.podCIDRs or [], new.spec.podCIDRs or []
    if before:
        if len(before) != len(after):
            yield forbidden("spec.podCIDRs", ONCE)
        else:
            for was, is_ in zip(before, after, strict=True):
                if was != is_:
                    yield forbidden("spec.podCIDRs", ONCE)
    if old.spec.providerID and old.spec.providerID != new.spec.providerID:
        yield forbidden(
            "spec.providerID", 'node updates may not change providerID except from "" to valid'
        )
    if new.spec.taints:
        yield from validate_taints(new.spec.taints, "metadata.taints")
    if (new.spec.externalID or "") != (old.spec.externalID or ""):
        yield forbidden("spec.externalID", "may not be updated")


def roles(node: core.Node) -> list[str]:
    found = set()
    for key, value in (node.metadata.labels or {}).items():
        if key.startswith(ROLE_PREFIX) and len(key) > len(ROLE_PREFIX):
            found.add(key[len(ROLE_PREFIX) :])
        elif key == ROLE and value:
            found.add(value)
    return sorted(found)


def _status(node: core.Node) -> str:
    words = [
        "Ready" if condition.status == "True" else "NotReady"
        for condition in node.status.conditions or ()
        if condition.type == "Ready"
    ] or ["Unknown"]
    if node.spec.unschedulable:
        words.append("SchedulingDisabled")
    return ",".join(words)


def _address(node: core.Node, kind: str) -> str:
    return next((a.address for a in node.status.addresses or () if a.type == kind), NONE)


COLUMNS: tuple[Column[Any], ...] = (
    NAME,
    column("Status", _status, "Whether it is ready and takes pods."),
    column("Roles", lambda n: ",".join(roles(n)) or NONE, "From its labels."),
    AGE,
    column("Version", lambda n: n.status.nodeInfo.kubeletVersion, "The kubelet's version."),
    column("Internal-IP", lambda n: _address(n, "InternalIP"), "Address within the cluster.", wide=True),
    column("External-IP", lambda n: _address(n, "ExternalIP"), "Address from outside.", wide=True),
    column("OS-Image", lambda n: n.status.nodeInfo.osImage or UNKNOWN, "Its operating system.", wide=True),
    column("Kernel-Version", lambda n: n.status.nodeInfo.kernelVersion or UNKNOWN, "Its kernel.", wide=True),
    column(
        "Container-Runtime",
        lambda n: n.status.nodeInfo.containerRuntimeVersion or UNKNOWN,
        "What runs its containers.",
        wide=True,
    ),
)
NODE: Resource[core.Node] = Resource(
    kind=kind_of(core.Node),
    default=default,
    prepare_update=keep_status,
    validate_create=validate,
    validate_update=validate_update,
    columns=COLUMNS,
    fields={"spec.unschedulable": lambda n: "true" if n.spec.unschedulable else "false"},
    subresources=(NODE_PROXY, status_part(validate_update)),
    generation=False,
    storage_prefix="minions",
)
RESOURCES = (NODE,)
