"""A pod's status: a pure function of what was asked for, what the runtime has, and what the worker knows.

The worker computes it after every plan; `status_writer.py` sends what changed. Phases, conditions, reasons and
messages are upstream's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache

import msgspec

from pinnace.api.core import v1 as core
from pinnace.kubelet.pod_plan import UNTOLD, Doom, Verdict, Waiting
from pinnace.kubelet.policy import (
    ephemeral_containers,
    init_containers,
    is_sidecar,
    qos_class,
    restarts,
)
from pinnace.kubelet.resizing import Allotment, Progress
from pinnace.runtime.cri import Container, ContainerState

_NOT_READY = "ContainersNotReady"
_OF_RESIZING = ("PodResizePending", "PodResizeInProgress")      # conditions that go when it is over
_UNLIMITED = core.ResourceRequirements()
_NOT_RUNNING = Verdict(started=False, ready=False)


class Facts(msgspec.Struct, frozen=True, gc=False):
    """What a status is made from. `containers` come the newest first, of all the pod's sandboxes."""

    now: float
    host_ips: tuple[str, ...]
    sandbox_ips: tuple[str, ...] = ()
    sandbox_ready: bool = False
    containers: tuple[Container, ...] = ()
    verdicts: Mapping[str, Verdict] = msgspec.field(default_factory=dict)
    waiting: Mapping[str, Waiting] = msgspec.field(default_factory=dict)   # by container name
    messages: Mapping[str, str] = msgspec.field(default_factory=dict)      # termination messages, by container id
    image_ids: Mapping[str, str] = msgspec.field(default_factory=dict)     # what status.imageID says, by container id
    doom: Doom | None = None
    terminal: bool = False
    start_time: float | None = None
    granted: Allotment = msgspec.field(default_factory=dict)               # resources by container name
    in_force: Allotment = msgspec.field(default_factory=dict)              # and those that apply, by container id
    resize: Progress = msgspec.field(default_factory=Progress)


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC, whole seconds, as metav1.Time is written."""
    return _second(int(seconds))


@lru_cache(maxsize=1024)
def _second(whole: int) -> str:
    return datetime.fromtimestamp(whole, UTC).isoformat()[:19] + "Z"


def rejected(pod: core.Pod, reason: str, message: str, now: float) -> core.PodStatus:
    """The status of a pod that this node does not admit."""
    return msgspec.structs.replace(
        pod.status, phase="Failed", reason=reason, message=message, startTime=pod.status.startTime or timestamp(now)
    )


def statuses(pod: core.Pod) -> tuple[core.ContainerStatus, ...]:
    """Those of all its containers, init containers first."""
    status = pod.status
    return (
        *(status.initContainerStatuses or ()), *(status.containerStatuses or ()),
        *(status.ephemeralContainerStatuses or ()),
    )  # fmt: skip


def pod_status(pod: core.Pod, facts: Facts) -> core.PodStatus:
    """The whole status; what others own in it (conditions of controllers, nominatedNodeName) is kept."""
    spec, old = pod.spec, pod.status
    inits: list[core.ContainerStatus] = []
    initialized = True
    if spec.initContainers:
        initialized = _initialized(spec, facts)
        inits = _container_statuses(spec.initContainers, spec, facts, old.initContainerStatuses, initialized)
    apps = _container_statuses(spec.containers, spec, facts, old.containerStatuses, initialized)
    debugging: list[core.ContainerStatus] = []
    if spec.ephemeralContainers:
        debugging = [_ephemeral_status(c, spec, facts, old) for c in ephemeral_containers(spec)]
    phase = _phase(spec, inits, apps, facts)
    if old.phase in ("Failed", "Succeeded"):
        phase = old.phase     # a pod that ended stays so
    reason, message = old.reason, old.message
    if facts.doom is not None and facts.doom.failed:
        phase, reason, message = "Failed", facts.doom.reason, facts.doom.message
    conditions = _conditions(pod, facts, phase, inits, apps)
    ips = facts.host_ips if spec.hostNetwork else facts.sandbox_ips
    if not ips and facts.terminal:
        ips = tuple(ip.ip for ip in old.podIPs or () if ip.ip)
    status = core.PodStatus(
        phase=phase,
        conditions=conditions,
        reason=reason or None,
        message=message or None,
        hostIP=facts.host_ips[0] if facts.host_ips else None,
        hostIPs=[core.HostIP(ip=ip) for ip in facts.host_ips] or None,
        podIP=ips[0] if ips else None,
        podIPs=[core.PodIP(ip=ip) for ip in ips] or None,
        startTime=old.startTime or (timestamp(facts.start_time or facts.now)),
        initContainerStatuses=inits or None,
        containerStatuses=apps or None,
        qosClass=old.qosClass or qos_class(spec),
        observedGeneration=pod.metadata.generation,
        nominatedNodeName=old.nominatedNodeName,
        resourceClaimStatuses=old.resourceClaimStatuses,
        ephemeralContainerStatuses=debugging or None,
    )
    return status


# --------------------------------------------------------------------------------------------- one container


def _attempts(facts: Facts, name: str) -> list[Container]:
    return [c for c in facts.containers if c.name == name]


def _initialized(spec: core.PodSpec, facts: Facts) -> bool:
    """All init containers have done their part: ended well, or (sidecars) started."""
    for container in init_containers(spec):
        attempts = _attempts(facts, container.name)
        if not attempts:
            return False
        last = attempts[0]
        if is_sidecar(container):
            verdict = facts.verdicts.get(last.id, UNTOLD)
            if last.state is not ContainerState.RUNNING or not verdict.started:
                return any(_attempts(facts, app.name) for app in spec.containers)
        elif last.state is not ContainerState.EXITED or last.exit_code != 0:
            return False
    return True


def _container_statuses(
    containers: Sequence[core.Container], spec: core.PodSpec, facts: Facts,
    known: Sequence[core.ContainerStatus] | None, initialized: bool,
) -> list[core.ContainerStatus]:  # fmt: skip
    before = {status.name: status for status in known} if known else {}
    return [_container_status(c, spec, facts, before.get(c.name), initialized) for c in containers]


def _container_status(
    container: core.Container, spec: core.PodSpec, facts: Facts, old: core.ContainerStatus | None, initialized: bool
) -> core.ContainerStatus:
    name = container.name
    attempts = [c for c in facts.containers if c.name == name]
    init = bool(spec.initContainers) and any(container is one for one in init_containers(spec))
    waiting = facts.waiting.get(name)
    if not attempts:
        return _without_container(container, spec, facts, old, waiting, initialized, init)
    newest = attempts[0]
    state = _state(newest, facts)
    last = _state(attempts[1], facts) if attempts[1:] else core.ContainerState()
    if last.terminated is None and old is not None and old.lastState.terminated is not None:
        last = old.lastState
    restarting = state.terminated is not None and not facts.terminal and facts.doom is None and (
        restarts(container, spec, newest.exit_code)
    )
    if waiting is not None and (restarting or state.waiting is not None):
        if state.terminated is not None:
            last = state
        state = core.ContainerState(waiting=core.ContainerStateWaiting(reason=waiting.reason, message=waiting.message))
    running = state.running is not None
    granted = facts.granted.get(name, container.resources)
    resources = facts.in_force.get(newest.id, granted)
    verdict = facts.verdicts.get(newest.id, UNTOLD) if running else _NOT_RUNNING
    ready = running and verdict.ready and verdict.started
    if init and not is_sidecar(container):
        ready = newest.state is ContainerState.EXITED and newest.exit_code == 0
    image = newest.image      # as the runtime calls it
    return core.ContainerStatus(
        name=name,
        state=state,
        lastState=last,
        ready=ready,
        started=running and verdict.started if not init or is_sidecar(container) else False,
        restartCount=newest.attempt,
        image=container.image or image if image.startswith("sha256:") else image,
        imageID=facts.image_ids.get(newest.id, newest.image_id),
        containerID=f"pinnace://{newest.id}",
        volumeMounts=_mounts(container) if container.volumeMounts else None,
        resources=resources if running and resources != _UNLIMITED else None,
        allocatedResources=granted.requests if running else None,
    )


def _ephemeral_status(
    container: core.Container, spec: core.PodSpec, facts: Facts, old: core.PodStatus
) -> core.ContainerStatus:
    """Like the others', but it is never ready, and it is not said to have started."""
    before = {s.name: s for s in old.ephemeralContainerStatuses or ()}
    status = _container_status(container, spec, facts, before.get(container.name), initialized=True)
    return msgspec.structs.replace(status, ready=False, started=None)


def _without_container(
    container: core.Container,
    spec: core.PodSpec,
    facts: Facts,
    old: core.ContainerStatus | None,
    waiting: Waiting | None,
    initialized: bool,
    init: bool,
) -> core.ContainerStatus:
    """The runtime has no trace of it: not started yet, or long gone."""
    last = old.lastState if old is not None else core.ContainerState()
    count = old.restartCount if old is not None else 0
    if old is not None and old.state.terminated is not None:
        return old
    if old is not None and old.state.running is not None:
        ending = facts.doom is not None or facts.terminal
        when = "terminated" if ending else "deleted.  The container used to be Running"
        gone = core.ContainerStateTerminated(
            exitCode=137, reason="ContainerStatusUnknown",
            message=f"The container could not be located when the pod was {when}",
        )  # fmt: skip
        if ending:
            return msgspec.structs.replace(
                old, state=core.ContainerState(terminated=gone), ready=False, started=False
            )
        last, count = core.ContainerState(terminated=gone), count + 1
    if waiting is not None:
        state = core.ContainerStateWaiting(reason=waiting.reason, message=waiting.message or None)
    elif spec.initContainers and not initialized:
        state = core.ContainerStateWaiting(reason="PodInitializing")
    else:
        state = core.ContainerStateWaiting(reason="ContainerCreating")
    return core.ContainerStatus(
        name=container.name,
        state=core.ContainerState(waiting=state),
        lastState=last,
        ready=False,
        started=False,
        restartCount=count,
        image=container.image or "",
        imageID="",
        volumeMounts=_mounts(container) if container.volumeMounts else None,
    )


def _mounts(container: core.Container) -> list[core.VolumeMountStatus]:
    return [
        core.VolumeMountStatus(
            name=m.name, mountPath=m.mountPath, readOnly=m.readOnly,
            recursiveReadOnly=(m.recursiveReadOnly or "Disabled") if m.readOnly else None,
        )
        for m in container.volumeMounts or ()
    ]  # fmt: skip


def _state(container: Container, facts: Facts) -> core.ContainerState:
    match container.state:
        case ContainerState.RUNNING:
            return core.ContainerState(
                running=core.ContainerStateRunning(startedAt=timestamp(container.started_at))
            )
        case ContainerState.EXITED:
            return core.ContainerState(
                terminated=core.ContainerStateTerminated(
                    exitCode=container.exit_code,
                    reason=container.reason or ("Completed" if container.exit_code == 0 else "Error"),
                    message=facts.messages.get(container.id) or container.message or None,
                    startedAt=timestamp(container.started_at) if container.started_at else None,
                    finishedAt=timestamp(container.finished_at),
                    containerID=f"pinnace://{container.id}",
                )
            )
        case ContainerState.CREATED:
            return core.ContainerState(waiting=core.ContainerStateWaiting(reason="ContainerCreating"))
        case _:
            return core.ContainerState(
                terminated=core.ContainerStateTerminated(
                    exitCode=137, reason="ContainerStatusUnknown",
                    message="The container could not be located when the pod was terminated",
                )
            )  # fmt: skip


# --------------------------------------------------------------------------------------------------- the phase


def _phase(
    spec: core.PodSpec, inits: Sequence[core.ContainerStatus], apps: Sequence[core.ContainerStatus], facts: Facts
) -> str:
    pending_init = failed_init = running = waiting = 0
    policy = spec.restartPolicy or "Always"
    for container, status in zip(init_containers(spec), inits, strict=True) if inits else ():
        terminated = status.state.terminated or (
            status.lastState.terminated if status.state.waiting is not None else None
        )
        if is_sidecar(container):
            if status.state.running is None and not any(s.state.waiting is None for s in apps):
                pending_init += 1
        elif status.state.running is not None or terminated is None:
            pending_init += 1
        elif terminated.exitCode != 0:
            failed_init += 1
    succeeded, stopped = True, False
    for status in apps:
        ended = status.state.terminated or status.lastState.terminated
        if status.state.running is not None:
            running += 1
        elif ended is None:
            waiting += 1
        else:
            stopped, succeeded = True, succeeded and ended.exitCode == 0
    if failed_init and policy == "Never":
        return "Failed"
    if facts.doom is not None or facts.terminal:
        sidecars = bool(inits) and any(
            is_sidecar(c) and s.state.running is not None for c, s in zip(init_containers(spec), inits, strict=True)
        )
        if not running and not sidecars and stopped and not waiting:
            return "Succeeded" if succeeded else "Failed"
        if not running and facts.terminal and waiting:
            return "Failed"
    if pending_init or failed_init or waiting:
        return "Pending"
    if running:
        return "Running"
    match policy:
        case "Always":
            return "Running"
        case "Never":
            return "Succeeded" if succeeded else "Failed"
        case _:
            return "Succeeded" if succeeded else "Running"


# ---------------------------------------------------------------------------------------------- the conditions


def _conditions(
    pod: core.Pod,
    facts: Facts,
    phase: str,
    inits: Sequence[core.ContainerStatus],
    apps: Sequence[core.ContainerStatus],
) -> list[core.PodCondition]:
    spec = pod.spec
    old = {c.type: c for c in pod.status.conditions or ()}
    generation, now = pod.metadata.generation, timestamp(facts.now)
    able = facts.sandbox_ready and (bool(spec.hostNetwork) or bool(facts.sandbox_ips))
    ready, reason, message = _containers_ready(spec, phase, inits, apps)
    gates = _unmet_gates(pod) if ready and spec.readinessGates else ""
    said: dict[str, tuple[bool, str, str]] = {
        "PodReadyToStartContainers": (able, "", ""),
        "Initialized": _initialized_condition(spec, phase, inits, facts),
        "Ready": (False, "ReadinessGatesNotReady", gates) if gates else (ready, reason, message),
        "ContainersReady": (ready, reason, message),
    }
    if "PodScheduled" not in old:
        said["PodScheduled"] = True, "", ""
    if facts.resize.pending is not None:
        said["PodResizePending"] = True, *facts.resize.pending
    if facts.resize.under_way:
        said["PodResizeInProgress"] = True, "Error" if facts.resize.fault else "", facts.resize.fault
    if facts.doom is not None and facts.doom.reason in ("Evicted", "Terminated", "NodeShutdown"):
        said["DisruptionTarget"] = True, "TerminationByKubelet", facts.doom.message
    out: list[core.PodCondition] = []
    for type, (good, reason, message) in said.items():
        status, since = "True" if good else "False", None
        if type in old and old[type].status == status:
            since = old[type].lastTransitionTime
        out.append(
            core.PodCondition(
                type=type, status=status, reason=reason or None, message=message or None,
                lastTransitionTime=since or now, observedGeneration=generation,
            )
        )  # fmt: skip
    out += [c for c in pod.status.conditions or () if c.type not in said and c.type not in _OF_RESIZING]
    return out


def _initialized_condition(
    spec: core.PodSpec, phase: str, inits: Sequence[core.ContainerStatus], facts: Facts
) -> tuple[bool, str, str]:
    if phase == "Succeeded":
        return True, "PodCompleted", ""
    if not inits:
        return True, "", ""
    bad = []
    for container, status in zip(init_containers(spec), inits, strict=True):
        if is_sidecar(container):
            if not status.started:
                bad.append(status.name)
        elif not status.ready:
            bad.append(status.name)
    if bad and any(_attempts(facts, app.name) for app in spec.containers):
        return True, "", ""       # once the pod's own containers ran, it stays initialized
    if bad:
        return False, "ContainersNotInitialized", f"containers with incomplete status: [{' '.join(bad)}]"
    return True, "", ""


def _containers_ready(
    spec: core.PodSpec, phase: str, inits: Sequence[core.ContainerStatus], apps: Sequence[core.ContainerStatus]
) -> tuple[bool, str, str]:
    if phase == "Succeeded":
        return False, "PodCompleted", ""
    if phase == "Failed":
        return False, "PodFailed", ""
    sidecars = [s for c, s in zip(init_containers(spec), inits, strict=True) if is_sidecar(c)] if inits else []
    unready = [s.name for s in (*sidecars, *apps) if not s.ready]
    if unready:
        return False, _NOT_READY, f"containers with unready status: [{' '.join(unready)}]"
    return True, "", ""


def _unmet_gates(pod: core.Pod) -> str:
    """The message about readiness gates that are not fulfilled; empty: all are."""
    conditions = {c.type: c for c in pod.status.conditions or ()}
    unmet = []
    for gate in pod.spec.readinessGates or ():
        condition = conditions.get(gate.conditionType)
        if condition is None:
            unmet.append(f'corresponding condition of pod readiness gate "{gate.conditionType}" does not exist.')
        elif condition.status != "True":
            unmet.append(
                f'the status of pod readiness gate "{gate.conditionType}" is not "True", but {condition.status}'
            )
    if not unmet:
        return ""
    return unmet[0] if len(unmet) == 1 else f"[{', '.join(unmet)}]"
