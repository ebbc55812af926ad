"""Probes: is a container started, alive, ready?

`Counter` is the pure part: outcomes in, verdict out. `Prober` performs one probe; `Probes` runs a loop for each probe
of each running container and tells the pod's worker when a verdict changes. Between probes only a timer exists.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from pinnace.api.core import v1 as core
from pinnace.base.clock import Clock
from pinnace.base.randomness import Randomness
from pinnace.kubelet import http_get
from pinnace.kubelet.pod_plan import Verdict
from pinnace.runtime.cri import Container, Runtime, RuntimeFault

log = logging.getLogger("pinnace.kubelet.probes")

Kind = Literal["startup", "liveness", "readiness"]
KINDS: tuple[Kind, ...] = ("startup", "liveness", "readiness")
AGENT = "kube-probe/1.36"
# Until a container answers for the first time it is asked a few times more than its period says, within the first
# period: a process that listens after 50 ms need not be thought unready for ten seconds. Failures then do not count.
WARM_UP = (0.03, 0.06, 0.12, 0.25, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one probe found. `warning`: a success that is worth an event."""

    good: bool
    output: str = ""
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Counter:
    """Outcomes in a row, and the verdict that follows; None: none yet."""

    success_threshold: int
    failure_threshold: int
    verdict: bool | None = None
    last: bool | None = None
    row: int = 0

    def after(self, good: bool) -> Counter:
        row = self.row + 1 if self.last is good else 1
        threshold = self.success_threshold if good else self.failure_threshold
        return replace(self, last=good, row=row, verdict=good if row >= threshold else self.verdict)


def counter(probe: core.Probe) -> Counter:
    return Counter(probe.successThreshold or 1, probe.failureThreshold or 3)


def probes_of(container: core.Container) -> Mapping[Kind, core.Probe]:
    found: dict[Kind, core.Probe] = {}
    if container.startupProbe is not None:
        found["startup"] = container.startupProbe
    if container.livenessProbe is not None:
        found["liveness"] = container.livenessProbe
    if container.readinessProbe is not None:
        found["readiness"] = container.readinessProbe
    return found


def verdict(probes: Mapping[Kind, core.Probe], results: Mapping[Kind, bool | None]) -> Verdict:
    """One container's verdict from the results of its probes."""
    startup, liveness = results.get("startup"), results.get("liveness")
    started = "startup" not in probes or startup is True
    ready = started and ("readiness" not in probes or results.get("readiness") is True)
    for kind, result in (("startup", startup), ("liveness", liveness)):
        if result is False:
            grace = probes[kind].terminationGracePeriodSeconds   # type: ignore[index]  # both are of Kind
            return Verdict(started, ready, kind, None if grace is None else float(grace))
    return Verdict(started, ready)


# ------------------------------------------------------------------------------------------------- one probe


def port_of(port: int | str, container: core.Container) -> int:
    """A port number, or the container's port of that name. Raises ValueError."""
    if isinstance(port, int):
        number = port
    elif port.isdecimal():
        number = int(port)
    else:
        named = [p.containerPort for p in container.ports or () if p.name == port]
        if not named:
            raise ValueError(f'strconv.Atoi: parsing "{port}": invalid syntax')
        number = named[0]
    if not 0 < number < 65536:
        raise ValueError(f"invalid port number: {number}")
    return number


def url_of(action: core.HTTPGetAction, container: core.Container, pod_ip: str) -> str:
    host = action.host or pod_ip
    if ":" in host:
        host = f"[{host}]"
    path = action.path or "/"
    return f"{(action.scheme or 'HTTP').lower()}://{host}:{port_of(action.port, container)}/{path.lstrip('/')}"


def headers_of(action: core.HTTPGetAction) -> list[tuple[str, str]]:
    return [(header.name, header.value) for header in action.httpHeaders or ()]


class Prober:
    """Performs single probes."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def probe(self, probe: core.Probe, container: core.Container, id: str, pod_ip: str) -> Outcome:
        timeout = float(probe.timeoutSeconds or 1)
        try:
            if probe.exec is not None:
                return await self._exec(id, tuple(probe.exec.command or ()), timeout)
            if probe.httpGet is not None:
                return await self._http(probe.httpGet, container, pod_ip, timeout)
            if probe.tcpSocket is not None:
                host = probe.tcpSocket.host or pod_ip
                return await self._tcp(host, port_of(probe.tcpSocket.port, container), timeout)
        except ValueError as error:
            return Outcome(False, str(error))
        # gRPC needs HTTP/2, which this node does not speak yet: said in the event, not passed over.
        return Outcome(False, "gRPC probes are not supported by this node")

    async def _exec(self, id: str, command: tuple[str, ...], timeout: float) -> Outcome:
        try:
            result = await self._runtime.exec_sync(id, command, timeout=timeout)
        except TimeoutError:
            return Outcome(False, f"command timed out: {' '.join(command)!r} timed out after {timeout:.0f}s")
        except RuntimeFault as fault:
            return Outcome(False, str(fault))
        output = (result.stdout + result.stderr).decode("utf-8", "replace")
        return Outcome(result.exit_code == 0, output[: http_get.MAX_BODY])

    async def _http(
        self, action: core.HTTPGetAction, container: core.Container, pod_ip: str, timeout: float
    ) -> Outcome:
        url = url_of(action, container, pod_ip)
        try:
            answer = await http_get.get(url, headers_of(action), timeout=timeout, agent=AGENT)
        except TimeoutError:
            return Outcome(
                False,
                f'Get "{url}": context deadline exceeded (Client.Timeout exceeded while awaiting headers)',
            )
        except http_get.HttpFault as fault:
            return Outcome(False, str(fault))
        if 200 <= answer.status < 300:
            return Outcome(True, answer.body)
        if 300 <= answer.status < 400:
            return Outcome(True, f"Probe terminated redirects, Response body: {answer.body}", warning=True)
        return Outcome(False, f"HTTP probe failed with statuscode: {answer.status}")

    async def _tcp(self, host: str, port: int, timeout: float) -> Outcome:
        try:
            async with asyncio.timeout(timeout):
                _, writer = await asyncio.open_connection(host, port)
        except TimeoutError:
            return Outcome(False, f"dial tcp {host}:{port}: i/o timeout")
        except OSError as error:
            return Outcome(False, f"dial tcp {host}:{port}: {http_get.reason(error)}")
        writer.transport.abort()
        return Outcome(True)


# ------------------------------------------------------------------------------------------------- the loops


@dataclass(slots=True)
class _Probed:
    """A running container whose probes are going on."""

    uid: str
    probes: Mapping[Kind, core.Probe]
    results: dict[Kind, bool | None]
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    started: asyncio.Event = field(default_factory=asyncio.Event)


Tell = Callable[[str, str, str, bool], None]
"""(container name, "Unhealthy" or "ProbeWarning", message, warning)"""


class Probes:
    """All probes of the node. `wake(uid)` is called when a verdict of one of the pod's containers changed."""

    def __init__(self, prober: Prober, clock: Clock, randomness: Randomness, wake: Callable[[str], None]) -> None:
        self._prober = prober
        self._clock = clock
        self._randomness = randomness
        self._wake = wake
        self._probed: dict[str, _Probed] = {}

    def ensure(
        self, uid: str, wanted: Mapping[str, core.Container], containers: Mapping[str, Container], pod_ip: str,
        tell: Tell, *, adopted_ready: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        """Probe these running containers of the pod (by id), and no others of it.

        `adopted_ready`: names that the API knows as ready from before we started; they stay so until a probe fails.
        """
        for id, probed in list(self._probed.items()):
            if probed.uid == uid and id not in containers:
                self._stop(id)
        for id, running in containers.items():
            container = wanted.get(running.name)
            if container is None or id in self._probed:
                continue
            probes = probes_of(container)
            adopted = running.name in adopted_ready
            results: dict[Kind, bool | None] = dict.fromkeys(probes, True if adopted else None)
            probed = _Probed(uid, probes, results)
            self._probed[id] = probed
            if "startup" not in probes or adopted:
                probed.started.set()
            for kind, probe in probes.items():
                if kind == "startup" and adopted:
                    continue
                loop = self._loop(kind, probe, probed, container, running, pod_ip, tell)
                probed.tasks.append(asyncio.create_task(loop, name=f"{kind} probe of {running.name}"))

    def verdicts(self, uid: str) -> dict[str, Verdict]:
        return {id: verdict(p.probes, p.results) for id, p in self._probed.items() if p.uid == uid}

    def forget(self, uid: str) -> None:
        for id, probed in list(self._probed.items()):
            if probed.uid == uid:
                self._stop(id)

    def _stop(self, id: str) -> None:
        for task in self._probed.pop(id).tasks:
            task.cancel()

    async def _loop(
        self, kind: Kind, probe: core.Probe, probed: _Probed, container: core.Container, running: Container,
        pod_ip: str, tell: Tell,
    ) -> None:  # fmt: skip
        if kind != "startup":
            await probed.started.wait()
        period = float(probe.periodSeconds or 10)
        age = self._clock.now().timestamp() - running.started_at
        await self._clock.sleep(max(0.0, float(probe.initialDelaySeconds or 0) - age))
        if age > period:      # adopted after a restart of ours: do not ask all containers at once
            await self._clock.sleep(self._randomness.uniform(0.0, period))
        state = replace(counter(probe), verdict=probed.results[kind])
        if kind != "liveness" and age <= period and (probe.successThreshold or 1) == 1:
            if await self._warm_up(probe, period, container, running.id, pod_ip):
                state = state.after(True)
                self._take(kind, probed, state)
                if kind == "startup":
                    return
            await self._clock.sleep(period)
        while True:
            outcome = await self._ask(probe, container, running.id, pod_ip)
            if not outcome.good:
                words = f"{kind.capitalize()} probe failed: {outcome.output}"
                tell(container.name, "Unhealthy", words, True)
            elif outcome.warning:
                tell(container.name, "ProbeWarning", f"{kind.capitalize()} probe warning: {outcome.output}", True)
            state = state.after(outcome.good)
            self._take(kind, probed, state)
            if kind == "startup" and state.verdict:
                return
            if kind != "readiness" and state.verdict is False:
                return               # the container is killed; its successor is probed anew
            await self._clock.sleep(period)

    async def _warm_up(
        self, probe: core.Probe, period: float, container: core.Container, id: str, pod_ip: str
    ) -> bool:
        spent = 0.0
        for pause in (0.0, *WARM_UP):
            if spent + pause >= period:
                return False
            spent += pause
            await self._clock.sleep(pause)
            if (await self._ask(probe, container, id, pod_ip)).good:
                return True
        return False

    async def _ask(self, probe: core.Probe, container: core.Container, id: str, pod_ip: str) -> Outcome:
        try:
            return await self._prober.probe(probe, container, id, pod_ip)
        except Exception as error:
            log.exception("a probe of container %s could not be made", container.name)
            return Outcome(False, str(error))

    def _take(self, kind: Kind, probed: _Probed, state: Counter) -> None:
        if probed.results[kind] is not state.verdict:
            probed.results[kind] = state.verdict
            if kind == "startup" and state.verdict:
                probed.started.set()
            self._wake(probed.uid)
