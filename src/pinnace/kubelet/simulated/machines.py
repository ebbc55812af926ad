"""What the nodes look like, and what is known of each: up or down, within reach or not, which images, whose pods."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pinnace.api.coordination import v1 as coordination
from pinnace.api.core import v1 as core
from pinnace.kubelet import node_status
from pinnace.kubelet.config import KubeletConfig
from pinnace.kubelet.simulated.pods import IMAGE_BYTES, Place, State
from pinnace.runtime.cri import Image

_NOWHERE = Path("/nonexistent")             # simulated nodes have no disk
_LONG_AGO, _NEVER = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
RUNTIME = "simulated://1"


@dataclass(frozen=True, slots=True)
class SimulatedNode:
    """What a node looks like. `resources`: more that it has, such as `{"example.com/gpu": "4"}`."""

    cpus: float = 32.0
    memory: int = 256 * 2**30
    max_pods: int = 110
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[tuple[str, str, str], ...] = ()      # key, value, effect
    resources: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Tracked:
    """A pod of one of the nodes. `pod` is the newest that its node has heard of."""

    pod: core.Pod
    machine: Machine
    place: Place
    state: State
    timer: float = 0.0            # the entry of the wheel that counts
    queued: bool = False          # a write of it is waiting or under way
    moved: bool = False           # … and something has changed since
    newer: core.Pod | None = None  # what the API told meanwhile
    failures: int = 0             # writes in a row that did not succeed
    deleted: bool = False         # the API has been told that nothing is left of it
    staged: bool | None = None    # led by kwok's Stages; None: not asked yet
    stage: str = ""               # … by which next …
    due: float = 0.0              # … and when
    entered: str = ""             # the one entered last …
    again: float = 0.0            # … and when it may be entered again at the earliest
    readers: list[asyncio.Future[None]] = field(default_factory=list)     # of its logs


@dataclass(slots=True, eq=False)
class Machine:
    """One node."""

    name: str
    looks: SimulatedNode
    host_ip: str
    up: bool = True
    reachable: bool = True
    expired: bool = False         # its client certificate: the server does not let it in
    drift: float = 0.0
    boots: int = 1
    images: dict[str, bool] = field(default_factory=dict)     # whether the status shows them
    news: bool = False            # the status does not say yet what it should
    pods: dict[str, Tracked] = field(default_factory=dict)
    lease: coordination.Lease | None = None
    late_at: datetime = _NEVER         # without a renewal by then, it may be given up
    report_at: datetime = _LONG_AGO    # when the status is to be written again

    @property
    def connected(self) -> bool:
        return self.up and self.reachable and not self.expired

    @property
    def boot_id(self) -> str:
        return self.name if self.boots == 1 else f"{self.name}-{self.boots}"

    def node(self, now: float, *, conditions: bool = True) -> core.Node:
        """The object with which it registers. Without conditions, kwok's stages have still to give it some."""
        status = self.status(core.NodeStatus(), now)
        looks = self.looks
        if looks.resources:
            status.capacity = {**(status.capacity or {}), **looks.resources}
            status.allocatable = {**(status.allocatable or {}), **looks.resources}
        if not conditions:
            status.conditions = None
        return node_status.new_node(self._config(), self._machine(), status)

    def status(self, old: core.NodeStatus, now: float) -> core.NodeStatus:
        images = [Image(name, (name,), (), IMAGE_BYTES, "") for name, shown in self.images.items() if shown]
        return node_status.node_status(
            self._config(), self._machine(), RUNTIME, images, old, node_status.Health(), now + self.drift
        )

    def _config(self) -> KubeletConfig:
        looks = self.looks
        return KubeletConfig(
            node_name=self.name, root=_NOWHERE, log_root=_NOWHERE, host_ips=(self.host_ip,), cpus=looks.cpus,
            memory=looks.memory, max_pods=looks.max_pods, reserved_memory=0,
            labels={"type": "simulated", **looks.labels}, annotations=dict(looks.annotations), taints=looks.taints,
        )  # fmt: skip

    def _machine(self) -> node_status.Machine:
        return node_status.Machine(
            architecture="amd64", kernel="simulated", os_image="Simulated", machine_id=self.name,
            system_uuid=self.name, boot_id=self.boot_id, cpus=self.looks.cpus, memory=self.looks.memory,
            storage=2**40,
        )  # fmt: skip
