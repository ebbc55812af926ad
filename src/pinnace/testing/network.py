"""The network of a `VirtualLoop`: host names, ports and connections that exist in memory only.

Clients and servers of asyncio (aiohttp, httpx, kubernetes_asyncio, kopf …) run on it unmodified, TLS included, and
not one packet is sent. Nobody is there who was not started inside: an unknown name is a `socket.gaierror`, a port where
nobody listens a `ConnectionRefusedError`. `serve` puts the API server's own HTTPS front on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import weakref
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from pinnace.testing.net.names import HERE, Names, is_any, is_loopback
from pinnace.testing.net.pipes import Pipe
from pinnace.testing.net.servers import MemoryServer, ProtocolFactory, Tls, transport_of
from pinnace.testing.net.transports import Address, End
from pinnace.testing.outside import OutsideWorld

if TYPE_CHECKING:
    from pinnace.testing.control_plane import ControlPlane, Wrap
    from pinnace.testing.net.serving import Served

_MOST_CONNECTIONS = 20_000
_PATIENCE = 127.0                      # seconds after which Linux gives up to connect (tcp_syn_retries = 6)
_EPHEMERAL = range(32768, 61000)

_host: ContextVar[str] = ContextVar("pinnace_simulated_host", default=HERE)


class _Route:
    """See `pipes.Route`."""

    def __init__(self, network: Network, source: str, target: str) -> None:
        self._network = network
        self._ends = frozenset((source, target))

    @property
    def latency(self) -> float:
        return self._network.latency if len(self._ends) > 1 else 0.0

    @property
    def cut(self) -> bool:
        return self._ends in self._network._cuts


class Network:
    """`latency`: virtual seconds from one host to another (none within a host); may be changed at any time.

    Everything runs on the host "localhost" unless it says otherwise: `with network.at("node-1"):` holds for what is
    called inside, and for the tasks that are made inside. A server's host is the name it listens under.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, latency: float = 0.0) -> None:
        self._loop = loop
        self.latency = latency
        self.names = Names()
        self._places: dict[tuple[str, str, int], MemoryServer] = {}      # by host, address ("" is any), port
        self._owners: dict[MemoryServer, list[tuple[str, str, int]]] = {}
        self._cuts: set[frozenset[str]] = set()
        self._healed: asyncio.Event | None = None
        self._pipes: dict[End, tuple[Pipe, Pipe]] = {}                   # of the ends that are open
        self._joined: weakref.WeakKeyDictionary[socket.socket, End] = weakref.WeakKeyDictionary()
        self._port = _EPHEMERAL.start

    # -------------------------------------------------------------------------------------------------- hosts, faults

    @contextlib.contextmanager
    def at(self, host: str) -> Iterator[None]:
        """Whoever connects or listens inside does so on that host."""
        self.names.add(host)
        token = _host.set(host.lower().rstrip("."))
        try:
            yield
        finally:
            _host.reset(token)

    def add_host(self, name: str, *aliases: str) -> str:
        """Make a host known, by several names perhaps; returns its address. Who listens under a name does so too."""
        address = self.names.add(name)
        for alias in aliases:
            self.names.alias(alias, name)
        return address

    def partition(self, a: str, b: str) -> None:
        """Nothing gets through between two hosts: what is sent waits, who connects waits, and both give up after as
        long as on Linux (127 s to connect, 15 min for data)."""
        self._cuts.add(self._between(a, b))

    def heal(self, a: str, b: str) -> None:
        """The hosts reach each other again, and what waited arrives."""
        self._cuts.discard(self._between(a, b))
        for pipes in list(self._pipes.values()):
            for pipe in pipes:
                if not pipe.cut:
                    pipe.healed()
        if self._healed is not None:
            self._healed.set()
            self._healed = None

    def _between(self, a: str, b: str) -> frozenset[str]:
        return frozenset(HERE if name == HERE else self.names.host(self.names.add(name), HERE) or name
                         for name in (a.lower(), b.lower()))

    @property
    def connections(self) -> int:
        """How many are open, counted at each end."""
        return len(self._pipes)

    def close(self) -> None:
        """Cut what is open, so that nothing warns of it; the loop must turn once more for its protocols to hear."""
        for end in list(self._pipes):
            transport = getattr(end.inbound.on_arrival, "__self__", None)
            if isinstance(transport, asyncio.Transport):
                transport.abort()
            else:
                end.close()
        for server in list(self._owners):
            server.close()

    # --------------------------------------------------------------------------------------------------------- names

    async def getaddrinfo(
        self, host: str | bytes | None, port: object, *, family: int = 0, type: int = 0, proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        return list(self.names.addrinfo(host, port, family, type, proto, flags))

    async def getnameinfo(self, sockaddr: Address, flags: int = 0) -> tuple[str, str]:
        return self.names.name_of(sockaddr[0], sockaddr[1], flags)

    # ------------------------------------------------------------------------------------------------------ listening

    async def create_server(
        self, protocol_factory: ProtocolFactory, host: Any = None, port: int | None = None, *, family: int = 0,
        flags: int = socket.AI_PASSIVE, sock: object = None, backlog: int = 100, ssl: Any = None,
        reuse_address: bool | None = None, reuse_port: bool | None = None, keep_alive: bool | None = None,
        ssl_handshake_timeout: float | None = None, ssl_shutdown_timeout: float | None = None,
        start_serving: bool = True,
    ) -> MemoryServer:
        """See asyncio. A name that nobody has yet becomes a host's. `sock` raises OutsideWorld."""
        if isinstance(ssl, bool):
            raise TypeError("ssl argument must be an SSLContext or None")
        _check_timeouts(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        if sock is not None:
            raise OutsideWorld("simulated time has no real sockets: a server was to listen on one; name host and port")
        tls = Tls(ssl, True, None, ssl_handshake_timeout, ssl_shutdown_timeout) if ssl else None
        hosts = [host] if host is None or isinstance(host, str) else list(host)
        places: list[tuple[str, str, int]] = []
        names: list[Address] = []
        wanted = port or 0
        for name in dict.fromkeys(hosts):
            on, address = self._claim(name)
            key = (on, "" if is_any(address) else address, wanted or self._free(on))
            if key in places:
                continue
            self._check_free(key)
            places.append(key)
            names.append((address, key[2], 0, 0) if ":" in address else (address, key[2]))
        server = MemoryServer(self._loop, protocol_factory, names, tls, self._open, self._shut)
        self._owners[server] = places
        if start_serving:
            await server.start_serving()
        return server

    def _claim(self, name: str | None) -> tuple[str, str]:
        """The host and the address that a listener is to have."""
        here = _host.get()
        if not name:
            return here, "0.0.0.0"
        if name == HERE or is_loopback(name):
            return here, self.names.resolve(name)
        address = name if is_any(name) else self.names.add(name)
        return self.names.host(address, here) or here, address

    def _check_free(self, key: tuple[str, str, int]) -> None:
        host, address, port = key
        for (other, taken, number) in self._places:
            if (other, number) == (host, port) and (taken == address or not taken or not address):
                raise OSError(errno.EADDRINUSE, f"{host}:{port} is taken in the simulation's network")

    def _free(self, host: str) -> int:
        taken = {port for on, _, port in self._places if on == host}
        for _ in _EPHEMERAL:
            port = self._next_port()
            if port not in taken:
                return port
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))

    def _next_port(self) -> int:
        port = self._port
        self._port = port + 1 if port + 1 < _EPHEMERAL.stop else _EPHEMERAL.start
        return port

    def _open(self, server: MemoryServer) -> None:
        for place in self._owners[server]:
            self._check_free(place)
        for place in self._owners[server]:
            self._places[place] = server

    def _shut(self, server: MemoryServer) -> None:
        for place in self._owners.pop(server, ()):
            self._places.pop(place, None)

    # ----------------------------------------------------------------------------------------------------- connecting

    async def create_connection(
        self, protocol_factory: ProtocolFactory, host: str | None = None, port: Any = None, *, ssl: Any = None,
        family: int = 0, proto: int = 0, flags: int = 0, sock: socket.socket | None = None,
        local_addr: tuple[str, int] | None = None, server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None, ssl_shutdown_timeout: float | None = None,
        happy_eyeballs_delay: float | None = None, interleave: int | None = None, all_errors: bool = False,
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """See asyncio. `sock` must be one that `sock_connect` has connected; it is closed, and its place taken."""
        if server_hostname is not None and not ssl:
            raise ValueError("server_hostname is only meaningful with ssl")
        if server_hostname is None and ssl:
            if not host:
                raise ValueError("You must set server_hostname when using ssl without a host")
            server_hostname = host
        _check_timeouts(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        if sock is not None:
            if host is not None or port is not None:
                raise ValueError("host/port and sock can not be specified at the same time")
            end = self._take(sock)
        elif host is None and port is None:
            raise ValueError("host and port was not specified and no sock specified")
        else:
            infos = self.names.addrinfo(host, port, family, socket.SOCK_STREAM, proto, flags)
            end = await self._connect(infos[0][4])
        tls = None
        if ssl:
            context = None if isinstance(ssl, bool) else ssl
            tls = Tls(context, False, server_hostname, ssl_handshake_timeout, ssl_shutdown_timeout)
        return await self._establish(end, protocol_factory, tls)

    async def _establish(
        self, end: End, factory: ProtocolFactory, tls: Tls | None
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        waiter = self._loop.create_future()
        try:
            protocol = factory()
            transport = transport_of(self._loop, end, protocol, waiter, tls)
        except BaseException:
            end.close()
            raise
        try:
            await waiter
        except BaseException:
            transport.close()
            raise
        return transport, protocol

    async def sock_connect(self, sock: socket.socket, address: Address) -> None:
        """The socket stays as it is, closed to the world: it stands for the connection until `create_connection`."""
        if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
            raise OutsideWorld(f"simulated time has a network of its own: a socket was to connect to {address}")
        infos = self.names.addrinfo(address[0], address[1], 0, socket.SOCK_STREAM, 0, 0)
        end = await self._connect(infos[0][4])
        self._joined[sock] = end
        weakref.finalize(sock, _abandon, weakref.ref(end))

    def _take(self, sock: socket.socket) -> End:
        if sock.type != socket.SOCK_STREAM:
            raise ValueError(f"A Stream Socket was expected, got {sock!r}")
        end = self._joined.pop(sock, None)
        if end is None:
            raise OutsideWorld("simulated time has no real sockets: a connection was to be made of one")
        end.kept = True
        sock.close()
        return end

    async def _connect(self, address: Address) -> End:
        """Raises ConnectionRefusedError, TimeoutError (a partition), OSError (nobody has the address)."""
        here = _host.get()
        there = self.names.host(address[0], here)
        if there is None:
            raise OSError(errno.EHOSTUNREACH, f"No route to host in the simulation's network: {address[0]}")
        out, back = _Route(self, here, there), _Route(self, there, here)
        await self._reach(out, there)
        if not out.latency:
            await asyncio.sleep(0)
        server = self._listener(there, address)
        if server is None:
            raise ConnectionRefusedError(
                errno.ECONNREFUSED, f"Connection refused in the simulation's network: nobody listens on "
                f"{there}:{address[1]}"
            )
        if len(self._pipes) >= 2 * _MOST_CONNECTIONS:
            raise OSError(errno.EMFILE, f"more than {_MOST_CONNECTIONS} connections in the simulation's network")
        loopback = "::1" if ":" in address[0] else "127.0.0.1"
        source = loopback if here in (there, HERE) else self.names.add(here)
        name: Address = (source, self._next_port(), 0, 0) if ":" in source else (source, self._next_port())
        forth, answer = Pipe(self._loop, out), Pipe(self._loop, back)
        ours, theirs = self._end(answer, forth, name, address), self._end(forth, answer, address, name)
        self._loop.call_soon(server.accept, theirs)
        return ours

    def _end(self, inbound: Pipe, outbound: Pipe, sockname: Address, peername: Address) -> End:
        end = End(inbound, outbound, sockname, peername, self._pipes)
        self._pipes[end] = (inbound, outbound)
        return end

    async def _reach(self, route: _Route, there: str) -> None:
        """There and back once; through a partition, when it is healed."""
        until = self._loop.time() + _PATIENCE
        while True:
            if route.latency:
                await asyncio.sleep(2 * route.latency)
            if not route.cut:
                return
            if self._healed is None:
                self._healed = asyncio.Event()
            try:
                async with asyncio.timeout_at(until):
                    await self._healed.wait()
            except TimeoutError:
                raise TimeoutError(
                    errno.ETIMEDOUT, f"Connection timed out in the simulation's network: {there} cannot be reached"
                ) from None

    def _listener(self, host: str, address: Address) -> MemoryServer | None:
        found = self._places.get((host, address[0], address[1]))
        return found if found is not None else self._places.get((host, "", address[1]))


def _check_timeouts(ssl: Any, handshake: float | None, shutdown: float | None) -> None:
    if handshake is not None and not ssl:
        raise ValueError("ssl_handshake_timeout is only meaningful with ssl")
    if shutdown is not None and not ssl:
        raise ValueError("ssl_shutdown_timeout is only meaningful with ssl")


def _abandon(reference: weakref.ref[End]) -> None:
    """A socket that stood for a connection has gone, and nobody took the connection over."""
    end = reference()
    if end is not None and not end.kept:
        end.close()


async def serve(
    control_plane: ControlPlane, loop: asyncio.AbstractEventLoop | None = None, *,
    name: str = "kubernetes.default.svc", aliases: Iterable[str] = ("pinnace.test", "kubernetes"),
    ports: Iterable[int] = (6443, 443), wrap: Wrap | None = None,
) -> Served:
    """The API server of a simulated control plane at `https://NAME:6443` of the loop's network: the HTTPS front of a
    real cluster, with its authentication. See `Served`, which must be closed."""
    from pinnace.testing.net.serving import Served  # what HTTP needs is not loaded where nobody speaks it

    served = Served(control_plane, loop or asyncio.get_running_loop(), name, tuple(aliases), tuple(ports), wrap)
    await served.start()
    return served
