"""NodeResourcesFit and NodeResourcesBalancedAllocation: what a node has left, and how evenly it is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pinnace.scheduler.nodes import NodeInfo
from pinnace.scheduler.plugins.framework import Base, Misfit
from pinnace.scheduler.podinfo import CPU, MEMORY, PODS, PodInfo


class NodeResourcesFit(Base):
    """Filters by requests; prefers the node with the most left (LeastAllocated)."""

    name: ClassVar[str] = "NodeResourcesFit"
    weight: ClassVar[int] = 1

    def filter(self, state: Any, pod: PodInfo, node: NodeInfo) -> Sequence[Misfit]:
        misfits = []
        allowed = node.allocatable.get(PODS, 0)
        if len(node.pods) + 1 > allowed:
            misfits.append(Misfit("Too many pods", preemptible=True))
        for name, wanted in pod.requests.items():
            offered = node.allocatable.get(name, 0)
            if wanted > offered - node.requested.get(name, 0):
                # What exceeds the whole node will not fit whoever leaves.
                misfits.append(Misfit(f"Insufficient {name}", preemptible=wanted <= offered))
        return misfits

    def score(self, state: Any, pod: PodInfo, node: NodeInfo) -> float:
        total = 0.0
        for offered, used in _shares(pod, node):
            if offered and used <= offered:
                total += (offered - used) * 100.0 / offered
        return total / 2


class NodeResourcesBalancedAllocation(Base):
    """Prefers nodes whose CPU and memory are used alike."""

    name: ClassVar[str] = "NodeResourcesBalancedAllocation"
    weight: ClassVar[int] = 1

    def score(self, state: Any, pod: PodInfo, node: NodeInfo) -> float:
        (cpus, cpu), (bytes_, memory) = _shares(pod, node)
        if not cpus or not bytes_:
            return 100.0
        return (1.0 - abs(min(1.0, cpu / cpus) - min(1.0, memory / bytes_)) / 2) * 100.0


def _shares(pod: PodInfo, node: NodeInfo) -> tuple[tuple[int, int], tuple[int, int]]:
    return (
        (node.allocatable.get(CPU, 0), node.scored_cpu + pod.scored[0]),
        (node.allocatable.get(MEMORY, 0), node.scored_memory + pod.scored[1]),
    )
