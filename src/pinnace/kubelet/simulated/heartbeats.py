"""Keeps the nodes themselves alive: registration, leases every ten seconds, the status every five minutes.

Leases are by far the most that idle nodes write, so one task renews them all, spread over the period.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta

import msgspec

from pinnace.api import errors, times
from pinnace.api.coordination import v1 as coordination
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.base.clock import Clock
from pinnace.client.client import Client
from pinnace.client.transport import TIMER
from pinnace.kubelet.simulated.machines import Machine
from pinnace.kubelet.status_writer import patch_of

log = logging.getLogger("pinnace.kubelet.simulated")

LEASES = "kube-node-lease"
LEASE_SECONDS = 40
SLOTS = 100                  # of a period: leases are renewed so many times in it, each time a part of them
REPORTS = 50                 # statuses a second, if all are due at once
EARLY = 0.001                # by so many seconds a status may be written before it is due: renewals are not exact
LATE = 2.5                   # so many periods without a renewal, and the node may have been given up meanwhile
_ATTEMPTS = 100
TRANSIENT = (errors.StatusError, OSError, TimeoutError)


class Heartbeats:
    """`run` renews until cancelled. `own_status`: whether a node's status is ours to write (kwok's Stages may be)."""

    def __init__(
        self, client: Client, clock: Clock, *, every: float, status_every: float, parallel: int,
        own_status: Callable[[Machine], bool],
    ) -> None:  # fmt: skip
        self._client = client
        self._clock = clock
        self._every = every
        self._status_every = status_every
        self._until_late = timedelta(seconds=LATE * every)
        self._until_report = timedelta(seconds=status_every - EARLY)
        self._parallel = parallel
        self._own_status = own_status
        self._ring: deque[tuple[float, Machine]] = deque()    # when each is due, in this order

    def join(self, machines: Iterable[Machine]) -> None:
        """Renew these, too, from now on."""
        found, now = list(machines), self._clock.monotonic()
        slot = self._every / SLOTS
        # Close together, so that a cluster has times in which nothing but leases is written.
        window = min(self._status_every, max(self._every, len(found) / REPORTS))
        first = self._clock.now() + self._until_report
        for n, machine in enumerate(found):
            machine.report_at = first + timedelta(seconds=window * n / len(found))
            self._ring.append((now + n * SLOTS // len(found) * slot, machine))
        self._ring = deque(sorted(self._ring, key=lambda entry: entry[0]))

    def leave(self, machine: Machine) -> None:
        self._ring = deque(entry for entry in self._ring if entry[1] is not machine)

    async def run(self) -> None:
        while True:
            ring, now = self._ring, self._clock.monotonic()
            due = []
            while ring and ring[0][0] <= now + 1e-6:
                when, machine = ring.popleft()
                again = when + self._every
                ring.append((again if again > now else now, machine))
                due.append(machine)
            if due[1:]:
                await self.each(due, self.beat)
            elif due:
                await self.beat(due[0])
            until = self._ring[0][0] if self._ring else now + self._every
            await self._clock.sleep(until - self._clock.monotonic())

    async def each(self, machines: Iterable[Machine], do: Callable[[Machine], Awaitable[None]]) -> None:
        """For all of them, so many at a time."""
        left = iter(machines)

        async def work() -> None:
            for machine in left:
                await do(machine)

        await asyncio.gather(*(work() for _ in range(self._parallel)))

    async def beat(self, machine: Machine) -> None:
        """Renew one lease, and write the status if that is due, or may be wrong."""
        if not machine.connected:
            return
        try:
            now = self._clock.now()
            shown = now + timedelta(seconds=machine.drift) if machine.drift else now
            await self._renew(machine, times.format_micro(shown))
            late = now > machine.late_at
            machine.late_at = now + self._until_late
            if late or machine.news or now >= machine.report_at:
                await self.report(machine)
        except TRANSIENT as error:
            log.warning("lease of node %s: %s", machine.name, error)

    async def _renew(self, machine: Machine, now: str) -> None:
        lease = machine.lease
        if lease is None:
            machine.lease = await self._take(machine, now)
            return
        try:
            spec = msgspec.structs.replace(lease.spec, renewTime=now)
            renewed = msgspec.structs.replace(lease, spec=spec)
            machine.lease = await self._client.update(renewed, because=(TIMER,), giving=True)
        except (errors.Conflict, errors.NotFound):
            machine.lease = None

    async def _take(self, machine: Machine, now: str) -> coordination.Lease:
        name = machine.name
        lease = coordination.Lease(
            metadata=meta.ObjectMeta(name=name, namespace=LEASES),
            spec=coordination.LeaseSpec(holderIdentity=name, leaseDurationSeconds=LEASE_SECONDS, renewTime=now),
        )
        try:
            return await self._client.create(lease, because=(TIMER,))
        except errors.AlreadyExists:
            return await self._client.get(coordination.Lease, name, LEASES)

    async def report(self, machine: Machine) -> None:
        """Write the conditions, the images and what else may have changed. Raises what the client raises, but for
        a node that was deleted: it does not come back by itself."""
        now = self._clock.now()
        machine.report_at = now + self._until_report
        if not self._own_status(machine):
            return
        machine.news = False
        try:
            node = await self._client.get(core.Node, machine.name)
            fresh = machine.status(node.status, now.timestamp())
            wanted = msgspec.structs.replace(
                node.status, conditions=fresh.conditions, images=fresh.images, nodeInfo=fresh.nodeInfo
            )
            await self._patch(machine, node, wanted)
        except errors.NotFound as error:
            log.warning("node %s: %s", machine.name, error)
        except TRANSIENT:
            machine.news = True
            raise

    async def register(self, machine: Machine) -> None:
        """Create the node, or bring the one that is there up to date. Raises ConnectionError if that cannot be done."""
        own = self._own_status(machine)
        for attempt in range(_ATTEMPTS):
            now = self._clock.now().timestamp()
            wanted = machine.node(now, conditions=own)
            try:
                try:
                    node = await self._client.create(wanted)
                    status = wanted.status
                except errors.AlreadyExists:
                    node = await self._client.get(core.Node, machine.name)
                    status = machine.status(node.status, now) if own else node.status
                    status = msgspec.structs.replace(
                        status, capacity=wanted.status.capacity, allocatable=wanted.status.allocatable
                    )
                await self._patch(machine, node, status)
                return
            except TRANSIENT as error:
                log.warning("registering node %s: %s", machine.name, error)
                await self._clock.sleep(min(5.0, 0.1 * 2**attempt))
        raise ConnectionError(f"node {machine.name} could not be registered")

    async def _patch(self, machine: Machine, node: core.Node, wanted: core.NodeStatus) -> None:
        if patch := patch_of(node.status, wanted):
            await self._client.patch(
                core.Node, machine.name, "", {"status": patch}, type="strategic", subresource="status", because=(TIMER,)
            )
