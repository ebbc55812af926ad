"""The fabric: several nodes on one machine, each in a network namespace, joined by a bridge.

```
 host ── pn-NAME ─veth─ host ┐                        (subnet.1 on the host's end: the nodes' gateway, where
                             │ bridge "fabric"         the API server listens for them)
 node 1: eth0 ───veth─── n-… ┤ in a namespace
 node 2: eth0 ───veth─── n-… ┘ of its own
```

The bridge has a namespace of its own because where br_netfilter is loaded, frames that cross a bridge go through
the IP hooks of the bridge's namespace: on the host they would meet its firewall and be tracked a second time,
which breaks a pod's call to another node's NodePort. In there the hooks are switched off.

Pods and services exist only inside the nodes, so clusters may share those ranges; node subnets must differ. Without
egress a node has no default route, and the host forwards nothing from or to the fabric.

All names follow from the cluster's name, so that `destroy` finds what a crash left behind. On a real server there
is no fabric: the node's namespace is the host's, and `prepare_node` with None does all that is needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, ip_network

from pinnace.base.errors import UserError
from pinnace.network import namespaces
from pinnace.network.netlink import Netlink, Route
from pinnace.network.nftables import Nftables
from pinnace.network.routes import add_sinks

_BRIDGE = "fabric"
_CANDIDATES = tuple(IPv4Network((0xAC1E0000 + (number << 8), 24)) for number in range(256))  # 172.30.0.0/16


@dataclass(frozen=True, slots=True)
class NodeNetwork:
    """Where a node lives: its namespace (by name and path), its address, and the host's address on the fabric."""

    name: str
    netns: str
    path: str
    ip: str
    gateway: str


def namespace_prefix(cluster: str) -> str:
    """What all namespaces of a cluster begin with. A dot cannot be part of a cluster's name."""
    return f"pinnace.{cluster}."


def link_name(prefix: str, name: str) -> str:
    """`prefix` and the name where both fit into 15 characters, else a digest of it."""
    if len(prefix) + len(name) <= 15:
        return prefix + name
    return prefix + hashlib.sha256(name.encode()).hexdigest()[: 15 - len(prefix)]


def free_subnet(taken: Iterable[str]) -> str:
    """The first of 172.30.0.0/24 … 172.30.255.0/24 that overlaps none of the given networks. Raises UserError."""
    networks = [network for cidr in taken if (network := ip_network(cidr, strict=False)).version == 4]
    for candidate in _CANDIDATES:
        if not any(network.prefixlen and candidate.overlaps(network) for network in networks):
            return str(candidate)
    raise UserError(
        "no subnet of 172.30.0.0/16 is free for the nodes", hint="name one: nodeSubnet in the configuration"
    )


def clusters() -> list[str]:
    """The names of all clusters of which this machine has a namespace, running or left over."""
    found = {name.split(".")[1] for name in namespaces.names("pinnace.") if name.count(".") >= 2}
    return sorted(found)


def networks_in_use(netns: str | None = None) -> list[str]:
    """The networks that the host has addresses in or routes to."""
    with Netlink(netns) as netlink:
        used = [f"{address.address}/{address.prefix}" for address in netlink.addresses()]
        used += [route.destination for route in netlink.routes()]
    return used


class Fabric:
    """The network between the nodes of one cluster on this machine. Synchronous; each call takes milliseconds.

    `host` is the path of the namespace that plays the host (tests), None for the machine's own.
    """

    def __init__(
        self, cluster: str, subnet: str, *, service_cidrs: Sequence[str] = ("10.96.0.0/16",),
        cluster_cidrs: Sequence[str] = ("10.244.0.0/16",), egress: bool = False, mtu: int = 1500,
        host: str | None = None,
    ) -> None:
        self.cluster = cluster
        self.subnet = IPv4Network(subnet)
        self.gateway = str(self.subnet[1])
        self.netns = namespace_prefix(cluster) + "fabric"
        self.host_link = link_name("pn-", cluster)
        self._service_cidrs = tuple(service_cidrs)
        self._cluster_cidrs = tuple(cluster_cidrs)
        self._egress = egress
        self._mtu = mtu
        self._host = host
        self._table = f"pinnace-fabric-{cluster}"

    def create(self) -> None:
        """Make bridge, host link and the host's rules; idempotent, and completes what is there in part."""
        path = _ensure(self.netns)
        with Netlink(self._host) as host, Netlink(path) as fabric:
            if fabric.link(_BRIDGE) is None:
                namespaces.run_in(path, _quiet_bridge)
                fabric.set_link(1, up=True)
                fabric.add_bridge(_BRIDGE, mtu=self._mtu)
            if host.link(self.host_link) is None or fabric.link("host") is None:
                host.delete_link(self.host_link)
                with _descriptor(path) as descriptor:
                    host.add_veth(
                        self.host_link, "host", peer_netns=descriptor, mtu=self._mtu, up=True,
                        alias=f"pinnace cluster {self.cluster}",
                    )
            fabric.set_link(fabric.index("host"), master=fabric.index(_BRIDGE), up=True)
            index = host.index(self.host_link)
            host.add_address(index, self.gateway, self.subnet.prefixlen)
        self.set_egress(self._egress)

    def add_node(self, name: str, ip: str | None = None) -> NodeNetwork:
        """Make a node's namespace and join it; idempotent. `ip` is the lowest free one unless given."""
        netns = self._node_netns(name)
        known = {node.name: node for node in self.nodes()}
        if name in known and known[name].ip and ip in (None, known[name].ip):
            ip = known[name].ip
        elif ip is None:
            taken = {node.ip for node in known.values()} | {self.gateway}
            ip = next((str(host) for host in self.subnet.hosts() if str(host) not in taken), None)
            if ip is None:
                raise UserError(f"no address of {self.subnet} is free for node {name}")
        path = _ensure(netns)
        self._join(name, path, ip)
        node = NodeNetwork(name, netns, path, ip, self.gateway)
        prepare_node(
            path, ip, service_cidrs=self._service_cidrs, cluster_cidrs=self._cluster_cidrs,
            gateway=self.gateway if self._egress else None,
        )
        return node

    def nodes(self) -> list[NodeNetwork]:
        """The nodes that have a live namespace. `ip` is "" where a crash left one half made."""
        prefix = namespace_prefix(self.cluster) + "node."
        found = []
        for netns in namespaces.names(prefix):
            if not namespaces.exists(netns):
                continue
            path = namespaces.path_of(netns)
            with Netlink(path) as netlink:
                ips = [a.address for a in netlink.addresses() if self._is_ours(a.address)]
            found.append(NodeNetwork(netns.removeprefix(prefix), netns, path, ips[0] if ips else "", self.gateway))
        return found

    def remove_node(self, name: str) -> bool:
        """Drop a node's namespace and links; the namespace itself ends with the last process in it."""
        fabric = namespaces.path_of(self.netns)
        if namespaces.exists(self.netns):
            with Netlink(fabric) as netlink:
                netlink.delete_link(link_name("n-", name))
        return namespaces.delete(self._node_netns(name))

    def destroy(self) -> list[str]:
        """Remove everything that bears the cluster's name; returns what was found. Idempotent."""
        found = []
        with Netlink(self._host) as host:
            if host.delete_link(self.host_link):
                found.append(f"link {self.host_link}")
        if namespaces.exists(self.netns):   # ends the nodes' links at once, whoever still lives in a namespace
            with Netlink(namespaces.path_of(self.netns)) as fabric:
                for link in fabric.links():
                    if link.kind == "veth":
                        fabric.delete_link(link.name)
        for name in namespaces.names(namespace_prefix(self.cluster)):
            namespaces.delete(name)
            found.append(f"namespace {name}")
        self._rules("")
        return found

    def set_egress(self, allowed: bool) -> None:
        """Let the nodes reach beyond the machine, masqueraded as the host; or let nothing in or out."""
        self._egress = allowed
        if allowed:
            apply = namespaces.write_sysctl
            if self._host is None:
                apply("net.ipv4.ip_forward", 1)
            else:
                namespaces.run_in(self._host, apply, "net.ipv4.ip_forward", 1)
        self._rules(egress_rules(self._table, self.host_link, str(self.subnet), allowed))
        for node in self.nodes():
            with Netlink(node.path) as netlink:
                _set_default_route(netlink, self.gateway if allowed else None)

    def _rules(self, rules: str) -> None:
        nft = Nftables(self._host)
        try:
            nft.run_now(f"add table ip {self._table}\ndelete table ip {self._table}\n{rules}")
        finally:
            nft.close()

    def _node_netns(self, name: str) -> str:
        return f"{namespace_prefix(self.cluster)}node.{name}"

    def _is_ours(self, address: str) -> bool:
        return ":" not in address and IPv4Address(address) in self.subnet

    def _join(self, name: str, path: str, ip: str) -> None:
        port = link_name("n-", name)
        with Netlink(namespaces.path_of(self.netns)) as fabric, Netlink(path) as node:
            if fabric.link(port) is None or node.link("eth0") is None:
                fabric.delete_link(port)
                with _descriptor(path) as descriptor:
                    fabric.add_veth(
                        port, "eth0", peer_netns=descriptor, mtu=self._mtu, master=fabric.index(_BRIDGE), up=True
                    )
            index = node.index("eth0")
            for address in node.addresses(index):
                if ":" not in address.address and address.address != ip:
                    node.delete_address(index, address.address, address.prefix)
            node.add_address(index, ip, self.subnet.prefixlen)
            node.set_link(index, up=True)


def prepare_node(
    netns: str | None, ip: str, *, service_cidrs: Sequence[str], cluster_cidrs: Sequence[str], gateway: str | None
) -> None:
    """What every node needs whether it has a namespace of its own or not: forwarding and the sink routes.

    `gateway` sets the default route and None takes it away; on a real server (`netns` None) it is left alone.
    """
    if netns is None:
        namespaces.write_sysctl("net.ipv4.ip_forward", 1)
    else:
        namespaces.run_in(netns, namespaces.write_sysctl, "net.ipv4.ip_forward", 1)
    with Netlink(netns) as netlink:
        if netns is not None:
            netlink.set_link(1, up=True)
            _set_default_route(netlink, gateway)
        add_sinks(netlink, service_cidrs=service_cidrs, cluster_cidrs=cluster_cidrs, source=ip)


def egress_rules(table: str, link: str, subnet: str, allowed: bool) -> str:
    """The host's rules for a cluster: masquerade what leaves, or drop what would be forwarded."""
    if allowed:
        body = f"""chain postrouting {{
    type nat hook postrouting priority 100;
    ip saddr {subnet} ip daddr != {subnet} masquerade
  }}"""
    else:
        body = f"""chain forward {{
    type filter hook forward priority -10;
    iifname "{link}" drop
    oifname "{link}" drop
  }}"""
    return f'table ip {table} {{\n  {body}\n}}\n'


def _set_default_route(netlink: Netlink, gateway: str | None) -> None:
    if gateway is not None:
        netlink.add_route(Route("0.0.0.0/0", gateway=gateway))
        return
    for route in netlink.routes():
        if route.destination == "0.0.0.0/0":
            netlink.delete_route(route)


def _quiet_bridge() -> None:
    """No IP hooks for what crosses the fabric. Where br_netfilter is not loaded there is nothing to switch off."""
    for protocol in ("iptables", "ip6tables", "arptables"):
        namespaces.write_sysctl(f"net.bridge.bridge-nf-call-{protocol}", 0, required=False)


def _ensure(name: str) -> str:
    """The path of a live namespace of that name, made if need be (a leftover file is replaced)."""
    if not namespaces.exists(name):
        namespaces.delete(name)
        return namespaces.create(name)
    return namespaces.path_of(name)


@contextlib.contextmanager
def _descriptor(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
