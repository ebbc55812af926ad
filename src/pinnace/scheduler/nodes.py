"""The scheduler's picture of the nodes: what each offers, what runs there, what was just promised to it.

One writer, the scheduler's loop. A node's `generation` rises with every change of it, so that what was worked out
for one generation holds until the next.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from pinnace.api.core import v1 as core
from pinnace.api.quantity import parse_quantity
from pinnace.scheduler.podinfo import CPU, MEMORY, Key, PodInfo, Port, is_alike, pod_info

_UNPARSED = core.Node()


@dataclass(eq=False, slots=True)
class NodeInfo:
    """One node."""

    name: str
    node: core.Node = field(default_factory=core.Node)
    known: bool = False                                       # the Node object has been seen
    allocatable: dict[str, int] = field(default_factory=dict)
    requested: dict[str, int] = field(default_factory=dict)
    cpu: int = 0                                              # of what is allocatable
    memory: int = 0
    scored_cpu: int = 0
    scored_memory: int = 0
    ports: Counter[Port] = field(default_factory=Counter)
    pods: dict[str, PodInfo] = field(default_factory=dict)    # by uid
    owners: dict[str, int] = field(default_factory=dict)      # controller's uid -> how many of its pods are here
    images: dict[str, int] = field(default_factory=dict)      # name -> bytes
    generation: int = 0

    @property
    def labels(self) -> dict[str, str]:
        return self.node.metadata.labels or {}

    def without(self, uids: set[str]) -> NodeInfo:
        """The node as it would be without some of its pods."""
        rest = NodeInfo(
            self.name, self.node, self.known, self.allocatable, cpu=self.cpu, memory=self.memory, images=self.images,
            generation=-1,
        )  # fmt: skip
        for uid, info in self.pods.items():
            if uid not in uids:
                rest.add(info)
        return rest

    def add(self, info: PodInfo) -> None:
        self.pods[info.uid] = info
        for name, amount in info.requests.items():
            self.requested[name] = self.requested.get(name, 0) + amount
        self.scored_cpu += info.scored[0]
        self.scored_memory += info.scored[1]
        if info.ports:
            self.ports.update(info.ports)
        if info.owner:
            self.owners[info.owner] = self.owners.get(info.owner, 0) + 1

    def remove(self, uid: str) -> None:
        info = self.pods.pop(uid, None)
        if info is None:
            return
        for name, amount in info.requests.items():
            self.requested[name] -= amount
        self.scored_cpu -= info.scored[0]
        self.scored_memory -= info.scored[1]
        if info.ports:
            self.ports.subtract(info.ports)
            self.ports += Counter()          # drops what has come down to nothing
        if info.owner:
            self.owners[info.owner] -= 1
            if not self.owners[info.owner]:
                del self.owners[info.owner]


class Nodes:
    """All nodes, in the order in which they came."""

    def __init__(self) -> None:
        self._nodes: dict[str, NodeInfo] = {}
        self._where: dict[str, NodeInfo] = {}      # pod uid -> node
        self._owners: dict[str, int] = {}          # controller's uid -> how many of its pods are anywhere
        self._assumed: dict[str, Key] = {}         # promised, not yet confirmed by the API
        self._generation = itertools.count(1)
        self._list: list[NodeInfo] | None = None
        # Pods with required affinity or anti-affinity to others: a few, and every cycle asks for them.
        self._with_anti_affinity: dict[str, tuple[NodeInfo, PodInfo]] = {}

    def __iter__(self) -> Iterator[NodeInfo]:
        return iter(self.all())

    def __len__(self) -> int:
        return len(self.all())

    def all(self) -> list[NodeInfo]:
        """The nodes whose Node object is known."""
        if self._list is None:
            self._list = [info for info in self._nodes.values() if info.known]
        return self._list

    def get(self, name: str) -> NodeInfo | None:
        info = self._nodes.get(name)
        return info if info is not None and info.known else None

    def with_anti_affinity(self) -> Collection[tuple[NodeInfo, PodInfo]]:
        """The pods placed so far that keep others away."""
        return self._with_anti_affinity.values()

    def set_node(self, node: core.Node) -> None:
        """A Node was added or has changed."""
        info = self._of(node.metadata.name or "")
        if not info.known:
            self._list = None
        info.node, info.known = node, True
        status = node.status
        offered = status.allocatable or status.capacity or {}
        info.allocatable = {
            name: parse_quantity(text).milli if name == CPU else parse_quantity(text).value
            for name, text in offered.items()
        }
        info.cpu, info.memory = info.allocatable.get(CPU, 0), info.allocatable.get(MEMORY, 0)
        info.images = {
            name: image.sizeBytes or 0 for image in status.images or () for name in image.names or ()
        }
        info.generation = next(self._generation)

    def drop_node(self, name: str) -> None:
        """A Node is gone; pods that are still bound to it are kept until they go too."""
        info = self._nodes.get(name)
        if info is None:
            return
        self._list = None
        if info.pods:
            info.known, info.node, info.generation = False, _UNPARSED, next(self._generation)
        else:
            del self._nodes[name]

    def set_pod(self, pod: core.Pod) -> bool:
        """A pod is bound to a node (confirming what was assumed), or has changed there. Returns whether that is news
        of where it is or of what it needs."""
        uid, node = pod.metadata.uid or "", pod.spec.nodeName or ""
        there = self._where.get(uid)
        if there is None or there.name != node or not is_alike(there.pods[uid].pod, pod):
            self._assumed.pop(uid, None)
            self._place(pod_info(pod), node)
            return True
        there.pods[uid].pod = pod
        if uid not in self._assumed:
            return False
        del self._assumed[uid]
        return True

    def has_pods_of(self, owner: str) -> bool:
        """Whether a controller has a pod on any node."""
        return owner in self._owners

    def assume(self, info: PodInfo, node: str) -> None:
        """A pod will be bound to a node: what it takes there is taken from now on."""
        self._assumed[info.uid] = info.key
        self._place(info, node)

    def is_assumed(self, uid: str) -> bool:
        return uid in self._assumed

    def drop_pod(self, uid: str) -> bool:
        """A pod is gone. Returns whether it was anywhere."""
        node = self._where.pop(uid, None)
        if node is None:
            return False
        self._assumed.pop(uid, None)
        self._take_away(uid, node)
        self._with_anti_affinity.pop(uid, None)
        if not node.known and not node.pods:
            del self._nodes[node.name]
        return True

    def forget(self, uid: str) -> bool:
        """A binding failed: what was promised is taken back, unless the pod has been seen there by now."""
        return uid in self._assumed and self.drop_pod(uid)

    def _place(self, info: PodInfo, node: str) -> None:
        before = self._where.get(info.uid)
        if before is not None:
            self._take_away(info.uid, before)
        target = self._where[info.uid] = self._of(node)
        target.add(info)
        target.generation = next(self._generation)
        if info.owner:
            self._owners[info.owner] = self._owners.get(info.owner, 0) + 1
        if info.anti_affinity:
            self._with_anti_affinity[info.uid] = (target, info)
        else:
            self._with_anti_affinity.pop(info.uid, None)

    def _take_away(self, uid: str, node: NodeInfo) -> None:
        owner = node.pods[uid].owner
        node.remove(uid)
        node.generation = next(self._generation)
        if owner:
            self._owners[owner] -= 1
            if not self._owners[owner]:
                del self._owners[owner]

    def _of(self, name: str) -> NodeInfo:
        info = self._nodes.get(name)
        if info is None:
            info = self._nodes[name] = NodeInfo(name)
        return info
