"""Which pod has which address: allocation from the node's pod CIDRs, remembered on disk.

`next_address` is the pure decision; `Ledger` the state, written as a whole and atomically after each change,
so that a restarted node process goes on where the killed one stopped. Addresses are given out round robin: the
one that was freed last is used again last, when caches and connections that knew it are gone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path

import msgspec

log = logging.getLogger("pinnace.network")

Network = IPv4Network | IPv6Network
# Of a large IPv6 range only so many addresses are ever given out.
_MOST_ADDRESSES = 1 << 16


class AddressesExhausted(Exception):
    """All addresses of a node's range are in use."""


class HostPort(msgspec.Struct, frozen=True, kw_only=True):
    """A port of the node that leads to a port of the pod. `host_ip` "" means all addresses of the node."""

    protocol: str = "TCP"
    host_port: int
    container_port: int
    host_ip: str = ""


class Allocation(msgspec.Struct, frozen=True, kw_only=True):
    """What a sandbox holds. `pod` (namespace/name) is there for people who read the file."""

    ips: tuple[str, ...]
    pod: str = ""
    host_ports: tuple[HostPort, ...] = ()


class _File(msgspec.Struct, frozen=True, kw_only=True):
    sandboxes: dict[str, Allocation] = {}
    last: dict[str, str] = {}      # range -> the address given out last


def gateway_of(network: Network) -> IPv4Address | IPv6Address:
    """The pods' gateway: the first address of the node's range, held by the bridge."""
    return network[1]


def next_address(network: Network, taken: Collection[str], last: str | None) -> str:
    """The first free address after `last`, around the range; never network, gateway or broadcast address.

    Raises AddressesExhausted.
    """
    size = min(network.num_addresses, _MOST_ADDRESSES)
    first, end = 2, size - 1 if network.version == 4 else size
    count = end - first
    base = int(network.network_address)
    start = first
    if last is not None:
        offset = int(ip_address(last)) - base
        start = offset + 1 if first <= offset < end - 1 else first
    for step in range(count):
        candidate = str(network.network_address + first + (start - first + step) % count)
        if candidate not in taken:
            return candidate
    raise AddressesExhausted(f"no free address in {network}: all {max(0, count)} are in use")


class Ledger:
    """The allocations of one node. One writer; calls are synchronous (each change writes the file)."""

    def __init__(self, file: Path, cidrs: Sequence[str]) -> None:
        self.networks: tuple[Network, ...] = tuple(ip_network(cidr) for cidr in cidrs)
        self._file = file
        state = _read(file)
        self._sandboxes: dict[str, Allocation] = dict(state.sandboxes)
        self._last: dict[str, str] = dict(state.last)

    @property
    def sandboxes(self) -> Mapping[str, Allocation]:
        return self._sandboxes

    def allocate(self, sandbox: str, pod: str = "", host_ports: Sequence[HostPort] = ()) -> Allocation:
        """One address of each range, the same again for a sandbox that has some. Raises AddressesExhausted."""
        known = self._sandboxes.get(sandbox)
        if known is not None:
            return known
        taken = {ip for allocation in self._sandboxes.values() for ip in allocation.ips}
        ips: list[str] = []
        for network in self.networks:
            ip = next_address(network, taken, self._last.get(str(network)))
            ips.append(ip)
        self._last.update(zip(map(str, self.networks), ips, strict=True))
        allocation = Allocation(ips=tuple(ips), pod=pod, host_ports=tuple(host_ports))
        self._sandboxes[sandbox] = allocation
        self._write()
        return allocation

    def release(self, sandbox: str) -> Allocation | None:
        allocation = self._sandboxes.pop(sandbox, None)
        if allocation is not None:
            self._write()
        return allocation

    def retain(self, live: Callable[[str], bool]) -> dict[str, Allocation]:
        """Release all whose sandbox is not live; returns them."""
        dead = {name: held for name, held in self._sandboxes.items() if not live(name)}
        if dead:
            for name in dead:
                del self._sandboxes[name]
            self._write()
        return dead

    def _write(self) -> None:
        """Replace the file in one step. No fsync: after a power loss no sandbox is left to hold an address."""
        body = msgspec.json.encode(_File(sandboxes=self._sandboxes, last=self._last))
        fresh = self._file.with_name(self._file.name + ".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(body)
        fresh.replace(self._file)


def _read(file: Path) -> _File:
    try:
        return msgspec.json.decode(file.read_bytes(), type=_File)
    except FileNotFoundError:
        return _File()
    except msgspec.DecodeError as error:
        # Only a power loss can tear the file, and no sandbox outlives that.
        log.warning("%s is damaged (%s): starting with no address in use", file, error)
        return _File()
