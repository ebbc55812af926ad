"""The simulated nodes: one informer for all pods, one wheel for all timers, one task for all leases.

An event about a pod, or a timer that is due, brings the pod's state up to now (`pods.advance`, at once and without a
task); what has to be written then is written by a few writers that exist only while there is something to write.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network
from socket import inet_ntoa
from typing import TYPE_CHECKING, Any, Literal

from pinnace.api import errors
from pinnace.api.core import v1 as core
from pinnace.base.clock import Clock
from pinnace.base.crew import Crew
from pinnace.base.randomness import Randomness
from pinnace.base.supervisor import Supervisor
from pinnace.client.client import Client
from pinnace.client.events import EventRecorder
from pinnace.client.informer import Event, Informers, revision_number
from pinnace.kubelet.policy import list_of
from pinnace.kubelet.simulated import pods
from pinnace.kubelet.simulated.course import Exit
from pinnace.kubelet.simulated.heartbeats import TRANSIENT, Heartbeats
from pinnace.kubelet.simulated.identities import Identities, Identity, Issuer
from pinnace.kubelet.simulated.life import Life, Lives
from pinnace.kubelet.simulated.logs import SimulatedKubelets, tell_readers
from pinnace.kubelet.simulated.machines import Machine, SimulatedNode, Tracked
from pinnace.kubelet.status_writer import patch_of

if TYPE_CHECKING:
    from pinnace.kubelet.simulated.staging import Staging

log = logging.getLogger("pinnace.kubelet.simulated")

SOON = 0.1                   # what lasts no longer than this is not worth a status of its own
_LONGEST = 3600.0            # seconds; then the wheel is looked at again, whatever the clock did meanwhile
_RETRY_FIRST, _RETRY_LAST = 0.5, 10.0


class SimulatedNodes:
    """`run` registers the nodes and serves their pods until cancelled.

    `life` is a life for all pods, or `Lives` with rules; `stages` are kwok's Stages (mappings, or YAML), which lead
    the pods and nodes that they select. So many leases (`parallel`) and statuses of pods (`statuses`) are written at a
    time. With an `issuer` nodes have client certificates, and renew them. Nodes are lost and found by `lose`,
    `restore`, `partition`, `heal`, `drift`, `add`, `remove` and `renew`; those that name a node raise KeyError for one
    that is not there.
    """

    def __init__(
        self, client: Client, names: Sequence[str], *, clock: Clock, randomness: Randomness,
        life: Life | Lives | None = None, node: SimulatedNode | None = None,
        stages: Sequence[Mapping[str, Any] | str] | str = (),
        lease_every: float = 10.0, status_every: float = 300.0, parallel: int = 32, statuses: int = 32,
        informers: Informers | None = None, kubelets: SimulatedKubelets | None = None, issuer: Issuer | None = None,
        pod_network: str = "10.128.0.0/9", host_network: str = "10.64.0.0/12",
    ) -> None:  # fmt: skip
        self.client = client.acting_as("kubelet")
        self._clock = clock
        self.randomness = randomness
        self.lives = life if isinstance(life, Lives) else Lives(life or Life())
        self._own_informers = informers is None
        self.informers = informers or Informers(self.client, clock, randomness)
        self._recorder = EventRecorder(self.client, "kubelet", clock=clock, randomness=randomness)
        self._addresses = itertools.cycle(range(1, IPv4Network(pod_network).num_addresses - 1))
        self._first_pod = int(IPv4Network(pod_network).network_address)
        self._hosts = itertools.count(int(IPv4Network(host_network).network_address) + 1)
        self._machines = {name: Machine(name, node or SimulatedNode(), self._host_ip()) for name in names}
        self._staging = self._staging_of(stages)
        self._hearts = Heartbeats(
            self.client, clock, every=lease_every, status_every=status_every, parallel=parallel,
            own_status=lambda machine: self._staging is None or not self._staging.leads_node(machine.name),
        )  # fmt: skip
        self._identities = (
            Identities(self.client, issuer, self._machines, clock, self._let_in) if issuer is not None else None
        )
        self._pods: dict[str, Tracked] = {}
        self._names: dict[tuple[str, str], Tracked] = {}
        self._wheel: list[tuple[float, int, Tracked]] = []
        self._order = itertools.count()
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0
        self._writes: deque[Tracked] = deque()
        self._writers = Crew(self._write_all, most=statuses, name="statuses of simulated pods")
        self._tasks: set[asyncio.Task[None]] = set()
        self.registered = asyncio.Event()
        self.kubelets = kubelets or SimulatedKubelets()
        self.kubelets.attach(self)

    async def run(self) -> None:
        """Until cancelled."""
        async with Supervisor(self._clock) as parts:
            if self._own_informers:
                parts.start("informers", self.informers.run)
            known = self.informers.of(core.Pod)
            await known.wait_synced()
            if not self.registered.is_set():
                await self._hearts.each(self._machines.values(), self._hearts.register)
                self._hearts.join(self._machines.values())
                if self._identities is not None:
                    self._identities.join(self._machines.values())
                self.registered.set()
            unsubscribe = known.subscribe(self._pod_changed)
            parts.start("leases", self._hearts.run)
            if self._identities is not None:
                parts.start("certificates", self._identities.run)
            parts.start("events", self._recorder.run)
            if self._staging is not None:
                parts.start("stages", self._staging.run)
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                unsubscribe()
                self._stop()

    def _stop(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        for task in tuple(self._tasks):
            task.cancel()
        for tracked in tuple(self._pods.values()):
            self._forget(tracked)
        self._wheel.clear()
        self._writers.dismiss()
        self._writes.clear()

    # ---------------------------------------------------------------------------------------- what tests may do

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._machines)

    def on(self, **rule: Any) -> None:
        """One more rule, for containers that start from now on: `on(labels={"app": "web"}, start=30)`. See
        `Lives.on`."""
        self.lives = self.lives.on(**rule)

    def crash(
        self, name: str, namespace: str = "default", *, container: str = "", exit_code: int = 1, reason: str = "Error"
    ) -> None:
        """End a running container of a pod now; without a name its first one. KeyError if it does not run here."""
        tracked = self._names[namespace, name]
        wanted = container or tracked.pod.spec.containers[0].name
        tracked.state = pods.crashed(tracked.state, wanted, Exit(exit_code, reason), self.now())
        self._look(tracked)

    def lose(self, name: str) -> None:
        """The machine is gone, with all that ran on it. Nothing if it is gone already."""
        machine = self._machines[name]
        if machine.up:
            now = self.now()
            for tracked in machine.pods.values():
                self._look(tracked, write=False)
                tracked.state = pods.machine_lost(tracked.state, now, machine.drift)
                tell_readers(tracked)
            machine.up = False

    def restore(self, name: str) -> None:
        """The machine comes up again, as after a reboot; its containers are started anew where they are to be."""
        machine = self._machines[name]
        if not machine.up:
            machine.up = True
            machine.boots += 1
            self._look_at_identity(machine)
            if machine.connected:
                self.spawn(self._come_back(machine, rebooted=True))

    def partition(self, name: str) -> None:
        """The node cannot reach the API server, nor the server the node. Its containers go on."""
        self._machines[name].reachable = False
        for tracked in self._machines[name].pods.values():
            tell_readers(tracked)

    def heal(self, name: str) -> None:
        """The node reaches the server again, and tells what happened meanwhile."""
        machine = self._machines[name]
        if not machine.reachable:
            machine.reachable = True
            self._look_at_identity(machine)
            if machine.connected:
                self.spawn(self._come_back(machine, rebooted=False))

    def drift(self, name: str, seconds: float) -> None:
        """The node's clock is so far ahead of the cluster's (behind, if negative); 0 sets it right."""
        machine = self._machines[name]
        machine.drift = seconds
        self._look_at_identity(machine)
        for tracked in machine.pods.values():
            tracked.place = self._place(machine, tracked.place.pod_ip)
            self._look(tracked)

    async def add(self, name: str, node: SimulatedNode | None = None) -> None:
        """One more node; returns when it is registered. ValueError if there is one of that name."""
        if name in self._machines:
            raise ValueError(f"there is a node {name} already")
        machine = self._machines[name] = Machine(name, node or SimulatedNode(), self._host_ip())
        await self._hearts.register(machine)
        self._hearts.join([machine])
        if self._identities is not None:
            self._identities.join([machine])
        await self._come_back(machine, rebooted=False)

    async def remove(self, name: str) -> None:
        """The machine is gone for good, and its Node object is deleted. What becomes of its pods is others' work."""
        machine = self._machines.pop(name)
        machine.up = False
        self._hearts.leave(machine)
        if self._identities is not None:
            self._identities.leave(machine)
        for tracked in tuple(machine.pods.values()):
            self._forget(tracked)
        try:
            await self.client.delete(core.Node, name)
        except errors.NotFound:
            log.info("node %s was deleted already", name)

    def identity(self, name: str) -> Identity:
        """The node's client certificate: from when to when it is good, and when it is to be renewed. RuntimeError where
        nodes have none."""
        return self._identified().of(self._machines[name].name)

    async def renew(self, name: str) -> None:
        """Give the node a new client certificate by hand, as its owner would after the old one is over."""
        await self._identified().renew(self._machines[name])

    # What the logs ask

    def machine(self, name: str) -> Machine | None:
        return self._machines.get(name)

    def tracked(self, namespace: str, name: str) -> Tracked | None:
        return self._names.get((namespace, name))

    def now(self) -> float:
        """True time, in seconds since the epoch."""
        return self._clock.now().timestamp()

    # What the stages need

    async def pause(self, seconds: float) -> None:
        await self._clock.sleep(seconds)

    def tell(self, about: Any, type: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        self._recorder.event(about, type, reason, message)

    # ------------------------------------------------------------------------------------------------ the nodes

    def _host_ip(self) -> str:
        return str(IPv4Address(next(self._hosts)))

    async def _come_back(self, machine: Machine, *, rebooted: bool) -> None:
        """The node is there (again): it says so, and looks at what is wanted of it."""
        if rebooted:
            await self._hearts.register(machine)
            about = core.ObjectReference(kind="Node", apiVersion="v1", name=machine.name, uid=machine.name)
            words = f"Node {machine.name} has been rebooted, boot id: {machine.boot_id}"
            self._recorder.event(about, "Warning", "Rebooted", words, host=machine.name)
        machine.news = True
        await self._hearts.beat(machine)
        if not machine.connected:
            return
        known = {p.metadata.uid or "": p for p in self.informers.of(core.Pod).cache if p.spec.nodeName == machine.name}
        for uid in [uid for uid in machine.pods if uid not in known]:
            self._forget(machine.pods[uid])
        for pod in known.values():
            self._take(machine, pod)
        if self._staging is not None:
            self._staging.look_at(machine)

    async def _let_in(self, machine: Machine) -> None:
        await self._come_back(machine, rebooted=False)

    def _look_at_identity(self, machine: Machine) -> None:
        if self._identities is not None:
            self._identities.look_at(machine)

    def _identified(self) -> Identities:
        if self._identities is None:
            raise RuntimeError("these nodes have no certificates: they were given no issuer")
        return self._identities

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ------------------------------------------------------------------------------------------------- the pods

    def _pod_changed(self, event: Event[core.Pod]) -> None:
        pod = event.old if event.new is None else event.new
        machine = self._machines.get(pod.spec.nodeName or "")
        if machine is None or not (machine.up and machine.reachable):
            return
        tracked = machine.pods.get(pod.metadata.uid or "")
        if event.new is None:
            if tracked is not None:
                self._forget(tracked)
        elif tracked is None or event.old is None:
            self._take(machine, pod)
        elif _is_newer(pod, tracked.pod):
            if tracked.queued:
                tracked.newer = pod      # perhaps the echo of what is being written
            else:
                self._update(tracked, pod)

    def _take(self, machine: Machine, pod: core.Pod) -> None:
        """A pod of that node, perhaps a new one."""
        uid = pod.metadata.uid or ""
        tracked = machine.pods.get(uid)
        now = self.now()
        if tracked is None:
            place = self._place(machine, self._pod_ip(pod))
            tracked = Tracked(pod, machine, place, pods.adopted(pod, place, now))
            self._pods[uid] = machine.pods[uid] = tracked
            self._names[pod.metadata.namespace or "", pod.metadata.name or ""] = tracked
        elif _is_newer(pod, tracked.pod):
            tracked.pod = pod
        self._look(tracked, now=now)

    def _update(self, tracked: Tracked, pod: core.Pod) -> None:
        """Look at the pod, if anything has changed that a node cares about."""
        old, tracked.pod = tracked.pod, pod
        before, after = old.metadata, pod.metadata
        if (
            tracked.staged or before.generation != after.generation or old.status != pod.status
            or before.deletionTimestamp != after.deletionTimestamp or old.spec != pod.spec
            or before.deletionGracePeriodSeconds != after.deletionGracePeriodSeconds
        ):  # fmt: skip
            self._look(tracked)

    def _staging_of(self, stages: Sequence[Mapping[str, Any] | str] | str) -> Staging | None:
        if not stages:
            return None
        from pinnace.kubelet.simulated.staging import Staging  # which most never need

        return Staging(stages, self)

    def _place(self, machine: Machine, pod_ip: str) -> pods.Place:
        return pods.Place(machine.host_ip, pod_ip, self._life, machine.images, machine.drift)

    def _life(self, pod: core.Pod, container: core.Container) -> Life:
        return self.lives.of(pod, container)

    def _pod_ip(self, pod: core.Pod) -> str:
        if pod.status.podIP and not pod.spec.hostNetwork:
            return pod.status.podIP
        return inet_ntoa((self._first_pod + next(self._addresses)).to_bytes(4, "big"))

    def _forget(self, tracked: Tracked) -> None:
        about = tracked.pod.metadata
        self._pods.pop(about.uid or "", None)
        tracked.machine.pods.pop(about.uid or "", None)
        if self._names.get(place := (about.namespace or "", about.name or "")) is tracked:
            del self._names[place]
        tracked.timer, tracked.deleted = 0.0, True
        tell_readers(tracked)

    def _look(self, tracked: Tracked, *, write: bool = True, now: float | None = None) -> None:
        """Bring the pod up to now. `now`: where it is known."""
        machine = tracked.machine
        if not machine.up or tracked.deleted:
            return
        if self._staging is not None and self._staging.look(tracked):
            return
        if now is None:
            now = self.now()
        done = pods.advance(tracked.pod, tracked.state, tracked.place, now)
        tracked.state = done.state
        for image, shown in done.pulled:
            # One that is pulled again (imagePullPolicy Always) is nothing new.
            machine.news = machine.news or (shown and not machine.images.get(image))
            machine.images[image] = shown
        connected = machine.connected
        if done.told and connected:
            for told in done.told:
                self._tell(tracked, told)
        self.set_timer(tracked, done.again)
        if write and connected and (done.again is None or done.again - now > SOON or done.state.finished):
            self.queue(tracked)
        if tracked.readers:
            tell_readers(tracked)

    def _tell(self, tracked: Tracked, told: pods.Told) -> None:
        path = ""
        if told.container:
            path = f"spec.{list_of(tracked.pod.spec, told.container)}{{{told.container}}}"
        self._recorder.event(
            tracked.pod, told.type, told.reason, told.message, field_path=path, host=tracked.machine.name
        )

    # ------------------------------------------------------------------------------------------------ the wheel

    def set_timer(self, tracked: Tracked, when: float | None) -> None:
        if when is None:
            tracked.timer = 0.0
        elif when != tracked.timer:
            tracked.timer = when
            heapq.heappush(self._wheel, (when, next(self._order), tracked))
            if self._alarm is None or when < self._alarm_at:
                self._set_alarm(when)

    def _set_alarm(self, when: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        wait = min(_LONGEST, max(0.0, when - self.now()))
        self._alarm_at = when
        self._alarm = asyncio.get_running_loop().call_later(wait, self._ring)

    def _ring(self) -> None:
        """Look at the pods whose time has come."""
        self._alarm = None
        now, wheel = self.now(), self._wheel
        # Clocks show microseconds; a timer is not early for being a part of one.
        while wheel and wheel[0][0] <= now + 2e-6:
            when, _, tracked = heapq.heappop(wheel)
            if tracked.timer == when:
                tracked.timer = 0.0
                try:
                    self._look(tracked, now=max(when, now))
                except Exception:
                    log.exception("pod %s/%s", tracked.pod.metadata.namespace, tracked.pod.metadata.name)
        if wheel and self._alarm is None:
            self._set_alarm(wheel[0][0])

    # ------------------------------------------------------------------------------------------------ the writes

    def queue(self, tracked: Tracked) -> None:
        tracked.moved = True
        if not tracked.queued:
            tracked.queued = True
            self._writes.append(tracked)
            self._writers.rouse()

    async def _write_all(self) -> None:
        """What one writer does."""
        while self._writes:
            tracked = self._writes.popleft()
            if self._writes:
                self._writers.rouse()
            await self._write(tracked)

    async def _write(self, tracked: Tracked) -> None:
        tracked.moved = False
        try:
            if tracked.machine.connected and not tracked.deleted:
                await self._send(tracked)
            if tracked.failures:
                # What failed before may have been written all the same: this did not change all that it should.
                tracked.failures, tracked.moved = 0, True
        except errors.NotFound:
            self._forget(tracked)
        except TRANSIENT as error:
            log.warning("pod %s/%s: %s", tracked.pod.metadata.namespace, tracked.pod.metadata.name, error)
            again = self.now() + min(_RETRY_LAST, _RETRY_FIRST * 2 ** min(tracked.failures, 8))
            tracked.failures += 1
            if not tracked.timer or again < tracked.timer:
                self.set_timer(tracked, again)
        finally:
            tracked.queued = False
        newer, tracked.newer = tracked.newer, None
        if newer is not None and _is_newer(newer, tracked.pod):
            tracked.pod, tracked.moved = newer, True
        if tracked.moved:
            self._look(tracked)

    async def _send(self, tracked: Tracked) -> None:
        pod, state, about = tracked.pod, tracked.state, tracked.pod.metadata
        name, namespace, uid = about.name or "", about.namespace or "", about.uid or ""
        because = (revision_number(about.resourceVersion),)
        if self._staging is not None and tracked.staged:
            if tracked.stage:
                await self._staging.apply(tracked)
            return
        if not state.finished or about.finalizers:
            patch = patch_of(pod.status, pods.status(pod, state, tracked.place, self.now()))
            if patch:
                body = {"metadata": {"uid": uid}, "status": patch}
                tracked.pod = await self.client.patch(
                    core.Pod, name, namespace, body, type="strategic", subresource="status", because=because
                )
                # The deadline counts from the start that the API knows. The answer may be the first to tell of a
                # deletion: the watch's older news of it will be passed over.
                tracked.moved = (
                    tracked.moved or pod.spec.activeDeadlineSeconds is not None
                    or tracked.pod.metadata.generation != about.generation
                )  # fmt: skip
        if state.finished:
            await self.client.delete(core.Pod, name, namespace, grace_period=0, uid=uid, because=because)
            tracked.deleted = True


def _is_newer(pod: core.Pod, known: core.Pod) -> bool:
    told, had = pod.metadata.resourceVersion, known.metadata.resourceVersion
    return told != had and revision_number(told) > revision_number(had)
