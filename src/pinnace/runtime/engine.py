"""The built-in runtime: what the kubelet asks for through `cri.py`, with runc, conmon, overlayfs and namespaces.

Everything it knows lies in its state directory, and everything it starts outlives it: a new BuiltinRuntime over the
same directory finds the containers again, those included that ended in between. `open` adopts and sweeps; `close`
leaves the containers running; `destroy_all` leaves nothing at all.

    runtime = BuiltinRuntime(state_dir, image_dir, clock=clock, randomness=randomness, cgroup_root="/pinnace/c/n")
    await runtime.open()
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pinnace.base.clock import Clock
from pinnace.base.randomness import Randomness
from pinnace.runtime import adoption, conmon, containers, execs, limits, linux, oci, pause, sandboxes, streams
from pinnace.runtime.cgroups import Cgroups
from pinnace.runtime.cri import (
    Container,
    ContainerSpec,
    ContainerState,
    ContainerStats,
    ExecResult,
    NotFound,
    Resources,
    RuntimeEvent,
    RuntimeFault,
    Sandbox,
    SandboxSpec,
)
from pinnace.runtime.events import EventHub, ExitWatch
from pinnace.runtime.images.registry import Puller
from pinnace.runtime.images.service import Images
from pinnace.runtime.images.store import ImageStore
from pinnace.runtime.live import Live
from pinnace.runtime.state import ContainerRecord, Layout, SandboxRecord, merged
from pinnace.version import __version__

log = logging.getLogger("pinnace.runtime")

KILL_DEADLINE = 30.0                     # seconds after SIGKILL until we say that a process cannot be killed
EXIT_LOST = 255                          # the code of a container whose end nobody saw (as containerd has it)
START_ERROR = 128                        # the code of a container that could not be started
EXIT_FILE_DEADLINE = 0.5                 # seconds that conmon gets to note the end of a process that is gone,
EXIT_FILE_ATTEMPTS = 60                  # as often as this while it lives
CLOSE_DEADLINE = 10.0
WRITTEN_AGE = 15.0                       # seconds for which the size of a writable layer is not measured again
PREPARING = 32                           # sandboxes and containers that are made at a time

T = TypeVar("T")


class BuiltinRuntime:
    """Implements `cri.Runtime`. One instance a state directory at a time; one image directory serves many."""

    def __init__(
        self, state_dir: Path, image_dir: Path, *, clock: Clock, randomness: Randomness,
        cgroup_root: str = "/pinnace", egress: bool = True, programs: conmon.Programs = conmon.Programs(),  # noqa: B008
        cgroups: Cgroups | None = None,
    ) -> None:  # fmt: skip
        self._layout = Layout(state_dir.absolute())
        self._clock = clock
        self._randomness = randomness
        self._programs = programs
        self._boot = linux.boot_id()
        self._sandboxes: dict[str, SandboxRecord] = {}
        self._containers: dict[str, Live] = {}
        self._hub = EventHub()
        self._watch = ExitWatch(self._layout.exits, self._exited)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._preparing = asyncio.Semaphore(PREPARING)
        self._starting = asyncio.Semaphore(max(4, 2 * (os.cpu_count() or 1)))
        self.cgroup_root = cgroup_root
        self.cgroups = cgroups or Cgroups(clock)
        self._store = ImageStore(image_dir.absolute(), randomness)
        self._images = Images(self._store, Puller(self._store, clock, egress=egress))
        self._host = oci.HostView(
            cgroup_v2=self.cgroups.v2,
            architecture=linux.machine(),
            capabilities=linux.effective_capabilities(),
            oom_score_adj=linux.lowest_oom_score_adj(),
        )

    @property
    def images(self) -> Images:
        return self._images

    @property
    def version(self) -> str:
        return f"pinnace://{__version__}"

    # Opening, adopting, sweeping, closing.

    async def open(self) -> None:
        """Find what is there, take note of what ended meanwhile, and remove what belongs to nothing."""
        if missing := self._programs.missing():
            needed = " and ".join(missing)
            raise RuntimeFault(f"the container runtime needs {needed} (Debian: apt install runc conmon)")
        self._layout.make()
        await self._layout.lock(self._clock)
        found_sandboxes, found_containers = await asyncio.to_thread(adoption.records, self._layout)
        self._sandboxes = {record.id: record for record in found_sandboxes}
        self._containers = {record.id: Live(record) for record in found_containers}
        self._watch.open()
        for live in list(self._containers.values()):
            await self._adopt(live)
        await self.sweep()

    async def _adopt(self, live: Live) -> None:
        """A container of an earlier process of ours."""
        record = live.record
        if record.state is ContainerState.EXITED:
            live.end(record.exit_code)
        elif record.state is ContainerState.CREATED:
            # We died while starting it: start over, should the kubelet want it.
            await adoption.kill_remains(self._layout, self.cgroups, self._clock, record.id)
        elif record.boot == self._boot and linux.started_ticks(record.pid) == record.ticks:
            with contextlib.suppress(RuntimeFault):  # it was released already, as nearly always
                self._release(record)
            live.watch(self._process_gone)
        else:
            # Its exit file is there and was seen, or conmon is about to write it, or it never will.
            await self._await_exit_file(live)

    def _process_gone(self, live: Live) -> None:
        if not live.ended.done():
            self._later(self._await_exit_file(live))

    async def _await_exit_file(self, live: Live) -> None:
        if live.record.boot == self._boot:
            bundle = self._layout.container(live.record.id)
            for _ in range(EXIT_FILE_ATTEMPTS):
                # Looked at before waiting: a conmon that ends in between has written the file.
                alive = conmon.alive(bundle, live.record.id)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(EXIT_FILE_DEADLINE):
                        await asyncio.shield(live.ended)
                if live.ended.done() or not alive:
                    break
        if not live.ended.done():
            self._exited(live.record.id, EXIT_LOST, self._now(), reason="Unknown")

    async def sweep(self) -> None:
        """Remove leftovers: what has no record, containers without a sandbox, and notes of their images."""
        for id in await asyncio.to_thread(adoption.strangers, self._layout, frozenset(self._containers)):
            log.info("sweeping the remains of container %s", id)
            await adoption.kill_remains(self._layout, self.cgroups, self._clock, id)
            await asyncio.to_thread(self._remove_files, id)
        for live in list(self._containers.values()):
            if live.record.sandbox_id not in self._sandboxes:
                await self.remove(live.record.id)
        await adoption.sweep_sandboxes(self._layout, frozenset(self._sandboxes))
        known = frozenset(self._containers)
        await asyncio.to_thread(self._store.sweep, str(self._layout.root), known, self._now())

    async def close(self) -> None:
        """Stop looking; containers run on. What is under way is finished first (10 s at most)."""
        self._watch.close()
        for live in self._containers.values():
            live.unwatch()
        tasks = list(self._tasks)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=CLOSE_DEADLINE)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._images.close()
        self._layout.unlock()

    async def destroy_all(self) -> None:
        """Leave no process, mount, namespace or control group behind."""
        await asyncio.gather(*(self.remove_sandbox(id) for id in list(self._sandboxes)))
        for id in list(self._containers):
            await self.remove(id)
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=CLOSE_DEADLINE)
        await self.cgroups.remove(self.cgroup_root)
        self.cgroups.prune(str(Path(self.cgroup_root).parent))

    # Sandboxes.

    async def run_sandbox(self, spec: SandboxSpec) -> Sandbox:
        return await self._whole(self._run_sandbox(spec))

    async def _run_sandbox(self, spec: SandboxSpec) -> Sandbox:
        id = self._new_id()
        directory = self._layout.sandbox(id)
        if spec.cgroup_parent:
            await asyncio.to_thread(self._ensure_cgroup, spec.cgroup_parent, spec.resources)
        async with self._preparing:
            await linux.on_new_thread(lambda: sandboxes.make(directory, spec))
        record = SandboxRecord(
            id=id, spec=spec, created_at=self._now(), boot=self._boot,
            netns="" if spec.host_network else str(directory / "ns" / "net"),
        )  # fmt: skip
        self._sandboxes[id] = record
        try:
            if spec.share_process_namespace and not spec.host_pid:
                record.pause = await self._start_pause(record)
            self._layout.write(record)
        except BaseException:
            await self._remove_sandbox(id)
            raise
        return self._view(record)

    def _ensure_cgroup(self, path: str, resources: Resources) -> None:
        try:
            self.cgroups.ensure(path, resources)
        except OSError as error:
            raise RuntimeFault(f"failed to create the pod's control group: {error}") from error

    async def _start_pause(self, sandbox: SandboxRecord) -> str:
        program = pause.executable(self._host.architecture)
        if program is None:
            raise RuntimeFault(f"a shared process namespace is not supported on {self._host.architecture}")
        id = self._new_id()
        directory = self._layout.container(id)
        cgroup = f"{self._pod_cgroup(sandbox)}/{id}"
        view = sandboxes.view(self._layout.sandbox(sandbox.id), sandbox.spec, pid_namespace="")
        directory.mkdir(mode=0o700)
        live = Live(ContainerRecord(
            id=id, sandbox_id=sandbox.id, spec=ContainerSpec(name="", image=""), image_id="", cgroup=cgroup,
            log_path=os.devnull, created_at=self._now(), boot=self._boot, stop_signal="SIGKILL", overlay=False,
        ))  # fmt: skip
        self._containers[id] = live
        try:
            await asyncio.to_thread(containers.prepare_pause, directory, program, view, self._host, cgroup)
            self._layout.write(live.record)
            await self.start(id)
        except BaseException:
            await self.remove(id)
            raise
        return id

    async def set_sandbox_ips(self, sandbox: str, ips: tuple[str, ...]) -> None:
        record = self._sandbox(sandbox)
        record.ips = ips
        self._layout.write(record)

    async def stop_sandbox(self, sandbox: str) -> None:
        record = self._sandboxes.get(sandbox)
        if record is None:
            return
        if not record.stopped:
            record.stopped = True
            self._layout.write(record)
        await asyncio.gather(*(
            self.stop(live.record.id, grace=0) for live in self._of(sandbox) if live.record.id != record.pause
        ))  # fmt: skip
        if record.pause:
            await self.remove(record.pause)
        self._hub.publish(RuntimeEvent("stopped", sandbox, ""))

    async def remove_sandbox(self, sandbox: str) -> None:
        await self._whole(self._remove_sandbox(sandbox))

    async def _remove_sandbox(self, sandbox: str) -> None:
        record = self._sandboxes.get(sandbox)
        if record is None:
            return
        record.stopped = True
        await asyncio.gather(*(self.remove(live.record.id) for live in self._of(sandbox)))
        await asyncio.to_thread(sandboxes.remove, self._layout.sandbox(sandbox))
        self._sandboxes.pop(sandbox, None)
        parent = record.spec.cgroup_parent
        # Another attempt of the same pod has the same control group.
        if parent and all(other.spec.cgroup_parent != parent for other in self._sandboxes.values()):
            await self.cgroups.remove(parent)
        self._hub.publish(RuntimeEvent("deleted", sandbox, ""))

    async def sandboxes(self) -> tuple[Sandbox, ...]:
        return tuple(self._view(record) for record in self._sandboxes.values())

    def _view(self, record: SandboxRecord) -> Sandbox:
        alive = record.boot == self._boot and sandboxes.alive(self._layout.sandbox(record.id), record.spec)
        if record.pause and alive:
            live = self._containers.get(record.pause)
            alive = live is not None and live.record.state is ContainerState.RUNNING
        return record.view(alive=alive)

    def _sandbox(self, id: str) -> SandboxRecord:
        record = self._sandboxes.get(id)
        if record is None:
            raise NotFound(f'sandbox "{id}" not found')
        return record

    def _of(self, sandbox: str) -> list[Live]:
        return [live for live in self._containers.values() if live.record.sandbox_id == sandbox]

    def _pod_cgroup(self, record: SandboxRecord) -> str:
        return record.spec.cgroup_parent or f"{self.cgroup_root}/{record.id}"

    # Containers: create, start, stop, remove.

    async def create(self, sandbox: str, spec: ContainerSpec) -> str:
        return await self._whole(self._create(sandbox, spec))

    async def _create(self, sandbox: str, spec: ContainerSpec) -> str:
        record = self._sandbox(sandbox)
        if record.stopped:
            raise RuntimeFault(f'sandbox container "{sandbox}" is not running')
        id = self._new_id()
        directory = self._layout.container(id)
        cgroup = f"{self._pod_cgroup(record)}/{id}"
        pid_namespace = self._pid_namespace(record, spec)
        view = sandboxes.view(self._layout.sandbox(sandbox), record.spec, pid_namespace=pid_namespace)
        privileged = spec.security.privileged
        host = replace(self._host, devices=containers.host_devices()) if privileged else self._host
        log_path = str(Path(record.spec.log_directory, spec.log_path)) if spec.log_path else os.devnull

        def make() -> containers.Prepared:
            image = self._store.acquire(spec.image, id, str(self._layout.root))
            return containers.prepare(directory, spec, image, self._store, view, host, cgroup, log_path)

        try:
            async with self._preparing:
                prepared = await linux.on_new_thread(make)
            if record.stopped:
                raise RuntimeFault(f'sandbox container "{sandbox}" is not running')
            live = Live(ContainerRecord(
                id=id, sandbox_id=sandbox, spec=spec, image_id=prepared.image_id, cgroup=cgroup, log_path=log_path,
                created_at=self._now(), boot=self._boot, stop_signal=prepared.stop_signal,
                own_pid_namespace=pid_namespace == "", resources=spec.resources,
            ))  # fmt: skip
            self._layout.write(live.record)
        except BaseException:
            await asyncio.to_thread(self._remove_files, id)
            raise
        self._containers[id] = live
        self._hub.publish(RuntimeEvent("created", sandbox, id))
        return id

    def _pid_namespace(self, sandbox: SandboxRecord, spec: ContainerSpec) -> str | None:
        if spec.target_pid_of:
            target = self._live(spec.target_pid_of).record
            if target.state is not ContainerState.RUNNING:
                raise RuntimeFault(f'container "{target.id}" is not running')
            return f"/proc/{target.pid}/ns/pid"
        if sandbox.spec.host_pid:
            return None
        if sandbox.pause:
            return f"/proc/{self._live(sandbox.pause).record.pid}/ns/pid"
        return ""

    async def start(self, container: str) -> None:
        await self._whole(self._start(self._live(container)))

    async def _start(self, live: Live) -> None:
        record = live.record
        async with live.lock, self._starting:
            if live.removed:
                raise NotFound(f'container "{record.id}" not found')
            if record.state is not ContainerState.CREATED:
                raise RuntimeFault(f'container "{record.id}" is in state {record.state}, cannot be started')
            bundle, spec = self._layout.container(record.id), record.spec
            args = conmon.command(
                self._programs, record.id, bundle, runc_root=self._layout.runc, exits=self._layout.exits,
                log=record.log_path, name=spec.name, stdin=spec.stdin, stdin_once=spec.stdin_once, tty=spec.tty,
            )  # fmt: skip
            (self._layout.exits / record.id).unlink(missing_ok=True)
            try:
                record.pid = await conmon.launch(args, bundle)
                record.ticks = linux.started_ticks(record.pid)
                record.started_at = self._now()
                record.state = ContainerState.RUNNING
                self._layout.write(record)
                self._release(record)
            except BaseException as error:
                await self._start_failed(live, str(error))
                raise
        live.watch(self._process_gone)
        self._later(self._place_conmon(bundle))
        if spec.name:
            self._hub.publish(RuntimeEvent("started", record.sandbox_id, record.id))

    def _release(self, record: ContainerRecord) -> None:
        """Let it run its command, for which it waits."""
        alive = lambda: linux.started_ticks(record.pid) == record.ticks != 0  # noqa: E731
        conmon.release(self._layout.runc, record.id, alive)

    async def _start_failed(self, live: Live, message: str) -> None:
        record = live.record
        record.state, record.exit_code, record.reason = ContainerState.EXITED, START_ERROR, "StartError"
        record.message, record.finished_at = message, self._now()
        self._layout.write(record)
        live.end(START_ERROR)
        if record.pid:
            linux.send_signal(record.pid, record.ticks, signal.SIGKILL)
        await self.cgroups.remove(record.cgroup)
        await adoption.kill_remains(self._layout, self.cgroups, self._clock, record.id)

    async def _place_conmon(self, bundle: Path) -> None:
        """Out of our own control group: whoever stops our service must not stop the containers."""
        pid = conmon.conmon_pid(bundle)
        if pid:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self.cgroups.join, f"{self.cgroup_root}/conmon", pid)

    def _exited(self, id: str, code: int, when: float, *, reason: str = "") -> None:
        """conmon has written the exit code."""
        live = self._containers.get(id)
        if live is None or live.record.state is not ContainerState.RUNNING:
            return
        record = live.record
        oom = self.cgroups.oom_kills(record.cgroup) > 0 or (self._layout.container(id) / "oom").exists()
        record.state, record.exit_code, record.finished_at = ContainerState.EXITED, code, when
        record.reason = reason or ("OOMKilled" if oom else "Completed" if code == 0 else "Error")
        if self._layout.container(id).is_dir():
            self._layout.write(record)
        live.end(code)
        if not record.own_pid_namespace:
            self.cgroups.kill(record.cgroup)  # what it left running in the shared namespace
        if oom:
            self._hub.publish(RuntimeEvent("oom", record.sandbox_id, id))
        self._hub.publish(RuntimeEvent("stopped", record.sandbox_id, id if record.spec.name else ""))

    async def stop(self, container: str, *, grace: float) -> None:
        live = self._containers.get(container)
        if live is None or live.record.state is not ContainerState.RUNNING:
            return
        record = live.record
        if grace > 0:
            linux.send_signal(record.pid, record.ticks, conmon.signal_number(record.stop_signal))
            try:
                async with asyncio.timeout(grace):
                    await asyncio.shield(live.ended)
                return
            except TimeoutError:
                pass
        await self._kill(live)

    async def _kill(self, live: Live) -> None:
        record = live.record
        if not record.own_pid_namespace:
            self.cgroups.kill(record.cgroup)
        linux.send_signal(record.pid, record.ticks, signal.SIGKILL)
        try:
            async with asyncio.timeout(KILL_DEADLINE):
                await asyncio.shield(live.ended)
        except TimeoutError:
            raise RuntimeFault(
                f"container {record.id} did not end {KILL_DEADLINE:.0f} s after it was killed"
            ) from None

    async def remove(self, container: str) -> None:
        live = self._containers.get(container)
        if live is not None:
            await self._whole(self._remove(live))

    async def _remove(self, live: Live) -> None:
        container = live.record.id
        async with live.lock:
            if live.removed:
                return
            if live.record.state is ContainerState.RUNNING:
                await self._kill(live)
            await self.cgroups.remove(live.record.cgroup)
            await asyncio.to_thread(self._remove_files, container)
            self._containers.pop(container, None)
            live.removed = True
            live.end(live.record.exit_code)
        if live.record.spec.name:
            self._hub.publish(RuntimeEvent("deleted", live.record.sandbox_id, container))

    def _remove_files(self, id: str) -> None:
        containers.remove(self._layout.container(id))
        shutil.rmtree(self._layout.runc / id, ignore_errors=True)
        (self._layout.exits / id).unlink(missing_ok=True)
        self._store.release(id)

    async def containers(self, sandbox: str | None = None) -> tuple[Container, ...]:
        return tuple(
            live.record.view() for live in self._containers.values()
            if live.record.spec.name and (sandbox is None or live.record.sandbox_id == sandbox)
        )  # fmt: skip

    async def container(self, container: str) -> Container:
        return self._live(container).record.view()

    async def wait(self, container: str) -> int:
        """The container's exit code, once it has ended. (Beyond CRI: for the command line and for tests.)"""
        return await asyncio.shield(self._live(container).ended)

    def _live(self, id: str) -> Live:
        live = self._containers.get(id)
        if live is None:
            raise NotFound(f'container "{id}" not found')
        return live

    def _running(self, id: str) -> ContainerRecord:
        record = self._live(id).record
        if record.state is not ContainerState.RUNNING:
            raise RuntimeFault(f"container {id} is not running")
        return record

    # Inside a running container.

    async def exec(
        self, container: str, command: tuple[str, ...], *, stdin: bool = False, tty: bool = False,
        stdout: bool = True, stderr: bool = True,
    ) -> streams.ExecProcess:  # fmt: skip
        record = self._running(container)
        files = execs.ExecFiles(self._layout.container(container), self._randomness.token(8).hex())
        return execs.start(
            self._programs, self._layout.runc, record.id, files, command, stdin=stdin, stdout=stdout,
            stderr=stderr, tty=tty,
        )  # fmt: skip

    async def exec_sync(self, container: str, command: tuple[str, ...], *, timeout: float) -> ExecResult:
        session = await self.exec(container, command)
        return await execs.to_the_end(session, " ".join(command), timeout)

    async def attach(self, container: str, *, stdin: bool, stdout: bool, stderr: bool) -> streams.AttachSession:
        live = self._live(container)
        record = self._running(container)
        return streams.AttachSession(
            self._layout.container(container), stdin=stdin and record.spec.stdin, stdout=stdout, stderr=stderr,
            exited=lambda: asyncio.shield(live.ended),
        )  # fmt: skip

    async def port_forward(self, sandbox: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        record = self._sandbox(sandbox)
        if record.stopped:
            raise RuntimeFault(f'sandbox container "{sandbox}" is not running')
        sock = await linux.on_new_thread(lambda: sandboxes.connect(record.netns, port))
        return await asyncio.open_connection(sock=sock)

    async def reopen_log(self, container: str) -> None:
        record = self._running(container)
        if not conmon.control(self._layout.container(record.id), conmon.CTL_REOPEN_LOG):
            raise RuntimeFault(f"conmon of container {container} does not answer")

    async def update_resources(self, container: str, resources: Resources) -> None:
        live = self._live(container)
        async with live.lock:
            await limits.apply(self.cgroups, live.record.cgroup, resources, f"container {container}")
            live.record.resources = merged(live.record.resources, resources)
            self._layout.write(live.record)

    async def update_sandbox_resources(self, sandbox: str, resources: Resources) -> None:
        await limits.apply(self.cgroups, self._pod_cgroup(self._sandbox(sandbox)), resources, f"sandbox {sandbox}")

    async def stats(self, container: str) -> ContainerStats:
        record, live = self._running(container), self._live(container)

        def read() -> ContainerStats:
            group = self.cgroups.stats(record.cgroup)
            if self._clock.monotonic() - live.written[0] > WRITTEN_AGE:
                live.written = (
                    self._clock.monotonic(), containers.upper_usage(self._layout.container(container))
                )
            return ContainerStats(
                container_id=container, name=record.spec.name, sandbox_id=record.sandbox_id, timestamp=self._now(),
                cpu_nanoseconds=group.cpu_nanoseconds, memory_usage=group.memory_usage,
                memory_working_set=group.memory_working_set, memory_rss=group.memory_rss, pids=group.pids,
                rootfs_bytes=live.written[1],
            )  # fmt: skip

        try:
            return await asyncio.to_thread(read)
        except FileNotFoundError:
            raise NotFound(f'container "{container}" has no control group') from None

    def events(self) -> AsyncIterator[RuntimeEvent]:
        return self._hub.subscribe()

    # Small things.

    def _now(self) -> float:
        return self._clock.now().timestamp()

    def _new_id(self) -> str:
        return self._randomness.token(32).hex()

    def _later(self, work: Coroutine[None, None, T]) -> asyncio.Task[T]:
        """Run something in the background; `close` waits for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("runtime operation failed: %s", error)

    async def _whole(self, work: Coroutine[None, None, T]) -> T:
        """Finish what changes something even when the caller gives up half way: nothing is left in between."""
        return await asyncio.shield(self._later(work))
