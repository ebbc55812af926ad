"""One pod's worker: woken by events, it looks, asks `plan`, and performs the steps side by side.

What takes time runs as an operation of its own (a task named by the step's key), so that a deletion is noticed while
an image is being pulled. Everything that an operation finds out is kept here as data for the next plan; the plan and
the status are pure functions of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Coroutine, Mapping
from typing import Any, Literal, assert_never, cast

from msgspec.structs import replace

from pinnace.api import errors
from pinnace.api.core import v1 as core
from pinnace.base.backoff import Backoff
from pinnace.client.informer import revision_number
from pinnace.kubelet import pod_plan as plans
from pinnace.kubelet import pod_status, termination
from pinnace.kubelet.container_spec import container_hash, host_ports, sandbox_spec
from pinnace.kubelet.crash_backoff import CrashBackoff
from pinnace.kubelet.environment import ConfigError
from pinnace.kubelet.hooks import HookFault
from pinnace.kubelet.node_services import NodeServices
from pinnace.kubelet.pod_status import statuses
from pinnace.kubelet.policy import all_containers, every_container, list_of
from pinnace.kubelet.resizer import Resizer
from pinnace.kubelet.resizing import granted_pod
from pinnace.kubelet.runtime_class import handler_of
from pinnace.kubelet.starting import StartFault, termination_file
from pinnace.kubelet.status_writer import StatusWriter
from pinnace.kubelet.volumes.manager import Mounted, MountFault
from pinnace.runtime.cri import Container, ContainerState, RuntimeFault, Sandbox, SandboxState

log = logging.getLogger("pinnace.kubelet.worker")

ERROR_PAUSE = 1.0       # after something went wrong that is nobody's fault, the pod is looked at again


class PodWorker:
    """Lives from the pod's first appearance on this node until nothing of it is left."""

    def __init__(self, services: NodeServices, pod: core.Pod) -> None:
        self._services = services
        self.pod = pod
        self.uid = pod.metadata.uid or ""
        self.admitted: bool | None = None
        self._doom: plans.Doom | None = None
        self._mounted: Mounted | None = None
        self._memory = _memory_of(pod)
        self._waiting: dict[str, plans.Waiting] = {}
        self._messages = _messages_of(pod)
        self._image_ids: dict[str, str] = {}
        self._ops: dict[str, asyncio.Task[None]] = {}
        self._killing: dict[str, float] = {}
        self._blocked_until = 0.0
        self._sandbox_backoff = Backoff(initial=0.5, maximum=60.0)
        self._pull_backoff = Backoff(initial=10.0, maximum=300.0)
        self._mount_backoff = Backoff(initial=0.5, maximum=122.0)
        self._retry_mount = asyncio.Event()
        self._started_at = services.clock.now().timestamp()
        self._unmounting = False
        self._gone = False
        self._finished = False
        self._dirty = False           # an object or a field that volumes show has changed
        self._wake = asyncio.Event()
        self._wake.set()
        self._timer: asyncio.TimerHandle | None = None
        self._adopted_ready = frozenset(s.name for s in statuses(pod) if s.ready)
        self._first = True
        self._resizer = Resizer(pod, services.runtime, self._tell)
        self.status = StatusWriter(services.client, services.clock, pod)
        self._task: asyncio.Task[None] | None = None

    # What wakes it

    def start(self) -> asyncio.Task[None]:
        self._task = asyncio.create_task(self.run(), name=f"pod {self.pod.metadata.namespace}/{self.pod.metadata.name}")
        return self._task

    def wake(self) -> None:
        self._wake.set()

    def update(self, pod: core.Pod) -> None:
        """The API has a new state of the pod."""
        before = self.pod
        self.pod = pod
        self.status.seen(pod)
        if before.metadata.labels != pod.metadata.labels or before.metadata.annotations != pod.metadata.annotations:
            self._dirty = True
        if pod.metadata.deletionTimestamp:
            self._doom_deleted(plans.pod_grace(pod))
        self.wake()

    def removed(self, pod: core.Pod) -> None:
        """The object is gone: end what is left of the pod."""
        self._gone = True
        self.status.close()
        self._doom_deleted(plans.pod_grace(pod))
        self.wake()

    @property
    def granted(self) -> core.Pod:
        """The pod with the resources that the node granted it."""
        return granted_pod(self.pod, self._resizer.grant)

    def room_was_made(self) -> None:
        """Another pod has left the node."""
        if self._resizer.deferred:
            self.wake()

    def evict(self, reason: str, message: str, grace: float = 0.0) -> None:
        """The node needs what the pod has."""
        if self._doom is None:
            deadline = self._now() + max(plans.MIN_GRACE, grace)
            self._doom = plans.Doom(deadline, reason, message, failed=True)
            self.wake()

    def objects_changed(self) -> None:
        """A ConfigMap or Secret that the pod refers to has changed, came, or went."""
        self._dirty = True
        self._retry_mount.set()
        for name, memory in self._memory.items():
            if memory.failure is not None and memory.failure.reason == "CreateContainerConfigError":
                self._memory[name] = replace(memory, failure=replace(memory.failure, until=0.0))
        self.wake()

    def _doom_deleted(self, grace: float) -> None:
        deadline = self._now() + grace
        old = self._doom
        if old is None:
            self._doom = plans.Doom(deadline, deleted=True)
        elif not old.deleted or deadline < old.deadline:
            self._doom = replace(old, deadline=min(deadline, old.deadline), deleted=True)

    # The loop

    async def run(self) -> None:
        """Until nothing is left of the pod."""
        if self.pod.metadata.deletionTimestamp:
            self._doom_deleted(plans.pod_grace(self.pod))
        try:
            while not self._finished:
                await self._wake.wait()
                self._wake.clear()
                try:
                    await self._round()
                except Exception:
                    log.exception("pod %s/%s", self.pod.metadata.namespace, self.pod.metadata.name)
                    self._later(ERROR_PAUSE)
        finally:
            self._close()

    def _close(self) -> None:
        for task in tuple(self._ops.values()):
            task.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._services.probes.forget(self.uid)
        self.status.close()

    async def stop(self) -> None:
        """End the worker; the pod lives on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, *self._ops.values(), return_exceptions=True)

    async def _round(self) -> None:
        sandboxes, containers = await self._services.observe(self.uid)
        if self.admitted is None:
            self.admitted = bool(sandboxes) or self._admit()
        self._note_end()
        if not self.admitted and self._doom is None:
            return
        await self._learn(containers)
        if self._finished:        # while we looked
            return
        self._probe(sandboxes, containers)
        if self._doom is None and self._resizer.consider(self.pod, containers, self._services.resize):
            self._op("resize", self._resize())
        seen = self._see(sandboxes, containers)
        plan = plans.plan(seen)
        if plan.doom is not None:
            self._doom = plan.doom
            self._tell("Normal", plan.doom.reason, plan.doom.message)
            self.wake()
        if self._doom is not None:
            self._cancel_starts()
        self._note_waiting(plan.waiting)
        self._report(seen, plan)
        for step in plan.steps:
            self._perform(step)
        if self._dirty and self._mounted is not None and self._doom is None and "refresh" not in self._ops:
            self._dirty = False
            self._op("refresh", self._refresh())
        times = [t for t in (plan.again, self._mounted.refresh_at if self._mounted is not None else None) if t]
        if times:
            self._later(max(0.01, min(times) - self._now()))
            if self._mounted is not None and self._mounted.refresh_at is not None:
                self._dirty = self._dirty or self._now() >= self._mounted.refresh_at

    def _see(self, sandboxes: tuple[Sandbox, ...], containers: tuple[Container, ...]) -> plans.Seen:
        spec = self.pod.spec
        networked = bool(sandboxes) and (bool(spec.hostNetwork) or bool(sandboxes[0].ips))
        return plans.Seen(
            pod=self.pod,
            now=self._now(),
            sandboxes=sandboxes,
            containers=containers,
            verdicts=self._services.probes.verdicts(self.uid),
            memory=self._memory,
            hashes={c.name: container_hash(c) for c in all_containers(spec)},
            doom=self._doom,
            mounted=self._mounted is not None or self._leftovers(),
            busy=frozenset(self._ops),
            killing=self._killing,
            networked=networked or "sandbox" in self._ops,
            blocked_until=self._blocked_until,
            finishing="finish" in self._ops,
            outgrown=frozenset(self._resizer.outgrown),
        )

    def _leftovers(self) -> bool:
        """For a doomed pod its directory is what has to go, whether or not we mounted it ourselves."""
        return self._doom is not None and self._services.config.pod_directory(self.uid).exists()

    def _note_end(self) -> None:
        """A pod that has ended, or was declared so by somebody, is not started again."""
        status = self.pod.status
        if self._doom is None and status.phase in ("Succeeded", "Failed"):
            deadline = self._now() + plans.pod_grace(self.pod)
            failed = status.phase == "Failed"
            self._doom = plans.Doom(deadline, status.reason or "", status.message or "", failed=failed)

    def _admit(self) -> bool:
        refusal = self._services.admit(self.pod)
        if refusal is None:
            return True
        reason, message = refusal
        self._tell("Warning", reason, message)
        self.status.put(pod_status.rejected(self.pod, reason, message, self._now()))
        return False

    async def _learn(self, containers: tuple[Container, ...]) -> None:
        """Termination messages and image ids, once a container."""
        directory = self._services.config.pod_directory(self.uid)
        for container in containers:
            if container.id not in self._image_ids:
                image = await self._services.runtime.images.status(container.image_id or container.image)
                digests = image.digests if image is not None else ()
                self._image_ids[container.id] = digests[0] if digests else container.image_id
            if container.state is ContainerState.EXITED and container.id not in self._messages:
                file = termination_file(directory, container.name, container.attempt)
                self._messages[container.id] = await asyncio.to_thread(termination.message, container, file)
        known = {c.id for c in containers}
        for table in (self._image_ids, self._messages):
            for id in [id for id in table if id not in known]:
                del table[id]

    def _probe(self, sandboxes: tuple[Sandbox, ...], containers: tuple[Container, ...]) -> None:
        """Running containers are probed, unless the pod is ending."""
        running = {}
        if sandboxes and self._doom is None:
            running = {
                c.id: c for c in containers
                if c.state is ContainerState.RUNNING and c.sandbox_id == sandboxes[0].id and c.id not in self._killing
            }  # fmt: skip
        if sandboxes:
            self._services.probes.ensure(
                self.uid, {c.name: c for c in all_containers(self.pod.spec)}, running,
                self._services.starter.pod_ip(sandboxes[0]), self._tell_probe,
                adopted_ready=self._adopted_ready if self._first else frozenset(),
            )  # fmt: skip
            self._first = False

    def _note_waiting(self, waiting: Mapping[str, plans.Waiting]) -> None:
        for name, why in waiting.items():
            before = self._waiting.get(name)
            if why.event and (before is None or before.reason != why.reason or before.message != why.message):
                kind: Literal["Normal", "Warning"] = "Normal" if why.reason == "ImagePullBackOff" else "Warning"
                self._tell(kind, "BackOff", why.event, name)
                if why.reason == "ImagePullBackOff":
                    self._tell("Warning", "Failed", f"Error: {why.reason}", name)
            self._waiting[name] = why

    def _report(self, seen: plans.Seen, plan: plans.Plan) -> None:
        if self._gone:
            return
        sandbox = seen.sandboxes[0] if seen.sandboxes else None
        ready = sandbox is not None and sandbox.state is SandboxState.READY
        facts = pod_status.Facts(
            now=seen.now,
            host_ips=self._services.config.host_ips,
            sandbox_ips=sandbox.ips if sandbox is not None and (ready or plan.terminal) else (),
            sandbox_ready=ready,
            containers=seen.containers,
            verdicts=seen.verdicts,
            waiting=self._waiting,
            messages=self._messages,
            image_ids=self._image_ids,
            doom=self._doom,
            terminal=plan.terminal,
            start_time=self._started_at,
            granted=self._resizer.grant,
            in_force=self._resizer.in_force,
            resize=self._resizer.progress,
        )
        base = self.status.base
        merged = self.pod if base.metadata.uid != self.uid else base
        self.status.put(pod_status.pod_status(merged, facts))

    # Performing

    def _perform(self, step: plans.Step) -> None:
        match step:
            case plans.MountVolumes():
                self._op(step.key, self._mount())
            case plans.UnmountVolumes():
                self._op(step.key, self._unmount())
            case plans.CreateSandbox(attempt):
                self._op(step.key, self._create_sandbox(attempt))
            case plans.StopSandbox(id):
                self._op(step.key, self._stop_sandbox(id))
            case plans.RemoveSandbox(id):
                self._op(step.key, self._remove_sandbox(id))
            case plans.StartContainer(name, attempt, crashed_at):
                self._op(step.key, self._start_container(name, attempt, crashed_at))
            case plans.KillContainer():
                hurried = step.id in self._killing
                self._killing[step.id] = step.deadline
                key = f"{step.key}#{step.deadline:.1f}" if hurried else step.key
                self._op(key, self._kill(step, hurried=hurried))
            case plans.RemoveContainer(id):
                self._op(step.key, self._services.runtime.remove(id))
            case plans.Finish():
                self._op(step.key, self._finish())
            case _:
                assert_never(step)

    def _op(self, key: str, work: Coroutine[Any, Any, None]) -> None:
        async def run() -> None:
            try:
                await work
            except RuntimeFault as fault:
                log.warning("pod %s/%s: %s: %s", self.pod.metadata.namespace, self.pod.metadata.name, key, fault)
                await self._services.clock.sleep(ERROR_PAUSE)
            except Exception:
                log.exception("pod %s/%s: %s", self.pod.metadata.namespace, self.pod.metadata.name, key)
                await self._services.clock.sleep(ERROR_PAUSE)

        def done(_: asyncio.Task[None]) -> None:
            work.close()       # a task that is cancelled before its first step never gets to its work
            del self._ops[key]
            self.wake()

        if key in self._ops:
            work.close()
            return
        task = self._ops[key] = asyncio.create_task(run(), name=f"{key} of {self.pod.metadata.name}")
        task.add_done_callback(done)

    def _cancel_starts(self) -> None:
        """The pod is ending: give up what only waits (pulls, hooks, objects). Each operation is told once."""
        waiting = ["start", "refresh"]
        if self._mounted is None and not self._unmounting:
            waiting.append("mount")
        for key in waiting:
            task = self._ops.get(key)
            if task is not None and not task.cancelling():
                task.cancel()

    async def _mount(self) -> None:
        self._retry_mount.clear()
        try:
            sources = await self._services.starter.sources(self.pod, ())
            self._mounted = await self._services.volumes.mount(self.pod, sources)
            self._mount_backoff.forget("mount")
        except (MountFault, ConfigError) as fault:
            self._tell("Warning", "FailedMount", str(fault))
            seconds = self._mount_backoff.next("mount", self._services.clock.monotonic())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._retry_mount.wait()

    async def _refresh(self) -> None:
        """Bring live volumes up to date."""
        try:
            sandboxes, _ = await self._services.observe(self.uid)
            ips = sandboxes[0].ips if sandboxes else ()
            sources = await self._services.starter.sources(self.pod, ips)
            self._mounted = await self._services.volumes.mount(self.pod, sources)
        except (MountFault, ConfigError) as fault:
            # The old content stays; running containers are not disturbed.
            self._tell("Warning", "FailedMount", str(fault))
            self._mounted = replace(self._mounted or Mounted({}), refresh_at=self._now() + 10.0)

    async def _resize(self) -> None:
        sandboxes, _ = await self._services.observe(self.uid)
        if sandboxes:
            await self._resizer.apply(self.granted, sandboxes[0], self._services.config.pids_limit)

    async def _unmount(self) -> None:
        self._unmounting = True
        try:
            await self._services.volumes.unmount(self.uid)
            self._mounted = None
        finally:
            self._unmounting = False

    async def _create_sandbox(self, attempt: int) -> None:
        services = self._services
        pod = self.granted
        sandbox: Sandbox | None = None
        if attempt > 0:
            self._tell("Normal", "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
        try:
            async with services.sandbox_slots:
                handler = await handler_of(pod, services.client)
                spec = sandbox_spec(pod, attempt, services.config, services.host_resolver, handler)
                sandbox = await services.runtime.run_sandbox(spec)
                services.owns(sandbox.id, self.uid)
                if not pod.spec.hostNetwork:
                    who = f"{pod.metadata.namespace}/{pod.metadata.name}"
                    ips = await services.network.add(sandbox.netns, sandbox.id, who, host_ports(pod))
                    await services.runtime.set_sandbox_ips(sandbox.id, tuple(ips))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            # The network's faults are its own kind; whatever went wrong, the pod is told and tries again.
            self._tell("Warning", "FailedCreatePodSandBox", f"Failed to create pod sandbox: {error}")
            seconds = self._sandbox_backoff.next("sandbox", services.clock.monotonic())
            self._blocked_until = self._now() + seconds
            if sandbox is not None:
                await self._remove_sandbox(sandbox.id)

    async def _stop_sandbox(self, id: str) -> None:
        await self._services.network.remove(id)
        await self._services.runtime.stop_sandbox(id)

    async def _remove_sandbox(self, id: str) -> None:
        await self._services.network.remove(id)
        await self._services.runtime.remove_sandbox(id)
        self._services.disowns(id)

    async def _start_container(self, name: str, attempt: int, crashed_at: float | None) -> None:
        pod = self.granted
        container = next(c for c in every_container(pod.spec) if c.name == name)
        sandboxes, _ = await self._services.observe(self.uid)
        memory = self._memory.get(name, plans.Memory())
        if crashed_at is not None:
            memory = replace(memory, crash=CrashBackoff.after(memory.crash, crashed_at, self._now()))
            self._memory[name] = memory
        if not sandboxes or self._mounted is None:
            return
        try:
            id = await self._services.starter.start(
                pod, container, attempt, sandboxes[0], self._mounted,
                lambda kind, reason, message: self._tell(cast(Any, kind), reason, message, name),
            )  # fmt: skip
        except StartFault as fault:
            self._failed(name, memory, fault, container.image or "")
            return
        self._resizer.in_force[id] = container.resources
        self._memory[name] = replace(memory, failure=None, restart_count=None)
        self._pull_backoff.forget(name)
        self._waiting.pop(name, None)

    def _failed(self, name: str, memory: plans.Memory, fault: StartFault, image: str) -> None:
        now = self._now()
        retry = self._pull_backoff.next(name, self._services.clock.monotonic()) if fault.pull else fault.retry
        shown = image if fault.reason == "ErrImagePull" else ""
        failure = plans.StartFailure(fault.reason, str(fault), now, now + retry, shown)
        self._memory[name] = replace(memory, failure=failure)
        self._waiting[name] = plans.Waiting(fault.reason, str(fault))

    async def _kill(self, step: plans.KillContainer, *, hurried: bool) -> None:
        """preStop, then the signal, then no mercy. `hurried`: that is under way, with more time than is left now."""
        services = self._services
        try:
            if not hurried:
                await self._announce_end(step)
            await services.runtime.stop(step.id, grace=max(0.0, step.deadline - self._now()))
        finally:
            self._killing.pop(step.id, None)

    async def _announce_end(self, step: plans.KillContainer) -> None:
        self._tell("Normal", "Killing", step.reason or f"Stopping container {step.name}", step.name)
        container = next((c for c in all_containers(self.pod.spec) if c.name == step.name), None)
        if container is None or container.lifecycle is None or container.lifecycle.preStop is None:
            return
        sandboxes, _ = await self._services.observe(self.uid)
        left = step.deadline - self._now()
        if not sandboxes or left <= 0:
            return
        try:
            ip = self._services.starter.pod_ip(sandboxes[0])
            await self._services.hooks.run(container.lifecycle.preStop, container, step.id, ip, timeout=left)
        except HookFault as fault:
            self._tell("Warning", "FailedPreStopHook", f"PreStopHook failed: {fault}", step.name)

    async def _finish(self) -> None:
        services = self._services
        meta = self.pod.metadata
        if not self._gone:
            await self.status.flush()
            try:
                await services.client.delete(
                    core.Pod, meta.name or "", meta.namespace or "", grace_period=0, uid=self.uid,
                    because=(revision_number(self.status.base.metadata.resourceVersion),),
                )
            except (errors.NotFound, errors.Conflict) as error:
                log.debug("pod %s/%s is gone already: %s", meta.namespace, meta.name, error)
            except (errors.StatusError, OSError, TimeoutError) as error:
                log.warning("pod %s/%s could not be deleted: %s", meta.namespace, meta.name, error)
                await services.clock.sleep(ERROR_PAUSE)
                return
        logs = services.config.log_directory(meta.namespace or "", meta.name or "", self.uid)
        await asyncio.to_thread(shutil.rmtree, logs, True)
        self._finished = True
        services.finished(self.uid)

    # Small things

    def _tell_probe(self, name: str, reason: str, message: str, warning: bool) -> None:
        self._tell("Warning" if warning else "Normal", reason, message, name)

    def _tell(self, kind: Literal["Normal", "Warning"], reason: str, message: str, container: str = "") -> None:
        path = ""
        if container:
            path = f"spec.{list_of(self.pod.spec, container)}{{{container}}}"
        self._services.recorder.event(self.pod, kind, reason, message, field_path=path)

    def _now(self) -> float:
        return self._services.clock.now().timestamp()

    def _later(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self.wake)


def _memory_of(pod: core.Pod) -> dict[str, plans.Memory]:
    """What the API remembers from before this process."""
    return {
        s.name: plans.Memory(crash=CrashBackoff.reported(s), restart_count=s.restartCount)
        for s in statuses(pod) if s.containerID or s.lastState.terminated is not None
    }  # fmt: skip


def _messages_of(pod: core.Pod) -> dict[str, str]:
    """Termination messages that were reported before this process started."""
    found = {}
    for status in statuses(pod):
        for state in (status.state, status.lastState):
            if state.terminated is not None and state.terminated.containerID and state.terminated.message:
                found[state.terminated.containerID.partition("://")[2]] = state.terminated.message
    return found
