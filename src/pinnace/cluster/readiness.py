"""When a starting cluster may be called ready: all nodes are, and names resolve on them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime

from pinnace.api import times
from pinnace.api.coordination import v1 as coordination
from pinnace.api.core import v1 as core
from pinnace.base.clock import Clock
from pinnace.client.client import Client
from pinnace.cluster.settings import DOMAIN

LEASES = "kube-node-lease"
_DNS_PORT = 10053
_RETRY = 0.01


async def wait_for_leases(client: Client, names: Iterable[str], since: datetime) -> None:
    """Return once every node named has renewed its lease after `since`."""
    missing = set(names)
    while missing:
        async for batch in client.watch(coordination.Lease, LEASES, send_initial_events=True):
            for event in batch:
                if event.type in ("ADDED", "MODIFIED") and renewed(event.object, since):
                    missing.discard(event.object.metadata.name or "")
            if not missing:
                return


def renewed(lease: coordination.Lease, since: datetime) -> bool:
    text = lease.spec.renewTime
    return text is not None and times.parse(text) >= since


async def wait_for_nodes(client: Client, names: Iterable[str]) -> None:
    """Return once every node named is Ready."""
    missing = set(names)
    while missing:
        async for batch in client.watch(core.Node, send_initial_events=True):
            for event in batch:
                if event.type in ("ADDED", "MODIFIED") and is_ready(event.object):
                    missing.discard(event.object.metadata.name or "")
            if not missing:
                return


def is_ready(node: core.Node) -> bool:
    return any(c.type == "Ready" and c.status == "True" for c in node.status.conditions or ())


async def wait_for_dns(addresses: Sequence[str], clock: Clock) -> None:
    """Return once the DNS server of every node knows the API server's name."""
    from pinnace.network.dns import codec

    question = codec.Question(f"kubernetes.default.svc.{DOMAIN}", codec.A)
    query = codec.encode(codec.Message(id=1, flags=0x0100, questions=(question,)))
    for address in addresses:
        while not await _resolves(address, query):
            await clock.sleep(_RETRY)


async def _resolves(address: str, query: bytes) -> bool:
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[bytes] = loop.create_future()

    class Answer(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: object) -> None:
            if not answered.done():
                answered.set_result(data)

        def error_received(self, exc: Exception) -> None:
            if not answered.done():
                answered.set_exception(exc)

    transport, _ = await loop.create_datagram_endpoint(Answer, remote_addr=(address, _DNS_PORT))
    try:
        transport.sendto(query)
        data = await asyncio.wait_for(answered, 0.5)
    except (OSError, TimeoutError):
        return False
    finally:
        transport.close()
    # A header of 12 bytes: the fourth has the code, 0 for success, the seventh and eighth the number of answers.
    return len(data) >= 12 and data[3] & 0x0F == 0 and data[6:8] != b"\0\0"
