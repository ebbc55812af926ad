"""A pod on a node that does not exist: a pure machine under the real kubelet's plan.

`advance` brings a pod's `State` up to a moment: what its containers' courses and the images' lives make happen until
then happens at its very time, and after each of these `pod_plan.plan` says, as it does to a real worker, what is to
be done. What a worker would have a runtime do is done here to data. The caller tells what was told, writes the status
(`status`), and comes again at `again`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Literal, assert_never

import msgspec
from msgspec.structs import replace

from pinnace.api.core import v1 as core
from pinnace.base.backoff import Backoff
from pinnace.kubelet import images, pod_plan
from pinnace.kubelet.crash_backoff import CrashBackoff
from pinnace.kubelet.pod_plan import Doom, Memory, Seen, StartFailure, Verdict, Waiting
from pinnace.kubelet.pod_status import Facts, pod_status, statuses
from pinnace.kubelet.policy import container_named, every_container
from pinnace.kubelet.simulated.course import Course, Exit, Mark, course
from pinnace.kubelet.simulated.life import FOREVER, Life
from pinnace.runtime.cri import Container, ContainerState, PodIdentity, Sandbox, SandboxState

MOMENTS = 1000              # at most so many are gone through in one call
KILLED = 137
LOST = Exit(255, "Unknown")  # of containers whose machine went down
IMAGE_BYTES = 50 << 20
_HASH = "io.kubernetes.container.hash"
_STARTING, _IDLE = frozenset(("start",)), frozenset[str]()      # what is under way
_PULL_BACKOFF = Backoff(initial=10.0, maximum=300.0)


class Told(msgspec.Struct, frozen=True, gc=False):
    """An event about the pod."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    container: str = ""


class Place(msgspec.Struct, frozen=True):
    """The node as its pods see it. `drift`: by how many seconds its clock is ahead."""

    host_ip: str
    pod_ip: str
    life: Callable[[core.Pod, core.Container], Life]
    images: Collection[str] = ()
    drift: float = 0.0


class Starting(msgspec.Struct, frozen=True, gc=False):
    """A container on its way: its image is pulled until `pulled`, it runs from `until` on."""

    name: str
    attempt: int
    life: Life
    asked: float
    pulled: float | None    # None: the image is there
    until: float


class Ending(msgspec.Struct, frozen=True, gc=False):
    """A container that was told to stop."""

    at: float
    deadline: float         # on the node's clock
    exit: Exit


class State(msgspec.Struct, frozen=True, gc=False):
    """What there is of the pod on its node. Times are true ones, but for what its containers' status shows."""

    since: float
    sandboxes: tuple[Sandbox, ...] = ()
    containers: tuple[Container, ...] = ()                           # the newest first; created_at is the true start
    courses: Mapping[str, Course] = msgspec.field(default_factory=dict)      # by container id
    passed: Mapping[str, int] = msgspec.field(default_factory=dict)          # marks of the course, by container id …
    verdicts: Mapping[str, Verdict] = msgspec.field(default_factory=dict)    # … and what the last of them says
    memory: Mapping[str, Memory] = msgspec.field(default_factory=dict)
    pulls: Mapping[str, int] = msgspec.field(default_factory=dict)           # failures in a row, by container name
    waiting: Mapping[str, Waiting] = msgspec.field(default_factory=dict)
    starting: Starting | None = None
    endings: Mapping[str, Ending] = msgspec.field(default_factory=dict)      # by container id
    doom: Doom | None = None
    mounted: bool = True
    terminal: bool = False
    finished: bool = False                                           # nothing is left: the object shall go


class Advanced(msgspec.Struct, frozen=True, gc=False):
    state: State
    told: tuple[Told, ...] = ()
    pulled: tuple[tuple[str, bool], ...] = ()     # images that the node has got, and whether its status shows them
    again: float | None = None        # when to come again, if nothing else happens


def advance(pod: core.Pod, state: State, place: Place, now: float) -> Advanced:
    """The pod at `now`, under what the API wants of it."""
    return _Machine(pod, state, place).run(now)


def status(pod: core.Pod, state: State, place: Place, now: float) -> core.PodStatus:
    """What the node says about the pod."""
    sandbox = state.sandboxes[0] if state.sandboxes else None
    ready = sandbox is not None and sandbox.state is SandboxState.READY
    return pod_status(
        pod,
        Facts(
            now=now + place.drift, host_ips=(place.host_ip,),
            sandbox_ips=sandbox.ips if sandbox is not None and (ready or state.terminal) else (), sandbox_ready=ready,
            containers=state.containers, verdicts=state.verdicts, waiting=state.waiting, doom=state.doom,
            terminal=state.terminal, start_time=state.since,
        ),
    )  # fmt: skip


def machine_lost(state: State, now: float, drift: float) -> State:
    """The machine went down at that moment; this is what it finds when it comes up again."""
    dead = tuple(
        c if c.state is ContainerState.EXITED else _ended(c, LOST, now + drift) for c in state.containers
    )  # fmt: skip
    return replace(
        state, containers=dead, sandboxes=tuple(_stopped(s) for s in state.sandboxes),
        starting=None, endings={}, pulls={}, waiting={}, memory={},
        doom=None if state.doom is None or state.doom.deleted else state.doom,
    )  # fmt: skip


def crashed(state: State, container: str, result: Exit, now: float) -> State:
    """The running container of that name ends now, so. KeyError if none runs."""
    running = [c for c in state.containers if c.name == container and c.state is ContainerState.RUNNING]
    if not running:
        raise KeyError(f"container {container!r} does not run")
    return replace(state, endings={**state.endings, running[0].id: Ending(now, FOREVER, result)})


def adopted(pod: core.Pod, place: Place, now: float) -> State:
    """The state of a pod that is new to us. If the API knows it from before this process, its containers have
    gone on meanwhile."""
    if not pod.status.containerStatuses and not pod.status.initContainerStatuses:
        return State(since=now + place.drift, sandboxes=(_sandbox(pod, place, 0, now),))
    found: list[Container] = []
    courses: dict[str, Course] = {}
    wanted = {c.name: c for c in every_container(pod.spec)}
    for known in statuses(pod):
        container = wanted.get(known.name)
        if container is None or not known.containerID:
            continue
        running, ended = known.state.running, known.state.terminated or known.lastState.terminated
        if running is not None:
            began = _seconds(running.startedAt, now + place.drift)
            made = replace(
                _made(pod, container, known.restartCount, began, began - place.drift),
                id=known.containerID.partition("://")[2],
            )  # fmt: skip
            found.append(made)
            courses[made.id] = course(pod, container, place.life(pod, container), known.restartCount)
        elif ended is not None:
            attempt = known.restartCount
            began = _seconds(ended.startedAt, now)
            made = _made(pod, container, attempt, began, began)
            result = Exit(ended.exitCode, ended.reason or "Error", ended.message or "")
            made = replace(made, id=(ended.containerID or "").partition("://")[2] or made.id)
            found.append(_ended(made, result, _seconds(ended.finishedAt, now)))
    memory = {
        s.name: Memory(crash=CrashBackoff.reported(s), restart_count=s.restartCount)
        for s in statuses(pod) if s.containerID or s.lastState.terminated is not None
    }  # fmt: skip
    sandboxes = (_sandbox(pod, place, 0, now),) if found else ()
    # What lies behind in a course has been seen before; its end, if it is overdue, is still to come.
    passed, verdicts = {}, {}
    for made in found:
        if made.id in courses:
            marks = courses[made.id].marks
            gone = [n for n, mark in enumerate(marks) if mark.exit is None and made.created_at + mark.at <= now]
            passed[made.id] = gone[-1] if gone else 0
            verdicts[made.id] = marks[passed[made.id]].verdict
    return State(
        since=now + place.drift, sandboxes=sandboxes, containers=tuple(found), courses=courses, passed=passed,
        verdicts=verdicts, memory=memory,
    )  # fmt: skip


def _seconds(text: str | None, default: float) -> float:
    return datetime.fromisoformat(text).timestamp() if text else default


def _sandbox(pod: core.Pod, place: Place, attempt: int, now: float) -> Sandbox:
    about = pod.metadata
    identity = PodIdentity(about.name or "", about.namespace or "", about.uid or "", attempt)
    ips = () if pod.spec.hostNetwork else (place.pod_ip,)
    return Sandbox(f"{about.uid}-{attempt}", identity, SandboxState.READY, now, "", {}, {}, ips)


def _stopped(sandbox: Sandbox) -> Sandbox:
    return sandbox if sandbox.state is SandboxState.NOTREADY else replace(sandbox, state=SandboxState.NOTREADY)


def _is_first_start(steps: tuple[pod_plan.Step, ...]) -> bool:
    """That a container is started which has not run: all else of the plan is as it would be if asked again."""
    step = steps[0]
    return isinstance(step, pod_plan.StartContainer) and step.crashed_at is None and not steps[1:]


def _made(
    pod: core.Pod, container: core.Container, attempt: int, began: float, created: float, sandbox: str = ""
) -> Container:
    """One that runs; `began` by the node's clock."""
    return Container(
        id=f"{pod.metadata.uid}-{container.name}-{attempt}", sandbox_id=sandbox or f"{pod.metadata.uid}-0",
        name=container.name, attempt=attempt, state=ContainerState.RUNNING, image=container.image or "",
        image_id=container.image or "", created_at=created, started_at=began, finished_at=0.0, exit_code=0, reason="",
        message="", pid=0, labels={}, annotations={_HASH: container.image or ""}, log_path="",
    )  # fmt: skip


def _ended(container: Container, result: Exit, at: float) -> Container:
    return replace(
        container, state=ContainerState.EXITED, finished_at=at, exit_code=result.code, reason=result.reason,
        message=result.message,
    )  # fmt: skip


class _Machine:
    """A state in the making; lives for one `advance`."""

    def __init__(self, pod: core.Pod, state: State, place: Place) -> None:
        self.pod = pod
        self.place = place
        self.since = state.since
        self.sandboxes = list(state.sandboxes)
        self.containers = list(state.containers)
        self.courses = dict(state.courses)
        self.passed = dict(state.passed)
        self.verdicts = dict(state.verdicts)
        self.memory = dict(state.memory)
        self.pulls = dict(state.pulls)
        self.waiting = dict(state.waiting)
        self.starting = state.starting
        self.endings = dict(state.endings)
        self.doom = state.doom
        self.mounted = state.mounted
        self.terminal = state.terminal
        self.finished = state.finished
        self.now = 0.0
        self.wall = 0.0        # by the node's own clock
        self.hashes = {c.name: c.image or "" for c in pod.spec.containers or ()}
        if pod.spec.initContainers:
            self.hashes.update((c.name, c.image or "") for c in pod.spec.initContainers)
        self.told: list[Told] = []
        self.pulled: list[tuple[str, bool]] = []

    def _move(self, now: float) -> None:
        self.now, self.wall = now, now + self.place.drift

    def run(self, now: float) -> Advanced:
        due = self._due()
        for _ in range(MOMENTS):
            if due > now:
                break
            self._move(due)
            self._happen()
            due = self._settle()
        else:
            return Advanced(self._state(), tuple(self.told), tuple(self.pulled), now)
        if self.now != now:
            self._move(now)
            due = self._settle()
        return Advanced(self._state(), tuple(self.told), tuple(self.pulled), None if due == FOREVER else due)

    def _state(self) -> State:
        return State(
            self.since, tuple(self.sandboxes), tuple(self.containers), self.courses, self.passed, self.verdicts,
            self.memory, self.pulls, self.waiting, self.starting, self.endings, self.doom, self.mounted, self.terminal,
            self.finished,
        )  # fmt: skip

    # What happens by itself

    def _due(self) -> float:
        """When something happens by itself next."""
        due = FOREVER
        if self.starting is not None:
            due = self.starting.until if self.starting.pulled is None else self.starting.pulled
        for container in self.containers:
            mark = self._next(container)
            if mark is not None and container.created_at + mark.at < due:
                due = container.created_at + mark.at
        return min(due, *(e.at for e in self.endings.values())) if self.endings else due

    def _next(self, container: Container) -> Mark | None:
        if container.state is not ContainerState.RUNNING:
            return None
        marks, passed = self.courses[container.id].marks, self.passed[container.id]
        return marks[passed + 1] if passed + 1 < len(marks) else None

    def _happen(self) -> None:
        """Everything that is due now."""
        for index, container in enumerate(self.containers):
            ending = self.endings.get(container.id)
            if ending is not None and ending.at <= self.now:
                self._end(index, ending.exit)
                continue
            while (mark := self._next(self.containers[index])) is not None and (
                container.created_at + mark.at <= self.now
            ):
                self.passed[container.id] += 1
                self.verdicts[container.id] = mark.verdict
                for message in mark.told.splitlines():
                    self._tell("Warning", "Unhealthy", message, container.name)
                if mark.exit is not None:
                    self._end(index, mark.exit)
        starting = self.starting
        if starting is None:
            return
        if starting.pulled is not None and starting.pulled <= self.now:
            self._pull_done(starting)
        elif starting.pulled is None and starting.until <= self.now:
            self._start_done(starting)

    def _end(self, index: int, result: Exit) -> None:
        container = self.containers[index]
        self.containers[index] = _ended(container, result, self.wall)
        self.endings.pop(container.id, None)

    # What the plan says

    def _settle(self) -> float:
        """Do what is to be done until nothing is; the true time at which there is something to do again."""
        self._note_end()
        for _ in range(MOMENTS):
            if self.doom is not None and self.doom.deleted and self._is_over():
                return self._due()
            plan = pod_plan.plan(self._seen())
            if plan.doom is not None:
                self.doom = plan.doom
                self._tell("Normal", plan.doom.reason, plan.doom.message)
            if self.doom is not None:
                self.starting = None
            if plan.waiting:
                self._note_waiting(plan.waiting)
            self.terminal = plan.terminal
            for step in plan.steps:
                self._perform(step)
            if plan.terminal:
                self._close()
            elif plan.steps and not (self.starting is not None and _is_first_start(plan.steps)):
                continue
            due = self._due()
            if plan.again is None:
                return due
            # A hair later where the clock is off: the difference is rounded, and must not fall short.
            return min(due, plan.again - self.place.drift + 1e-6 if self.place.drift else plan.again)
        raise RuntimeError(f"the plan of pod {self.pod.metadata.namespace}/{self.pod.metadata.name} has no end")

    def _is_over(self) -> bool:
        """A deleted pod of which nothing runs: that sandbox and volumes go takes no time here."""
        if any(c.state is ContainerState.RUNNING for c in self.containers):
            return False
        self.starting, self.sandboxes = None, []
        self.terminal = self.finished = True
        return True

    def _close(self) -> None:
        """Nothing runs or will: that sandboxes are stopped and volumes go takes no time here."""
        self.sandboxes = [_stopped(s) for s in self.sandboxes]
        self.mounted = False

    def _note_end(self) -> None:
        """A pod that is deleted, has ended, or was declared so by somebody, is not started again."""
        status = self.pod.status
        if self.pod.metadata.deletionTimestamp:
            old, deadline = self.doom, self.wall + pod_plan.pod_grace(self.pod)
            if old is None:
                self.doom = Doom(deadline, deleted=True)
            elif not old.deleted:
                self.doom = replace(old, deadline=min(deadline, old.deadline), deleted=True)
            elif deadline < old.deadline - 0.5:
                self.doom = replace(old, deadline=deadline)
        elif self.doom is None and status.phase in ("Succeeded", "Failed"):
            deadline = self.wall + pod_plan.pod_grace(self.pod)
            self.doom = Doom(deadline, status.reason or "", status.message or "", failed=status.phase == "Failed")

    def _seen(self) -> Seen:
        return Seen(
            pod=self.pod, now=self.wall, sandboxes=tuple(self.sandboxes), containers=tuple(self.containers),
            verdicts=self.verdicts, memory=self.memory, doom=self.doom,
            mounted=self.mounted and not (self.doom and self.doom.deleted),
            busy=_STARTING if self.starting is not None else _IDLE,
            killing={id: e.deadline for id, e in self.endings.items()} if self.endings else {}, hashes=self.hashes,
        )  # fmt: skip

    def _note_waiting(self, waiting: Mapping[str, Waiting]) -> None:
        for name, why in waiting.items():
            before = self.waiting.get(name)
            if why.event and (before is None or before.reason != why.reason or before.message != why.message):
                pull = why.reason == "ImagePullBackOff"
                self._tell("Normal" if pull else "Warning", "BackOff", why.event, name)
                if pull:
                    self._tell("Warning", "Failed", f"Error: {why.reason}", name)
            self.waiting[name] = why

    def _perform(self, step: pod_plan.Step) -> None:
        match step:
            case pod_plan.MountVolumes():
                self.mounted = True
            case pod_plan.UnmountVolumes():
                self.mounted = False
            case pod_plan.CreateSandbox(attempt):
                if attempt > 0:
                    self._tell("Normal", "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
                self.sandboxes.insert(0, _sandbox(self.pod, self.place, attempt, self.now))
            case pod_plan.StopSandbox(id):
                self.sandboxes = [_stopped(s) if s.id == id else s for s in self.sandboxes]
            case pod_plan.RemoveSandbox(id):
                # Its containers stay: the last status is made from them.
                self.sandboxes = [s for s in self.sandboxes if s.id != id]
            case pod_plan.StartContainer(name, attempt, crashed_at):
                self._start(name, attempt, crashed_at)
            case pod_plan.KillContainer():
                self._kill(step)
            case pod_plan.RemoveContainer(id):
                self._remove(id)
            case pod_plan.Finish():
                self.finished = True      # `_is_over` has come first
            case _:
                assert_never(step)

    def _remove(self, id: str) -> None:
        self.containers = [c for c in self.containers if c.id != id]
        for table in (self.courses, self.passed, self.verdicts, self.endings):
            table.pop(id, None)

    def _start(self, name: str, attempt: int, crashed_at: float | None) -> None:
        container = container_named(self.pod.spec, name)
        if crashed_at is not None:
            memory = self.memory.get(name, Memory())
            self.memory[name] = replace(memory, crash=CrashBackoff.after(memory.crash, crashed_at, self.wall))
        life, image = self.place.life(self.pod, container), container.image or ""
        policy = images.policy(container)
        present = image in self.place.images or image in [name for name, _ in self.pulled]
        starting = Starting(name, attempt, life, self.now, None, self.now + life.start)
        if present and policy != "Always":
            words = "already present on machine and can be accessed by the pod"
            self._tell_well(life, "Pulled", f'Container image "{image}" {words}', name)
        elif policy == "Never":
            message = f'Container image "{image}" is not present with pull policy of Never'
            self._tell("Warning", "ErrImageNeverPull", message, name)
            self._failed(name, "ErrImageNeverPull", message, "")
            return
        else:
            self._tell_well(life, "Pulling", f'Pulling image "{image}"', name)
            takes = 0.0 if present else life.pull
            starting = replace(starting, pulled=self.now + takes, until=self.now + takes + life.start)
        self.starting = starting
        self._happen()      # what takes no time at all

    def _pull_done(self, starting: Starting) -> None:
        name, life = starting.name, starting.life
        image = container_named(self.pod.spec, name).image or ""
        if life.pull_error:
            self._tell("Warning", "Failed", f'Failed to pull image "{image}": {life.pull_error}', name)
            self._failed(name, "ErrImagePull", life.pull_error, image)
            return
        took = f"{self.now - starting.asked:.3f}s"
        self._tell_well(
            life, "Pulled",
            f'Successfully pulled image "{image}" in {took} ({took} including waiting). '
            f"Image size: {IMAGE_BYTES} bytes.", name,
        )  # fmt: skip
        self.pulled.append((image, not life.quiet))
        self.starting = replace(starting, pulled=None)
        if starting.until <= self.now:
            self._start_done(self.starting)

    def _failed(self, name: str, reason: str, message: str, image: str) -> None:
        self._tell("Warning", "Failed", f"Error: {reason}", name)
        failures = self.pulls.get(name, 0)
        self.pulls[name] = failures + 1
        failure = StartFailure(reason, message, self.wall, self.wall + _PULL_BACKOFF.delay(failures), image)
        self.memory[name] = replace(self.memory.get(name, Memory()), failure=failure)
        self.waiting[name] = Waiting(reason, message)
        self.starting = None

    def _start_done(self, starting: Starting) -> None:
        name, life, attempt = starting.name, starting.life, starting.attempt
        container = container_named(self.pod.spec, name)
        self._tell_well(life, "Created", "Container created", name)
        self._tell_well(life, "Started", "Container started", name)
        sandbox = self.sandboxes[0].id if self.sandboxes else ""
        made = _made(self.pod, container, attempt, self.wall, self.now, sandbox)
        self.containers.insert(0, made)
        self.courses[made.id] = marked = course(self.pod, container, life, attempt)
        self.passed[made.id], self.verdicts[made.id] = 0, marked.marks[0].verdict
        for message in marked.marks[0].told.splitlines():
            self._tell("Warning", "Unhealthy", message, name)
        self.memory[name] = replace(self.memory.get(name, Memory()), failure=None, restart_count=None)
        self.pulls.pop(name, None)
        self.waiting.pop(name, None)
        self.starting = None

    def _kill(self, step: pod_plan.KillContainer) -> None:
        ending = self.endings.get(step.id)
        known = self.courses.get(step.id)
        life = known.life if known is not None else Life()
        if ending is None and not (life.quiet and not step.reason):
            self._tell("Normal", "Killing", step.reason or f"Stopping container {step.name}", step.name)
        at = self.now + life.stop if ending is None else ending.at
        result = Exit(life.stop_code, "Completed" if life.stop_code == 0 else "Error")
        if at > step.deadline - self.place.drift:
            at, result = step.deadline - self.place.drift, Exit(KILLED, "Error")
        self.endings[step.id] = Ending(at, step.deadline, result)

    def _tell(self, type: Literal["Normal", "Warning"], reason: str, message: str, container: str = "") -> None:
        self.told.append(Told(type, reason, message, container))

    def _tell_well(self, life: Life, reason: str, message: str, container: str) -> None:
        if not life.quiet:
            self.told.append(Told("Normal", reason, message, container))
