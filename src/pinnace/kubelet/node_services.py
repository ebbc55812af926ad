"""What every pod worker of a node shares."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from pinnace.api.core import v1 as core
from pinnace.base.clock import Clock
from pinnace.client.client import Client
from pinnace.client.events import EventRecorder
from pinnace.kubelet.config import KubeletConfig, Network
from pinnace.kubelet.hooks import Hooks
from pinnace.kubelet.pod_files import Resolver
from pinnace.kubelet.probes import Probes
from pinnace.kubelet.starting import Starter
from pinnace.kubelet.volumes.manager import VolumeManager
from pinnace.runtime.cri import Container, Runtime, Sandbox


@dataclass(slots=True)
class NodeServices:
    """`admit` returns None, or (reason, message) of a refusal; `finished` is told the uid of a pod that is no more."""

    config: KubeletConfig
    client: Client
    clock: Clock
    runtime: Runtime
    network: Network
    recorder: EventRecorder
    starter: Starter
    volumes: VolumeManager
    hooks: Hooks
    probes: Probes
    host_resolver: Resolver
    sandbox_slots: asyncio.Semaphore
    admit: Callable[[core.Pod], tuple[str, str] | None]
    finished: Callable[[str], None]
    resize: Callable[[core.Pod], tuple[str, str] | None]        # why new resources cannot be granted: (reason, message)
    owners: dict[str, str] = field(default_factory=dict)        # sandbox id → pod uid

    async def observe(self, uid: str) -> tuple[tuple[Sandbox, ...], tuple[Container, ...]]:
        """The pod's sandboxes and containers as the runtime has them, the newest first."""
        sandboxes = [s for s in await self.runtime.sandboxes() if s.identity.uid == uid]
        sandboxes.sort(key=lambda s: (s.identity.attempt, s.created_at), reverse=True)
        containers: list[Container] = []
        for sandbox in sandboxes:
            self.owners[sandbox.id] = uid
            containers += await self.runtime.containers(sandbox.id)
        containers.sort(key=lambda c: (c.attempt, c.created_at), reverse=True)
        return tuple(sandboxes), tuple(containers)

    def owns(self, sandbox: str, uid: str) -> None:
        self.owners[sandbox] = uid

    def disowns(self, sandbox: str) -> None:
        self.owners.pop(sandbox, None)
