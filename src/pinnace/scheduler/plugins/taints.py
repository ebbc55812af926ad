"""TaintToleration: what a node keeps away, and what a pod puts up with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pinnace.api.placement import tolerated
from pinnace.scheduler.nodes import NodeInfo
from pinnace.scheduler.plugins.framework import Base, Misfit, lowest_is_best
from pinnace.scheduler.podinfo import PodInfo

_UNTOLERATED = (Misfit("node(s) had untolerated taint(s)"),)


class TaintToleration(Base):
    name: ClassVar[str] = "TaintToleration"
    weight: ClassVar[int] = 3
    relative: ClassVar[bool] = True

    def filter(self, state: Any, pod: PodInfo, node: NodeInfo) -> Sequence[Misfit]:
        for taint in node.node.spec.taints or ():
            if taint.effect in ("NoSchedule", "NoExecute") and not tolerated(pod.pod.spec, taint):
                return _UNTOLERATED
        return ()

    def score(self, state: Any, pod: PodInfo, node: NodeInfo) -> float:
        taints = node.node.spec.taints
        if not taints:
            return 0.0
        return float(
            sum(1 for taint in taints if taint.effect == "PreferNoSchedule" and not tolerated(pod.pod.spec, taint))
        )

    def normalize(self, scores: list[float]) -> list[float]:
        return lowest_is_best(scores)

