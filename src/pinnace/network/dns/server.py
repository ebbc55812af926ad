"""The DNS server of a node: UDP and TCP on the node's address, behind the Service kube-dns.

A query for the cluster's names is answered from the `Zone` at once, in the call that received it. Other names go to
the host's resolvers where there is egress; without it they do not exist (NXDOMAIN), which is what lets a resolver
with a search list give up without waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from pinnace.base.randomness import Randomness
from pinnace.network.dns import codec
from pinnace.network.dns.codec import Query, read_query, refusal
from pinnace.network.dns.forward import Forwarder
from pinnace.network.dns.zone import Answer, Zone

log = logging.getLogger("pinnace.dns")

_LARGEST_UDP = 1232            # fits every path without fragments (DNS flag day 2020)
_LARGEST_TCP = 65535
_IDLE_SECONDS = 10.0
_MOST_CONNECTIONS = 256
_MOST_RESOLVERS = 3
_OPT = b"\0\x00\x29\x04\xd0\0\0\0\0\0\0"           # EDNS 0, we take 1232 bytes
_BAD_VERSION = b"\0\x00\x29\x04\xd0\x01\0\0\0\0\0"   # BADVERS: its upper bits stand in the OPT record


class Responder:
    """Queries to answers, without any IO."""

    def __init__(self, zone: Zone, *, forwarding: bool) -> None:
        self.zone = zone
        self._forwarding = forwarding
        self._turn = itertools.count()

    def respond(self, data: bytes, *, tcp: bool = False) -> bytes | Query | None:
        """The answer's bytes; the query itself if it is to be forwarded; None if these bytes deserve no answer."""
        query = read_query(data)
        if query is None:
            return refusal(data, codec.FORMERR)
        if query.opcode:
            return refusal(data, codec.NOTIMP)
        if query.edns_version:
            return self._assemble(query, Answer(codec.NOERROR), _LARGEST_UDP, opt=_BAD_VERSION)
        limit = _LARGEST_TCP if tcp else max(512, min(query.edns_size, _LARGEST_UDP))
        if query.klass != codec.IN:
            return self._assemble(query, Answer(codec.REFUSED), limit)
        if self.zone.covers(query.key):
            answer = self.zone.answer(query.key, query.type)
            if not answer.answers and not self.zone.complete:   # "no such name" would be remembered, and wrong
                return self.failure(query)
            if answer.target is not None and self._forwarding and query.type not in (codec.CNAME, codec.ANY):
                return query
            return self._assemble(query, answer, limit, flags=codec.AA)
        if self._forwarding:
            return query
        return self._assemble(query, Answer(codec.NXDOMAIN), limit)

    def alias(self, query: Query, outside: bytes | None, *, tcp: bool) -> bytes:
        """The answer for an alias that leads out of the zone, completed by what a resolver said of its target."""
        answer = self.zone.answer(query.key, query.type)
        followed = codec.decode(outside) if outside is not None else None
        records = list(answer.answers)
        for entry in followed.answers if followed is not None else ():
            with contextlib.suppress(ValueError):   # a name with bytes that we do not write
                records.append(
                    codec.record(codec.to_wire(entry.name), entry.type, entry.ttl, codec.rdata(entry.type, entry.data))
                )
        limit = _LARGEST_TCP if tcp else max(512, min(query.edns_size, _LARGEST_UDP))
        return self._assemble(query, Answer(codec.NOERROR, tuple(records)), limit)

    def failure(self, query: Query) -> bytes:
        return self._assemble(query, Answer(codec.SERVFAIL), _LARGEST_UDP)

    def _assemble(self, query: Query, answer: Answer, limit: int, *, flags: int = 0, opt: bytes = _OPT) -> bytes:
        answers, additional = answer.answers, answer.additional
        if len(answers) > 1 and answer.target is None:   # everyone gets to be first: the poor one's load balancing
            first = next(self._turn) % len(answers)
            answers = answers[first:] + answers[:first] if _alike(answers) else answers
        tail = opt if query.edns_size else b""
        room = limit - 12 - len(query.question) - len(tail)
        flags |= codec.QR | codec.RA | query.flags & codec.RD | answer.rcode
        if sum(map(len, answers)) + sum(map(len, answer.authority)) > room:
            flags |= codec.TC
            answers, additional = _fitting(answers, room), ()
        elif additional:
            spare = room - sum(map(len, answers)) - sum(map(len, answer.authority))
            additional = _fitting(additional, spare)
        authority = () if flags & codec.TC else answer.authority
        return b"".join((
            codec.HEADER.pack(
                query.id, flags, 1, len(answers), len(authority), len(additional) + (1 if tail else 0)
            ),
            query.question, *answers, *authority, *additional, tail,
        ))  # fmt: skip


def _alike(records: Sequence[bytes]) -> bool:
    """Whether all are of one type and owner, so that their order means nothing."""
    head = records[0][:4]
    return all(entry[:4] == head for entry in records)


def _fitting(records: tuple[bytes, ...], room: int) -> tuple[bytes, ...]:
    for count, entry in enumerate(records):
        room -= len(entry)
        if room < 0:
            return records[:count]
    return records


class DnsServer:
    """Serves a zone on one address until cancelled.

    `resolvers` are asked about other names; with none, those names do not exist. `listening` is set once both
    sockets are bound (`port` is then the real one, should it have been 0). The clients' own sockets may be handed
    in as `udp` and `tcp` (made in another network namespace).
    """

    def __init__(
        self, zone: Zone, address: str, port: int, *, randomness: Randomness,
        resolvers: Sequence[tuple[str, int]] = (), udp: socket.socket | None = None, tcp: socket.socket | None = None,
    ) -> None:
        self.address, self.port = address, port
        self.listening = asyncio.Event()
        self._responder = Responder(zone, forwarding=bool(resolvers))
        self._forwarder = Forwarder(resolvers, randomness)
        self._sockets = (udp, tcp)
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = 0

    async def run(self) -> None:
        """Bind and serve. Raises OSError if the address cannot be had."""
        loop = asyncio.get_running_loop()
        udp, tcp = self._sockets
        if udp is None:
            udp = _bound(self.address, self.port, socket.SOCK_DGRAM)
            self.port = udp.getsockname()[1]
        if tcp is None:
            tcp = _bound(self.address, self.port, socket.SOCK_STREAM)
        transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=udp)
        try:
            server = await asyncio.start_server(self._serve, sock=tcp, backlog=128, limit=_LARGEST_TCP + 2)
            try:
                self.listening.set()
                await loop.create_future()
            finally:
                server.close()
        finally:
            self.listening.clear()
            transport.close()
            for task in tuple(self._tasks):   # forwards on their way, and connections that idle
                task.cancel()

    def datagram(self, transport: asyncio.DatagramTransport, data: bytes, peer: tuple[str, int]) -> None:
        """One datagram came in."""
        answer = self._responder.respond(data)
        if isinstance(answer, bytes):
            transport.sendto(answer, peer)
        elif answer is not None:
            task = asyncio.create_task(self._forward(transport, answer, data, peer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(
        self, transport: asyncio.DatagramTransport, query: Query, data: bytes, peer: tuple[str, int]
    ) -> None:
        answer = await self._outside(query, data, tcp=False)
        if not transport.is_closing():
            transport.sendto(answer, peer)

    async def _outside(self, query: Query, data: bytes, *, tcp: bool) -> bytes:
        zone = self._responder.zone
        target = zone.answer(query.key, query.type).target if zone.covers(query.key) else None
        if target is not None:
            asked = codec.HEADER.pack(query.id, codec.RD, 1, 0, 0, 0) + target + query.question[len(query.key) :]
            return self._responder.alias(query, await self._forwarder.ask(asked, tcp=tcp), tcp=tcp)
        answer = await self._forwarder.ask(data, tcp=tcp)
        return answer if answer is not None else self._responder.failure(query)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One TCP connection: queries with their length before them, one after the other."""
        if self._connections >= _MOST_CONNECTIONS:
            writer.close()
            return
        self._connections += 1
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            while True:
                async with asyncio.timeout(_IDLE_SECONDS):
                    size = int.from_bytes(await reader.readexactly(2), "big")
                    data = await reader.readexactly(size)
                answer = self._responder.respond(data, tcp=True)
                if isinstance(answer, Query):
                    answer = await self._outside(answer, data, tcp=True)
                if answer is None:
                    return
                writer.write(len(answer).to_bytes(2, "big") + answer)
                async with asyncio.timeout(_IDLE_SECONDS):
                    await writer.drain()
        except (asyncio.IncompleteReadError, OSError, TimeoutError):
            return   # the client went away or went silent: nothing is owed to it
        finally:
            self._connections -= 1
            writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if self._transport is not None:
            self._server.datagram(self._transport, data, addr)

    def error_received(self, exc: Exception) -> None:
        log.debug("a client could not be answered: %s", exc)


def _bound(address: str, port: int, kind: socket.SocketKind) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    opened = socket.socket(family, kind)
    try:
        if kind == socket.SOCK_STREAM:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((address, port))
    except OSError:
        opened.close()
        raise
    opened.setblocking(False)
    return opened


def host_resolvers(file: Path = Path("/etc/resolv.conf")) -> tuple[tuple[str, int], ...]:
    """The resolvers of the host, at most three; those on a loopback address are out of a node's reach."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return ()
    words = [line.split() for line in lines]
    found = [line[1] for line in words if len(line) > 1 and line[0] == "nameserver"]
    return tuple((ip, 53) for ip in found if not ip.startswith("127.") and ip != "::1")[:_MOST_RESOLVERS]
