"""Connection tracking: which UDP flows the kernel remembers, and making it forget some.

A UDP client that keeps sending from one port keeps being sent to the endpoint that its first packet met, also when
that is gone or when there was none at first. After a change of a UDP service the proxy therefore deletes the
flows to its addresses that lead anywhere but to its endpoints. (TCP needs none of this: a dead peer is noticed.)

Spoken over ctnetlink; source: the kernel's include/uapi/linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pinnace.network.namespaces import run_in
from pinnace.network.netlink import (
    NETLINK_NETFILTER,
    NLM_F_DUMP,
    NetlinkError,
    NetlinkSocket,
    attribute,
    attributes,
    nested,
    open_socket,
    u8,
)

_GET, _DELETE = 0x101, 0x102
_HEADER = struct.Struct("=BBH")
_ORIGINAL, _REPLY = 1, 2
_IP, _PROTO = 1, 2
_V4_SOURCE, _V4_DESTINATION = 1, 2
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3
UDP = 17

Target = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Flow:
    """Where packets of a flow come from and were sent to, and who answers them."""

    source: Target
    destination: Target
    answered_by: Target


def stale(flows: Iterable[Flow], fronts: Mapping[Target, frozenset[Target]]) -> list[Flow]:
    """The flows to an address of a service that no longer lead to one of its endpoints."""
    return [
        flow for flow in flows
        if (targets := fronts.get(flow.destination)) is not None and flow.answered_by not in targets
    ]


class Conntrack:
    """The table of one network namespace (`netns`: its path; None: the calling thread's)."""

    def __init__(self, netns: str | None = None) -> None:
        opened = open_socket(NETLINK_NETFILTER) if netns is None else run_in(netns, open_socket, NETLINK_NETFILTER)
        self._socket = NetlinkSocket(opened=opened)

    def close(self) -> None:
        self._socket.close()

    def udp_flows(self) -> list[Flow]:
        """All IPv4 UDP flows."""
        replies = self._socket.request(_GET, NLM_F_DUMP, _HEADER.pack(socket.AF_INET, 0, 0), "list flows")
        return [flow for reply in replies if (flow := _flow(reply)) is not None]

    def delete(self, flow: Flow) -> bool:
        """False if it is gone already."""
        original = nested(
            _ORIGINAL,
            nested(
                _IP,
                attribute(_V4_SOURCE, socket.inet_aton(flow.source[0])),
                attribute(_V4_DESTINATION, socket.inet_aton(flow.destination[0])),
            ),
            nested(
                _PROTO,
                attribute(_NUMBER, u8(UDP)),
                attribute(_SOURCE_PORT, struct.pack("!H", flow.source[1])),
                attribute(_DESTINATION_PORT, struct.pack("!H", flow.destination[1])),
            ),
        )
        try:
            self._socket.request(_DELETE, 0, _HEADER.pack(socket.AF_INET, 0, 0) + original, "delete flow")
        except NetlinkError as error:
            if error.name == "ENOENT":
                return False
            raise
        return True

    def forget_stale(self, fronts: Mapping[Target, frozenset[Target]]) -> int:
        """Delete the stale UDP flows to these addresses; returns how many."""
        return sum(self.delete(flow) for flow in stale(self.udp_flows(), fronts))


def _flow(reply: bytes) -> Flow | None:
    found = dict(attributes(reply[_HEADER.size :]))
    original, answer = _tuple(found.get(_ORIGINAL, b"")), _tuple(found.get(_REPLY, b""))
    if original is None or answer is None:
        return None
    return Flow(original[0], original[1], answer[0])


def _tuple(data: bytes) -> tuple[Target, Target] | None:
    parts = dict(attributes(data))
    ips, protocol = dict(attributes(parts.get(_IP, b""))), dict(attributes(parts.get(_PROTO, b"")))
    source, destination = ips.get(_V4_SOURCE), ips.get(_V4_DESTINATION)
    ports = protocol.get(_SOURCE_PORT), protocol.get(_DESTINATION_PORT)
    if protocol.get(_NUMBER) != bytes((UDP,)) or not source or not destination or not ports[0] or not ports[1]:
        return None
    return (
        (socket.inet_ntoa(source), struct.unpack("!H", ports[0])[0]),
        (socket.inet_ntoa(destination), struct.unpack("!H", ports[1])[0]),
    )
