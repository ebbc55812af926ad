"""What containers that never were have written, and the API server's way to it.

A log is a function of the container's life and of how long it has run. `SimulatedKubelets` satisfies
`apiserver.kubelet_proxy.Kubelets`, so that `kubectl logs` works; there is nothing to exec into.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Iterator
from typing import Any, NoReturn, Protocol
from urllib.parse import parse_qs, unquote

from pinnace.api import errors, times
from pinnace.api.core import v1 as core
from pinnace.client.transport import Response
from pinnace.kubelet.pod_status import statuses
from pinnace.kubelet.policy import every_container
from pinnace.kubelet.server.logs import TRUE, LogOptions, Renderer, options_of, why_waiting
from pinnace.kubelet.simulated.life import FOREVER, Life, Line
from pinnace.kubelet.simulated.machines import Machine, Tracked
from pinnace.kubelet.simulated.pods import status
from pinnace.runtime.cri import Container, ContainerState

KEPT = 100_000               # lines; older ones are gone, as after a rotation
KUBELET_PORT = 10250


class Target(Protocol):
    """Where a request goes: `apiserver.resources.connect.KubeletTarget`."""

    @property
    def node(self) -> str: ...

    @property
    def path(self) -> str: ...

    @property
    def query(self) -> str: ...


class Kubelets(Protocol):
    """The way to real ones: `apiserver.kubelet_proxy.Kubelets`."""

    async def fetch(self, action: Any, target: Any) -> Response: ...

    async def stream(self, action: Any, target: Any) -> Response: ...

    async def proxy_pod(self, action: Any) -> Response: ...

    async def proxy_service(self, action: Any) -> Response: ...

    async def proxy_node(self, action: Any) -> Response: ...

    async def close(self) -> None: ...


class Nodes(Protocol):
    """What is asked of the simulated nodes."""

    def machine(self, name: str) -> Machine | None: ...

    def tracked(self, namespace: str, name: str) -> Tracked | None: ...

    def now(self) -> float: ...


# ------------------------------------------------------------------------------------------------- the lines


def lines(life: Life, words: dict[str, str], elapsed: float) -> Iterator[tuple[float, str]]:
    """(seconds after the start, text) of what a container has written by then, at most KEPT of each source."""
    return heapq.merge(_listed(life.log, words, elapsed), _repeated(life, words, elapsed), key=lambda line: line[0])


def _listed(log: tuple[Line, ...], words: dict[str, str], elapsed: float) -> Iterator[tuple[float, str]]:
    timed = [(0.0, line) if isinstance(line, str) else line for line in log]
    for at, text in sorted(timed, key=lambda line: line[0])[-KEPT:]:
        if at <= elapsed:
            yield at, _filled(text, words)


def _repeated(life: Life, words: dict[str, str], elapsed: float) -> Iterator[tuple[float, str]]:
    if life.log_every is None:
        return
    every, text = life.log_every
    count = int(elapsed / every + 1e-9)
    for n in range(max(1, count - KEPT + 1), count + 1):
        yield n * every, _filled(text, {**words, "n": str(n), "seconds": f"{n * every:g}"})


def _filled(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(f"{{{word}}}", value)
    return text


def next_line(life: Life, elapsed: float) -> float:
    """When the next line is written, in seconds after the start; inf: never."""
    listed = min((line[0] for line in life.log if not isinstance(line, str) and line[0] > elapsed), default=FOREVER)
    if life.log_every is None:
        return listed
    every = life.log_every[0]
    return min(listed, (int(elapsed / every + 1e-9) + 1) * every)


class Log:
    """The log of one container of a tracked pod."""

    def __init__(self, nodes: Nodes, tracked: Tracked, container: Container) -> None:
        self._nodes = nodes
        self._tracked = tracked
        self._id = container.id
        about = tracked.pod.metadata
        self._words = {
            "pod": about.name or "", "namespace": about.namespace or "", "container": container.name,
            "node": tracked.machine.name, "attempt": str(container.attempt),
        }  # fmt: skip

    async def read(self, options: LogOptions) -> AsyncIterator[bytes]:
        """In chunks; with `follow` until the container has ended."""
        renderer = Renderer(options)
        written, elapsed = self._written()
        if options.tail is not None:
            written = written[len(written) - options.tail :] if options.tail < len(written) else written
        while True:
            if chunk := b"".join(renderer.render(line) for line in written):
                yield chunk
            if renderer.full or not options.follow or not self._running():
                return
            before = elapsed
            await self._news(elapsed)
            written, elapsed = self._written(before)

    def _container(self) -> Container | None:
        return next((c for c in self._tracked.state.containers if c.id == self._id), None)

    def _running(self) -> bool:
        container = self._container()
        tracked = self._tracked
        return (
            container is not None and container.state is ContainerState.RUNNING and tracked.machine.connected
            and not tracked.deleted
        )  # fmt: skip

    def _written(self, after: float = -1.0) -> tuple[list[bytes], float]:
        """The lines of a log file that were written after a moment, and the moment until which that is."""
        container = self._container()
        course = self._tracked.state.courses.get(self._id)
        if container is None or course is None:
            return [], after
        if container.state is ContainerState.RUNNING:
            elapsed = self._nodes.now() - container.created_at
        else:
            elapsed = container.finished_at - container.started_at
        found = []
        for at, text in lines(course.life, self._words, elapsed):
            if at > after:
                when = times.format_micro(times.from_timestamp(container.started_at + at))
                found += [f"{when} stdout F {line}".encode() for line in text.splitlines() or ("",)]
        return found, elapsed

    async def _news(self, elapsed: float) -> None:
        """Until the next line, or until something happens to the pod."""
        course = self._tracked.state.courses.get(self._id)
        wait = next_line(course.life, elapsed) - elapsed if course is not None else 0.0
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(max(0.001, wait), _done, future) if wait != FOREVER else None
        self._tracked.readers.append(future)
        try:
            await future
        finally:
            if timer is not None:
                timer.cancel()
            if future in self._tracked.readers:
                self._tracked.readers.remove(future)


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def tell_readers(tracked: Tracked) -> None:
    """Something has happened to the pod."""
    readers, tracked.readers = tracked.readers, []
    for future in readers:
        _done(future)


def find(nodes: Nodes, tracked: Tracked, name: str, *, previous: bool) -> Container:
    """The container whose log is meant. Raises BadRequest and NotFound as the real kubelet does."""
    pod = tracked.pod
    about = pod.metadata
    if name not in {c.name for c in every_container(pod.spec)}:
        raise errors.from_status({"message": f"container {name} is not valid for pod {about.name}"}, 404)
    attempts = [c for c in tracked.state.containers if c.name == name]
    shown = status(pod, tracked.state, tracked.place, nodes.now())
    known = next((s for s in statuses(core.Pod(status=shown)) if s.name == name), None)
    if previous:
        last = known.lastState.terminated if known is not None else None
        wanted = (last.containerID or "").partition("://")[2] if last is not None else ""
        for container in attempts:
            if container.id == wanted:
                return container
        raise errors.BadRequest(f'previous terminated container "{name}" in pod "{about.name}" not found')
    if attempts:
        return attempts[0]
    waiting = known.state.waiting if known is not None else None
    if waiting is not None and waiting.reason:
        raise errors.BadRequest(
            f'container "{name}" in pod "{about.name}" is waiting to start: {why_waiting(waiting)}'
        )
    raise errors.BadRequest(f'container "{name}" in pod "{about.name}" is not available')


# ------------------------------------------------------------------------------------- the API server's way here


class SimulatedKubelets:
    """For the API server's `kubelets`. Requests for nodes that are not simulated go to `others`.

    It may be made before the nodes (which need a server to talk to), and be given to them.
    """

    def __init__(self, others: Kubelets | None = None) -> None:
        self._others = others
        self._nodes: Nodes | None = None

    def attach(self, nodes: Nodes) -> None:
        self._nodes = nodes

    async def fetch(self, action: Any, target: Target) -> Response:
        """A log, streamed."""
        machine = self._machine(target.node)
        if machine is None:
            return await self._other().fetch(action, target)
        assert self._nodes is not None
        address = f"{machine.host_ip}:{KUBELET_PORT}"
        if not machine.connected:
            fault = "connect: no route to host" if not machine.up else "i/o timeout"
            raise errors.InternalError(f'Get "https://{address}{target.path}": dial tcp {address}: {fault}')
        verb, *place = (unquote(part) for part in target.path.strip("/").split("/"))
        if verb != "containerLogs" or len(place) != 3:
            _nothing_there(machine.name)
        namespace, name, container = place
        tracked = self._nodes.tracked(namespace, name)
        if tracked is None or tracked.machine is not machine:
            raise errors.from_status({"message": f'pod "{name}" not found'}, 404)
        query = {key: values[0] for key, values in parse_qs(target.query).items()}
        try:
            options = options_of(query, self._nodes.now() + machine.drift)
        except ValueError as error:
            raise errors.BadRequest(f"Invalid request: {error}") from error
        if tracked.staged:
            return Response(200, {"content-type": "text/plain"}, b"")       # Stages say nothing of logs
        found = find(self._nodes, tracked, container, previous=query.get("previous") in TRUE)
        return Response(
            200, {"content-type": "text/plain"}, stream=Log(self._nodes, tracked, found).read(options)
        )

    async def stream(self, action: Any, target: Target) -> Response:
        if self._machine(target.node) is None:
            return await self._other().stream(action, target)
        _nothing_there(target.node)

    async def proxy_pod(self, action: Any) -> Response:
        name = action.name.split(":")[1 if ":" in action.name and action.name.count(":") == 2 else 0]
        if self._nodes is not None and (found := self._nodes.tracked(action.namespace, name)) is not None:
            raise errors.ServiceUnavailable(f"pod {name} is on the simulated node {found.machine.name}: no network")
        return await self._other().proxy_pod(action)

    async def proxy_service(self, action: Any) -> Response:
        return await self._other().proxy_service(action)

    async def proxy_node(self, action: Any) -> Response:
        name = action.name.strip(":").split(":")[0]
        if self._machine(name) is not None:
            _nothing_there(name)
        return await self._other().proxy_node(action)

    async def close(self) -> None:
        if self._others is not None:
            await self._others.close()

    def _machine(self, name: str) -> Machine | None:
        return self._nodes.machine(name) if self._nodes is not None else None

    def _other(self) -> Kubelets:
        if self._others is None:
            raise errors.ServiceUnavailable("this server has no connection to its nodes")
        return self._others


def _nothing_there(node: str) -> NoReturn:
    raise errors.BadRequest(f"{node} is a simulated node: its pods have no containers, only statuses and logs")
