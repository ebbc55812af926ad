"""The node's HTTPS server: what the API server asks of a kubelet (logs, exec, attach, port-forward, figures).

Nobody gets in without a client certificate of the cluster's authority, and of those only who `authorize` lets in.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from pinnace.api import codec, errors
from pinnace.api.core import v1 as core
from pinnace.kubelet import pod_status
from pinnace.kubelet.kubelet import Kubelet
from pinnace.kubelet.policy import every_container
from pinnace.kubelet.server import channels, logs, port_forward, stats
from pinnace.runtime.cri import Container, ContainerState, ExecSession, NotFound, Sandbox, SandboxState

log = logging.getLogger("pinnace.kubelet.server")

Subject = Mapping[str, tuple[str, ...]]
"""A certificate's subject: `commonName`, `organizationName`."""

API_SERVER = "kube-apiserver-kubelet-client"
MASTERS = "system:masters"


def default_authorize(subject: Subject) -> bool:
    """Administrators, and the API server itself."""
    return MASTERS in subject.get("organizationName", ()) or API_SERVER in subject.get("commonName", ())


def subject_of(certificate: Mapping[str, Any] | None) -> Subject:
    """From what `ssl` says about the peer's certificate."""
    out: dict[str, tuple[str, ...]] = {}
    for part in (certificate or {}).get("subject", ()):
        for name, value in part:
            out[name] = (*out.get(name, ()), value)
    return out


def refused(code: int, text: str) -> errors.StatusError:
    """What the API server passes on: the client sees the message."""
    return errors.from_status({"message": text}, code)


class KubeletServer:
    """`run` serves until cancelled. `context` demands client certificates; without one (tests) nobody is asked."""

    def __init__(
        self, kubelet: Kubelet, *, address: str, context: ssl.SSLContext | None, port: int | None = None,
        authorize: Callable[[Subject], bool] = default_authorize,
    ) -> None:  # fmt: skip
        self._kubelet = kubelet
        self._address = address
        self._context = context
        self._authorize = authorize
        self.port = kubelet.config.server_port if port is None else port
        self.listening = asyncio.Event()

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._guard], client_max_size=1 << 20)
        pod = "/{namespace}/{pod}"
        app.add_routes([
            web.get("/healthz", self._healthz),
            web.get("/pods", self._pods),
            web.get("/pods/", self._pods),
            web.get("/runningpods/", self._pods),
            web.get("/stats/summary", self._summary),
            web.get("/metrics/resource", self._metrics),
            web.get(f"/containerLogs{pod}/{{container}}", self._logs),
            web.route("*", f"/exec{pod}/{{container}}", self._exec),
            web.route("*", f"/exec{pod}/{{uid}}/{{container}}", self._exec),
            web.route("*", f"/attach{pod}/{{container}}", self._attach),
            web.route("*", f"/attach{pod}/{{uid}}/{{container}}", self._attach),
            web.route("*", f"/portForward{pod}", self._port_forward),
            web.route("*", f"/portForward{pod}/{{uid}}", self._port_forward),
        ])  # fmt: skip
        return app

    async def run(self) -> None:
        runner = web.AppRunner(self.application(), access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._address, self.port, ssl_context=self._context, reuse_address=True)
            await site.start()
            addresses = runner.addresses
            if addresses:
                self.port = addresses[0][1]
            self.listening.set()
            await asyncio.get_running_loop().create_future()
        finally:
            self.listening.clear()
            await runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self._context is not None:
            certificate = request.transport.get_extra_info("peercert") if request.transport is not None else None
            if not certificate:
                raise web.HTTPUnauthorized(text="Unauthorized")
            if not self._authorize(subject_of(certificate)):
                raise web.HTTPForbidden(text="Forbidden")
        try:
            response: web.StreamResponse = await handler(request)
        except errors.StatusError as error:
            body = codec.encode(error.status())
            return web.Response(status=error.status_code, body=body, content_type="application/json")
        return response

    # Plain requests

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _pods(self, request: web.Request) -> web.Response:
        body = {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": self._kubelet.pods()}
        return web.Response(body=msgspec.json.encode(body), content_type="application/json")

    async def _summary(self, request: web.Request) -> web.Response:
        body = codec.encode(await stats.summary(self._kubelet))
        return web.Response(body=body, content_type="application/json")

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=await stats.resource_metrics(self._kubelet))

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        pod = self._pod(request)
        name = request.match_info["container"]
        previous = request.query.get("previous") in logs.TRUE
        path, id = await self._log_file(pod, name, previous)
        try:
            options = logs.options_of(request.query, self._kubelet.services.clock.now().timestamp())
        except ValueError as error:
            raise refused(400, f"Invalid request: {error}") from error

        async def running() -> bool:
            try:
                return (await self._kubelet.runtime.container(id)).state is ContainerState.RUNNING
            except NotFound:
                return False

        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        try:
            async for chunk in logs.read(path, options, self._kubelet.services.clock, running):
                await response.write(chunk)
            await response.write_eof()
        except ConnectionError as error:
            log.debug("a reader of logs left: %s", error)
        return response

    async def _log_file(self, pod: core.Pod, name: str, previous: bool) -> tuple[Path, str]:
        """The log, and the id of the container that writes it ("" when the runtime knows it no more)."""
        meta = pod.metadata
        if name not in {c.name for c in every_container(pod.spec)}:
            raise refused(404, f"container {name} is not valid for pod {meta.name}")
        _, containers = await self._kubelet.services.observe(meta.uid or "")
        attempts = [c for c in containers if c.name == name and c.state is not ContainerState.CREATED]
        status = next(
            (s for s in pod_status.statuses(pod)
             if s.name == name), None,
        )  # fmt: skip
        if previous:
            last = status.lastState.terminated if status is not None else None
            wanted = (last.containerID or "").partition("://")[2] if last is not None else ""
            for container in attempts:
                if container.id == wanted:
                    return Path(container.log_path), container.id
            raise refused(400, f'previous terminated container "{name}" in pod "{meta.name}" not found')
        if not attempts:
            if status is not None and status.state.terminated is not None:
                directory = self._kubelet.config.log_directory(meta.namespace or "", meta.name or "", meta.uid or "")
                left = directory / name / f"{status.restartCount}.log"
                if left.exists():     # as after a restart of the machine
                    return left, ""
            waiting = status.state.waiting if status is not None else None
            if waiting is not None and waiting.reason:
                why = logs.why_waiting(waiting)
                raise refused(400, f'container "{name}" in pod "{meta.name}" is waiting to start: {why}')
            raise refused(400, f'container "{name}" in pod "{meta.name}" is not available')
        return Path(attempts[0].log_path), attempts[0].id

    # Connections both ways

    def _pod(self, request: web.Request) -> core.Pod:
        namespace, name = request.match_info["namespace"], request.match_info["pod"]
        pod = self._kubelet.pod(namespace, name)
        if pod is None:
            raise refused(404, f'pod "{name}" not found')
        worker = self._kubelet.workers.get(pod.metadata.uid or "")
        return worker.status.base if worker is not None else pod

    async def _running(self, request: web.Request) -> Container:
        pod = self._pod(request)
        name = request.match_info["container"]
        _, containers = await self._kubelet.services.observe(pod.metadata.uid or "")
        for container in containers:
            if container.name == name and container.state is ContainerState.RUNNING:
                return container
        raise refused(404, f'container not found ("{name}")')

    @staticmethod
    def _wants(request: web.Request, ours: str, theirs: str) -> bool:
        """The kubelet's own names of the streams, or the API's."""
        return request.query.get(ours) in logs.TRUE or request.query.get(theirs) in logs.TRUE

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        self._need_websocket(request, channels.PROTOCOLS)
        container = await self._running(request)
        command = tuple(request.query.getall("command", []))
        if not command:
            raise refused(400, "you must specify at least 1 of stdin, stdout, stderr and a command")
        stdin, tty = self._wants(request, "input", "stdin"), request.query.get("tty") in logs.TRUE
        stdout, stderr = self._wants(request, "output", "stdout"), self._wants(request, "error", "stderr")

        async def start() -> ExecSession:
            return await self._kubelet.runtime.exec(
                container.id, command, stdin=stdin, tty=tty, stdout=stdout or tty, stderr=stderr and not tty
            )

        return await channels.serve(request, start, stdin=stdin)

    async def _attach(self, request: web.Request) -> web.StreamResponse:
        self._need_websocket(request, channels.PROTOCOLS)
        container = await self._running(request)
        stdin = self._wants(request, "input", "stdin")
        stdout, stderr = self._wants(request, "output", "stdout"), self._wants(request, "error", "stderr")

        async def start() -> ExecSession:
            return await self._kubelet.runtime.attach(container.id, stdin=stdin, stdout=stdout, stderr=stderr)

        return await channels.serve(request, start, stdin=stdin, attach=True)

    async def _port_forward(self, request: web.Request) -> web.StreamResponse:
        self._need_websocket(request, port_forward.PROTOCOLS)
        pod = self._pod(request)
        sandboxes, _ = await self._kubelet.services.observe(pod.metadata.uid or "")
        ready = [s for s in sandboxes if s.state is SandboxState.READY]
        if not ready:
            raise refused(404, f"sandbox of pod {pod.metadata.name} not found")
        sandbox: Sandbox = ready[0]

        async def dial(port: int) -> tuple[Any, Any]:
            return await self._kubelet.runtime.port_forward(sandbox.id, port)

        return await port_forward.serve(request, sandbox.id, dial)

    @staticmethod
    def _need_websocket(request: web.Request, protocols: tuple[str, ...]) -> None:
        if request.headers.get("Upgrade", "").lower() != "websocket":
            # SPDY straight over TCP ended with kubectl 1.30.
            raise refused(400, f"unable to upgrade: a WebSocket with one of {', '.join(protocols)} is needed")
