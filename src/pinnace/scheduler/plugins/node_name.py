"""NodeName and NodeUnschedulable: a pod that names its node, a node that takes no new pods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pinnace.api.core import v1 as core
from pinnace.api.placement import tolerated
from pinnace.scheduler.nodes import NodeInfo, Nodes
from pinnace.scheduler.plugins.framework import Base, Misfit
from pinnace.scheduler.podinfo import PodInfo

_OTHER = (Misfit("node(s) didn't match the requested node name"),)
_CLOSED = (Misfit("node(s) were unschedulable"),)
_UNSCHEDULABLE = core.Taint(key="node.kubernetes.io/unschedulable", effect="NoSchedule")


class NodeName(Base):
    name: ClassVar[str] = "NodeName"

    def prepare(self, pod: PodInfo, nodes: Nodes) -> Any:
        return pod.pod.spec.nodeName or None

    def filter(self, state: str, pod: PodInfo, node: NodeInfo) -> Sequence[Misfit]:
        return () if node.name == state else _OTHER


class NodeUnschedulable(Base):
    name: ClassVar[str] = "NodeUnschedulable"

    def filter(self, state: Any, pod: PodInfo, node: NodeInfo) -> Sequence[Misfit]:
        if not node.node.spec.unschedulable or tolerated(pod.pod.spec, _UNSCHEDULABLE):
            return ()
        return _CLOSED
