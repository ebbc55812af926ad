"""Thousands of nodes that do not exist: they register, renew their leases, and lead pods through their lives.

Where no containers can run (not root, not Linux), or where a cluster of 5,000 nodes is to be tried on a laptop. One
informer for all pods, one timer wheel for all leases; the life of a pod is data (`Life`, and annotations of the pod),
and `next_state` is a pure function of it. What upstream's ecosystem knows as kwok.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import msgspec

from pinnace.api import errors, times
from pinnace.api.coordination import v1 as coordination
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.base.clock import Clock
from pinnace.base.randomness import Randomness
from pinnace.base.supervisor import Supervisor
from pinnace.client.client import Client
from pinnace.client.informer import Deleted, Event, Informers
from pinnace.kubelet import node_status
from pinnace.kubelet.config import KubeletConfig
from pinnace.kubelet.pod_status import Facts, pod_status
from pinnace.kubelet.policy import all_containers, init_containers, is_sidecar
from pinnace.kubelet.status_writer import patch_of
from pinnace.runtime.cri import Container, ContainerState

log = logging.getLogger("pinnace.kubelet.simulated")

RUN_SECONDS = "pinnace.dev/run-seconds"      # annotation: the containers of the pod end after so long …
EXIT_CODE = "pinnace.dev/exit-code"          # … with this code
LEASES = "kube-node-lease"
_NOWHERE = Path("/nonexistent")             # simulated nodes have no disk
_TRANSIENT = (errors.StatusError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Life:
    """How long things take, in seconds."""

    start: float = 0.05        # from bound to all containers running
    run: float = 2.0           # of containers of pods that end by themselves (restartPolicy other than Always)
    stop: float = 0.02         # from the deletion to the end
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class SimulatedNode:
    """What each node looks like."""

    cpus: float = 32.0
    memory: int = 256 * 2**30
    max_pods: int = 110
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """What to do with a pod now, or when to look again (epoch seconds)."""

    action: str = ""           # "", "run", "end", "delete"
    again: float | None = None


def run_seconds(pod: core.Pod, life: Life) -> float | None:
    """How long the pod's containers run; None: until they are stopped."""
    text = (pod.metadata.annotations or {}).get(RUN_SECONDS)
    if text is not None:
        try:
            return max(0.0, float(text))
        except ValueError:
            return None
    return None if (pod.spec.restartPolicy or "Always") == "Always" else life.run


def exit_code(pod: core.Pod, life: Life) -> int:
    text = (pod.metadata.annotations or {}).get(EXIT_CODE, "")
    return int(text) if text.isdecimal() else life.exit_code


def next_state(pod: core.Pod, life: Life, *, bound_at: float, deleted_at: float, running_at: float, now: float) -> Step:
    """The pure part. The times are when this process took note; 0: not yet."""
    if pod.metadata.deletionTimestamp:
        if pod.metadata.deletionGracePeriodSeconds == 0 and pod.metadata.finalizers:
            return Step()                # it has ended here; others hold the object, and asking again changes nothing
        due = deleted_at + life.stop
        return Step("delete") if now >= due else Step(again=due)
    match pod.status.phase:
        case "Succeeded" | "Failed":
            return Step()
        case "Running":
            seconds = run_seconds(pod, life)
            if seconds is None or (pod.spec.restartPolicy or "Always") == "Always":
                return Step()
            due = (running_at or bound_at) + seconds
            return Step("end") if now >= due else Step(again=due)
        case _:
            due = bound_at + life.start
            return Step("run") if now >= due else Step(again=due)


def containers_of(
    pod: core.Pod, state: ContainerState, code: int, now: float, running_at: float
) -> tuple[Container, ...]:
    """Containers that never were, for the same status function as real ones."""
    inits = {c.name for c in init_containers(pod.spec) if not is_sidecar(c)}
    out = []
    for container in all_containers(pod.spec):
        ended = state is ContainerState.EXITED or container.name in inits
        result = 0 if container.name in inits else code
        out.append(
            Container(
                id=f"{pod.metadata.uid}-{container.name}", sandbox_id="simulated", name=container.name, attempt=0,
                state=ContainerState.EXITED if ended else state, image=container.image or "", image_id="simulated",
                created_at=running_at, started_at=running_at, finished_at=now if ended else 0.0, exit_code=result,
                reason="Completed" if result == 0 else "Error", message="", pid=0, labels={}, annotations={},
                log_path="",
            )
        )  # fmt: skip
    return tuple(out)


@dataclass(slots=True)
class _Tracked:
    pod: core.Pod
    bound_at: float
    deleted_at: float = 0.0
    running_at: float = 0.0
    busy: bool = False


class SimulatedNodes:
    """`run` registers the nodes and serves their pods until cancelled."""

    def __init__(
        self, client: Client, names: Sequence[str], *, clock: Clock, randomness: Randomness, life: Life = Life(),
        node: SimulatedNode = SimulatedNode(), lease_every: float = 10.0, parallel: int = 32,
        informers: Informers | None = None, pod_network: str = "10.128.0.0/9", host_network: str = "10.64.0.0/12",
    ) -> None:  # fmt: skip
        self._client = client.acting_as("kubelet")
        self._names = tuple(names)
        self._known = frozenset(names)
        self._clock = clock
        self._randomness = randomness
        self._life = life
        self._node = node
        self._lease_every = lease_every
        self._slots = asyncio.Semaphore(parallel)
        self._own_informers = informers is None
        self._informers = informers or Informers(self._client, clock, randomness)
        self._pods: dict[str, _Tracked] = {}
        self._timers: list[tuple[float, int, str]] = []
        self._order = itertools.count()
        self._wake = asyncio.Event()
        self._ready: dict[str, None] = {}
        self._addresses = itertools.cycle(range(1, IPv4Network(pod_network).num_addresses - 1))
        self._first_pod = int(IPv4Network(pod_network).network_address)
        self._first_host = int(IPv4Network(host_network).network_address) + 1
        self._host_ips = {name: str(IPv4Address(self._first_host + n)) for n, name in enumerate(self._names)}
        self._leases: dict[str, coordination.Lease] = {}
        self.registered = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        async with Supervisor(self._clock) as parts:
            if self._own_informers:
                parts.start("informers", self._informers.run)
            pods = self._informers.of(core.Pod)
            await pods.wait_synced()
            await self._register_all()
            unsubscribe = pods.subscribe(self._pod_changed)
            parts.start("leases", self._renew_all)
            parts.start("pods", self._serve)
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                unsubscribe()

    # Nodes

    async def _register_all(self) -> None:
        await asyncio.gather(*(self._register(name) for name in self._names))
        self.registered.set()

    def _object(self, name: str) -> core.Node:
        ip = self._host_ips[name]
        config = KubeletConfig(
            node_name=name, root=_NOWHERE, log_root=_NOWHERE, host_ips=(ip,), cpus=self._node.cpus,
            memory=self._node.memory, max_pods=self._node.max_pods, reserved_memory=0,
            labels={"type": "simulated", **self._node.labels},
        )  # fmt: skip
        machine = node_status.Machine(
            architecture="amd64", kernel="simulated", os_image="Simulated", machine_id=name, system_uuid=name,
            boot_id=name, cpus=self._node.cpus, memory=self._node.memory, storage=2**40,
        )  # fmt: skip
        now = self._clock.now().timestamp()
        status = node_status.node_status(
            config, machine, "simulated://1", (), core.NodeStatus(), node_status.Health(), now
        )
        return node_status.new_node(config, machine, status)

    async def _register(self, name: str) -> None:
        wanted = self._object(name)
        for attempt in range(100):
            try:
                async with self._slots:
                    try:
                        node = await self._client.create(wanted)
                    except errors.AlreadyExists:
                        node = await self._client.get(core.Node, name)
                    patch = patch_of(node.status, wanted.status)
                    if patch:
                        await self._client.patch(
                            core.Node, name, "", {"status": patch}, type="strategic", subresource="status"
                        )
                return
            except _TRANSIENT as error:
                log.warning("registering node %s: %s", name, error)
                await self._clock.sleep(min(5.0, 0.1 * 2**attempt))
        raise ConnectionError(f"node {name} could not be registered")

    async def _renew_all(self) -> None:
        """Each lease once in `lease_every` seconds, spread evenly over them in batches."""
        batches = max(1, min(len(self._names), 100))
        parts = [self._names[n::batches] for n in range(batches)]
        for part in itertools.cycle(parts):
            began = self._clock.monotonic()
            await asyncio.gather(*(self._renew(name) for name in part))
            spent = self._clock.monotonic() - began
            await self._clock.sleep(max(0.0, self._lease_every / batches - spent))

    async def _renew(self, name: str) -> None:
        now = times.format_micro(self._clock.now())
        try:
            async with self._slots:
                lease = self._leases.get(name)
                if lease is None:
                    self._leases[name] = await self._take_lease(name, now)
                    return
                spec = msgspec.structs.replace(lease.spec, renewTime=now)
                self._leases[name] = await self._client.update(msgspec.structs.replace(lease, spec=spec))
        except (errors.Conflict, errors.NotFound):
            self._leases.pop(name, None)
        except _TRANSIENT as error:
            log.warning("lease of node %s: %s", name, error)

    async def _take_lease(self, name: str, now: str) -> coordination.Lease:
        lease = coordination.Lease(
            metadata=meta.ObjectMeta(name=name, namespace=LEASES),
            spec=coordination.LeaseSpec(holderIdentity=name, leaseDurationSeconds=40, renewTime=now),
        )
        try:
            return await self._client.create(lease)
        except errors.AlreadyExists:
            return await self._client.get(coordination.Lease, name, LEASES)

    # Pods

    def _pod_changed(self, event: Event[core.Pod]) -> None:
        if isinstance(event, Deleted):
            self._pods.pop(event.old.metadata.uid or "", None)
            return
        pod = event.new
        if (pod.spec.nodeName or "") not in self._known:
            return
        uid, now = pod.metadata.uid or "", self._clock.now().timestamp()
        tracked = self._pods.get(uid)
        if tracked is None:
            tracked = self._pods[uid] = _Tracked(pod, bound_at=now)
        tracked.pod = pod
        if pod.metadata.deletionTimestamp and not tracked.deleted_at:
            tracked.deleted_at = now
        if pod.status.phase == "Running" and not tracked.running_at:
            tracked.running_at = now
        self._ready[uid] = None
        self._wake.set()

    async def _serve(self) -> None:
        tasks: set[asyncio.Task[None]] = set()
        try:
            while True:
                self._due()
                while self._ready:
                    uid = next(iter(self._ready))
                    del self._ready[uid]
                    step = self._look(uid)
                    if step.action:
                        # At most `parallel` requests are under way; the waiting ones are as many as there are pods.
                        task = asyncio.create_task(self._act(uid, step.action))
                        tasks.add(task)
                        task.add_done_callback(tasks.discard)
                    elif step.again is not None:
                        heapq.heappush(self._timers, (step.again, next(self._order), uid))
                self._wake.clear()
                await self._sleep()
        finally:
            for task in tasks:
                task.cancel()

    def _due(self) -> None:
        now = self._clock.now().timestamp()
        while self._timers and self._timers[0][0] <= now:
            self._ready[heapq.heappop(self._timers)[2]] = None

    async def _sleep(self) -> None:
        """Until something changes, or the first timer is due."""
        wait = None
        if self._timers:
            wait = max(0.001, self._timers[0][0] - self._clock.now().timestamp())
        try:
            async with asyncio.timeout(wait):
                await self._wake.wait()
        except TimeoutError:
            return

    def _look(self, uid: str) -> Step:
        tracked = self._pods.get(uid)
        if tracked is None or tracked.busy:
            return Step()
        step = next_state(
            tracked.pod, self._life, bound_at=tracked.bound_at, deleted_at=tracked.deleted_at,
            running_at=tracked.running_at, now=self._clock.now().timestamp(),
        )  # fmt: skip
        tracked.busy = bool(step.action)
        return step

    async def _act(self, uid: str, action: str) -> None:
        tracked = self._pods.get(uid)
        if tracked is None:
            return
        meta_ = tracked.pod.metadata
        try:
            async with self._slots:
                if action == "delete":
                    await self._client.delete(
                        core.Pod, meta_.name or "", meta_.namespace or "", grace_period=0, uid=uid
                    )
                else:
                    status = self._status(tracked, ended=action == "end")
                    patch: dict[str, Any] = {
                        "metadata": {"uid": uid}, "status": patch_of(tracked.pod.status, status),
                    }  # fmt: skip
                    tracked.pod = await self._client.patch(
                        core.Pod, meta_.name or "", meta_.namespace or "", patch, type="strategic", subresource="status"
                    )
        except errors.NotFound:
            self._pods.pop(uid, None)
        except _TRANSIENT as error:
            log.warning("pod %s/%s: %s", meta_.namespace, meta_.name, error)
            await self._clock.sleep(0.5)
        finally:
            tracked.busy = False
            self._ready[uid] = None
            self._wake.set()

    def _status(self, tracked: _Tracked, *, ended: bool) -> core.PodStatus:
        pod, now = tracked.pod, self._clock.now().timestamp()
        host = self._host_ips[pod.spec.nodeName or ""]
        tracked.running_at = tracked.running_at or now
        ips = tuple(ip.ip for ip in pod.status.podIPs or () if ip.ip)
        if not ips:
            ips = (host,) if pod.spec.hostNetwork else (str(IPv4Address(self._first_pod + next(self._addresses))),)
        state = ContainerState.EXITED if ended else ContainerState.RUNNING
        code = exit_code(pod, self._life) if ended else 0
        return pod_status(
            pod,
            Facts(
                now=now, host_ips=(host,), sandbox_ips=ips, sandbox_ready=not ended,
                containers=containers_of(pod, state, code, now, tracked.running_at), terminal=ended,
                start_time=tracked.bound_at,
            ),
        )  # fmt: skip
