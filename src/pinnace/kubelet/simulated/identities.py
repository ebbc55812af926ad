"""Who the simulated nodes are: each has a client certificate, renews it in good time, and is let in no more once it is
over.

While it is good, only the request for the next one shows it: what nodes write otherwise is written for all of them
alike, as an administrator. So it is made when it has to be shown first, and an idle node costs no more. Once it is
over, the server's own authentication refuses it, and the node is as cut off as if it were partitioned, until `renew`
gives it another. Upstream's kubelet ends then, and no restart lets it in.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from cryptography.hazmat.primitives import serialization

from pinnace.api.core import v1 as core
from pinnace.base.clock import Clock
from pinnace.base.randomness import Randomness
from pinnace.base.workqueue import WorkQueue
from pinnace.client.client import Client
from pinnace.client.transport import Request, Response, Transport
from pinnace.kubelet.certificates import FAILURES, Pair, pauses, request_pair, rotation_deadline
from pinnace.kubelet.simulated.machines import Machine

log = logging.getLogger("pinnace.kubelet.simulated")

_KNOCKS = 10.0           # seconds between two attempts of a node that is not let in
_WORKERS = 20_000        # more than there may be nodes: each has one request under way, and one end
_RENEW, _END = "renew", "end"


class Issuer(Protocol):
    """Gives nodes their first certificate, as whoever sets up a node does. Keys and deadlines come from its
    `randomness`."""

    @property
    def randomness(self) -> Randomness: ...

    def validity(self, since: datetime) -> tuple[datetime, datetime]:
        """From when to when one is good that is given at that time. Whole seconds."""
        ...

    def issue(self, node: str, since: datetime) -> tuple[bytes, bytes]:
        """One with just these limits, and its key: PEM."""
        ...


@dataclass(slots=True)
class Identity:
    """A node's certificate: when it was given, from when to when it is good, when it is to be renewed. `pair` is None
    until it has to be shown. `pauses`: between the attempts to renew it."""

    given: datetime
    begin: datetime
    end: datetime
    deadline: datetime
    pair: Pair | None
    pauses: Iterator[float]


class Identities:
    """`join` gives machines an identity, `run` keeps them until cancelled. `back` is awaited for a machine that is
    let in again."""

    def __init__(
        self, client: Client, issuer: Issuer, machines: Mapping[str, Machine], clock: Clock,
        back: Callable[[Machine], Awaitable[None]],
    ) -> None:
        self._transport = client.transport
        self._issuer = issuer
        self._machines = machines
        self._clock = clock
        self._randomness = issuer.randomness
        self._back = back
        self._queue: WorkQueue[tuple[str, str]] = WorkQueue(clock)
        self._known: dict[str, Identity] = {}

    async def run(self) -> None:
        self._queue.tick()
        try:
            await self._queue.serve(self._work, most=_WORKERS, name="certificates")
        finally:
            self._queue.close()

    def join(self, machines: Iterable[Machine]) -> None:
        for machine in machines:
            now = self._clock.now()
            self._take(machine, now, *self._issuer.validity(now), None)

    def leave(self, machine: Machine) -> None:
        self._known.pop(machine.name, None)

    def of(self, name: str) -> Identity:
        """Raises KeyError."""
        return self._known[name]

    def look_at(self, machine: Machine) -> None:
        """It can reach the server again, or its clock was set."""
        if machine.name in self._known:
            self._queue.add((machine.name, _RENEW))
            self._queue.add((machine.name, _END))

    async def renew(self, machine: Machine) -> None:
        """Give it a certificate by hand."""
        self.join([machine])
        if machine.connected:
            await self._back(machine)

    # ------------------------------------------------------------------------------------------------------- the work

    def _take(
        self, machine: Machine, given: datetime, begin: datetime, end: datetime, pair: Pair | None
    ) -> None:
        deadline = rotation_deadline(begin, end, self._randomness)
        identity = Identity(given, begin, end, deadline, pair, pauses(self._randomness))
        self._known[machine.name] = identity
        machine.expired = False
        self._plan(machine, identity)

    def _plan(self, machine: Machine, identity: Identity) -> None:
        now = self._clock.now()
        # By its own clock a node knows when to ask; when it is over, the server's tells.
        self._queue.add_after((machine.name, _RENEW), (identity.deadline - self._own(machine, now)).total_seconds())
        # The last second is still good.
        self._queue.add_after((machine.name, _END), max(0.0, (identity.end - now).total_seconds()) + 0.001)

    @staticmethod
    def _own(machine: Machine, now: datetime) -> datetime:
        return now + timedelta(seconds=machine.drift)

    async def _work(self, key: tuple[str, str]) -> None:
        name, what = key
        machine, identity = self._machines.get(name), self._known.get(name)
        if machine is None or identity is None:
            return
        try:
            if what == _RENEW:
                await self._renew(machine, identity)
            else:
                await self._end(machine, identity)
        except FAILURES as error:
            pause = next(identity.pauses) if what == _RENEW else _KNOCKS
            # One that is not let in goes on knocking for as long as it is there.
            level = logging.WARNING if what == _RENEW else logging.INFO
            log.log(level, "node %s: %s; again in %.3g s", name, error or "no certificate was issued", pause)
            self._queue.add_after(key, pause)

    async def _renew(self, machine: Machine, identity: Identity) -> None:
        if not machine.connected:
            return                  # `look_at` tells when it is again
        if self._own(machine, self._clock.now()) < identity.deadline:
            self._plan(machine, identity)
            return
        client = self._client(machine, identity)
        pair = await request_pair(client, machine.name, self._clock, self._randomness)
        if machine.connected and self._known.get(machine.name) is identity:
            fresh = pair.parsed()
            self._take(machine, self._clock.now(), fresh.not_valid_before_utc, fresh.not_valid_after_utc, pair)
            log.info("node %s: certificate renewed until %s", machine.name, fresh.not_valid_after_utc)

    async def _end(self, machine: Machine, identity: Identity) -> None:
        if self._clock.now() <= identity.end:
            self._plan(machine, identity)
            return
        if not machine.expired:
            machine.expired = True
            log.warning("node %s: its client certificate has expired", machine.name)
        if not (machine.up and machine.reachable):
            return
        await self._client(machine, identity).get(core.Node, machine.name)

    def _client(self, machine: Machine, identity: Identity) -> Client:
        """Whose requests show the machine's certificate."""
        if identity.pair is None:
            identity.pair = Pair(*self._issuer.issue(machine.name, identity.given))
        der = identity.pair.parsed().public_bytes(serialization.Encoding.DER)
        return Client(_Showing(self._transport, machine, der), agent="kubelet")


class _Showing:
    """A transport into this process, by which a certificate is shown as a TLS connection would."""

    def __init__(self, inner: Transport, machine: Machine, certificate: bytes) -> None:
        self._inner = inner
        self._machine = machine
        self._certificate = certificate

    async def send(self, request: Request) -> Response:
        if not (self._machine.up and self._machine.reachable):
            raise ConnectionRefusedError(f"node {self._machine.name} does not reach the API server")
        request.user, request.peer_certificate = None, self._certificate
        return await self._inner.send(request)

    async def close(self) -> None:
        return None
