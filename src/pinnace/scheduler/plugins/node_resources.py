"""NodeResourcesFit and NodeResourcesBalancedAllocation: what a node has left, and how evenly it is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pinnace.scheduler.nodes import NodeInfo
from pinnace.scheduler.plugins.framework import Base, Misfit
from pinnace.scheduler.podinfo import PODS, PodInfo


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
        cpu, memory = node.scored_cpu + pod.scored[0], node.scored_memory + pod.scored[1]
        if node.cpu and cpu <= node.cpu:
            total += (node.cpu - cpu) * 100.0 / node.cpu
        if node.memory and memory <= node.memory:
            total += (node.memory - memory) * 100.0 / node.memory
        return total / 2


class NodeResourcesBalancedAllocation(Base):
    """Prefers nodes whose CPU and memory are used alike."""

    name: ClassVar[str] = "NodeResourcesBalancedAllocation"
    weight: ClassVar[int] = 1

    def score(self, state: Any, pod: PodInfo, node: NodeInfo) -> float:
        if not node.cpu or not node.memory:
            return 100.0
        cpu = min(1.0, (node.scored_cpu + pod.scored[0]) / node.cpu)
        memory = min(1.0, (node.scored_memory + pod.scored[1]) / node.memory)
        return (1.0 - abs(cpu - memory) / 2) * 100.0
