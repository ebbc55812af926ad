"""The pod network of one node: the kubelet's door to it.

Flow: the runtime makes a sandbox with an empty network namespace; the kubelet calls `add` with its path; here it
gets `eth0` (one end of a veth pair whose other end is a port of the node's bridge), an address from the node's
pod CIDR, and a default route to the bridge, which holds the first address of the range. `remove` undoes it.

- Ports hairpin, and what crosses the bridge goes through the IP hooks (br_netfilter): a pod that calls a Service
  and lands on a pod of the same bridge, or on itself, gets its answer un-NATed.
- Hardware addresses follow from the IP address (0a:58 and its four bytes, as kubenet's), so that a reused address
  never meets a stale ARP entry.
- Traffic to the cluster's pods keeps its source address; everything else leaves masqueraded as the node.
- hostPort is a map in the table `pinnace-pods`, from (protocol, port) to the pod. It also holds on the node's
  loopback addresses, for which the bridge must be let route them; what a pod itself sends there is dropped.

The data path is all in the kernel and outlives this process; a new one picks up bridge, links and ledger.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network
from pathlib import Path
from typing import TypeVar

from pinnace.network import namespaces
from pinnace.network.conntrack import Conntrack
from pinnace.network.ipam import AddressesExhausted, Allocation, HostPort, Ledger, gateway_of
from pinnace.network.netlink import Netlink, Route
from pinnace.network.nftables import Nftables, NftablesError

__all__ = ["AddressesExhausted", "HostPort", "PodNetwork", "PodNetworkError"]

T = TypeVar("T")

TABLE = "pinnace-pods"
_PORT_PREFIX = "veth"


class PodNetworkError(Exception):
    """The pod network of this node cannot do what was asked; the message says why."""


class PodNetwork:
    """Addresses and links for the sandboxes of one node.

    `pod_cidrs` are the node's own ranges, `cluster_cidrs` those of all pods (not masqueraded); `netns` is the path
    of the node's namespace, None where the process lives in it. Files go to `state_dir`.
    """

    def __init__(
        self, pod_cidrs: Sequence[str], cluster_cidrs: Sequence[str], state_dir: Path, *, nft: Nftables,
        netns: str | None = None, bridge: str = "cni0", mtu: int = 1500,
    ) -> None:
        self._networks = tuple(IPv4Network(cidr) for cidr in pod_cidrs if ":" not in cidr)
        if len(self._networks) != 1 or len(pod_cidrs) != 1:
            raise PodNetworkError(f"one IPv4 pod CIDR is needed, not {', '.join(pod_cidrs) or 'none'}")
        self._cluster_cidrs = tuple(cluster_cidrs)
        self._state = state_dir
        self._nft = nft
        self._netns = netns
        self._bridge = bridge
        self._mtu = mtu
        self._ledger: Ledger | None = None
        # Links, addresses and the ledger change in one thread, so that they do in one order.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pods")
        self._rules = asyncio.Lock()

    async def setup(self) -> None:
        """Make (or complete) the bridge, the rules and the ledger. Idempotent; pods that are there stay."""
        await self._do(self._setup)
        await self._nft.run(self._table())

    async def add(
        self, netns: str, sandbox_id: str, pod: str = "", host_ports: Iterable[HostPort] = ()
    ) -> tuple[str, ...]:
        """Connect the namespace at path `netns`; returns the pod's addresses. Idempotent.

        Raises AddressesExhausted, PodNetworkError. Whatever fails, nothing stays behind.
        """
        wanted = tuple(host_ports)
        try:
            allocation = await self._do(self._add, netns, sandbox_id, pod, wanted)
            if wanted:
                await self._sync_host_ports()
                await self._do(self._forget_flows, allocation)
        except AddressesExhausted:
            raise
        except Exception as error:
            await self.remove(sandbox_id)
            raise PodNetworkError(f"cannot connect {pod or sandbox_id} to the network: {error}") from error
        return allocation.ips

    async def remove(self, sandbox_id: str) -> None:
        """Disconnect a sandbox and free its addresses; nothing happens if it has none."""
        released = await self._do(self._remove, sandbox_id)
        if released is not None and released.host_ports:
            await self._sync_host_ports()
            await self._do(self._forget_flows, released)

    async def sweep(self, live: Collection[str]) -> list[str]:
        """Remove whatever belongs to no live sandbox (after a crash); returns the sandbox ids that were freed."""
        dead = await self._do(self._sweep, frozenset(live))
        if any(allocation.host_ports for allocation in dead.values()):
            await self._sync_host_ports()
            for allocation in dead.values():
                await self._do(self._forget_flows, allocation)
        return list(dead)

    async def check(self) -> str | None:
        """Why pods cannot be connected now (for the node's NetworkReady), or None. Rules that went are put back."""
        problem = await self._do(self._check)
        if problem is not None:
            return problem
        try:
            await self._nft.run(f"list chain ip {TABLE} postrouting")
        except NftablesError:
            try:
                await self._nft.run(self._table())
            except NftablesError as error:
                return str(error)
        return None

    def addresses(self, sandbox_id: str) -> tuple[str, ...]:
        """The addresses that a sandbox holds; empty if none."""
        allocation = self._known().sandboxes.get(sandbox_id)
        return allocation.ips if allocation is not None else ()

    async def teardown(self) -> None:
        """Take away the bridge, all pods' links and the rules (a node's own namespace just goes as a whole)."""
        await self._do(self._teardown)
        await self._nft.run(f"add table ip {TABLE}\ndelete table ip {TABLE}\n")

    def close(self) -> None:
        """End the thread. What was set up stays."""
        self._thread.shutdown()

    # ------------------------------------------------------------------------------- in the network's thread

    async def _do(self, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    def _known(self) -> Ledger:
        if self._ledger is None:
            raise PodNetworkError("the pod network is not set up yet")
        return self._ledger

    def _in_node(self, function: Callable[[], T]) -> T:
        return function() if self._netns is None else namespaces.run_in(self._netns, function)

    def _setup(self) -> None:
        self._state.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._ledger = Ledger(self._state / "pods.json", [str(network) for network in self._networks])
        self._in_node(_prepare_node)
        network = self._networks[0]
        gateway = str(gateway_of(network))
        with Netlink(self._netns) as netlink:
            if netlink.link(self._bridge) is None:
                netlink.add_bridge(
                    self._bridge, mtu=self._mtu, nf_call_iptables=True, hardware=hardware_address(gateway)
                )
            index = netlink.index(self._bridge)
            self._in_node(lambda: namespaces.write_sysctl(f"net.ipv4.conf.{self._bridge}.route_localnet", 1))
            netlink.set_bridge_netfilter(index)
            netlink.set_link(index, up=True)
            for address in netlink.addresses(index):
                if ":" not in address.address and (address.address, address.prefix) != (gateway, network.prefixlen):
                    netlink.delete_address(index, address.address, address.prefix)
            netlink.add_address(index, gateway, network.prefixlen)

    def _add(self, netns: str, sandbox: str, pod: str, host_ports: tuple[HostPort, ...]) -> Allocation:
        allocation = self._known().allocate(sandbox, pod, host_ports)
        network, ip = self._networks[0], allocation.ips[0]
        port = port_name(sandbox)
        with Netlink(self._netns) as node, Netlink(netns) as inside:
            if node.link(port) is not None and inside.link("eth0") is not None:
                return allocation
            node.delete_link(port)
            descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
            try:
                node.add_veth(
                    port, "eth0", peer_netns=descriptor, peer_hardware=hardware_address(ip), mtu=self._mtu,
                    master=node.index(self._bridge), up=True,
                )
            finally:
                os.close(descriptor)
            node.set_hairpin(node.index(port))
            inside.set_link(1, up=True)
            index = inside.index("eth0")
            inside.add_address(index, ip, network.prefixlen)
            inside.set_link(index, up=True)
            inside.add_route(Route("0.0.0.0/0", gateway=str(gateway_of(network)), device=index))
        return allocation

    def _remove(self, sandbox: str) -> Allocation | None:
        with Netlink(self._netns) as node:
            node.delete_link(port_name(sandbox))
        return self._known().release(sandbox)

    def _sweep(self, live: frozenset[str]) -> dict[str, Allocation]:
        dead = self._known().retain(lambda sandbox: sandbox in live)
        kept = {port_name(sandbox) for sandbox in live}
        with Netlink(self._netns) as node:
            bridge = node.index(self._bridge)
            for link in node.links():
                if link.master == bridge and link.name.startswith(_PORT_PREFIX) and link.name not in kept:
                    node.delete_link(link.name)
        return dead

    def _forget_flows(self, allocation: Allocation) -> None:
        """UDP flows to a host port that came or went: they would go on to where their first packet went."""
        ports = {port.host_port for port in allocation.host_ports if port.protocol == "UDP"}
        if not ports:
            return
        conntrack = Conntrack(self._netns)
        try:
            for flow in conntrack.udp_flows():
                mine = flow.answered_by[0] in allocation.ips or flow.answered_by == flow.destination
                if flow.destination[1] in ports and mine:
                    conntrack.delete(flow)
        finally:
            conntrack.close()

    def _check(self) -> str | None:
        try:
            with Netlink(self._netns) as node:
                bridge = node.link(self._bridge)
        except OSError as error:
            return str(error)
        if bridge is None or not bridge.up:
            return f"bridge {self._bridge} is {'missing' if bridge is None else 'down'}"
        return None

    def _teardown(self) -> None:
        with Netlink(self._netns) as node:
            for sandbox in list(self._known().sandboxes):
                node.delete_link(port_name(sandbox))
            node.delete_link(self._bridge)
        self._known().retain(lambda _: False)

    # ------------------------------------------------------------------------------------------------- rules

    def _table(self) -> str:
        """The table of this node, made anew in one transaction."""
        network = self._networks[0]
        inside = ", ".join(cidr for cidr in self._cluster_cidrs if ":" not in cidr) or str(network)
        return f"""
add table ip {TABLE}
delete table ip {TABLE}
table ip {TABLE} {{
  comment "pods of this node: hostPort, and what leaves for outside the cluster"
  map host-ports {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
  map host-ip-ports {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
  set hairpins {{ type ipv4_addr . ipv4_addr; }}
  chain guard {{
    type filter hook prerouting priority raw
    iifname "{self._bridge}" ip daddr 127.0.0.0/8 drop
  }}
  chain to-pods {{
    meta l4proto {{ tcp, udp, sctp }} dnat ip to ip daddr . meta l4proto . th dport map @host-ip-ports
    meta l4proto {{ tcp, udp, sctp }} dnat ip to meta l4proto . th dport map @host-ports
  }}
  chain prerouting {{ type nat hook prerouting priority -105; fib daddr type local jump to-pods; }}
  chain output {{ type nat hook output priority -105; fib daddr type local jump to-pods; }}
  chain postrouting {{
    type nat hook postrouting priority 105;
    ip saddr . ip daddr @hairpins masquerade fully-random
    ip saddr 127.0.0.0/8 oifname "{self._bridge}" masquerade fully-random
    ip saddr {network} ip daddr != {{ {inside} }} masquerade fully-random
  }}
}}
""" + host_port_elements(self._known().sandboxes)

    async def _sync_host_ports(self) -> None:
        async with self._rules:   # the last one to run writes what the ledger says by then
            flush = f"flush map ip {TABLE} host-ports\nflush map ip {TABLE} host-ip-ports\n"
            flush += f"flush set ip {TABLE} hairpins\n"
            await self._nft.run(flush + host_port_elements(self._known().sandboxes))


def host_port_elements(sandboxes: Mapping[str, Allocation]) -> str:
    """nft commands that fill the hostPort maps. Of two sandboxes that want the same port the newer one gets it."""
    anywhere: dict[str, str] = {}
    somewhere: dict[str, str] = {}
    hairpins: dict[str, None] = {}
    for allocation in list(sandboxes.values()):
        for port in allocation.host_ports:
            ip = allocation.ips[0]
            target = f"{ip} . {port.container_port}"
            key = f"{port.protocol.lower()} . {port.host_port}"
            if port.host_ip in ("", "0.0.0.0"):
                anywhere[key] = target
            else:
                somewhere[f"{port.host_ip} . {key}"] = target
            hairpins[f"{ip} . {ip}"] = None
    commands = ""
    for name, elements in (("host-ports", anywhere), ("host-ip-ports", somewhere)):
        if elements:
            listed = ", ".join(f"{key} : {target}" for key, target in elements.items())
            commands += f"add element ip {TABLE} {name} {{ {listed} }}\n"
    if hairpins:
        commands += f"add element ip {TABLE} hairpins {{ {', '.join(hairpins)} }}\n"
    return commands


def port_name(sandbox_id: str) -> str:
    """The node's end of a sandbox's veth pair: 12 of at most 15 characters."""
    return _PORT_PREFIX + hashlib.sha256(sandbox_id.encode()).hexdigest()[:8]


def hardware_address(ip: str) -> str:
    return "0a:58:" + ":".join(f"{int(part):02x}" for part in ip.split("."))


def _prepare_node() -> None:
    """What the kernel must do for a node: forward, and pass bridged packets through the IP hooks."""
    namespaces.write_sysctl("net.ipv4.ip_forward", 1)
    if namespaces.read_sysctl("net.bridge.bridge-nf-call-iptables") is None:
        modprobe = shutil.which("modprobe")
        if modprobe is not None:
            subprocess.run([modprobe, "br_netfilter"], check=False, capture_output=True, timeout=10)
        if namespaces.read_sysctl("net.bridge.bridge-nf-call-iptables") is None:
            raise PodNetworkError("the kernel module br_netfilter is needed and cannot be loaded")


