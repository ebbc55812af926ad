"""Names and addresses of the memory's network: hosts get addresses in the order in which they are first named.

The addresses are of 198.18.0.0/15, which is set aside for trials and leads nowhere (RFC 2544).
"""

from __future__ import annotations

import ipaddress
import socket

HERE = "localhost"                                   # the host where everything runs that says nothing else
_FIRST = int(ipaddress.IPv4Address("198.18.0.0"))
_MOST = 1 << 17
_PORTS = {"http": 80, "https": 443}
_ANY = ("", "0.0.0.0", "::")
_SIMULATION = "in the simulation's network"

Info = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[str, int] | tuple[str, int, int, int]]


class Names:
    """Which host has which address. A host that was given as an address is called by it."""

    def __init__(self) -> None:
        self._addresses: dict[str, str] = {}         # of names, aliases included
        self._hosts: dict[str, str] = {}             # the first name of an address
        self._drawn = 0

    def add(self, host: str) -> str:
        """The address of a host, which from now on is there. Raises OSError if there are too many."""
        host = host.lower().rstrip(".")
        found = self._addresses.get(host)
        if found is not None:
            return found
        address = _literal(host)
        if address is None:
            self._drawn += 1
            if self._drawn >= _MOST:
                raise OSError(f"too many hosts {_SIMULATION}")
            address = str(ipaddress.IPv4Address(_FIRST + self._drawn))
        self._addresses[host] = address
        self._hosts.setdefault(address, host)
        return address

    def alias(self, name: str, host: str) -> None:
        """Another name for a host."""
        self._addresses[name.lower().rstrip(".")] = self.add(host)

    def host(self, address: str, here: str) -> str | None:
        """The host that has an address, as seen from `here`; None if nobody has."""
        if is_loopback(address) or address in _ANY:
            return here
        return self._hosts.get(address)

    def resolve(self, host: str | bytes | None, *, passive: bool = False, numeric: bool = False) -> str:
        """Raises socket.gaierror for a name that is not known."""
        if host is None or host == "" or host == b"":
            return "0.0.0.0" if passive else "127.0.0.1"
        name = (host.decode("idna") if isinstance(host, bytes) else host).lower().rstrip(".")
        address = _literal(name)
        if address is not None:
            return address
        if name == HERE and not numeric:
            return "127.0.0.1"
        address = None if numeric else self._addresses.get(name)
        if address is None:
            raise socket.gaierror(socket.EAI_NONAME, f"Name or service not known {_SIMULATION}: {name}")
        return address

    def addrinfo(
        self, host: str | bytes | None, port: object, family: int, kind: int, proto: int, flags: int
    ) -> list[Info]:
        """See `socket.getaddrinfo`; the order never changes."""
        address = self.resolve(
            host, passive=bool(flags & socket.AI_PASSIVE), numeric=bool(flags & socket.AI_NUMERICHOST)
        )
        number = _port(port)
        found = socket.AF_INET6 if ":" in address else socket.AF_INET
        if family not in (socket.AF_UNSPEC, found):
            raise socket.gaierror(
                socket.EAI_ADDRFAMILY, f"Address family for hostname not supported {_SIMULATION}: {host!r}"
            )
        place = (address, number, 0, 0) if found == socket.AF_INET6 else (address, number)
        kinds = {socket.SOCK_STREAM: socket.IPPROTO_TCP, socket.SOCK_DGRAM: socket.IPPROTO_UDP}
        canonical = str(host) if flags & socket.AI_CANONNAME else ""
        return [
            (found, each, number_, canonical, place)
            for each, number_ in kinds.items()
            if kind in (0, each) and proto in (0, number_)
        ]

    def name_of(self, address: str, port: int, flags: int) -> tuple[str, str]:
        """See `socket.getnameinfo`. Raises socket.gaierror where a name is demanded and there is none."""
        name = HERE if is_loopback(address) else self._hosts.get(address)
        if flags & socket.NI_NUMERICHOST or (name is None and not flags & socket.NI_NAMEREQD):
            name = address
        if name is None:
            raise socket.gaierror(socket.EAI_NONAME, f"Name or service not known {_SIMULATION}: {address}")
        services = {} if flags & socket.NI_NUMERICSERV else {number: text for text, number in _PORTS.items()}
        return name, services.get(port, str(port))


def is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"


def is_any(address: str) -> bool:
    return address in _ANY


def _literal(host: str) -> str | None:
    try:
        return str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        return None


def _port(port: object) -> int:
    if isinstance(port, bytes):
        port = port.decode()
    if port is None or port == "":
        return 0
    if isinstance(port, str) and port in _PORTS:
        return _PORTS[port]
    try:
        return int(port)  # type: ignore[call-overload,no-any-return]  # anything may be handed in
    except (TypeError, ValueError):
        raise socket.gaierror(socket.EAI_SERVICE, f"Servname not supported {_SIMULATION}: {port!r}") from None
