"""Node IPAM: each node gets its own part of the cluster's pod addresses."""

from __future__ import annotations

import ipaddress
from datetime import datetime

import msgspec

from pinnace.api.core import v1 as core
from pinnace.client.informer import Event, Informers
from pinnace.controllers.plan import NORMAL, NOTHING, Emit, Patch, Plan, Ref, Watch

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Seen(msgspec.Struct, frozen=True):
    """A node, and what is set aside for it (None: nothing is left)."""

    node: core.Node
    cidr: str | None


class Allocator:
    """Hands out subnets of a network, the lowest free one first."""

    def __init__(self, network: str, mask: int) -> None:
        self._network: Network = ipaddress.ip_network(network)
        if mask < self._network.prefixlen:
            raise ValueError(f"no /{mask} fits into {network}")
        self._mask = mask
        self._by_node: dict[str, str] = {}
        self._taken: set[str] = set()
        self._next = 0

    def occupy(self, node: str, cidr: str) -> None:
        """A node has this one already."""
        self.release(node)
        self._by_node[node] = cidr
        self._taken.add(cidr)

    def release(self, node: str) -> None:
        cidr = self._by_node.pop(node, None)
        if cidr is not None and cidr not in self._by_node.values():
            self._taken.discard(cidr)

    def allocate(self, node: str) -> str | None:
        """The node's subnet, the same each time it is asked for; None if all are taken."""
        if node in self._by_node:
            return self._by_node[node]
        size = 1 << (self._network.max_prefixlen - self._mask)
        count = 1 << (self._mask - self._network.prefixlen)
        # Once round, from behind the last one given: what was released is used again last.
        for step in range(count):
            if len(self._taken) >= count:
                return None
            position = (self._next + step) % count
            subnet = f"{self._network[position * size]}/{self._mask}"
            if subnet not in self._taken:
                self._next = position + 1
                self.occupy(node, subnet)
                return subnet
        return None


class NodeIpamController:
    """`cluster_cidr` as `10.244.0.0/16`; each node gets a subnet with a prefix of `mask` bits."""

    name = "node-ipam"

    def __init__(self, informers: Informers, cluster_cidr: str, mask: int = 24) -> None:
        self.primary = informers.of(core.Node)
        self._allocator = Allocator(cluster_cidr, mask)
        self.primary.subscribe(self._changed)
        self.watches: tuple[Watch, ...] = ()

    def observe(self, ref: Ref) -> Seen | None:
        node = self.primary.cache.find(ref)
        if node is None or (node.spec is not None and node.spec.podCIDR):
            return None
        return Seen(node, self._allocator.allocate(ref[1]))

    def decide(self, seen: Seen, now: datetime) -> Plan:
        return decide(seen)

    def _changed(self, event: Event[core.Node]) -> None:
        if event.new is None:
            self._allocator.release(event.old.metadata.name or "")
        elif event.new.spec is not None and event.new.spec.podCIDR:
            self._allocator.occupy(event.new.metadata.name or "", event.new.spec.podCIDR)


def decide(seen: Seen) -> Plan:
    name = seen.node.metadata.name or ""
    if seen.node.metadata.deletionTimestamp is not None:
        return NOTHING
    if seen.cidr is None:
        return Plan((Emit(NORMAL, "CIDRNotAvailable", f"Node {name} status is now: CIDRNotAvailable"),))
    patch = {"spec": {"podCIDR": seen.cidr, "podCIDRs": [seen.cidr]}}
    return Plan((Patch(core.Node, "", name, patch, type="strategic"),))
