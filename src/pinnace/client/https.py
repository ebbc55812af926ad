"""The HTTPS transport: what a node, a person or a program on another machine uses."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
from yarl import URL

from pinnace.client.transport import Request, Response, WatchLine

# An event line holds one object; the server takes none above 3 MiB, and JSON of it stays below twice that.
_MAX_LINE = 8 * 1024 * 1024
_REQUEST_SECONDS = 65.0   # the server's own deadline is 60 s
_CONNECT_SECONDS = 10.0
_TRUE = ("true", "True", "1")


class _Line(msgspec.Struct):
    type: str
    object: msgspec.Raw


_decode_line = msgspec.json.Decoder(_Line).decode


class HttpsTransport:
    """Requests to one server.

    `server` is the URL's beginning ("https://127.0.0.1:6443"). `token` is read before every request if it is a
    path, so that a rotated service account token is picked up. At most `connections` are open at a time,
    watches not counted: those have a pool of their own.
    """

    def __init__(
        self,
        server: str,
        context: ssl.SSLContext | None,
        *,
        token: str | Path | None = None,
        connections: int = 32,
    ) -> None:
        self._server = server.rstrip("/")
        self._context = context
        self._token = token
        self._connections = connections
        self._calls: aiohttp.ClientSession | None = None
        self._watches: aiohttp.ClientSession | None = None

    async def send(self, request: Request) -> Response:
        watch, follow = (request.query.get(name, ("",))[0] in _TRUE for name in ("watch", "follow"))
        watching = watch or follow
        session = self._session(watching)
        url = URL(self._server + quote(request.path, safe="/:@!$&'()*+,;=~") + _query(request.query), encoded=True)
        try:
            answer = await session.request(
                request.method, url, data=request.text() or None, headers=self._headers(request),
                ssl=self._context or True, allow_redirects=False,
            )  # fmt: skip
        except aiohttp.ClientConnectionError as error:
            raise ConnectionError(f"{self._server}: {error}") from error
        except aiohttp.ClientError as error:
            raise ConnectionError(f"{self._server}: {error!r}") from error
        headers = {name.lower(): value for name, value in answer.headers.items()}
        if watching and answer.status < 300:
            if watch:
                return Response(answer.status, headers, watch=_lines(answer))
            return Response(answer.status, headers, stream=_chunks(answer))
        try:
            async with answer:
                return Response(answer.status, headers, await answer.read())
        except aiohttp.ClientError as error:
            raise ConnectionError(f"{self._server}: {error!r}") from error

    async def close(self) -> None:
        for session in (self._calls, self._watches):
            if session is not None:
                await session.close()
        self._calls = self._watches = None

    def _headers(self, request: Request) -> dict[str, str]:
        headers = dict(request.headers)
        token = self._token.read_text().strip() if isinstance(self._token, Path) else self._token
        if token:
            headers["authorization"] = f"Bearer {token}"
        if request.because:
            headers["pinnace-because"] = ",".join(map(str, request.because[:16]))
        if request.about:
            headers["pinnace-about"] = request.about
        return headers

    def _session(self, watching: bool) -> aiohttp.ClientSession:
        if watching:
            if self._watches is None:
                # A watch lives as long as the server lets it: only silence of the connection itself ends it.
                self._watches = _session(0, aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS))
            return self._watches
        if self._calls is None:
            timeout = aiohttp.ClientTimeout(total=_REQUEST_SECONDS, sock_connect=_CONNECT_SECONDS)
            self._calls = _session(self._connections, timeout)
        return self._calls


def client_context(
    *, ca: str | bytes | None, certificate: Path | None = None, key: Path | None = None, verify: bool = True
) -> ssl.SSLContext:
    """A TLS context that trusts only `ca` (PEM text; None: the system's roots) and shows the given certificate."""
    text = ca.decode("ascii") if isinstance(ca, bytes) else ca
    context = ssl.create_default_context(cadata=text) if text else ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


def _session(connections: int, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=connections, keepalive_timeout=60, ttl_dns_cache=300)
    return aiohttp.ClientSession(
        connector=connector, timeout=timeout, auto_decompress=True, read_bufsize=256 * 1024,
        cookie_jar=aiohttp.DummyCookieJar(), trust_env=False,
    )  # fmt: skip


def _query(query: Mapping[str, tuple[str, ...]]) -> str:
    pairs = [(name, value) for name, values in query.items() for value in values]
    return "?" + urlencode(pairs) if pairs else ""


async def _lines(answer: aiohttp.ClientResponse) -> AsyncGenerator[tuple[WatchLine, ...], None]:
    rest = bytearray()
    try:
        async for chunk in answer.content.iter_any():
            first, last = chunk.find(b"\n"), chunk.rfind(b"\n")
            if len(rest) + (first if first >= 0 else len(chunk)) > _MAX_LINE:
                raise ConnectionError("a watch line is longer than any object may be")
            end = len(rest) + last
            rest += chunk
            if last < 0:
                continue
            whole = bytes(rest[:end])
            del rest[: end + 1]
            batch = tuple(
                WatchLine(_decode_line(line).type, None, line + b"\n") for line in whole.split(b"\n") if line.strip()
            )
            if batch:
                yield batch
    except (aiohttp.ClientError, asyncio.IncompleteReadError, msgspec.DecodeError) as error:
        raise ConnectionError(f"the watch broke off: {error!r}") from error
    finally:
        answer.close()


async def _chunks(answer: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    try:
        async for chunk in answer.content.iter_any():
            yield chunk
    except aiohttp.ClientError as error:
        raise ConnectionError(f"the stream broke off: {error!r}") from error
    finally:
        answer.close()
