"""On which nodes a daemon's pod belongs: node name, node affinity, taints."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from pinnace.api.core import v1 as core
from pinnace.api.placement import matches_node, tolerated

_NAME_FIELD = "metadata.name"


class Fit(NamedTuple):
    """Whether a pod should be started on a node, and whether one that runs there may go on."""

    start: bool
    stay: bool


def fit(spec: core.PodSpec, node: core.Node) -> Fit:
    """How a daemon's pod (with its tolerations) fits a node."""
    if spec.nodeName and spec.nodeName != node.metadata.name:
        return Fit(False, False)
    if not matches_node(spec, node):
        return Fit(False, False)
    taints = (node.spec.taints if node.spec is not None else None) or ()
    refused = {
        taint.effect
        for taint in taints
        if taint.effect in ("NoSchedule", "NoExecute")
        and not tolerated(spec, taint)
    }
    return Fit(not refused, "NoExecute" not in refused)


def _compares(operator: str, value: str | None, wanted: list[str]) -> bool:
    try:
        have, bound = int(value or ""), int(wanted[0])
    except (ValueError, IndexError):
        return False
    return have > bound if operator == "Gt" else have < bound


def tolerant(spec: core.PodSpec) -> core.PodSpec:
    """The spec with the tolerations that every daemon has: it stays through its node's troubles."""
    wanted = [
        ("node.kubernetes.io/not-ready", "NoExecute"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
        ("node.kubernetes.io/disk-pressure", "NoSchedule"),
        ("node.kubernetes.io/memory-pressure", "NoSchedule"),
        ("node.kubernetes.io/pid-pressure", "NoSchedule"),
        ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ]
    if spec.hostNetwork:
        wanted.append(("node.kubernetes.io/network-unavailable", "NoSchedule"))
    have = list(spec.tolerations or ())
    added = [core.Toleration(key=key, operator="Exists", effect=effect) for key, effect in wanted]
    return msgspec.structs.replace(spec, tolerations=have + [t for t in added if t not in have])


def pinned(spec: core.PodSpec, node: str) -> core.PodSpec:
    """The spec with an affinity for one node, by name: the scheduler binds it there and nowhere else."""
    field = core.NodeSelectorRequirement(key=_NAME_FIELD, operator="In", values=[node])
    affinity = spec.affinity or core.Affinity()
    of_node = affinity.nodeAffinity or core.NodeAffinity()
    required = of_node.requiredDuringSchedulingIgnoredDuringExecution
    terms = required.nodeSelectorTerms if required is not None else []
    pinned_terms = [msgspec.structs.replace(term, matchFields=[field]) for term in terms]
    selector = core.NodeSelector(
        nodeSelectorTerms=pinned_terms or [core.NodeSelectorTerm(matchFields=[field])]
    )
    of_node = msgspec.structs.replace(of_node, requiredDuringSchedulingIgnoredDuringExecution=selector)
    return msgspec.structs.replace(spec, affinity=msgspec.structs.replace(affinity, nodeAffinity=of_node))


def node_of(pod: core.Pod) -> str:
    """The node that a daemon's pod runs on, or is meant for."""
    spec = pod.spec or core.PodSpec()
    if spec.nodeName:
        return spec.nodeName
    affinity = spec.affinity.nodeAffinity if spec.affinity is not None else None
    required = affinity.requiredDuringSchedulingIgnoredDuringExecution if affinity is not None else None
    for term in required.nodeSelectorTerms if required is not None else ():
        for requirement in term.matchFields or ():
            if requirement.key == _NAME_FIELD and requirement.operator == "In" and requirement.values:
                return requirement.values[0]
    return ""
