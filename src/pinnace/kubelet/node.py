"""The node's side of the API: its Node object, its Lease, and the word on how it fares."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime

import msgspec

from pinnace.api import codec, errors, times
from pinnace.api.coordination import v1 as coordination
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.base.backoff import Backoff
from pinnace.base.clock import Clock
from pinnace.client.client import Client
from pinnace.client.events import EventRecorder
from pinnace.client.transport import TIMER
from pinnace.kubelet import node_status
from pinnace.kubelet.config import KubeletConfig
from pinnace.kubelet.node_status import Health, Machine
from pinnace.kubelet.status_writer import patch_of
from pinnace.runtime.cri import Runtime

log = logging.getLogger("pinnace.kubelet.node")

LEASES = "kube-node-lease"
_TRANSIENT = (errors.StatusError, OSError, TimeoutError)

_EVENTS = {
    ("MemoryPressure", "False"): "NodeHasSufficientMemory",
    ("MemoryPressure", "True"): "NodeHasInsufficientMemory",
    ("DiskPressure", "False"): "NodeHasNoDiskPressure",
    ("DiskPressure", "True"): "NodeHasDiskPressure",
    ("PIDPressure", "False"): "NodeHasSufficientPID",
    ("PIDPressure", "True"): "NodeHasInsufficientPID",
    ("Ready", "True"): "NodeReady",
    ("Ready", "False"): "NodeNotReady",
}


class NodeKeeper:
    """Registers the node and keeps its status and lease. `health` is asked on every tick of the lease."""

    def __init__(
        self, config: KubeletConfig, client: Client, runtime: Runtime, recorder: EventRecorder, machine: Machine,
        clock: Clock, health: Callable[[], Awaitable[Health]],
    ) -> None:  # fmt: skip
        self._config = config
        self._client = client
        self._runtime = runtime
        self._recorder = recorder
        self._machine = machine
        self._clock = clock
        self._health = health
        self._lease: coordination.Lease | None = None
        self._reported = 0.0
        self._backoff = Backoff(initial=0.1, maximum=7.0)
        self.node: core.Node | None = None
        self.registered = asyncio.Event()
        self._lost = asyncio.Event()

    @property
    def reference(self) -> core.ObjectReference:
        """What the node's events are about; upstream's kubelet uses the name for the uid, too."""
        name = self._config.node_name
        return core.ObjectReference(kind="Node", apiVersion="v1", name=name, uid=name)

    async def run(self) -> None:
        """Register, then renew lease and status until cancelled."""
        self._recorder.event(self.reference, "Normal", "Starting", "Starting kubelet.")
        while True:
            try:
                if not self.registered.is_set():
                    await self._register()
                    self.registered.set()
                await self._renew()
                await self.report()
            except _TRANSIENT as error:
                log.warning("node %s: %s", self._config.node_name, error)
                await self._clock.sleep(self._backoff.next("tick", self._clock.monotonic()))
                continue
            self._backoff.forget("tick")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._config.lease_every):
                    await self._lost.wait()
            self._lost.clear()

    async def _status(self, old: core.NodeStatus) -> core.NodeStatus:
        health = await self._health()
        images = await self._runtime.images.images()
        now = self._clock.now().timestamp()
        return node_status.node_status(
            self._config, self._machine, self._runtime.version, images, old, health, now
        )

    async def _register(self) -> None:
        wanted = node_status.new_node(self._config, self._machine, await self._status(core.NodeStatus()))
        if self.node is not None:
            # It was deleted: it comes back with its old addresses, which its network still routes.
            wanted.spec.podCIDR, wanted.spec.podCIDRs = self.node.spec.podCIDR, self.node.spec.podCIDRs
        try:
            self.node = await self._client.create(wanted)
            self._tell_conditions([], self.node.status.conditions or wanted.status.conditions or [])
        except errors.AlreadyExists:
            node = await self._client.get(core.Node, self._config.node_name)
            known = node.metadata.labels or {}
            labels = {k: v for k, v in (wanted.metadata.labels or {}).items() if known.get(k) != v}
            if labels:
                node = await self._client.patch(core.Node, self._config.node_name, "", {"metadata": {"labels": labels}})
            self.node = node
        log.info("node %s is registered", self._config.node_name)
        await self.report(force=True)

    async def report(self, *, force: bool = False) -> None:
        """Write the status if it changed, or if the API has not heard of us for long. Raises the API's errors."""
        assert self.node is not None
        old = self.node.status
        new = await self._status(old)
        now = self._clock.monotonic()
        if not (force or node_status.changed(old, new) or now - self._reported >= self._config.status_every):
            return
        patch = patch_of(old, new)
        self._reported = now
        if not patch:
            return
        self.node = await self._client.patch(
            core.Node, self._config.node_name, "", {"status": patch}, type="strategic", subresource="status",
            because=(TIMER,),
        )
        self._tell_conditions(old.conditions or [], new.conditions or [])

    def _tell_conditions(self, old: list[core.NodeCondition], new: list[core.NodeCondition]) -> None:
        before = {c.type: c.status for c in old}
        for condition in new:
            reason = _EVENTS.get((condition.type, condition.status))
            if reason is not None and before.get(condition.type) != condition.status:
                words = f"Node {self._config.node_name} status is now: {reason}"
                self._recorder.event(self.reference, "Normal", reason, words)

    def seen(self, node: core.Node) -> None:
        """The API's newest state of our Node; somebody may have changed its status, or deleted it and made it anew."""
        self.node = node

    def gone(self) -> None:
        """Somebody deleted our Node: while we run, it is registered again."""
        self.registered.clear()
        self._lost.set()

    # The lease

    async def _renew(self) -> None:
        now = self._clock.now()
        lease = self._lease
        if lease is None:
            lease = await self._take_lease(now)
        renewed = msgspec.structs.replace(
            lease, spec=msgspec.structs.replace(lease.spec, renewTime=times.format_micro(now))
        )
        try:
            self._lease = await self._client.update(renewed, because=(TIMER,), giving=True)
        except (errors.Conflict, errors.NotFound):
            self._lease = await self._take_lease(now)

    async def _take_lease(self, now: datetime) -> coordination.Lease:
        name = self._config.node_name
        try:
            return await self._client.get(coordination.Lease, name, LEASES)
        except errors.NotFound:
            owner = None
            if self.node is not None:
                uid = codec.metadata(self.node).uid or ""
                owner = [meta.OwnerReference(apiVersion="v1", kind="Node", name=name, uid=uid)]
            return await self._client.create(
                coordination.Lease(
                    metadata=meta.ObjectMeta(name=name, namespace=LEASES, ownerReferences=owner),
                    spec=coordination.LeaseSpec(
                        holderIdentity=name, leaseDurationSeconds=int(self._config.lease_seconds),
                        renewTime=times.format_micro(now),
                    ),
                )
            )  # fmt: skip
