"""What `loop.create_server` gives: it listens under names and ports of the memory's network."""

from __future__ import annotations

import asyncio
import ssl
import sys
from asyncio import sslproto
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pinnace.testing.net.transports import Address, End, MemorySocket, MemoryTransport

ProtocolFactory = Callable[[], asyncio.BaseProtocol]


@dataclass(frozen=True, slots=True)
class Tls:
    """How a connection is secured."""

    context: ssl.SSLContext | None        # None: the client's default
    server_side: bool
    hostname: str | None = None
    handshake_timeout: float | None = None
    shutdown_timeout: float | None = None


def transport_of(
    loop: asyncio.AbstractEventLoop, end: End, protocol: asyncio.BaseProtocol, waiter: asyncio.Future[None],
    tls: Tls | None, server: MemoryServer | None = None,
) -> asyncio.Transport:
    """A transport over this end; with TLS it is asyncio's own protocol that lies between, and needs only memory."""
    if tls is None:
        return MemoryTransport(loop, end, protocol, waiter, server=server)
    protocol_of_tls: Any = sslproto.SSLProtocol       # the stubs are narrower than it is, from 3.11 on
    secured = protocol_of_tls(
        loop, protocol, tls.context, waiter, tls.server_side, tls.hostname,
        ssl_handshake_timeout=tls.handshake_timeout, ssl_shutdown_timeout=tls.shutdown_timeout,
    )
    MemoryTransport(loop, end, secured, server=server)
    transport: asyncio.Transport = secured._app_transport
    return transport


class MemoryServer(asyncio.AbstractServer):
    """See `asyncio.Server`. `open` and `shut` make its places known to the network, and unknown."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, factory: ProtocolFactory, names: Sequence[Address], tls: Tls | None,
        open_: Callable[[MemoryServer], None], shut: Callable[[MemoryServer], None],
    ) -> None:
        self._loop = loop
        self._factory = factory
        self._tls = tls
        self._open = open_
        self._shut = shut
        self._sockets: tuple[MemorySocket, ...] | None = tuple(MemorySocket(None, name) for name in names)
        self._serving = False
        self._clients: dict[MemoryTransport, None] = {}
        self._waiters: list[asyncio.Future[None]] = []
        self._forever: asyncio.Future[None] | None = None

    @property
    def sockets(self) -> tuple[MemorySocket, ...]:
        return self._sockets or ()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def is_serving(self) -> bool:
        return self._serving

    async def start_serving(self) -> None:
        if self._sockets is None:
            raise RuntimeError("the server is closed")
        if not self._serving:
            self._serving = True
            self._open(self)
        await asyncio.sleep(0)

    async def serve_forever(self) -> None:
        if self._forever is not None:
            raise RuntimeError("somebody awaits serve_forever() already")
        await self.start_serving()
        self._forever = self._loop.create_future()
        try:
            await self._forever
        except asyncio.CancelledError:
            self.close()
            await self.wait_closed()
            raise
        finally:
            self._forever = None

    def close(self) -> None:
        """Stop accepting. Connections that are open stay."""
        if self._sockets is None:
            return
        self._sockets = None
        if self._serving:
            self._serving = False
            self._shut(self)
        if self._forever is not None and not self._forever.done():
            self._forever.cancel()
        self._wake()

    def close_clients(self) -> None:
        for transport in list(self._clients):
            transport.close()

    def abort_clients(self) -> None:
        for transport in list(self._clients):
            transport.abort()

    async def wait_closed(self) -> None:
        """As this Python's own: from 3.12 on until the last connection has ended, before that not after `close`."""
        if self._sockets is None and (not self._clients or sys.version_info < (3, 12)):
            return
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        await waiter

    def attach(self, transport: MemoryTransport) -> None:
        self._clients[transport] = None

    def detach(self, transport: MemoryTransport) -> None:
        self._clients.pop(transport, None)
        self._wake()

    def _wake(self) -> None:
        if self._sockets is None and not self._clients:
            waiting, self._waiters = self._waiters, []
            for waiter in waiting:
                if not waiter.done():
                    waiter.set_result(None)

    def accept(self, end: End) -> None:
        """Somebody has connected."""
        if not self._serving:
            end.close()
            return
        try:
            waiter = self._loop.create_future()
            waiter.add_done_callback(self._accepted)
            transport_of(self._loop, end, self._factory(), waiter, self._tls, self)
        except Exception as error:
            end.close()
            self._loop.call_exception_handler(
                {"message": "Error on transport creation for incoming connection", "exception": error}
            )

    def _accepted(self, waiter: asyncio.Future[None]) -> None:
        """A handshake that fails is the client's affair; its transport has closed itself."""
        if not waiter.cancelled() and waiter.exception() is not None and self._loop.get_debug():
            self._loop.call_exception_handler(
                {"message": "Error on transport creation for incoming connection", "exception": waiter.exception()}
            )
