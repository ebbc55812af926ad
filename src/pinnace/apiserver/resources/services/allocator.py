"""Who gets which number of a range: cluster IPs and node ports. Pure; `reserve.py` asks with what is in use.

A range has two bands, as upstream's: the lower is left to those who ask for a certain number, and is used for
the others only when the upper one is full.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Container
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Band:
    """Numbers from `first` to `last`, of which those from `dynamic` on are handed out first."""

    first: int
    last: int
    dynamic: int

    def next(self, after: int, used: Container[int]) -> int | None:
        """The first free number behind `after` in the dynamic band, round about; then of the lower band."""
        start = after + 1 if self.dynamic <= after < self.last else self.dynamic
        for run in (
            range(start, self.last + 1),
            range(self.dynamic, start),
            range(self.first, self.dynamic),
        ):
            for number in run:
                if number not in used:
                    return number
        return None

    def __contains__(self, number: int) -> bool:
        return self.first <= number <= self.last


def offset(size: int, *, least: int, most: int, step: int) -> int:
    """How long the lower band is; no band in ranges that are too small for one."""
    if size < least:
        return 0
    return min(max(least, size // step), most)


def address_band(cidr: str) -> Band:
    """The usable addresses of a service range, as numbers: without the network's own and the broadcast address."""
    network = ipaddress.ip_network(cidr)
    # No more of a large range is looked at than upstream does.
    size = min(network.num_addresses, 1 << 16 if network.version == 6 else 1 << 32)
    first = int(network.network_address) + 1
    last = int(network.network_address) + size - (2 if network.version == 4 else 1)
    usable = last - first + 1
    return Band(first, last, first + offset(usable, least=16, most=256, step=16))


def port_band(first: int = 30000, last: int = 32767) -> Band:
    return Band(first, last, first + offset(last - first + 1, least=16, most=128, step=32))
