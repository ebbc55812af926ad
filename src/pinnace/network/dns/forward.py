"""Questions about the world outside, passed on to the host's resolvers.

Only where the cluster may reach beyond the machine. Bounded: at most so many questions are on their way at a time
(the next ones are answered SERVFAIL at once), each with a deadline, each to at most two resolvers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pinnace.base.randomness import Randomness

_SECONDS = 2.0
_MOST_TRIED = 2
_MOST_IN_FLIGHT = 512
_LARGEST = 65535


class Forwarder:
    """Asks `resolvers` (address and port), the first one first."""

    def __init__(self, resolvers: Sequence[tuple[str, int]], randomness: Randomness) -> None:
        self._resolvers = tuple(resolvers)[:_MOST_TRIED]
        self._randomness = randomness
        self._in_flight = 0

    async def ask(self, query: bytes, *, tcp: bool) -> bytes | None:
        """The answer to a query, or None if nobody gave one in time (or too many are waiting)."""
        if self._in_flight >= _MOST_IN_FLIGHT:
            return None
        self._in_flight += 1
        try:
            # An identifier of our own: whoever guesses the client's cannot answer in a resolver's place.
            ident = self._randomness.below(1 << 16).to_bytes(2, "big")
            for resolver in self._resolvers:
                try:
                    async with asyncio.timeout(_SECONDS):
                        ask = _ask_tcp if tcp else _ask_udp
                        answer = await ask(resolver, ident + query[2:])
                except (OSError, TimeoutError, asyncio.IncompleteReadError):
                    continue
                return query[:2] + answer[2:]
            return None
        finally:
            self._in_flight -= 1


class _Once(asyncio.DatagramProtocol):
    """Waits for the datagram that answers one query: same identifier, same question, marked as an answer."""

    def __init__(self, query: bytes) -> None:
        self._query = query
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        if not self.answer.done() and answers(self._query, data):
            self.answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


def answers(query: bytes, data: bytes) -> bool:
    """Whether these bytes answer that query."""
    if len(data) < 12 or data[:2] != query[:2] or not data[2] & 0x80:
        return False
    end = query.find(b"\0", 12) + 5   # a question's name has no zero byte before its end
    return data[4:6] != b"\0\1" or data[12:end].lower() == query[12:end].lower()


async def _ask_udp(resolver: tuple[str, int], query: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(lambda: _Once(query), remote_addr=resolver)
    try:
        transport.sendto(query)
        return await protocol.answer
    finally:
        transport.close()


async def _ask_tcp(resolver: tuple[str, int], query: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*resolver, limit=_LARGEST + 2)
    try:
        writer.write(len(query).to_bytes(2, "big") + query)
        size = int.from_bytes(await reader.readexactly(2), "big")
        answer = await reader.readexactly(size)
        if not answers(query, answer):
            raise OSError("the resolver answered something else")
        return answer
    finally:
        writer.close()
