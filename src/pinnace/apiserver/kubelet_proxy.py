"""The way from the front door to a kubelet, and through it to pods and services.

Plain requests (logs, the proxy verb) are streamed back; connections that change their protocol (exec, attach,
port-forward over WebSocket or SPDY) are relayed byte for byte, so that their protocols are spoken in one place: the
kubelet.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Protocol, cast
from urllib.parse import quote, urlencode

from pinnace.api.core import v1 as core
from pinnace.api.discovery import v1 as discovery
from pinnace.api.errors import BadRequest, InternalError, ServiceUnavailable
from pinnace.apiserver.paths import parse
from pinnace.apiserver.resource import Action
from pinnace.apiserver.resources.connect import KubeletTarget, split_port
from pinnace.client.transport import Response

if TYPE_CHECKING:
    # aiohttp's client is imported where it is used: a server whose nodes are simulated has no use for it, and it is a
    # fifth of what starting one in a test's process takes.
    import aiohttp
    from yarl import URL

    from pinnace.apiserver.server import ApiServer

log = logging.getLogger("pinnace.apiserver")

KUBELET_PORT = 10250
_CONNECT_SECONDS = 10.0
_HEAD_LIMIT = 65536
_ANSWER_LIMIT = 1024 * 1024
_CHUNK = 65536
# They belong to one connection, not to the message.
_HOP = frozenset({
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding",
    "upgrade", "host", "content-length",
})  # fmt: skip
# Who the caller is, is the server's business alone.
_PRIVATE = ("authorization", "cookie", "impersonate-", "x-remote-")


class Kubelets(Protocol):
    """What the actions of pods, nodes and services need of the connection to nodes."""

    async def fetch(self, action: Action, target: KubeletTarget) -> Response:
        """A plain request to a kubelet, streamed back."""
        ...

    async def stream(self, action: Action, target: KubeletTarget) -> Response:
        """A connection both ways (exec, attach, portforward), relayed byte for byte."""
        ...

    async def proxy_pod(self, action: Action) -> Response: ...

    async def proxy_service(self, action: Action) -> Response: ...

    async def proxy_node(self, action: Action) -> Response: ...

    async def close(self) -> None: ...


class Tunnel(Protocol):
    """A client's connection, taken over from HTTP. `http.Upgrade.take` gives it."""

    async def read(self) -> bytes:
        """What has come; empty at the end."""
        ...

    async def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...


class Upgrading(Protocol):
    """`Request.upgrade`, as the HTTP front fills it in."""

    def take(self) -> Tunnel: ...


class NoKubelets:
    """A control plane without nodes to talk to."""

    async def fetch(self, action: Action, target: KubeletTarget) -> Response:
        raise _unreachable()

    async def stream(self, action: Action, target: KubeletTarget) -> Response:
        raise _unreachable()

    async def proxy_pod(self, action: Action) -> Response:
        raise _unreachable()

    async def proxy_service(self, action: Action) -> Response:
        raise _unreachable()

    async def proxy_node(self, action: Action) -> Response:
        raise _unreachable()

    async def close(self) -> None:
        return None


def _unreachable() -> ServiceUnavailable:
    return ServiceUnavailable("this server has no connection to its nodes")


class KubeletProxy:
    """Connects to kubelets with the API server's own certificate, which `context` carries.

    `pod_socket(family, type)` makes the sockets for pods: their addresses mean something in the cluster's network
    only, and from the host's own a connection would go to whoever has them there. It may raise OSError.
    """

    def __init__(
        self, context: ssl.SSLContext, pod_socket: Callable[[int, int], socket.socket] = socket.socket
    ) -> None:
        self._context = context
        self._pod_socket = pod_socket
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def fetch(self, action: Action, target: KubeletTarget) -> Response:
        host, port = kubelet_address(action.server, target.node)
        return await self._forward("GET", _url("https", host, port, target.path, target.query), {}, b"")

    async def stream(self, action: Action, target: KubeletTarget) -> Response:
        host, port = kubelet_address(action.server, target.node)
        path = f"{target.path}?{target.query}" if target.query else target.path
        return await self._relay(action, host, port, path, self._context)

    async def proxy_node(self, action: Action) -> Response:
        scheme, name, port = split_port(action.name)
        host, kubelet_port = kubelet_address(action.server, name)
        number = int(port) if port.isdigit() else kubelet_port
        return await self._proxy(action, scheme or "https", host, number, to_pod=False)

    async def proxy_pod(self, action: Action) -> Response:
        scheme, name, port = split_port(action.name)
        pod: core.Pod = action.server.registry(core.Pod).get(action.namespace, name)
        if not pod.status.podIP:
            raise BadRequest(f"address not allowed: pod {name} has no address yet")
        number = port_of(port, (p for c in pod.spec.containers for p in c.ports or ()))
        return await self._proxy(action, scheme or "http", pod.status.podIP, number)

    async def proxy_service(self, action: Action) -> Response:
        scheme, name, port = split_port(action.name)
        server = action.server
        service: core.Service = server.registry(core.Service).get(action.namespace, name)
        slices = [
            found
            for found in server.registry(discovery.EndpointSlice).list(action.namespace)
            if (found.metadata.labels or {}).get("kubernetes.io/service-name") == name
        ]
        host, number = choose_endpoint(service, slices, port, server.randomness.below)
        return await self._proxy(action, scheme or "http", host, number)

    async def close(self) -> None:
        while self._sessions:
            await self._sessions.popitem()[1].close()

    async def _proxy(
        self, action: Action, scheme: str, host: str, port: int, *, to_pod: bool = True
    ) -> Response:
        request = action.request
        found = parse(request.path)
        path = "/" + (found.rest if found is not None else "")
        query = urlencode([(name, value) for name, values in request.query.items() for value in values])
        if "upgrade" in request.headers:
            context = self._context if scheme == "https" else None
            whole = quote(path, safe="/:@!$&'()*+,;=~")
            whole = f"{whole}?{query}" if query else whole
            return await self._relay(action, host, port, whole, context, to_pod=to_pod)
        headers = {name: value for name, value in request.headers.items() if not _stays_here(name)}
        headers["x-forwarded-uri"] = request.path
        url = _url(scheme, host, port, path, query)
        return await self._forward(request.method, url, headers, request.body, to_pod=to_pod)

    def _session(self, to_pod: bool) -> aiohttp.ClientSession:
        import aiohttp

        if to_pod not in self._sessions:
            factory = (lambda info: self._pod_socket(info[0], info[1])) if to_pod else None
            self._sessions[to_pod] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(socket_factory=factory),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._sessions[to_pod]

    async def _forward(
        self, method: str, url: URL, headers: Mapping[str, str], body: bytes, *, to_pod: bool = False
    ) -> Response:
        import aiohttp

        try:
            answer = await self._session(to_pod).request(
                method, url, headers=headers, data=body or None, ssl=self._context, allow_redirects=False
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise InternalError(f'{method.capitalize()} "{url}": {error}') from error
        kept = {name.lower(): value for name, value in answer.headers.items() if name.lower() not in _HOP}
        return Response(answer.status, kept, stream=_chunks(answer))

    async def _relay(
        self, action: Action, host: str, port: int, path: str, context: ssl.SSLContext | None, *, to_pod: bool = False
    ) -> Response:
        upgrade = cast("Upgrading | None", action.request.upgrade)
        if upgrade is None:
            raise BadRequest("Upgrade request required")
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                reader, writer = await self._connect(host, port, context, to_pod=to_pod)
        except (OSError, TimeoutError) as error:
            raise InternalError(f"error dialing backend: {host}:{port}: {error}") from error
        try:
            writer.write(_head(action, f"{host}:{port}", path))
            await writer.drain()
            async with asyncio.timeout(_CONNECT_SECONDS * 3):
                head = await reader.readuntil(b"\r\n\r\n")
                status = int(head[9:12])
                if status != 101:
                    return await _refused(status, head, reader)
            await _pump(upgrade.take(), head, reader, writer)
            return Response(101)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
            raise InternalError(f"error dialing backend: {host}:{port}: {error}") from error
        finally:
            writer.close()

    async def _connect(
        self, host: str, port: int, context: ssl.SSLContext | None, *, to_pod: bool
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if not to_pod:
            return await asyncio.open_connection(host, port, ssl=context, limit=_HEAD_LIMIT)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        connection = self._pod_socket(family, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            await asyncio.get_running_loop().sock_connect(connection, (host, port))
            name = host if context is not None else None
            return await asyncio.open_connection(sock=connection, ssl=context, server_hostname=name, limit=_HEAD_LIMIT)
        except BaseException:
            connection.close()
            raise


def kubelet_address(server: ApiServer, name: str) -> tuple[str, int]:
    """Where the node's kubelet listens. Raises NotFound, ServiceUnavailable."""
    node: core.Node = server.registry(core.Node).get("", name)
    addresses = {address.type: address.address for address in reversed(node.status.addresses or ())}
    host = addresses.get("InternalIP") or addresses.get("ExternalIP") or addresses.get("Hostname")
    if not host:
        raise ServiceUnavailable(f"no preferred addresses found; known addresses: {sorted(addresses)}")
    endpoints = node.status.daemonEndpoints
    endpoint = endpoints.kubeletEndpoint if endpoints is not None else None
    return host, (endpoint.Port if endpoint is not None else 0) or KUBELET_PORT


def port_of(wanted: str, ports: Iterable[core.ContainerPort]) -> int:
    """A port by number or name; the first one if none is named. Raises BadRequest."""
    if wanted.isdigit():
        return int(wanted)
    for port in ports:
        if not wanted or port.name == wanted:
            return int(port.containerPort)
    if not wanted:
        return 80
    raise BadRequest(f'no such port: "{wanted}"')


def choose_endpoint(
    service: core.Service, slices: list[discovery.EndpointSlice], wanted: str, below: Callable[[int], int]
) -> tuple[str, int]:
    """A ready address behind the service's port. Raises ServiceUnavailable."""
    name = service.metadata.name or ""
    ports = service.spec.ports or []
    chosen = next(
        (p for p in ports if not wanted or p.name == wanted or str(p.port) == wanted or str(p.targetPort) == wanted),
        None,
    )
    if chosen is None:
        raise ServiceUnavailable(f'no service port "{wanted}" found for service "{name}"')
    found = [
        (address, port.port)
        for part in slices
        for port in part.ports or ()
        if (port.name or "") == (chosen.name or "") and port.port
        for endpoint in part.endpoints or ()
        if endpoint.conditions is None or endpoint.conditions.ready is not False
        for address in endpoint.addresses or ()
    ]
    if not found:
        raise ServiceUnavailable(f'no endpoints available for service "{name}"')
    return found[below(len(found))]


def _url(scheme: str, host: str, port: int, path: str, query: str) -> URL:
    from yarl import URL

    shown = f"[{host}]" if ":" in host else host
    text = f"{scheme}://{shown}:{port}{quote(path, safe='/:@!$&%()*+,;=~')}"
    return URL(f"{text}?{query}" if query else text, encoded=True)


def _stays_here(name: str) -> bool:
    return name in _HOP or name.startswith(_PRIVATE)


def _head(action: Action, host: str, path: str) -> bytes:
    """The client's request, addressed to the kubelet, without what is between the client and us."""
    request = action.request
    lines = [f"{request.method} {path} HTTP/1.1", f"Host: {host}"]
    for name, value in request.headers.items():
        if name in ("upgrade", "connection", "content-length") or not _stays_here(name):
            lines.append(f"{name}: {value}")
    text = "\r\n".join(line.replace("\r", "").replace("\n", "") for line in lines)
    return text.encode("latin-1", "replace") + b"\r\n\r\n" + request.body


async def _refused(status: int, head: bytes, reader: asyncio.StreamReader) -> Response:
    """The kubelet's own refusal, as an ordinary answer."""
    headers = {}
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    length = headers.get("content-length", "")
    wanted = min(int(length), _ANSWER_LIMIT) if length.isdigit() else _ANSWER_LIMIT
    body = b""
    while len(body) < wanted:
        chunk = await reader.read(wanted - len(body))
        if not chunk:
            break
        body += chunk
    return Response(status, {"content-type": headers.get("content-type", "text/plain")}, body)


async def _pump(tunnel: Tunnel, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Both ways, until either side has ended."""

    async def upstream() -> None:
        while data := await tunnel.read():
            writer.write(data)
            await writer.drain()

    async def downstream() -> None:
        await tunnel.write(head)
        while data := await reader.read(_CHUNK):
            await tunnel.write(data)

    tasks = [asyncio.create_task(upstream()), asyncio.create_task(downstream())]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if task.exception() is not None:
                log.debug("a relayed connection ended: %r", task.exception())
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        tunnel.close()


async def _chunks(answer: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    import aiohttp

    try:
        async for chunk in answer.content.iter_any():
            yield chunk
    except aiohttp.ClientError as error:
        raise ConnectionError(f"the kubelet's answer broke off: {error}") from error
    finally:
        answer.close()
