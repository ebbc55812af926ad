"""TaintToleration: what a node keeps away, and what a pod puts up with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from pinnace.api.core import v1 as core
from pinnace.scheduler.nodes import NodeInfo
from pinnace.scheduler.plugins.framework import Base, Misfit, lowest_is_best
from pinnace.scheduler.podinfo import PodInfo

_UNTOLERATED = (Misfit("node(s) had untolerated taint(s)"),)


class TaintToleration(Base):
    name: ClassVar[str] = "TaintToleration"
    weight: ClassVar[int] = 3
    relative: ClassVar[bool] = True

    def filter(self, state: Any, pod: PodInfo, node: NodeInfo) -> Sequence[Misfit]:
        tolerations = pod.pod.spec.tolerations or ()
        for taint in node.node.spec.taints or ():
            if taint.effect in ("NoSchedule", "NoExecute") and not tolerates(tolerations, taint):
                return _UNTOLERATED
        return ()

    def score(self, state: Any, pod: PodInfo, node: NodeInfo) -> float:
        taints = node.node.spec.taints
        if not taints:
            return 0.0
        tolerations = pod.pod.spec.tolerations or ()
        return float(
            sum(1 for taint in taints if taint.effect == "PreferNoSchedule" and not tolerates(tolerations, taint))
        )

    def normalize(self, scores: list[float]) -> list[float]:
        return lowest_is_best(scores)


def tolerates(tolerations: Iterable[core.Toleration], taint: core.Taint) -> bool:
    """Whether one of the tolerations puts up with the taint."""
    for toleration in tolerations:
        if toleration.effect and toleration.effect != taint.effect:
            continue
        if toleration.key and toleration.key != taint.key:
            continue
        match toleration.operator or "Equal":
            case "Exists":
                return True
            case "Equal" if (toleration.value or "") == (taint.value or ""):
                return True
            case "Lt" | "Gt" as order if _compares(order, taint.value or "", toleration.value or ""):
                return True
    return False


def _compares(order: str, taint: str, toleration: str) -> bool:
    """Numeric tolerations (KEP-5471): both must be whole numbers."""
    try:
        left, right = int(taint), int(toleration)
    except ValueError:
        return False
    return left < right if order == "Lt" else left > right
