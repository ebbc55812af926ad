"""NodePorts: no two pods of a node with the same host port."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pinnace.scheduler.nodes import NodeInfo, Nodes
from pinnace.scheduler.plugins.framework import Base, Misfit
from pinnace.scheduler.podinfo import PodInfo, Port

_TAKEN = (Misfit("node(s) didn't have free ports for the requested pod ports", preemptible=True),)
_ANY = "0.0.0.0"


class NodePorts(Base):
    name: ClassVar[str] = "NodePorts"

    def prepare(self, pod: PodInfo, nodes: Nodes) -> Any:
        return pod.ports or None

    def filter(self, state: tuple[Port, ...], pod: PodInfo, node: NodeInfo) -> Sequence[Misfit]:
        for address, protocol, port in state:
            for taken, other, number in node.ports:
                if number == port and other == protocol and (taken == address or _ANY in (taken, address)):
                    return _TAKEN
        return ()
