"""What should happen next to a pod: a pure function of what is wanted and what is there.

The worker collects a `Seen` (the pod, the runtime's view, probe verdicts, memory of failures, the time), asks
`plan`, and performs the steps; every event makes it ask again. Nothing here waits, reads a clock, or does
anything. The rules are upstream's (`computePodActions` and the pod life cycle documentation).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

import msgspec
from msgspec.structs import replace

from pinnace.api.core import v1 as core
from pinnace.kubelet.crash_backoff import CrashBackoff
from pinnace.kubelet.policy import ephemeral_containers, init_containers, is_sidecar, restarts
from pinnace.runtime.cri import Container, ContainerState, Sandbox, SandboxState

PULL_SHOWN = 2.0             # so long ErrImagePull is shown before it becomes ImagePullBackOff
MIN_GRACE = 1.0              # nobody is killed without any time at all, unless a person forces it
MIN_SIDECAR_GRACE = 2.0
DEAD_KEPT = 1                # dead containers kept for each name, for `logs --previous`


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """What the probes of one running container say; None where nothing was found out yet."""

    started: bool = True           # no startup probe, or it succeeded
    ready: bool = True
    failed: str = ""               # "liveness" or "startup": the container must go
    grace: float | None = None     # the failing probe's own terminationGracePeriodSeconds


UNTOLD = Verdict()


class StartFailure(msgspec.Struct, frozen=True, gc=False):
    """The last attempt to start a container failed before or while it was created."""

    reason: str                    # ErrImagePull, CreateContainerConfigError, RunContainerError …
    message: str
    at: float
    until: float                   # not tried again before
    image: str = ""                # set for a failed pull


class Memory(msgspec.Struct, frozen=True, gc=False):
    """What the worker remembers about one container, beyond what the runtime knows."""

    crash: CrashBackoff | None = None
    failure: StartFailure | None = None
    restart_count: int | None = None   # as the API had it, where the runtime has no trace of the container


_NOTHING = Memory()


class Doom(msgspec.Struct, frozen=True, gc=False):
    """The pod must end. `deadline` is the epoch second by which all is to be over."""

    deadline: float
    reason: str = ""               # status.reason: "" for a deletion, Evicted, DeadlineExceeded …
    message: str = ""
    failed: bool = False           # the pod's phase becomes Failed whatever its containers say
    deleted: bool = False          # the object shall be deleted, or is gone: clean up everything


class Seen(msgspec.Struct, frozen=True, gc=False):
    pod: core.Pod
    now: float
    sandboxes: tuple[Sandbox, ...] = ()          # the newest first
    containers: tuple[Container, ...] = ()       # of all sandboxes of the pod, the newest first
    verdicts: Mapping[str, Verdict] = msgspec.field(default_factory=dict)        # by container id
    memory: Mapping[str, Memory] = msgspec.field(default_factory=dict)           # by container name
    hashes: Mapping[str, str] = msgspec.field(default_factory=dict)              # wanted definition, by name
    post_start: frozenset[str] = frozenset()     # ids whose postStart hook still runs
    doom: Doom | None = None
    mounted: bool = False
    busy: frozenset[str] = frozenset()           # operations under way, as `Step.key` names them
    killing: Mapping[str, float] = msgspec.field(default_factory=dict)           # container id → deadline
    networked: bool = True                       # the newest sandbox has what it needs from the network
    blocked_until: float = 0.0                   # no new sandbox before this time
    finishing: bool = False
    outgrown: frozenset[str] = frozenset()       # ids of containers that get their new resources by a restart

    def was_there(self, name: str) -> bool:
        """The API has heard of such a container, though the runtime may have forgotten it."""
        memory = self.memory.get(name)
        return memory is not None and memory.restart_count is not None


# ------------------------------------------------------------------------------------------------- the steps


class MountVolumes(msgspec.Struct, frozen=True, gc=False):
    key: str = "mount"


class UnmountVolumes(msgspec.Struct, frozen=True, gc=False):
    key: str = "mount"


class CreateSandbox(msgspec.Struct, frozen=True, gc=False):
    attempt: int
    key: str = "sandbox"


class StopSandbox(msgspec.Struct, frozen=True, gc=False):
    id: str
    key: str = "sandbox"


class RemoveSandbox(msgspec.Struct, frozen=True, gc=False):
    id: str

    @property
    def key(self) -> str:
        return f"remove:{self.id}"


class StartContainer(msgspec.Struct, frozen=True, gc=False):
    """Pull, create, start and run the postStart hook of attempt `attempt`."""

    name: str
    attempt: int
    crashed_at: float | None = None      # when the one before ended: counts towards the crash backoff
    key: str = "start"


class KillContainer(msgspec.Struct, frozen=True, gc=False):
    id: str
    name: str
    deadline: float
    reason: str                    # of the event's message; "" for `Stopping container …`

    @property
    def key(self) -> str:
        return f"kill:{self.id}"


class RemoveContainer(msgspec.Struct, frozen=True, gc=False):
    """A dead container whose traces nobody needs any more."""

    id: str

    @property
    def key(self) -> str:
        return f"remove:{self.id}"


class Finish(msgspec.Struct, frozen=True, gc=False):
    """All is cleaned up: report the last status and delete the object."""

    key: str = "finish"


Step = (
    MountVolumes | UnmountVolumes | CreateSandbox | StopSandbox | RemoveSandbox | StartContainer
    | KillContainer | RemoveContainer | Finish
)  # fmt: skip


class Waiting(msgspec.Struct, frozen=True, gc=False):
    """Why a container is not started, as its status says; `event` is told once, when it begins."""

    reason: str
    message: str
    event: str = ""


class Plan(msgspec.Struct, frozen=True, gc=False):
    steps: tuple[Step, ...] = ()
    again: float | None = None                  # epoch seconds at which to ask again
    waiting: Mapping[str, Waiting] = msgspec.field(default_factory=dict)
    doom: Doom | None = None                    # the pod's time is over: from now on it is doomed
    terminal: bool = False                      # every container has ended and none starts again


class _Draft(msgspec.Struct, eq=False):
    """A plan in the making."""

    seen: Seen
    steps: list[Step] = []
    again: float | None = None
    waiting: dict[str, Waiting] = {}

    def step(self, step: Step) -> None:
        """Unless it is under way already."""
        if step.key not in self.seen.busy and not (self.steps and step.key in [other.key for other in self.steps]):
            self.steps.append(step)

    def later(self, when: float) -> None:
        self.again = when if self.again is None else min(self.again, when)

    def done(self, *, terminal: bool = False) -> Plan:
        return Plan(tuple(self.steps), self.again, self.waiting, terminal=terminal)


# -------------------------------------------------------------------------------------------------- the plan


def plan(seen: Seen) -> Plan:
    """The next steps. Asked again with their results it reaches a state in which nothing is left to do."""
    ends = None if seen.pod.spec.activeDeadlineSeconds is None else _active_deadline(seen.pod)
    doom = seen.doom or (None if ends is None or seen.now < ends else _deadline_exceeded(seen))
    if doom is not None:
        out = _end(replace(seen, doom=doom), doom)
        return replace(out, doom=doom if seen.doom is None else None)
    draft = _Draft(seen)
    if ends is not None:
        draft.later(ends)
    if seen.containers[DEAD_KEPT:] or seen.sandboxes[1:]:
        _collect_garbage(draft)
    sandbox = current_sandbox(seen)
    if sandbox is None:
        return _without_sandbox(draft)
    mine = _latest(seen, sandbox.id)
    if seen.pod.spec.ephemeralContainers:
        _debug(draft)
    if seen.pod.spec.initContainers:
        verdict = _init(draft, mine)
        if verdict == "wait":
            return draft.done()
        if verdict == "failed":
            return _wind_down(draft, mine)
    alive = _apps(draft, mine)
    if not alive:
        return _wind_down(draft, mine)
    return draft.done()


def current_sandbox(seen: Seen) -> Sandbox | None:
    """The sandbox in which the pod lives; None if there is none that works."""
    if not seen.sandboxes:
        return None
    newest = seen.sandboxes[0]
    return newest if newest.state is SandboxState.READY and seen.networked else None


def latest_of(containers: Iterable[Container], name: str) -> Container | None:
    """The newest container of that name; they come the newest first."""
    for container in containers:
        if container.name == name:
            return container
    return None


def _latest(seen: Seen, sandbox: str) -> dict[str, Container]:
    out: dict[str, Container] = {}
    for container in seen.containers:
        if container.sandbox_id == sandbox and container.name not in out:
            out[container.name] = container
    return out


def _running(container: Container | None) -> bool:
    return container is not None and container.state is ContainerState.RUNNING


def _ended(container: Container | None) -> bool:
    return container is not None and container.state is ContainerState.EXITED


def _active_deadline(pod: core.Pod) -> float | None:
    seconds, start = pod.spec.activeDeadlineSeconds, pod.status.startTime
    if seconds is None or not start:
        return None
    return datetime.fromisoformat(start).timestamp() + seconds


def _deadline_exceeded(seen: Seen) -> Doom:
    return Doom(
        deadline=seen.now + pod_grace(seen.pod),
        reason="DeadlineExceeded",
        message="Pod was active on the node longer than the specified deadline",
        failed=True,
    )


def pod_grace(pod: core.Pod) -> float:
    """Seconds that the pod's containers get to end by themselves."""
    grace = pod.metadata.deletionGracePeriodSeconds
    if grace is None:
        grace = pod.spec.terminationGracePeriodSeconds
    return max(MIN_GRACE, float(30 if grace is None else grace))


# ------------------------------------------------------------------------------------------- before it lives


def _without_sandbox(draft: _Draft) -> Plan:
    """There is no working sandbox: end what is left of the old one, then make a new one, if it is worth it."""
    seen = draft.seen
    old = seen.sandboxes[0] if seen.sandboxes else None
    left = [c for c in seen.containers if c.state is ContainerState.RUNNING]
    for container in left:
        _kill(draft, container, seen.now + pod_grace(seen.pod), "")
    if left:
        return draft.done()
    if old is not None and not _worth_reviving(seen):
        if old.state is SandboxState.READY:
            draft.step(StopSandbox(old.id))
        elif seen.mounted:
            draft.step(UnmountVolumes())
        return draft.done(terminal=True)
    if old is not None and old.state is SandboxState.READY:
        draft.step(StopSandbox(old.id))   # it never got its network: start over
        return draft.done()
    if seen.now < seen.blocked_until:
        draft.later(seen.blocked_until)
        return draft.done()
    if not seen.mounted:
        draft.step(MountVolumes())
        return draft.done()
    draft.step(CreateSandbox(old.identity.attempt + 1 if old is not None else 0))
    return draft.done()


def _worth_reviving(seen: Seen) -> bool:
    """Whether some container has to run (again) after its sandbox was lost."""
    spec = seen.pod.spec
    for container in spec.containers or ():
        last = latest_of(seen.containers, container.name)
        if last is None:
            newest = {c.name: c for c in reversed(seen.containers)}
            return not _init_failed_for_good(spec, newest)
        if last.state is not ContainerState.EXITED or restarts(container, spec, last.exit_code):
            return True
    return False


def _init_failed_for_good(spec: core.PodSpec, newest: Mapping[str, Container]) -> bool:
    for container in init_containers(spec):
        last = newest.get(container.name)
        if (
            last is not None and _ended(last) and last.exit_code != 0
            and not is_sidecar(container) and not restarts(container, spec, last.exit_code)
        ):  # fmt: skip
            return True
    return False


# ---------------------------------------------------------------------------------------------- while it lives


def _debug(draft: _Draft) -> None:
    """Start what was added to look into the pod: once, whatever becomes of it, and whatever the others do."""
    for container in ephemeral_containers(draft.seen.pod.spec):
        if latest_of(draft.seen.containers, container.name) is None and not draft.seen.was_there(container.name):
            _start(draft, container, None)


def _init(draft: _Draft, mine: Mapping[str, Container]) -> str:
    """Bring the init containers on, in order: "done", "wait", or "failed" for good."""
    seen = draft.seen
    spec = seen.pod.spec
    initialized = any(container.name in mine for container in spec.containers or ())
    if not initialized and _init_failed_for_good(spec, mine):
        return "failed"       # before the sidecars, which would be started again
    for container in init_containers(spec):
        last = mine.get(container.name)
        if is_sidecar(container):
            passed = _keep_running(draft, container, last)
            if not passed and not initialized:
                return "wait"
        elif initialized:
            continue
        elif last is None or last.state in (ContainerState.CREATED, ContainerState.UNKNOWN):
            _start(draft, container, last)
            return "wait"
        elif _running(last):
            return "wait"
        elif last.exit_code != 0:
            _start(draft, container, last)
            return "wait"
    return "done"


def _keep_running(draft: _Draft, container: core.Container, last: Container | None) -> bool:
    """A sidecar: start it whenever it does not run. True once it has started as far as later ones need."""
    if not _running(last):
        _start(draft, container, last)
        return False
    assert last is not None
    if _kill_if_failed(draft, container, last):
        return False
    return draft.seen.verdicts.get(last.id, UNTOLD).started and last.id not in draft.seen.post_start


def _apps(draft: _Draft, mine: Mapping[str, Container]) -> bool:
    """Bring the pod's containers on; whether any of them runs or is going to."""
    seen = draft.seen
    spec = seen.pod.spec
    alive = False
    for container in spec.containers or ():
        last = mine.get(container.name)
        if last is not None and last.state is ContainerState.RUNNING:
            alive = True
            _kill_if_failed(draft, container, last)
            continue
        before = last or latest_of(seen.containers, container.name)
        if (
            before is not None and before.state is ContainerState.EXITED
            and not restarts(container, spec, before.exit_code)
        ):  # fmt: skip
            continue
        alive = True
        _start(draft, container, before)
    return alive


def _kill_if_failed(draft: _Draft, container: core.Container, last: Container) -> bool:
    """Kill a running container that its probes gave up, or whose definition was changed."""
    seen, restart = draft.seen, True
    verdict = seen.verdicts.get(last.id, UNTOLD)
    wanted = seen.hashes.get(container.name)
    if wanted and last.annotations.get("io.kubernetes.container.hash", wanted) != wanted:
        reason = f"Container {container.name} definition changed"
    elif last.id in seen.outgrown:
        reason = f"Container {container.name} resize requires restart"
    elif verdict.failed:
        reason = f"Container {container.name} failed {verdict.failed} probe"
        restart = restarts(container, seen.pod.spec, 1)
    else:
        return False
    grace = verdict.grace if verdict.failed and verdict.grace is not None else pod_grace(seen.pod)
    _kill(draft, last, seen.now + max(MIN_GRACE, grace), reason + (", will be restarted" if restart else ""))
    return True


def _kill(draft: _Draft, container: Container, deadline: float, reason: str) -> None:
    """Kill, unless that is under way with at most as much time."""
    under_way = draft.seen.killing.get(container.id)
    if under_way is None:
        draft.step(KillContainer(container.id, container.name, deadline, reason))
    elif deadline < under_way - 0.5:
        draft.steps.append(KillContainer(container.id, container.name, deadline, reason))


def _start(draft: _Draft, container: core.Container, last: Container | None) -> None:
    """Start the container, or say until when it waits and why. One at a time, in the pod's order."""
    seen = draft.seen
    memory = seen.memory.get(container.name, _NOTHING)
    crashed = last if last is not None and last.state is ContainerState.EXITED else None
    if crashed is not None and memory.crash is not None:
        until = memory.crash.until(crashed.finished_at)
        if seen.now < until:
            draft.later(until)
            draft.waiting[container.name] = _crash_loop(seen.pod, container.name, memory.crash)
            return
    failure = memory.failure
    if failure is not None and seen.now < failure.until:
        draft.later(failure.until)
        if failure.image:
            if seen.now < failure.at + PULL_SHOWN:
                draft.later(failure.at + PULL_SHOWN)
            else:
                draft.waiting[container.name] = _pull_backoff(failure)
        return
    if not seen.mounted:
        draft.step(MountVolumes())
        return
    crashed_at = crashed.finished_at if crashed is not None else None
    draft.step(StartContainer(container.name, next_attempt(last, seen, container.name), crashed_at))


def next_attempt(last: Container | None, seen: Seen, name: str) -> int:
    """The restart count of the next container of that name."""
    last = last or latest_of(seen.containers, name)
    if last is not None:
        return last.attempt + 1
    known = seen.memory.get(name, _NOTHING).restart_count
    return 0 if known is None else known + 1


def _crash_loop(pod: core.Pod, name: str, crash: CrashBackoff) -> Waiting:
    who = f"{pod.metadata.name}_{pod.metadata.namespace}({pod.metadata.uid})"
    return Waiting(
        "CrashLoopBackOff",
        f"back-off {duration(crash.seconds)} restarting failed container={name} pod={who}",
        f"Back-off restarting failed container {name} in pod {who}",
    )


def _pull_backoff(failure: StartFailure) -> Waiting:
    return Waiting(
        "ImagePullBackOff",
        f'Back-off pulling image "{failure.image}": {failure.reason}: {failure.message}',
        f'Back-off pulling image "{failure.image}"',
    )


def duration(seconds: float) -> str:
    """Go's way to print whole seconds: 10s, 1m20s, 5m0s."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


# ------------------------------------------------------------------------------------------------ how it ends


def _wind_down(draft: _Draft, mine: Mapping[str, Container]) -> Plan:
    """No container of the pod runs or will: end its sidecars, then its sandbox. Its traces stay for `logs`."""
    seen = draft.seen
    draft.steps = [s for s in draft.steps if not isinstance(s, StartContainer | MountVolumes)]
    if "start" in seen.busy:
        return draft.done()
    if _kill_in_order(draft, list(mine.values()), seen.now + pod_grace(seen.pod)):
        return draft.done()
    for sandbox in seen.sandboxes:
        if sandbox.state is SandboxState.READY:
            draft.step(StopSandbox(sandbox.id))
    if not draft.steps and seen.mounted:
        draft.step(UnmountVolumes())
    draft.again = None
    return draft.done(terminal=True)


def _kill_in_order(draft: _Draft, containers: Iterable[Container], deadline: float) -> bool:
    """Kill what runs: first all but the sidecars, then those from the last to the first. False once all ended."""
    seen = draft.seen
    spec = seen.pod.spec
    running = [c for c in containers if c.state in (ContainerState.RUNNING, ContainerState.UNKNOWN)]
    if not running:
        return False
    sidecars = [c.name for c in spec.initContainers or () if is_sidecar(c)]
    first = [c for c in running if c.name not in sidecars]
    if first:
        for container in first:
            _kill(draft, container, deadline, "")
        return True
    last = max(running, key=lambda c: sidecars.index(c.name))
    _kill(draft, last, max(deadline, seen.now + MIN_SIDECAR_GRACE), "")
    return True


def _end(seen: Seen, doom: Doom) -> Plan:
    """The pod is doomed: kill its containers, then its sandboxes; if it is deleted, leave nothing behind."""
    draft = _Draft(seen)
    if _kill_in_order(draft, seen.containers, doom.deadline):
        return draft.done()
    if "start" in seen.busy or "sandbox" in seen.busy:
        return draft.done()       # the worker cancels these; what they made is seen next time
    if not doom.deleted:
        ready = [s for s in seen.sandboxes if s.state is SandboxState.READY]
        for sandbox in ready:
            draft.step(StopSandbox(sandbox.id))
        if not ready and seen.mounted:
            draft.step(UnmountVolumes())
        return draft.done(terminal=True)
    if seen.finishing:
        return draft.done(terminal=True)
    for sandbox in seen.sandboxes:
        draft.step(RemoveSandbox(sandbox.id))
    if seen.sandboxes:
        return draft.done(terminal=True)
    if seen.mounted or "mount" in seen.busy:
        draft.step(UnmountVolumes())
        return draft.done(terminal=True)
    draft.step(Finish())
    return draft.done(terminal=True)


def _collect_garbage(draft: _Draft) -> None:
    """Drop dead containers beyond the last of each name, and lost sandboxes that hold nothing any more."""
    seen = draft.seen
    dead: dict[str, int] = {}
    kept: set[str] = set()
    for container in seen.containers:
        if container.state is not ContainerState.EXITED:
            kept.add(container.sandbox_id)
            continue
        dead[container.name] = dead.get(container.name, 0) + 1
        surplus = dead[container.name] - DEAD_KEPT
        if surplus > 1 or (surplus == 1 and _has_live(seen, container.name)):
            draft.step(RemoveContainer(container.id))
        else:
            kept.add(container.sandbox_id)
    for sandbox in seen.sandboxes[1:]:
        if sandbox.id not in kept:
            draft.step(RemoveSandbox(sandbox.id))


def _has_live(seen: Seen, name: str) -> bool:
    newest = latest_of(seen.containers, name)
    return newest is not None and newest.state is not ContainerState.EXITED
