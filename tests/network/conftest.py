"""A machine of the test's own: a namespace that plays the host, so that no packet can leave and nothing stays."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pinnace.network import namespaces
from pinnace.network.fabric import Fabric, NodeNetwork, namespace_prefix
from pinnace.network.netlink import Netlink
from pinnace.network.nftables import Nftables
from pinnace.network.pods import PodNetwork

_numbers = itertools.count()


@pytest.fixture
def namespace() -> Iterator[Callable[[], str]]:
    """Makes network namespaces (returns their paths) that are gone after the test."""
    made: list[str] = []

    def make() -> str:
        name = f"pinnace-test-{os.getpid()}-{next(_numbers)}"
        made.append(name)
        path = namespaces.create(name)
        with Netlink(path) as netlink:
            netlink.set_link(1, up=True)
        return path

    yield make
    for name in made:
        namespaces.delete(name)


@dataclass
class Node:
    """A node of the test's cluster with its pod network."""

    at: NodeNetwork
    pod_cidr: str
    nft: Nftables
    network: PodNetwork


@dataclass
class Machine:
    host: str
    fabric: Fabric
    nodes: list[Node]
    new_pod: Callable[[int], Awaitable[tuple[str, str]]]
    """Connects a new pod to the node of that number; returns its namespace's path and its address."""


@pytest.fixture
async def machine(namespace: Callable[[], str], tmp_path: Path) -> AsyncIterator[Machine]:
    """A host, and two nodes on a fabric (without egress) with pod networks and the routes between them."""
    from pinnace.network.netlink import Route

    cluster = f"t{os.getpid()}x{next(_numbers)}"
    host = namespace()
    fabric = Fabric(cluster, "172.30.7.0/24", host=host)
    nodes: list[Node] = []
    try:
        fabric.create()
        for number in (1, 2):
            at = fabric.add_node(f"{cluster}-node-{number}")
            nft = Nftables(at.path)
            cidr = f"10.244.{number}.0/24"
            network = PodNetwork([cidr], ["10.244.0.0/16"], tmp_path / str(number), nft=nft, netns=at.path)
            await network.setup()
            nodes.append(Node(at, cidr, nft, network))
        for here, there in ((nodes[0], nodes[1]), (nodes[1], nodes[0])):
            with Netlink(here.at.path) as netlink:
                netlink.add_route(Route(there.pod_cidr, gateway=there.at.ip))

        async def new_pod(number: int) -> tuple[str, str]:
            path = namespace()
            (ip,) = await nodes[number].network.add(path, path)
            return path, ip

        yield Machine(host, fabric, nodes, new_pod)
    finally:
        for node in nodes:
            node.network.close()
            node.nft.close()
        fabric.destroy()
        assert not namespaces.names(namespace_prefix(cluster))
