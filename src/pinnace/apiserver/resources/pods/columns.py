"""How a pod looks in `kubectl get pods`: what its containers' states add up to. Pure; upstream's printPod."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pinnace.api.core import v1 as core
from pinnace.apiserver.resource import Column
from pinnace.apiserver.resources.columns import AGE, NAME, NONE, column, since


@dataclass(slots=True)
class Summary:
    """A pod in one line."""

    status: str
    ready: int = 0
    total: int = 0
    restarts: int = 0
    last_restart: str = ""


def summarize(pod: core.Pod) -> Summary:
    spec, status = pod.spec, pod.status
    sidecars = {c.name for c in spec.initContainers or () if c.restartPolicy == "Always"}
    summary = Summary(status.reason or status.phase or "")
    summary.total = len(spec.containers) + len(sidecars)
    conditions = {condition.type: condition for condition in status.conditions or ()}
    scheduled = conditions.get("PodScheduled")
    if scheduled is not None and scheduled.reason == "SchedulingGated":
        summary.status = "SchedulingGated"
    sidecar_restarts, sidecar_last = 0, ""
    initializing = False
    for position, container in enumerate(status.initContainerStatuses or ()):
        restarts, last = container.restartCount or 0, _last_end(container)
        summary.restarts += restarts
        summary.last_restart = max(summary.last_restart, last)
        if container.name in sidecars:
            sidecar_restarts += restarts
            sidecar_last = max(sidecar_last, last)
        state = container.state
        if state.terminated is not None and not state.terminated.exitCode:
            continue
        if container.name in sidecars and container.started:
            summary.ready += bool(container.ready)
            continue
        count = len(spec.initContainers or ())
        summary.status = _init_reason(state, position, count)
        initializing = True
        break
    initialized = conditions.get("Initialized")
    if not initializing or (initialized is not None and initialized.status == "True"):
        summary.restarts, summary.last_restart = sidecar_restarts, sidecar_last
        _containers(summary, status, ready=(r := conditions.get("Ready")) is not None and r.status == "True")
    if pod.metadata.deletionTimestamp:
        if status.reason == "NodeLost":
            summary.status = "Unknown"
        elif status.phase not in ("Succeeded", "Failed"):
            summary.status = "Terminating"
    return summary


def _containers(summary: Summary, status: core.PodStatus, *, ready: bool) -> None:
    running = False
    for container in reversed(status.containerStatuses or ()):
        summary.restarts += container.restartCount or 0
        summary.last_restart = max(summary.last_restart, _last_end(container))
        state = container.state
        if state.waiting is not None and state.waiting.reason:
            summary.status = state.waiting.reason
        elif state.terminated is not None:
            summary.status = _end_reason(state.terminated)
        elif container.ready and state.running is not None:
            running = True
            summary.ready += 1
    if summary.status == "Completed" and running:
        summary.status = "Running" if ready else "NotReady"


def _last_end(container: core.ContainerStatus) -> str:
    """When the container's previous run ended; RFC 3339 in UTC, so that texts compare as times."""
    last = container.lastState
    return (last.terminated.finishedAt or "") if last.terminated is not None else ""


def _end_reason(end: core.ContainerStateTerminated) -> str:
    if end.reason:
        return end.reason
    return f"Signal:{end.signal}" if end.signal else f"ExitCode:{end.exitCode or 0}"


def _init_reason(state: core.ContainerState, position: int, count: int) -> str:
    if state.terminated is not None:
        return "Init:" + _end_reason(state.terminated)
    if state.waiting is not None:
        reason = state.waiting.reason
        if reason and reason != "PodInitializing":
            return "Init:" + reason
    return f"Init:{position}/{count}"


def _ready(pod: core.Pod, _: datetime) -> str:
    summary = summarize(pod)
    return f"{summary.ready}/{summary.total}"


def _status(pod: core.Pod, _: datetime) -> str:
    return summarize(pod).status


def _restarts(pod: core.Pod, now: datetime) -> str:
    summary = summarize(pod)
    if summary.restarts and summary.last_restart:
        return f"{summary.restarts} ({since(summary.last_restart, now)} ago)"
    return str(summary.restarts)


def _address(pod: core.Pod) -> str:
    return (pod.status.podIPs[0].ip if pod.status.podIPs else pod.status.podIP) or NONE


def _gates(pod: core.Pod) -> str:
    gates = pod.spec.readinessGates
    if not gates:
        return NONE
    true = {condition.type for condition in pod.status.conditions or () if condition.status == "True"}
    return f"{sum(gate.conditionType in true for gate in gates)}/{len(gates)}"


COLUMNS: tuple[Column[Any], ...] = (
    NAME,
    Column("Ready", _ready, description="Containers that are ready, of all that the pod has."),
    Column("Status", _status, description="What the states of the pod's containers add up to."),
    Column("Restarts", _restarts, description="How often containers were restarted, and when last."),
    AGE,
    column("IP", _address, "The pod's address.", wide=True),
    column("Node", lambda pod: pod.spec.nodeName or NONE, "The node it runs on.", wide=True),
    column(
        "Nominated Node",
        lambda pod: pod.status.nominatedNodeName or NONE,
        "The node that is being freed for it.",
        wide=True,
    ),
    column("Readiness Gates", _gates, "Readiness gates that are true, of all.", wide=True),
)
