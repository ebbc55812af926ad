"""DefaultTolerationSeconds: a pod stays five minutes on a node that is not ready or out of reach.
TaintNodesByCondition: a new node takes no pods before it has said that it is ready."""

from __future__ import annotations

from pinnace.api.core import v1 as core
from pinnace.apiserver.access import Admission, AdmissionPlugin, Concern

NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
_SECONDS = 300
_DEFAULT = tuple(
    [
        core.Toleration(key=taint, operator="Exists", effect="NoExecute", tolerationSeconds=_SECONDS)
        for taint in (NOT_READY, UNREACHABLE)
    ]
)


class DefaultTolerationSeconds(AdmissionPlugin):
    """Mutates pods on creation; on update they are there already, and cannot be taken away."""

    mutates = Concern(("CREATE",), ("pods",), whole=True)
    validates = None

    async def mutate(self, admission: Admission) -> None:
        spec: core.PodSpec = admission.object.spec
        given = spec.tolerations
        if not given:
            spec.tolerations = [*_DEFAULT]
            return
        for toleration in _DEFAULT:
            if not any(_tolerates_eviction(present, toleration.key) for present in given):
                given.append(toleration)


class TaintNodesByCondition(AdmissionPlugin):
    """Mutates nodes on creation."""

    mutates = Concern(("CREATE",), ("nodes",), whole=True)
    validates = None

    async def mutate(self, admission: Admission) -> None:
        node: core.Node = admission.object
        taints = node.spec.taints or []
        if not any(taint.key == NOT_READY and taint.effect == "NoSchedule" for taint in taints):
            node.spec.taints = [*taints, core.Taint(key=NOT_READY, effect="NoSchedule")]


def _tolerates_eviction(toleration: core.Toleration, taint: str | None) -> bool:
    return toleration.key in (taint, "", None) and toleration.effect in ("NoExecute", "", None)
