"""The node agent as a whole: what is put together, and what wakes the pods' workers.

    API (pods of this node, services, this node) ─┐
    runtime events (exits) ───────────────────────┼─→ wake(uid) → PodWorker → plan → operations → status
    probe verdicts, objects, timers ──────────────┘

Everything is handed in; nothing here knows which cluster or which process it is part of.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from pinnace.api.core import v1 as core
from pinnace.base.clock import Clock
from pinnace.base.randomness import Randomness
from pinnace.base.supervisor import Supervisor
from pinnace.client.client import Client
from pinnace.client.events import EventRecorder
from pinnace.client.informer import Deleted, Event, Informers
from pinnace.kubelet import admission, housekeeping, machine, node_status, resizing
from pinnace.kubelet.config import KubeletConfig, Network
from pinnace.kubelet.hooks import Hooks
from pinnace.kubelet.images import ImagePuller
from pinnace.kubelet.node import NodeKeeper
from pinnace.kubelet.node_services import NodeServices
from pinnace.kubelet.objects import ObjectCache
from pinnace.kubelet.pod_files import Resolver, parse_resolv_conf
from pinnace.kubelet.probes import Prober, Probes
from pinnace.kubelet.starting import Starter, Surroundings
from pinnace.kubelet.tokens import Tokens
from pinnace.kubelet.volumes.linux import Mounter, SystemMounter
from pinnace.kubelet.volumes.manager import VolumeManager
from pinnace.kubelet.worker import PodWorker
from pinnace.runtime.cri import Runtime, RuntimeFault

log = logging.getLogger("pinnace.kubelet")


class Kubelet:
    """`run` registers the node and serves its pods until cancelled; containers run on, and are adopted next time."""

    def __init__(
        self,
        config: KubeletConfig,
        client: Client,
        runtime: Runtime,
        network: Network,
        *,
        clock: Clock,
        randomness: Randomness,
        informers: Informers | None = None,
        mounter: Mounter | None = None,
        looked: node_status.Machine | None = None,
    ) -> None:
        self.config = config
        self.client = client.acting_as("kubelet")
        self.runtime = runtime
        self._network = network
        self._clock = clock
        self._randomness = randomness
        self._own_informers = informers is None
        self._informers = informers or Informers(self.client, clock, randomness)
        self.machine = looked or machine.look(config.root)
        self.allocatable: Mapping[str, Any] = node_status.allocatable(config, self.machine)
        self._workers: dict[str, PodWorker] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.recorder = EventRecorder(
            self.client, "kubelet", config.node_name, clock=clock, randomness=randomness
        )
        self._objects = ObjectCache(self.client, clock, randomness, self._objects_changed)
        self._probes = Probes(Prober(runtime), clock, randomness, self._wake)
        self.services = self._services(mounter or SystemMounter())
        self.node = NodeKeeper(
            config, self.client, runtime, self.recorder, self.machine, clock, self._health
        )
        self._pods = self._informers.of(core.Pod, field_selector=f"spec.nodeName={config.node_name}")
        self._nodes = self._informers.of(core.Node, field_selector=f"metadata.name={config.node_name}")
        self._all_services = self._informers.of(core.Service)
        self._keeper = housekeeping.Housekeeper(self, clock)

    def _services(self, mounter: Mounter) -> NodeServices:
        config, clock, runtime = self.config, self._clock, self.runtime
        volumes = VolumeManager(
            config, self.client, self._objects, Tokens(self.client, clock, self._randomness), mounter, clock,
            self._randomness,
        )  # fmt: skip
        hooks = Hooks(runtime, clock)
        puller = ImagePuller(runtime.images, self._objects, clock, config.parallel_pulls)
        surroundings = Surroundings(
            services=lambda: self._all_services.cache.list(),
            allocatable=lambda: self.allocatable,
            node_memory=config.memory if config.memory is not None else self.machine.memory,
        )
        return NodeServices(
            config=config, client=self.client, clock=clock, runtime=runtime, network=self._network,
            recorder=self.recorder,
            starter=Starter(config, runtime, puller, volumes, self._objects, hooks, surroundings),
            volumes=volumes, hooks=hooks, probes=self._probes, host_resolver=self._host_resolver(),
            sandbox_slots=asyncio.Semaphore(config.parallel_pods), admit=self._admit, finished=self._finished,
            resize=lambda pod: resizing.obstacle(pod, self._others(pod), self.allocatable),
        )  # fmt: skip

    def _host_resolver(self) -> Resolver:
        """What the machine's resolver offers to pods: nothing where they have no way out."""
        if not self.config.egress:
            return Resolver()
        try:
            return parse_resolv_conf(self.config.host_resolv_conf.read_text())
        except OSError as error:
            log.warning("%s: %s", self.config.host_resolv_conf, error)
            return Resolver()

    # Running

    async def run(self) -> None:
        """Until cancelled."""
        self.config.root.mkdir(parents=True, exist_ok=True)
        self.config.log_root.mkdir(parents=True, exist_ok=True)
        try:
            async with Supervisor(self._clock) as parts:
                parts.start("events", self.recorder.run)
                if self._own_informers:
                    parts.start("informers", self._informers.run)
                parts.start("runtime events", self._follow_runtime)
                parts.start("node", self.node.run)
                parts.start("housekeeping", self._keeper.run)
                await self._all_services.wait_synced()
                await self._pods.wait_synced()
                unsubscribe = [self._nodes.subscribe(self._node_changed), self._pods.subscribe(self._pod_changed)]
                try:
                    await self._sweep()
                    await asyncio.get_running_loop().create_future()
                finally:
                    for end in unsubscribe:
                        end()
        finally:
            await self._stop()

    async def _stop(self) -> None:
        for worker in list(self._workers.values()):
            await worker.stop()
        self._workers.clear()
        await self._objects.close()

    async def _follow_runtime(self) -> None:
        async for event in self.runtime.events():
            if event.kind == "resync":
                for worker in self._workers.values():
                    worker.wake()
            elif (uid := self.services.owners.get(event.sandbox_id)) is not None:
                self._wake(uid)

    def _pod_changed(self, event: Event[core.Pod]) -> None:
        pod = event.new if event.new is not None else event.old
        assert pod is not None
        uid = pod.metadata.uid or ""
        worker = self._workers.get(uid)
        if isinstance(event, Deleted):
            if worker is not None:
                worker.removed(pod)
        elif worker is not None:
            worker.update(pod)
        else:
            worker = self._workers[uid] = PodWorker(self.services, pod)
            task = worker.start()
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _node_changed(self, event: Event[core.Node]) -> None:
        if event.new is not None:
            self.node.seen(event.new)
        else:
            self.node.gone()

    def _wake(self, uid: str) -> None:
        worker = self._workers.get(uid)
        if worker is not None:
            worker.wake()

    def _objects_changed(self, uid: str) -> None:
        worker = self._workers.get(uid)
        if worker is not None:
            worker.objects_changed()

    def _finished(self, uid: str) -> None:
        self._workers.pop(uid, None)
        self._objects.release(uid)
        for worker in self._workers.values():
            worker.room_was_made()

    def _admit(self, pod: core.Pod) -> admission.Refusal | None:
        node = self._nodes.cache.get("", self.config.node_name)
        return admission.admit(pod, node, self._others(pod), self.allocatable)

    def _others(self, pod: core.Pod) -> list[core.Pod]:
        """The other pods of this node, with the resources that it granted them."""
        return [
            worker.granted for worker in self._workers.values()
            if worker.admitted and worker.uid != pod.metadata.uid
            and worker.pod.status.phase not in ("Succeeded", "Failed")
        ]  # fmt: skip

    async def _health(self) -> node_status.Health:
        return await housekeeping.health(self.config, self._network)

    async def _sweep(self) -> None:
        """End what the API does not know (any more): pods that were deleted while we were away."""
        known = {pod.metadata.uid for pod in self._pods.cache.list()}
        orphans = [s for s in await self.runtime.sandboxes() if s.identity.uid not in known]
        for sandbox in orphans:
            log.info("pod %s/%s is gone: ending it", sandbox.identity.namespace, sandbox.identity.name)
            try:
                for container in await self.runtime.containers(sandbox.id):
                    await self.runtime.stop(container.id, grace=2.0)
                await self._network.remove(sandbox.id)
                await self.runtime.remove_sandbox(sandbox.id)
            except RuntimeFault as fault:
                log.warning("sandbox %s: %s", sandbox.id, fault)
        await self._network.sweep([s.id for s in await self.runtime.sandboxes()])
        for uid in self.services.volumes.known():
            if uid not in known and uid not in self._workers:
                try:
                    await self.services.volumes.unmount(uid)
                except OSError as error:
                    log.warning("volumes of pod %s: %s", uid, error)

    # For the server and the housekeeper

    @property
    def workers(self) -> Mapping[str, PodWorker]:
        return self._workers

    def pods(self) -> list[core.Pod]:
        """The pods of this node as they are reported."""
        return [worker.status.base for worker in self._workers.values()]

    def pod(self, namespace: str, name: str) -> core.Pod | None:
        return self._pods.cache.get(namespace, name)
