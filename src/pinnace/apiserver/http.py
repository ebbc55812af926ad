"""The HTTPS front: aiohttp's server protocol around `ApiServer.handle`.

What belongs to HTTP and not to the API stays here: TLS, sizes and deadlines of bodies, the number of connections and
of requests in flight, compression, chunked streams, and the handle for connections that change their protocol.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import socket
import ssl
import zlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, cast
from urllib.parse import parse_qsl

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from pinnace.api import errors
from pinnace.apiserver import responses
from pinnace.apiserver.server import ApiServer
from pinnace.base.deadline import within
from pinnace.client.transport import Request, Response

log = logging.getLogger("pinnace.apiserver")
# What is no HTTP is answered with 400: nothing to be told with a traceback, and not by anyone who can connect.
_front_log = log.getChild("http")
_front_log.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))

BODY_LIMIT = 3 * 1024 * 1024
_BODY_SECONDS = 30.0            # for a whole body to arrive
_WRITE_SECONDS = 30.0           # for a slow reader to take what was sent
_KEEPALIVE_SECONDS = 180.0
_COMPRESS_ABOVE = 128 * 1024    # bytes, as upstream
_MOST_CONNECTIONS = 5000
_TUNNEL_BUFFER = 256 * 1024     # bytes of a relayed connection that wait for the other side
_NO_CHECK_TIME = 0x200000       # OpenSSL's X509_V_FLAG_NO_CHECK_TIME, for which the ssl module has no name
_LONG_PATHS = ("/log", "/exec", "/attach", "/portforward")
_WRITING = frozenset({"POST", "PUT", "PATCH", "DELETE"})


def server_context(
    certificate: str, key: str, *, client_ca: str = "", client_ca_text: str = ""
) -> ssl.SSLContext:
    """TLS 1.2 and above. With an authority for clients their certificates are asked for and checked, not demanded.

    All but their dates: those are the authenticator's to judge, by the cluster's clock, for each request. A client
    whose certificate is over gets 401 for an answer, as from upstream, where TLS would only break the connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    if client_ca or client_ca_text:
        context.load_verify_locations(cafile=client_ca or None, cadata=client_ca_text or None)
        context.verify_mode = ssl.CERT_OPTIONAL
        context.verify_flags |= _NO_CHECK_TIME
    context.set_alpn_protocols(["http/1.1"])
    return context


class HttpFront:
    """Listens on addresses and hands every request to the server, by way of `handle` if there is one: it raises
    ConnectionError to cut the connection instead of an answer."""

    def __init__(
        self, server: ApiServer, *, body_limit: int = BODY_LIMIT, body_seconds: float = _BODY_SECONDS,
        handle: Callable[[Request], Awaitable[Response]] | None = None,
    ) -> None:
        self._server = server
        self._answer = handle or server.handle
        self._body_limit = body_limit
        self._body_seconds = body_seconds
        self._protocol: web.Server | None = None
        self._listeners: list[asyncio.Server] = []

    async def listen(
        self, host: str, port: int, context: ssl.SSLContext | None, *, listener: socket.socket | None = None
    ) -> int:
        """Accept connections; returns the port, which the system chooses if it is 0. May be called again for another
        address. `listener` is a socket that listens there already."""
        if self._protocol is None:
            self._protocol = web.Server(
                self._handle,
                handler_cancellation=True,
                keepalive_timeout=_KEEPALIVE_SECONDS,
                access_log=None,
                logger=_front_log,
                max_line_size=65536,
                max_field_size=65536,
                read_bufsize=262144,
                lingering_time=1.0,
            )  # fmt: skip
        loop = asyncio.get_running_loop()
        if listener is not None:
            accepting = await loop.create_server(self._connect, sock=listener, ssl=context, backlog=1024)
        else:
            accepting = await loop.create_server(
                self._connect, host, port, ssl=context, backlog=1024, reuse_address=True
            )
        self._listeners.append(accepting)
        found: int = accepting.sockets[0].getsockname()[1]
        return found

    async def close(self) -> None:
        """Stop accepting, and end the connections that are open."""
        for listener in self._listeners:
            listener.close()
        if self._protocol is not None:
            self._protocol.pre_shutdown()       # connections that wait for a next request end now
            await self._protocol.shutdown(2.0)
        for listener in self._listeners:
            await listener.wait_closed()
        self._listeners.clear()

    def abort(self) -> None:
        """Stop accepting, and cut the connections that are open: as if the process had been killed."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for connection in self._protocol.connections if self._protocol is not None else ():
            if connection.transport is not None:
                connection.transport.abort()

    def _connect(self) -> asyncio.BaseProtocol:
        assert self._protocol is not None
        if len(self._protocol.connections) >= _MOST_CONNECTIONS:
            return _Refusal()
        return self._protocol()

    async def _handle(self, raw: web.BaseRequest) -> web.StreamResponse:
        try:
            if _long_running(raw):
                return await self._serve(raw)
            with self._server.inflight.enter(raw.method in _WRITING):
                return await self._serve(raw)
        except errors.StatusError as error:
            return _plain(raw, responses.failure(error))
        except ConnectionError:
            if raw.transport is not None:
                raw.transport.abort()
            return _Nothing()

    async def _serve(self, raw: web.BaseRequest) -> web.StreamResponse:
        try:
            body = await self._body(raw)
        except errors.StatusError as error:
            refused = _plain(raw, responses.failure(error, raw.headers.get("Accept", "")))
            refused.force_close()      # what is left of the body is never read
            return refused
        request = to_request(raw, body)
        if raw.method in _WRITING:
            # A client that goes away must not tear a write apart: it is finished, only its answer is lost.
            response = await asyncio.shield(asyncio.ensure_future(self._answer(request)))
        else:
            response = await self._answer(request)
        if isinstance(request.upgrade, Upgrade) and request.upgrade.taken is not None:
            request.upgrade.taken.close()
            return _Nothing()
        if response.watch is not None:
            return await _send_watch(raw, response)
        if response.stream is not None:
            return await _send_stream(raw, response)
        return _plain(raw, response)

    async def _body(self, raw: web.BaseRequest) -> bytes:
        """Raises RequestEntityTooLarge, Timeout, BadRequest."""
        if not raw.can_read_body:
            return b""
        if raw.content_length is not None and raw.content_length > self._body_limit:
            raise errors.RequestEntityTooLarge.limit(self._body_limit)
        if raw.headers.get("Expect", "").lower() == "100-continue":
            await raw.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            raw.writer.output_size = 0
        try:
            whole = await within(self._body_seconds, self._whole(raw))
        except TimeoutError:
            raise errors.Timeout("Timeout: the request's body did not arrive in time", errors.StatusDetails()) from None
        except (HttpProcessingError, web.PayloadAccessError, ValueError) as error:
            raise errors.BadRequest(f"the request's body cannot be read: {error}") from error
        if raw.headers.get("Content-Encoding", "").lower() == "gzip":
            return _gunzip(whole, self._body_limit)
        return whole

    async def _whole(self, raw: web.BaseRequest) -> bytes:
        chunks: list[bytes] = []
        size = 0
        async for chunk in raw.content.iter_any():
            chunks.append(chunk)
            size += len(chunk)
            if size > self._body_limit:
                raise errors.RequestEntityTooLarge.limit(self._body_limit)
        return b"".join(chunks) if len(chunks) != 1 else chunks[0]


class Upgrade:
    """The handle of a connection that may change its protocol. `taken`: it has, and HTTP is over on it."""

    def __init__(self, raw: web.BaseRequest) -> None:
        self._raw = raw
        self.taken: TakenConnection | None = None

    def take(self) -> TakenConnection:
        """From here on the connection's bytes are the caller's, in both directions."""
        self.taken = TakenConnection(self._raw)
        return self.taken


class TakenConnection:
    """See `kubelet_proxy.Tunnel`. Feeds on aiohttp's protocol as its payload parser, like a WebSocket does."""

    def __init__(self, raw: web.BaseRequest) -> None:
        self._protocol = raw.protocol
        self._transport = raw.transport
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._paused = False
        self._ended = False
        self._wake: asyncio.Future[None] | None = None
        self._protocol.set_parser(cast(Any, self))

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        if data:
            self._waiting.append(bytes(data))
            self._size += len(data)
            if self._size > _TUNNEL_BUFFER and not self._paused and self._transport is not None:
                self._paused = True
                self._transport.pause_reading()
            self._rouse()
        return False, b""

    def feed_eof(self) -> None:
        self._ended = True
        self._rouse()

    def set_exception(self, error: BaseException, *_: object) -> None:
        self.feed_eof()

    async def read(self) -> bytes:
        while not self._waiting:
            if self._ended or self._transport is None:
                return b""
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        data = b"".join(self._waiting)
        self._waiting.clear()
        self._size = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the client has gone")
        self._transport.write(data)
        await self._protocol._drain_helper()

    def close(self) -> None:
        self._ended = True
        if self._transport is not None:
            self._transport.close()
        self._rouse()

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


class _Nothing(web.StreamResponse):
    """What is answered on a connection that has been taken over: nothing more."""

    async def prepare(self, request: web.BaseRequest) -> None:
        self.force_close()

    async def write_eof(self, data: bytes = b"") -> None:
        return None


class _Refusal(asyncio.Protocol):
    """Too many connections: this one is closed at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def to_request(raw: web.BaseRequest, body: bytes) -> Request:
    """aiohttp's request as ours."""
    url = raw.rel_url
    query = _query(url.raw_query_string) if url.raw_query_string else {}
    transport = raw.transport
    peer = None
    if transport is not None:
        ssl_object = transport.get_extra_info("ssl_object")
        if ssl_object is not None:
            peer = ssl_object.getpeercert(binary_form=True)
    return Request(
        raw.method,
        url.path,
        query,
        _headers(raw),
        body,
        remote=raw.remote or "",
        peer_certificate=peer,
        upgrade=Upgrade(raw) if "Upgrade" in raw.headers else None,
    )


def _headers(raw: web.BaseRequest) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for name, value in raw.headers.items():
        key = name.lower()
        found[key] = f"{found[key]},{value}" if key in found else value
    return found


def _query(text: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name, value in parse_qsl(text, keep_blank_values=True, errors="replace"):
        found[name] = (*found[name], value) if name in found else (value,)
    return found


def _long_running(raw: web.BaseRequest) -> bool:
    url = raw.rel_url
    query = url.raw_query_string
    if "watch=" in query or query == "watch" or "follow=" in query:
        return True
    path = url.raw_path
    return path.endswith(_LONG_PATHS) or "/proxy" in path or "/watch/" in path


def _plain(raw: web.BaseRequest, response: Response) -> web.Response:
    headers = dict(response.headers)
    headers.setdefault("cache-control", "no-cache, private")
    body = response.body
    if len(body) > _COMPRESS_ABOVE and "gzip" in raw.headers.get("Accept-Encoding", ""):
        body = gzip.compress(body, 1, mtime=0)
        headers["content-encoding"] = "gzip"
        headers["vary"] = "Accept-Encoding"
    return web.Response(status=response.status, headers=headers, body=body)


async def _send_watch(raw: web.BaseRequest, response: Response) -> web.StreamResponse:
    async def chunks() -> AsyncIterator[bytes]:
        assert response.watch is not None
        async for batch in response.watch:
            yield b"".join([line.line for line in batch])

    try:
        answer = await _begin(raw, response)
        await _pour(answer, chunks())
    finally:
        close = getattr(response.watch, "aclose", None)
        if close is not None:
            await close()
    return answer


async def _send_stream(raw: web.BaseRequest, response: Response) -> web.StreamResponse:
    assert response.stream is not None
    try:
        answer = await _begin(raw, response)
        await _pour(answer, response.stream)
    finally:
        close = getattr(response.stream, "aclose", None)
        if close is not None:
            await close()
    return answer


async def _begin(raw: web.BaseRequest, response: Response) -> web.StreamResponse:
    answer = web.StreamResponse(status=response.status, headers=dict(response.headers))
    answer.headers.setdefault("cache-control", "no-cache, private")
    if raw.version >= (1, 1) and "content-length" not in response.headers:
        answer.enable_chunked_encoding()
    await answer.prepare(raw)
    return answer


async def _pour(answer: web.StreamResponse, chunks: AsyncIterator[bytes]) -> None:
    """Until the stream ends, or the reader is gone or takes nothing for too long."""
    try:
        async for chunk in chunks:
            async with asyncio.timeout(_WRITE_SECONDS):
                await answer.write(chunk)
        await answer.write_eof()
    except (ConnectionError, TimeoutError) as error:
        log.debug("a stream ended early: %r", error)
        answer.force_close()


def _gunzip(data: bytes, limit: int) -> bytes:
    """Raises BadRequest, RequestEntityTooLarge."""
    try:
        unpacker = zlib.decompressobj(wbits=31)
        whole = unpacker.decompress(data, limit + 1)
    except zlib.error as error:
        raise errors.BadRequest(f"the request's body cannot be read: {error}") from error
    if len(whole) > limit:
        raise errors.RequestEntityTooLarge.limit(limit)
    return whole
