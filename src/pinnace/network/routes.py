"""A node's routes: to the pods of the other nodes, and sinks for what must never leave.

Flow: Node objects → `plan` (pure) → `NodeRoutes` brings the kernel's table to it, touching only what differs. Our
routes carry a protocol number of their own, so that what a previous process left is found and corrected.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Sequence
from ipaddress import ip_address, ip_interface, ip_network

from pinnace.api.core import v1 as core
from pinnace.base.clock import Clock
from pinnace.client.informer import Informers
from pinnace.network.netlink import PROTOCOL_PINNACE, Address, Netlink, NetlinkError, Route

log = logging.getLogger("pinnace.network")

# Our sinks lose against every more telling route.
_SINK_METRIC = 4096
SINK_LINK = "pinnace-sink"
_GATHER_SECONDS = 0.01
_RETRY_SECONDS = 2.0
_CHECK_SECONDS = 60.0


def plan(nodes: Iterable[core.Node], own: str) -> frozenset[Route]:
    """The routes that node `own` needs: each other node's pod CIDRs by way of its InternalIP."""
    wanted: dict[str, Route] = {}
    for node in nodes:
        if node.metadata.name == own:
            continue
        cidrs = node.spec.podCIDRs or ([node.spec.podCIDR] if node.spec.podCIDR else [])
        addresses = [
            address.address for address in node.status.addresses or () if address.type == "InternalIP"
        ]
        for cidr in cidrs:
            gateway = next((ip for ip in addresses if (":" in ip) == (":" in cidr)), None)
            if gateway is not None:
                destination = str(ip_network(cidr, strict=False))
                wanted[destination] = Route(destination, gateway=gateway)
    return frozenset(wanted.values())


def reachable(wanted: frozenset[Route], addresses: Iterable[Address]) -> frozenset[Route]:
    """Those whose gateway is on a network that the node itself is on: the kernel refuses any other (a simulated node
    has an address that is on none)."""
    networks = {ip_interface(f"{address.address}/{address.prefix}").network for address in addresses}
    near = {
        gateway
        for gateway in {route.gateway for route in wanted}
        if any(ip_address(gateway) in network for network in networks)
    }
    return frozenset([route for route in wanted if route.gateway in near])


def difference(present: Iterable[Route], wanted: frozenset[Route]) -> tuple[list[Route], list[Route]]:
    """What to add (or replace) and what to delete, given the kernel's routes of ours."""
    had = {(route.destination, route.gateway): route for route in present if _is_pod_route(route)}
    want = {(route.destination, route.gateway): route for route in wanted}
    kept = {route.destination for route in wanted}
    add = [route for key, route in want.items() if key not in had]
    delete = [route for key, route in had.items() if key not in want and route.destination not in kept]
    return sorted(add, key=str), sorted(delete, key=str)


def _is_pod_route(route: Route) -> bool:
    return route.type == "unicast" and bool(route.gateway) and not route.destination.endswith("/0")


def add_sinks(
    netlink: Netlink, *, service_cidrs: Sequence[str], cluster_cidrs: Sequence[str], source: str = ""
) -> None:
    """Keep packets for services and pods that do not exist on this node.

    A packet for a service is rewritten only after it was routed once (the output hook comes after routing), so the
    service range needs a route that does not refuse. It leads to a bridge without ports, where a packet that nobody
    rewrote ends. (By way of the loopback link the kernel sends no ICMP, so that refusals would not be heard; a
    `local` route would deliver to whoever listens on all addresses; not every kernel has dummy links.)
    The pods' range is just unreachable beyond the nodes that are known.
    """
    sink = netlink.link(SINK_LINK)
    if sink is None:
        netlink.add_bridge(SINK_LINK, arp=False)
    index = netlink.index(SINK_LINK)
    for cidr in service_cidrs:
        netlink.add_route(Route(cidr, device=index, source=source, metric=_SINK_METRIC))
    for cidr in cluster_cidrs:
        netlink.add_route(Route(cidr, type="unreachable", metric=_SINK_METRIC))


def remove_all(netlink: Netlink) -> None:
    """Delete all routes of ours and the sink (a node on a real server, when it leaves)."""
    netlink.delete_link(SINK_LINK)
    for route in netlink.routes(protocol=PROTOCOL_PINNACE):
        netlink.delete_route(route)


def apply(netlink: Netlink, wanted: frozenset[Route]) -> tuple[int, int]:
    """Bring the kernel's routes to what of `wanted` is reachable; returns how many were added and deleted.

    A route that the kernel refuses all the same fails alone: the others are still set, then the error is raised.
    """
    wanted = reachable(wanted, netlink.addresses())
    add, delete = difference(netlink.routes(protocol=PROTOCOL_PINNACE), wanted)
    failure: NetlinkError | None = None
    for route in delete:
        netlink.delete_route(route)
    for route in add:
        try:
            netlink.add_route(route)
        except NetlinkError as error:
            failure = error
    if failure is not None:
        raise failure
    return len(add), len(delete)


class NodeRoutes:
    """Follows the Node objects; `run` until cancelled."""

    def __init__(self, informers: Informers, node_name: str, clock: Clock, *, netns: str | None = None) -> None:
        self._nodes = informers.of(core.Node)
        self._name = node_name
        self._clock = clock
        self._netns = netns
        self._changed = asyncio.Event()

    async def run(self) -> None:
        await self._nodes.wait_synced()
        stop = self._nodes.subscribe(lambda event: self._wake(event.old, event.new))
        netlink = Netlink(self._netns)
        try:
            while True:
                # Without a change now and then all the same: a link that went down and up has lost its routes.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_CHECK_SECONDS):
                        await self._changed.wait()
                        await self._clock.sleep(_GATHER_SECONDS)
                self._changed.clear()
                try:
                    await asyncio.to_thread(apply, netlink, plan(self._nodes.cache.list(), self._name))
                except NetlinkError as error:
                    log.warning("routes to other nodes: %s", error)
                    await self._clock.sleep(_RETRY_SECONDS)
                    self._changed.set()
        finally:
            stop()
            netlink.close()

    def _wake(self, old: core.Node | None, new: core.Node | None) -> None:
        """Heartbeats change a node every few seconds; routes follow only from CIDRs and addresses."""
        before = plan([old], self._name) if old is not None else frozenset()
        after = plan([new], self._name) if new is not None else frozenset()
        if before != after:
            self._changed.set()
