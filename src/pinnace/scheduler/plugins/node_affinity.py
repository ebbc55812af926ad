"""NodeAffinity: nodeSelector, required and preferred node affinity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pinnace.api.placement import matches_node, matches_term
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
        return () if matches_node(pod.pod.spec, node.node) else _NO_MATCH

    def score(self, state: Any, pod: PodInfo, node: NodeInfo) -> float:
        affinity = pod.pod.spec.affinity
        preferred = affinity.nodeAffinity if affinity is not None else None
        terms = preferred.preferredDuringSchedulingIgnoredDuringExecution if preferred is not None else None
        return float(sum(term.weight for term in terms or () if matches_term(term.preference, node.node)))

    def normalize(self, scores: list[float]) -> list[float]:
        return highest_is_best(scores)

