"""What one container does from its start on: when its probes change their verdict, and when and how it ends. Pure.

Nothing is probed. From the container's life and its probes' periods it follows at which moments a probe would have
found what; only those moments become timers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import msgspec

from pinnace.api.core import v1 as core
from pinnace.kubelet.pod_plan import Verdict
from pinnace.kubelet.policy import init_containers, is_sidecar, restart_policy
from pinnace.kubelet.simulated.life import ENDING, FOREVER, Life, nth

OOM_CODE = 137


class Exit(msgspec.Struct, frozen=True, gc=False):
    code: int
    reason: str
    message: str = ""


class Mark(msgspec.Struct, frozen=True, gc=False):
    """A moment, in seconds after the start, from which on something is different."""

    at: float
    verdict: Verdict
    told: str = ""                # the message of an Unhealthy event
    exit: Exit | None = None


class Course(msgspec.Struct, frozen=True, gc=False):
    """The marks in their order, of which the first is the start itself."""

    life: Life
    marks: tuple[Mark, ...]


_PLAIN = (Mark(0.0, Verdict()),)


def course(pod: core.Pod, container: core.Container, life: Life, attempt: int) -> Course:
    """Of the container's start of that number."""
    probed = container.startupProbe or container.livenessProbe or container.readinessProbe
    end = _end(pod, container, life, attempt)
    if probed is None and life.ready == 0 and not life.unready:
        return Course(life, _PLAIN if end is None else _plain_until(*end))
    started, failed, kind, told = _startup(container.startupProbe, life)
    if kind == "":
        failed, unhealthy = _liveness(container.livenessProbe, life, started)
        kind, told = "liveness", told + unhealthy
    ready, unready = _readiness(container.readinessProbe, life, started)
    return Course(life, _marks(container, started, (failed, kind), ready, sorted(told + unready), end))


def _plain_until(at: float, result: Exit) -> tuple[Mark, ...]:
    last = Mark(at, _PLAIN[0].verdict, exit=result)
    return (*_PLAIN, last) if at > 0 else (last,)


def _marks(
    container: core.Container, started: float, failure: tuple[float, str], ready: list[tuple[float, bool]],
    told: list[tuple[float, str]], end: tuple[float, Exit] | None,
) -> tuple[Mark, ...]:  # fmt: skip
    failed, kind = failure
    probe = container.startupProbe if kind == "startup" else container.livenessProbe
    grace = probe.terminationGracePeriodSeconds if probe is not None else None
    last = end[0] if end is not None else FOREVER
    moments = {0.0, started, failed, *(t for t, _ in ready), *(t for t, _ in told)}
    marks: list[Mark] = []
    for moment in sorted(t for t in moments if t < min(last, FOREVER) and t <= failed):
        verdict = Verdict(
            started=started <= moment,
            ready=started <= moment and _value(ready, moment),
            failed=kind if failed <= moment else "",
            grace=float(grace) if failed <= moment and grace is not None else None,
        )
        words = "\n".join(text for t, text in told if t == moment)
        if not marks or words or verdict != marks[-1].verdict:
            marks.append(Mark(moment, verdict, words))
    if end is not None and (not marks or end[0] >= marks[-1].at):
        marks.append(Mark(end[0], marks[-1].verdict if marks else Verdict(), exit=end[1]))
    return tuple(marks)


def _value(changes: Iterable[tuple[float, bool]], moment: float) -> bool:
    value = False
    for at, changed in changes:
        if at <= moment:
            value = changed
    return value


def _end(pod: core.Pod, container: core.Container, life: Life, attempt: int) -> tuple[float, Exit] | None:
    """When and how it ends by itself."""
    run = nth(life.run, attempt)
    if run is None:
        init = bool(pod.spec.initContainers) and any(container is one for one in init_containers(pod.spec))
        lasting = is_sidecar(container) or (not init and restart_policy(pod.spec) == "Always")
        run = FOREVER if lasting or life.oom_after is not None else ENDING
    if life.oom_after is not None and life.oom_after <= run:
        return life.oom_after, Exit(OOM_CODE, "OOMKilled", life.message)
    if run == FOREVER:
        return None
    code = nth(life.exit_code, attempt)
    return run, Exit(code, "Completed" if code == 0 else "Error", life.message)


# ------------------------------------------------------------------------------------------------- the probes


def _first(probe: core.Probe, since: float) -> float:
    return max(since, float(probe.initialDelaySeconds or 0))


def _period(probe: core.Probe) -> float:
    return float(probe.periodSeconds or 10)


def _probed(probe: core.Probe, since: float, moment: float) -> float:
    """The first probe at that moment or later; probes begin at `since`, when the container has started."""
    first = _first(probe, since)
    if moment <= first or moment == FOREVER:
        return max(first, moment)
    return first + math.ceil((moment - first) / _period(probe) - 1e-9) * _period(probe)


def _startup(probe: core.Probe | None, life: Life) -> tuple[float, float, str, list[tuple[float, str]]]:
    """When it counts as started, when that has failed for good, "startup" if so, and what is told."""
    if probe is None:
        return 0.0, FOREVER, "", []
    first, able = _first(probe, 0.0), _probed(probe, 0.0, life.ready)
    told = [(first, _words("Startup", probe))] if able > first else []
    gives_up = first + ((probe.failureThreshold or 3) - 1) * _period(probe)
    if able > gives_up:
        return FOREVER, gives_up, "startup", told
    return able, FOREVER, "", told


def _liveness(probe: core.Probe | None, life: Life, started: float) -> tuple[float, list[tuple[float, str]]]:
    if probe is None or life.unhealthy_after is None:
        return FOREVER, []
    noticed = _probed(probe, started, life.unhealthy_after)
    return noticed + ((probe.failureThreshold or 3) - 1) * _period(probe), [(noticed, _words("Liveness", probe))]


def _readiness(
    probe: core.Probe | None, life: Life, started: float
) -> tuple[list[tuple[float, bool]], list[tuple[float, str]]]:
    """When readiness changes to what, and what is told. Without a probe it is seen at once."""
    able = [(life.ready, True)]
    for begin, end in life.unready:
        able += [(begin, False), (end, True)]
    able = sorted((t, v) for t, v in able if t != FOREVER)
    if probe is None:
        return able, []
    changes: list[tuple[float, bool]] = []
    told: list[tuple[float, str]] = []
    if started == FOREVER:
        return changes, told
    if _first(probe, started) < life.ready:
        told.append((_first(probe, started), _words("Readiness", probe)))
    for (at, value), (until, _) in itertools.pairwise([*able, (FOREVER, True)]):
        noticed = _probed(probe, started, at)
        if noticed >= until:
            continue
        threshold = (probe.successThreshold or 1) if value else (probe.failureThreshold or 3)
        if not value:
            told.append((noticed, _words("Readiness", probe)))
        turned = noticed + (threshold - 1) * _period(probe)
        if turned < until:
            changes.append((turned, value))
    return changes, told


def _words(kind: str, probe: core.Probe) -> str:
    if probe.httpGet is not None:
        what = "HTTP probe failed with statuscode: 503"
    elif probe.tcpSocket is not None:
        what = f"dial tcp: port {probe.tcpSocket.port}: connect: connection refused"
    elif probe.grpc is not None:
        what = 'service unhealthy (responded with "NOT_SERVING")'
    else:
        what = "command failed"
    return f"{kind} probe failed: {what}"
