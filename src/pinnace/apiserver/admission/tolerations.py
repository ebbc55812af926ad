"""DefaultTolerationSeconds: a pod stays five minutes on a node that is not ready or out of reach.
TaintNodesByCondition: a new node takes no pods before it has said that it is ready."""

from __future__ import annotations

from pinnace.api.core import v1 as core
from pinnace.apiserver.access import Admission, AdmissionPlugin, Concern

NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
_SECONDS = 300


class DefaultTolerationSeconds(AdmissionPlugin):
    """Mutates pods on creation; on update they are there already, and cannot be taken away."""

    mutates = Concern(("CREATE",), ("pods",), whole=True)
    validates = None

    async def mutate(self, admission: Admission) -> None:
        pod = admission.object
        if not isinstance(pod, core.Pod):
            return
        given = pod.spec.tolerations or []
        for taint in (NOT_READY, UNREACHABLE):
            if not given or not any(_tolerates_eviction(toleration, taint) for toleration in given):
                given.append(
                    core.Toleration(
                        key=taint, operator="Exists", effect="NoExecute", tolerationSeconds=_SECONDS
                    )
                )
        pod.spec.tolerations = given


class TaintNodesByCondition(AdmissionPlugin):
    """Mutates nodes on creation."""

    mutates = Concern(("CREATE",), ("nodes",), whole=True)
    validates = None

    async def mutate(self, admission: Admission) -> None:
        node = admission.object
        if not isinstance(node, core.Node):
            return
        taints = node.spec.taints or []
        if not any(taint.key == NOT_READY and taint.effect == "NoSchedule" for taint in taints):
            node.spec.taints = [*taints, core.Taint(key=NOT_READY, effect="NoSchedule")]


def _tolerates_eviction(toleration: core.Toleration, taint: str) -> bool:
    return toleration.key in (taint, "", None) and toleration.effect in ("NoExecute", "", None)
