"""rtnetlink: links, addresses, routes and neighbours, spoken directly to the kernel.

The lowest floor of the network: fabric, pods and routes are built from these calls. A `Netlink` belongs to
the network namespace in which its socket was opened and stays there (see `namespaces`), so one process can
hold one for each namespace. Calls are synchronous and take microseconds up to a few milliseconds (the kernel
serializes them under one lock); whoever lives on an event loop makes them in a thread.

Sources: man 7 rtnetlink, man 7 netlink, and the kernel's include/uapi/linux/{rtnetlink,if_link,neighbour}.h.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
_NLM_F_CAPPED, _NLM_F_ACK_TLVS = 0x100, 0x200
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11
_NLMSGERR_ATTR_MSG = 1
NLA_F_NESTED = 0x8000

_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_RTM_NEWNEIGH, _RTM_DELNEIGH, _RTM_GETNEIGH = 28, 29, 30

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER = 1, 3, 4, 5, 10
_IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_NET_NS_FD = 18, 20, 28
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_INFO_SLAVE_KIND, _IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
_VETH_INFO_PEER = 1
_IFLA_BR_NF_CALL_IPTABLES, _IFLA_BRPORT_MODE = 36, 4
_VXLAN_ID, _VXLAN_LINK, _VXLAN_LOCAL, _VXLAN_LEARNING, _VXLAN_PORT = 1, 3, 4, 7, 15
_IFF_UP, _IFF_NOARP = 0x1, 0x80

_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_TABLE = 1, 4, 5, 6, 7, 15
_NDA_DST, _NDA_LLADDR = 1, 2
_NUD_PERMANENT, _NTF_SELF = 0x80, 0x02

TABLE_MAIN, TABLE_LOCAL = 254, 255
# Routes of ours carry this protocol number, so that they are told from a person's own and from the kernel's.
PROTOCOL_PINNACE = 112
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_HOST = 0, 253, 254

RouteType = Literal["unicast", "local", "blackhole", "unreachable", "prohibit"]
_ROUTE_TYPES: dict[RouteType, int] = {"unicast": 1, "local": 2, "blackhole": 6, "unreachable": 7, "prohibit": 8}
_ROUTE_NAMES: dict[int, RouteType] = {number: name for name, number in _ROUTE_TYPES.items()}

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_NDMSG = struct.Struct("=BxHiHBB")

Attribute = tuple[int, bytes]


class NetlinkError(OSError):
    """The kernel refused; `name` is the errno's name (EEXIST, ENODEV …)."""

    def __init__(self, code: int, what: str, detail: str = "") -> None:
        super().__init__(code, f"{what}: {detail or os.strerror(code)}")
        self.name = errno.errorcode.get(code, str(code))


@dataclass(frozen=True, slots=True)
class Link:
    index: int
    name: str
    kind: str           # "veth", "bridge" …; "" for what is not virtual
    up: bool
    mtu: int
    address: str        # the hardware address, "02:42:…"
    master: int         # index of the bridge that it is a port of, or 0
    alias: str


@dataclass(frozen=True, slots=True)
class Address:
    index: int
    address: str
    prefix: int


@dataclass(frozen=True, slots=True)
class Route:
    """`destination` is in CIDR form; the default route is 0.0.0.0/0. `device` 0 and `gateway` "" mean none."""

    destination: str
    gateway: str = ""
    device: int = 0
    type: RouteType = "unicast"
    metric: int = 0
    source: str = ""
    table: int = TABLE_MAIN
    protocol: int = PROTOCOL_PINNACE
    onlink: bool = False


@dataclass(frozen=True, slots=True)
class Neighbour:
    index: int
    address: str
    hardware: str


# ------------------------------------------------------------------------------------------------- the codec


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    size = 4 + len(payload)
    return _ATTRIBUTE.pack(size, kind) + payload + b"\0" * (-size % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def attributes(data: bytes | memoryview) -> Iterator[Attribute]:
    """The attributes in a message's tail; ends quietly at a malformed one."""
    offset, size = 0, len(data)
    while offset + 4 <= size:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4 or offset + length > size:
            return
        yield kind & 0x3FFF, bytes(data[offset + 4 : offset + length])
        offset += length + (-length % 4)


def u8(value: int) -> bytes:
    return struct.pack("=B", value)


def u32(value: int) -> bytes:
    return struct.pack("=I", value)


def text(value: str) -> bytes:
    return value.encode() + b"\0"


def hardware_bytes(address: str) -> bytes:
    return bytes.fromhex(address.replace(":", ""))


def _packed(address: str) -> tuple[int, bytes]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return family, socket.inet_pton(family, address)


def _printed(family: int, raw: bytes) -> str:
    return socket.inet_ntop(family, raw) if len(raw) in (4, 16) else ""


def _unsigned(raw: bytes | None) -> int:
    return struct.unpack("=I", raw)[0] if raw is not None and len(raw) == 4 else 0


# --------------------------------------------------------------------------------------------- the connection


class NetlinkSocket:
    """Requests and replies over one netlink socket, in the namespace in which it was opened."""

    def __init__(self, protocol: int = NETLINK_ROUTE, *, opened: socket.socket | None = None) -> None:
        self._socket = opened or open_socket(protocol)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def request(self, kind: int, flags: int, body: bytes, what: str) -> list[bytes]:
        """Send one message and wait for all of its answer: the bodies of the replies."""
        self._sequence = self._sequence % 0xFFFFFFF0 + 1
        size = _HEADER.size + len(body)
        header = _HEADER.pack(size, kind, flags | NLM_F_REQUEST | NLM_F_ACK, self._sequence, 0)
        self._socket.send(header + body)
        replies: list[bytes] = []
        while True:
            if self._take(self._socket.recv(1 << 18), replies, what):
                return replies

    def _take(self, data: bytes, replies: list[bytes], what: str) -> bool:
        """Read one datagram; True once the answer is complete."""
        offset = 0
        while offset + _HEADER.size <= len(data):
            size, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
            if size < _HEADER.size or offset + size > len(data):
                raise NetlinkError(errno.EBADMSG, what)
            body = data[offset + _HEADER.size : offset + size]
            offset += size + (-size % 4)
            if sequence != self._sequence:
                continue
            if kind == _NLMSG_ERROR or (kind == _NLMSG_DONE and len(body) >= 4):
                code = -struct.unpack_from("=i", body)[0]
                if code > 0:
                    raise NetlinkError(code, what, _explanation(flags, body) if kind == _NLMSG_ERROR else "")
                return True
            if kind == _NLMSG_DONE:
                return True
            replies.append(body)
        return False


def open_socket(protocol: int) -> socket.socket:
    """A netlink socket in the calling thread's network namespace."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    opened.bind((0, 0))
    opened.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
    opened.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    return opened


def _explanation(flags: int, body: bytes) -> str:
    """The kernel's own sentence about an error, where it gave one (extended acknowledgement)."""
    if not flags & _NLM_F_ACK_TLVS:
        return ""
    start = 4 + _HEADER.size
    if not flags & _NLM_F_CAPPED:
        start = 4 + struct.unpack_from("=I", body, 4)[0]
    for kind, payload in attributes(body[start:]):
        if kind == _NLMSGERR_ATTR_MSG:
            return payload.rstrip(b"\0").decode(errors="replace")
    return ""


class Netlink:
    """rtnetlink in one network namespace. Use as a context manager, or `close`."""

    def __init__(self, netns: str | None = None) -> None:
        """`netns` is the path of a namespace, None for the calling thread's own."""
        if netns is None:
            self._socket = NetlinkSocket()
        else:
            from pinnace.network.namespaces import run_in

            self._socket = NetlinkSocket(opened=run_in(netns, open_socket, NETLINK_ROUTE))

    def __enter__(self) -> Netlink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    # ------------------------------------------------------------------------------------------------- links

    def links(self) -> list[Link]:
        body = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        return [_link(reply) for reply in self._socket.request(_RTM_GETLINK, NLM_F_DUMP, body, "list links")]

    def link(self, name: str) -> Link | None:
        body = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, text(name))
        try:
            replies = self._socket.request(_RTM_GETLINK, 0, body, f"get link {name}")
        except NetlinkError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        return _link(replies[0]) if replies else None

    def index(self, name: str) -> int:
        """The index of a link; raises NetlinkError ENODEV if there is none."""
        found = self.link(name)
        if found is None:
            raise NetlinkError(errno.ENODEV, f"link {name}")
        return found.index

    def add_veth(
        self, name: str, peer: str, *, peer_netns: int | None = None, peer_hardware: str = "", mtu: int = 0,
        master: int = 0, up: bool = False, alias: str = "",
    ) -> None:
        """A pair of links; the peer is born in the namespace that the descriptor `peer_netns` stands for."""
        there = [_IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0), attribute(_IFLA_IFNAME, text(peer))]
        if mtu:
            there.append(attribute(_IFLA_MTU, u32(mtu)))
        if peer_netns is not None:
            there.append(attribute(_IFLA_NET_NS_FD, u32(peer_netns)))
        if peer_hardware:
            there.append(attribute(_IFLA_ADDRESS, hardware_bytes(peer_hardware)))
        data = nested(_VETH_INFO_PEER, *there)
        self._add(name, "veth", data, mtu=mtu, master=master, up=up, alias=alias)

    def add_bridge(self, name: str, *, mtu: int = 0, nf_call_iptables: bool | None = None, up: bool = True,
                   arp: bool = True, alias: str = "", hardware: str = "") -> None:
        """A bridge; `nf_call_iptables` sends what crosses it through the IP hooks of netfilter (br_netfilter).

        Without `arp` nobody is asked for an address: what is sent there goes to whatever ports there are.
        """
        data = b"" if nf_call_iptables is None else attribute(_IFLA_BR_NF_CALL_IPTABLES, u8(nf_call_iptables))
        self._add(name, "bridge", data, mtu=mtu, up=up, arp=arp, alias=alias, hardware=hardware)

    def add_dummy(self, name: str, *, up: bool = True) -> None:
        self._add(name, "dummy", b"", up=up)

    def add_vxlan(
        self, name: str, *, vni: int, local: str, device: int, port: int = 8472, mtu: int = 0, up: bool = True
    ) -> None:
        """A VXLAN end point whose peers are told by `add_fdb`; it learns nothing by itself."""
        data = b"".join((
            attribute(_VXLAN_ID, u32(vni)),
            attribute(_VXLAN_LINK, u32(device)),
            attribute(_VXLAN_LOCAL, _packed(local)[1]),
            attribute(_VXLAN_LEARNING, u8(0)),
            attribute(_VXLAN_PORT, struct.pack("!H", port)),
        ))
        self._add(name, "vxlan", data, mtu=mtu, up=up)

    def set_link(
        self, index: int, *, up: bool | None = None, master: int | None = None, netns: int | None = None,
        mtu: int = 0, hardware: str = "", name: str = "", alias: str = "",
    ) -> None:
        """Change what is given; `netns` is a descriptor of the namespace that the link moves into."""
        change = _IFF_UP if up is not None else 0
        body = [_IFINFO.pack(socket.AF_UNSPEC, 0, index, _IFF_UP if up else 0, change)]
        if master is not None:
            body.append(attribute(_IFLA_MASTER, u32(master)))
        if netns is not None:
            body.append(attribute(_IFLA_NET_NS_FD, u32(netns)))
        if mtu:
            body.append(attribute(_IFLA_MTU, u32(mtu)))
        if hardware:
            body.append(attribute(_IFLA_ADDRESS, hardware_bytes(hardware)))
        if name:
            body.append(attribute(_IFLA_IFNAME, text(name)))
        if alias:
            body.append(attribute(_IFLA_IFALIAS, text(alias)))
        self._socket.request(_RTM_NEWLINK, 0, b"".join(body), f"change link {index}")

    def set_hairpin(self, index: int, on: bool = True) -> None:
        """Let a bridge send a frame back through the port that it came from."""
        slave = nested(
            _IFLA_LINKINFO,
            attribute(_IFLA_INFO_SLAVE_KIND, b"bridge"),
            nested(_IFLA_INFO_SLAVE_DATA, attribute(_IFLA_BRPORT_MODE, u8(on))),
        )
        body = _IFINFO.pack(socket.AF_UNSPEC, 0, index, 0, 0) + slave
        self._socket.request(_RTM_NEWLINK, 0, body, f"set hairpin of link {index}")

    def set_bridge_netfilter(self, index: int, on: bool = True) -> None:
        """As `nf_call_iptables` of `add_bridge`, for a bridge that is there."""
        info = nested(
            _IFLA_LINKINFO,
            attribute(_IFLA_INFO_KIND, b"bridge"),
            nested(_IFLA_INFO_DATA, attribute(_IFLA_BR_NF_CALL_IPTABLES, u8(on))),
        )
        body = _IFINFO.pack(socket.AF_UNSPEC, 0, index, 0, 0) + info
        self._socket.request(_RTM_NEWLINK, 0, body, f"set netfilter of bridge {index}")

    def delete_link(self, name: str) -> bool:
        """False if there is none of that name."""
        body = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, text(name))
        try:
            self._socket.request(_RTM_DELLINK, 0, body, f"delete link {name}")
        except NetlinkError as error:
            if error.errno == errno.ENODEV:
                return False
            raise
        return True

    def _add(
        self, name: str, kind: str, data: bytes, *, mtu: int = 0, master: int = 0, up: bool = False,
        arp: bool = True, alias: str = "", hardware: str = "",
    ) -> None:
        info = [attribute(_IFLA_INFO_KIND, kind.encode())]
        if data:
            info.append(nested(_IFLA_INFO_DATA, data))
        flags = (_IFF_UP if up else 0) | (0 if arp else _IFF_NOARP)
        body = [_IFINFO.pack(socket.AF_UNSPEC, 0, 0, flags, flags), attribute(_IFLA_IFNAME, text(name))]
        if mtu:
            body.append(attribute(_IFLA_MTU, u32(mtu)))
        if master:
            body.append(attribute(_IFLA_MASTER, u32(master)))
        if hardware:
            body.append(attribute(_IFLA_ADDRESS, hardware_bytes(hardware)))
        body.append(nested(_IFLA_LINKINFO, *info))
        flags = NLM_F_CREATE | NLM_F_EXCL
        self._socket.request(_RTM_NEWLINK, flags, b"".join(body), f"add {kind} {name}")
        if alias:   # the kernel takes no alias at birth
            self.set_link(self.index(name), alias=alias)

    # --------------------------------------------------------------------------------------------- addresses

    def addresses(self, index: int = 0) -> list[Address]:
        """All addresses, or those of one link."""
        body = _IFADDR.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        found = (_address(reply) for reply in self._socket.request(_RTM_GETADDR, NLM_F_DUMP, body, "list addresses"))
        return [address for address in found if index in (0, address.index)]

    def add_address(self, index: int, address: str, prefix: int) -> None:
        """Give a link an address; nothing happens if it has it."""
        body = _address_body(index, address, prefix)
        self._socket.request(_RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, body, f"add address {address}/{prefix}")

    def delete_address(self, index: int, address: str, prefix: int) -> None:
        body = _address_body(index, address, prefix)
        self._socket.request(_RTM_DELADDR, 0, body, f"delete address {address}/{prefix}")

    # ------------------------------------------------------------------------------------------------ routes

    def routes(self, *, table: int = TABLE_MAIN, protocol: int | None = None) -> list[Route]:
        """The IPv4 and IPv6 routes of a table, of one protocol if it is given."""
        found: list[Route] = []
        for family in (socket.AF_INET, socket.AF_INET6):
            body = _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
            for reply in self._socket.request(_RTM_GETROUTE, NLM_F_DUMP, body, "list routes"):
                route = _route(reply)
                if route is not None and route.table == table and protocol in (None, route.protocol):
                    found.append(route)
        return found

    def add_route(self, route: Route, *, replace: bool = True) -> None:
        """Add a route, in the place of one with the same destination and metric unless told not to."""
        flags = NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL)
        self._socket.request(_RTM_NEWROUTE, flags, _route_body(route), f"add route {route.destination}")

    def delete_route(self, route: Route) -> bool:
        """False if there is no such route."""
        try:
            self._socket.request(_RTM_DELROUTE, 0, _route_body(route), f"delete route {route.destination}")
        except NetlinkError as error:
            if error.errno == errno.ESRCH:
                return False
            raise
        return True

    # -------------------------------------------------------------------------------------------- neighbours

    def add_neighbour(self, index: int, address: str, hardware: str) -> None:
        """A permanent entry: `address` is reached on the link at this hardware address."""
        self._neighbour(_RTM_NEWNEIGH, index, address, hardware, bridge=False)

    def add_fdb(self, index: int, address: str, hardware: str) -> None:
        """A forwarding entry of a VXLAN link: frames to `hardware` go to the machine at `address`."""
        self._neighbour(_RTM_NEWNEIGH, index, address, hardware, bridge=True)

    def delete_neighbour(self, index: int, address: str, hardware: str) -> None:
        self._neighbour(_RTM_DELNEIGH, index, address, hardware, bridge=False)

    def delete_fdb(self, index: int, address: str, hardware: str) -> None:
        self._neighbour(_RTM_DELNEIGH, index, address, hardware, bridge=True)

    def neighbours(self, index: int = 0) -> list[Neighbour]:
        body = _NDMSG.pack(socket.AF_INET, 0, 0, 0, 0, 0)
        replies = self._socket.request(_RTM_GETNEIGH, NLM_F_DUMP, body, "list neighbours")
        return [entry for entry in map(_neighbour, replies) if index in (0, entry.index)]

    def _neighbour(self, kind: int, index: int, address: str, hardware: str, *, bridge: bool) -> None:
        family, raw = _packed(address)
        flags = NLM_F_CREATE | NLM_F_REPLACE if kind == _RTM_NEWNEIGH else 0
        head = _NDMSG.pack(
            socket.AF_BRIDGE if bridge else family, 0, index, _NUD_PERMANENT, _NTF_SELF if bridge else 0, 0
        )
        body = head + attribute(_NDA_DST, raw) + attribute(_NDA_LLADDR, hardware_bytes(hardware))
        self._socket.request(kind, flags, body, f"neighbour {address}")


def _link(reply: bytes) -> Link:
    _, _, index, flags, _ = _IFINFO.unpack_from(reply)
    found = dict(attributes(reply[_IFINFO.size :]))
    info = dict(attributes(found.get(_IFLA_LINKINFO, b"")))
    return Link(
        index=index,
        name=_string(found.get(_IFLA_IFNAME)),
        kind=_string(info.get(_IFLA_INFO_KIND)),
        up=bool(flags & _IFF_UP),
        mtu=_unsigned(found.get(_IFLA_MTU)),
        address=found.get(_IFLA_ADDRESS, b"").hex(":"),
        master=_unsigned(found.get(_IFLA_MASTER)),
        alias=_string(found.get(_IFLA_IFALIAS)),
    )


def _string(raw: bytes | None) -> str:
    return raw.rstrip(b"\0").decode(errors="replace") if raw else ""


def _address(reply: bytes) -> Address:
    family, prefix, _, _, index = _IFADDR.unpack_from(reply)
    found = dict(attributes(reply[_IFADDR.size :]))
    raw = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS, b"")
    return Address(index, _printed(family, raw), prefix)


def _address_body(index: int, address: str, prefix: int) -> bytes:
    family, raw = _packed(address)
    return _IFADDR.pack(family, prefix, 0, _SCOPE_UNIVERSE, index) + attribute(_IFA_LOCAL, raw) + attribute(
        _IFA_ADDRESS, raw
    )


def _route(reply: bytes) -> Route | None:
    family, bits, _, _, table, protocol, _, kind, flags = _RTMSG.unpack_from(reply)
    if kind not in _ROUTE_NAMES:
        return None
    found = dict(attributes(reply[_RTMSG.size :]))
    any_address = b"\0" * (4 if family == socket.AF_INET else 16)
    return Route(
        destination=f"{_printed(family, found.get(_RTA_DST, any_address))}/{bits}",
        gateway=_printed(family, found.get(_RTA_GATEWAY, b"")),
        device=_unsigned(found.get(_RTA_OIF)),
        type=_ROUTE_NAMES[kind],
        metric=_unsigned(found.get(_RTA_PRIORITY)),
        source=_printed(family, found.get(_RTA_PREFSRC, b"")),
        table=_unsigned(found.get(_RTA_TABLE)) or table,
        protocol=protocol,
        onlink=bool(flags & 4),
    )


def _route_body(route: Route) -> bytes:
    network = ipaddress.ip_network(route.destination)
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    if route.type == "local":
        scope = _SCOPE_HOST
    else:
        scope = _SCOPE_LINK if route.type == "unicast" and not route.gateway else _SCOPE_UNIVERSE
    head = _RTMSG.pack(
        family, network.prefixlen, 0, 0, min(route.table, 255), route.protocol, scope, _ROUTE_TYPES[route.type],
        4 if route.onlink else 0,
    )
    optional: Sequence[tuple[int, bytes | None]] = (
        (_RTA_DST, network.network_address.packed if network.prefixlen else None),
        (_RTA_GATEWAY, _packed(route.gateway)[1] if route.gateway else None),
        (_RTA_OIF, u32(route.device) if route.device else None),
        (_RTA_PRIORITY, u32(route.metric) if route.metric else None),
        (_RTA_PREFSRC, _packed(route.source)[1] if route.source else None),
        (_RTA_TABLE, u32(route.table)),
    )
    return head + b"".join(_present(optional))


def _present(optional: Iterable[tuple[int, bytes | None]]) -> Iterator[bytes]:
    for kind, payload in optional:
        if payload is not None:
            yield attribute(kind, payload)


def _neighbour(reply: bytes) -> Neighbour:
    family, _, index, _, _, _ = _NDMSG.unpack_from(reply)
    found = dict(attributes(reply[_NDMSG.size :]))
    return Neighbour(index, _printed(family, found.get(_NDA_DST, b"")), found.get(_NDA_LLADDR, b"").hex(":"))
