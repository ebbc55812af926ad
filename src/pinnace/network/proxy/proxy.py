"""The service proxy of a node: follows Services and EndpointSlices, keeps the kernel's rules to them.

Informers wake it with the names of services; after a few milliseconds (so that a rollout's burst is one change) the
fragments of those services are planned anew, and what differs goes to nftables as one transaction. The first
transaction holds everything and replaces what an earlier process left; in between, and when this process dies,
the kernel goes on with the last rules.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace

from pinnace.api.core import v1 as core
from pinnace.api.discovery import v1 as discovery
from pinnace.base.backoff import Backoff
from pinnace.base.clock import Clock
from pinnace.client.informer import Event, Informers
from pinnace.network.conntrack import Conntrack
from pinnace.network.nftables import Nftables, NftablesError
from pinnace.network.proxy.endpoints import ZONE_LABEL, ProxyNode, service_of
from pinnace.network.proxy.rules import Change, Fragment, Key, Ruleset, diff, plan, plan_service
from pinnace.network.proxy.text import TABLE, base, transaction

log = logging.getLogger("pinnace.proxy")

_GATHER_SECONDS = 0.005
# Somebody who flushes all rules of the machine takes ours along, and nobody tells us.
_CHECK_SECONDS = 30.0
_SERVICE_INDEX = "service"


class ServiceProxy:
    """`run` until cancelled; `ready` is set once the first full set of rules is in force."""

    def __init__(
        self, informers: Informers, node: ProxyNode, clock: Clock, nft: Nftables, *, netns: str | None = None
    ) -> None:
        self._services = informers.of(core.Service)
        self._slices = informers.of(discovery.EndpointSlice)
        self._nodes = informers.of(core.Node)
        self._slices.add_index(_SERVICE_INDEX, _keys_of)
        self._node = node
        self._clock = clock
        self._writer = RuleWriter(nft, netns=netns)
        self._dirty: dict[Key, None] = {}
        self._everything = True
        self._wake = asyncio.Event()
        self._backoff = Backoff(initial=0.2, maximum=30.0, reset_after=60.0)
        self.ready = asyncio.Event()

    async def run(self) -> None:
        for informer in (self._services, self._slices, self._nodes):
            await informer.wait_synced()
        self._everything = True
        self._wake.set()
        stops = (
            self._services.subscribe(self._on_service),
            self._slices.subscribe(self._on_slice),
            self._nodes.subscribe(self._on_node),
        )
        try:
            while True:
                if await self._woken():
                    await self._clock.sleep(_GATHER_SECONDS)
                    self._wake.clear()
                    await self._sync()
                elif not await self._writer.intact():
                    log.warning("the table of service rules is gone; making it anew")
                    self._everything = True
                    self._wake.set()
        finally:
            for stop in stops:
                stop()
            self._writer.close()

    async def _woken(self) -> bool:
        """Whether there is something to do; False when nothing came for a while (time to look at the kernel)."""
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            return False
        return True

    async def _sync(self) -> None:
        dirty, self._dirty = self._dirty, {}
        everything, self._everything = self._everything, False
        try:
            if everything:
                await self._writer.replace(self._services.cache.list(), self._slices.cache.list(), self._node)
                self.ready.set()
            else:
                await self._writer.update(dict(self._plans(dirty)))
        except (NftablesError, OSError) as error:
            seconds = self._backoff.next("sync", self._clock.monotonic())
            log.error("the rules for services could not be changed, again in %.1f s: %s", seconds, error)
            self._everything = True
            await self._clock.sleep(seconds)
            self._wake.set()

    def _plans(self, keys: Iterable[Key]) -> Iterable[tuple[Key, Fragment | None]]:
        for key in keys:
            service = self._services.cache.get(*key)
            slices = self._slices.cache.by_index(_SERVICE_INDEX, key)
            yield key, None if service is None else plan_service(service, slices, self._node)

    def _mark(self, key: Key | None) -> None:
        if key is not None:
            self._dirty[key] = None
            self._wake.set()

    def _on_service(self, event: Event[core.Service]) -> None:
        meta = (event.new or event.old or core.Service()).metadata
        self._mark((meta.namespace or "", meta.name or ""))

    def _on_slice(self, event: Event[discovery.EndpointSlice]) -> None:
        for slice_ in (event.old, event.new):
            if slice_ is not None:
                self._mark(service_of(slice_))

    def _on_node(self, event: Event[core.Node]) -> None:
        node = event.new
        if node is None or node.metadata.name != self._node.name:
            return
        zone = (node.metadata.labels or {}).get(ZONE_LABEL, "")
        if zone != self._node.zone:
            self._node = replace(self._node, zone=zone)
            self._everything = True
            self._wake.set()


def _keys_of(slice_: discovery.EndpointSlice) -> tuple[Key, ...]:
    key = service_of(slice_)
    return () if key is None else (key,)


class RuleWriter:
    """What is in force, and how to change it. One change at a time."""

    def __init__(self, nft: Nftables, *, netns: str | None = None) -> None:
        self._nft = nft
        self._netns = netns
        self._conntrack: Conntrack | None = None
        self._ruleset: Ruleset | None = None

    async def replace(
        self, services: Iterable[core.Service], slices: Iterable[discovery.EndpointSlice], node: ProxyNode
    ) -> None:
        """Put everything in force in one transaction, in place of whatever there is. Raises NftablesError."""
        wanted = plan(services, slices, node)
        change = diff(Ruleset(), wanted)
        self._ruleset = None
        await self._nft.run(base(node) + transaction(change))
        self._ruleset = wanted
        await self._forget_flows(change)

    async def update(self, fragments: Mapping[Key, Fragment | None]) -> bool:
        """Change these services (None: gone); whether anything differed. Raises NftablesError: then `replace`."""
        if self._ruleset is None:
            raise NftablesError("no rules are in force yet")
        ruleset, change = self._ruleset, Change()
        for key, fragment in fragments.items():
            if ruleset.fragments.get(key) != fragment:
                ruleset.replace(key, fragment, change)
        if change:
            self._ruleset = None   # unknown until the kernel took it
            await self._nft.run(transaction(change))
            self._ruleset = ruleset
        await self._forget_flows(change)
        return bool(change)

    async def intact(self) -> bool:
        """Whether the kernel still has our table."""
        try:
            await self._nft.run(f"list chain {TABLE} services")
        except NftablesError:
            return False
        return True

    async def remove(self) -> None:
        """Take all rules away (when a node leaves a real server)."""
        self._ruleset = None
        await self._nft.run(f"add table {TABLE}\ndelete table {TABLE}\n")

    def close(self) -> None:
        """Close our handles; the rules stay in force."""
        if self._conntrack is not None:
            self._conntrack.close()
            self._conntrack = None

    async def _forget_flows(self, change: Change) -> None:
        if not change.udp or self._ruleset is None:
            return
        if self._conntrack is None:
            self._conntrack = await asyncio.to_thread(Conntrack, self._netns)
        await asyncio.to_thread(self._conntrack.forget_stale, self._ruleset.udp())
