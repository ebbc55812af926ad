"""NodeAffinity: nodeSelector, required and preferred node affinity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pinnace.api.core import v1 as core
from pinnace.scheduler.nodes import NodeInfo, Nodes
from pinnace.scheduler.plugins.framework import Base, Misfit, highest_is_best
from pinnace.scheduler.podinfo import PodInfo

_NO_MATCH = (Misfit("node(s) didn't match Pod's node affinity/selector"),)


class NodeAffinity(Base):
    name: ClassVar[str] = "NodeAffinity"
    weight: ClassVar[int] = 2
    relative: ClassVar[bool] = True

    def prepare(self, pod: PodInfo, nodes: Nodes) -> Any:
        spec = pod.pod.spec
        affinity = spec.affinity.nodeAffinity if spec.affinity is not None else None
        return True if spec.nodeSelector or affinity is not None else None

    def filter(self, state: Any, pod: PodInfo, node: NodeInfo) -> Sequence[Misfit]:
        return () if matches_node(pod.pod, node.node) else _NO_MATCH

    def score(self, state: Any, pod: PodInfo, node: NodeInfo) -> float:
        affinity = pod.pod.spec.affinity
        preferred = affinity.nodeAffinity if affinity is not None else None
        terms = preferred.preferredDuringSchedulingIgnoredDuringExecution if preferred is not None else None
        return float(sum(term.weight for term in terms or () if _term_matches(term.preference, node.node)))

    def normalize(self, scores: list[float]) -> list[float]:
        return highest_is_best(scores)


def matches_node(pod: core.Pod, node: core.Node) -> bool:
    """nodeSelector and required node affinity together; also what DaemonSets and kubelets ask."""
    labels = node.metadata.labels or {}
    for name, value in (pod.spec.nodeSelector or {}).items():
        if labels.get(name) != value:
            return False
    affinity = pod.spec.affinity.nodeAffinity if pod.spec.affinity is not None else None
    required = affinity.requiredDuringSchedulingIgnoredDuringExecution if affinity is not None else None
    if required is None:
        return True
    return any(_term_matches(term, node) for term in required.nodeSelectorTerms or ())


def _term_matches(term: core.NodeSelectorTerm, node: core.Node) -> bool:
    if not term.matchExpressions and not term.matchFields:
        return False         # upstream: an empty term matches nothing
    labels = node.metadata.labels or {}
    if not all(_requirement_matches(requirement, labels) for requirement in term.matchExpressions or ()):
        return False
    fields = {"metadata.name": node.metadata.name or ""}
    return all(_requirement_matches(requirement, fields) for requirement in term.matchFields or ())


def _requirement_matches(requirement: core.NodeSelectorRequirement, labels: dict[str, str]) -> bool:
    value = labels.get(requirement.key)
    values = requirement.values or []
    match requirement.operator:
        case "In":
            return value is not None and value in values
        case "NotIn":
            return value is None or value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt":
            try:
                left, right = int(value or ""), int(values[0])
            except (ValueError, IndexError):
                return False
            return left > right if requirement.operator == "Gt" else left < right
        case _:
            return False
