"""The HTTPS front on loopback: TLS, bodies too large or without end, streams, compression, relayed connections."""

from __future__ import annotations

import asyncio
import io
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.apiserver import http as fronts
from pinnace.apiserver.http import HttpFront, server_context
from pinnace.apiserver.kubelet_proxy import KubeletProxy
from pinnace.base.clock import SystemClock
from pinnace.cluster.certificates import Authority

from .conftest import CONFIGS, PODS, Api, config, pod


@dataclass
class Front:
    api: Api
    port: int
    context: ssl.SSLContext
    session: aiohttp.ClientSession
    authority: Authority
    directory: Path

    def url(self, path: str) -> str:
        return f"https://127.0.0.1:{self.port}{path}"


@pytest.fixture
async def front(api: Api, tmp_path: Path) -> AsyncIterator[Front]:
    now = SystemClock().now()
    authority = Authority(Authority.create("test", now))
    certificate, key = authority.issue("server", hosts=["127.0.0.1"], now=now, server=True).write(tmp_path, "server")
    client_certificate, client_key = authority.issue("jane", organizations=["dev"], now=now).write(tmp_path, "jane")
    text = authority.certificate.decode()
    listener = HttpFront(api.server, body_seconds=0.3)
    port = await listener.listen(
        "127.0.0.1", 0, server_context(str(certificate), str(key), client_ca_text=text)
    )
    context = ssl.create_default_context(cadata=text)
    context.load_cert_chain(client_certificate, client_key)
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context))
    yield Front(api, port, context, session, authority, tmp_path)
    await session.close()
    await listener.close()


async def raw(front: Front, text: bytes) -> bytes:
    """Send bytes, and read until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port, ssl=front.context)
    try:
        writer.write(text)
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()


async def test_objects_go_through(front: Front) -> None:
    async with front.session.post(front.url(CONFIGS), json=config("a", data={"k": "ü"})) as answer:
        assert answer.status == 201
    async with front.session.get(front.url(f"{CONFIGS}/a")) as answer:
        assert answer.headers["Content-Type"].startswith("application/json")
        assert (await answer.json())["data"] == {"k": "ü"}
    async with front.session.get(front.url(f"{CONFIGS}?labelSelector=a%20in%20(b,c)")) as answer:
        assert answer.status == 200


async def test_the_peers_certificate_reaches_the_authenticator(front: Front) -> None:
    seen: list[bytes | None] = []

    class Asks:
        async def authenticate(self, request: object) -> None:
            seen.append(request.peer_certificate)      # type: ignore[attr-defined]

    front.api.server.authenticator = Asks()
    async with front.session.get(front.url("/api")) as answer:
        assert answer.status == 401
        assert (await answer.json())["reason"] == "Unauthorized"
    assert seen[0] is not None and b"jane" in seen[0]


async def test_old_tls_is_refused(front: Front) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("127.0.0.1", front.port, ssl=context)


@pytest.mark.parametrize("chunked", [False, True])
async def test_four_megabytes_are_too_much(front: Front, chunked: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b" " * 65536

    data = pieces() if chunked else io.BytesIO(b" " * (4 << 20))
    headers = {"Content-Type": "application/json"}
    try:
        async with front.session.post(front.url(CONFIGS), data=data, headers=headers) as answer:
            assert answer.status == 413
            status = await answer.json()
    except aiohttp.ClientOSError:
        return      # the server closed while the client was still writing, which is a refusal, too
    assert status["reason"] == "RequestEntityTooLarge"
    assert status["message"] == "Request entity too large: limit is 3145728"


async def test_a_body_that_never_ends(front: Front) -> None:
    head = f"POST {CONFIGS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{"
    answer = await raw(front, head.encode())
    assert answer.startswith(b"HTTP/1.1 504") and b"did not arrive in time" in answer


@pytest.mark.parametrize(
    "text", [b"NONSENSE\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"\x00\x01\r\n\r\n"]
)
async def test_what_is_no_http(front: Front, text: bytes) -> None:
    assert (await raw(front, text)).startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))


async def test_large_answers_are_compressed(front: Front) -> None:
    for number in range(3):
        await front.api.ask("POST", CONFIGS, config(f"c{number}", data={"k": "x" * 100_000}))
    async with front.session.get(front.url(CONFIGS), headers={"Accept-Encoding": "gzip"}) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        assert len((await answer.json())["items"]) == 3


async def test_watches_stream_and_end_with_their_reader(front: Front) -> None:
    registry = front.api.server.registry(core.ConfigMap)
    async with front.session.get(front.url(f"{CONFIGS}?watch=true")) as answer:
        await front.api.ask("POST", CONFIGS, config("a"))
        line = await asyncio.wait_for(answer.content.readline(), 2)
        assert json.loads(line)["type"] == "ADDED"
        assert registry.cache.watchers == 1
        answer.close()
    for _ in range(100):
        if not registry.cache.watchers:
            break
        await asyncio.sleep(0.02)
    assert registry.cache.watchers == 0


async def test_too_many_at_once(front: Front) -> None:
    front.api.server.inflight.now[False] = 400
    async with front.session.get(front.url(CONFIGS)) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
    async with front.session.get(front.url(f"{CONFIGS}?watch=true&timeoutSeconds=1")) as answer:
        assert answer.status == 200, "long-running requests do not count"


async def test_connections_are_bounded(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fronts, "_MOST_CONNECTIONS", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port, ssl=front.context)
    assert await asyncio.wait_for(reader.read(), 2) == b"", "it is closed at once"
    writer.close()


async def kubelet(front: Front) -> tuple[asyncio.Server, int]:
    """Answers like a kubelet: echoes on an upgraded connection, tells a log line otherwise."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"/exec/" in head and b"command=ls" in head:
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
            while data := await reader.read(65536):
                writer.write(data.upper())
                await writer.drain()
        elif b"/exec/" in head:
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nhello\n")
        await writer.drain()
        writer.close()

    certificate = front.directory / "server.crt"
    key = front.directory / "server.key"
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    return listener, listener.sockets[0].getsockname()[1]


async def test_logs_and_exec_are_relayed(front: Front) -> None:
    api = front.api
    listener, port = await kubelet(front)
    api.server.kubelets = KubeletProxy(front.context)
    node = core.Node(metadata=meta.ObjectMeta(name="n1"))
    await api.client.create(node)
    status = {"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                         "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}}  # fmt: skip
    merge = "application/merge-patch+json"
    assert (await api.ask("PATCH", "/api/v1/nodes/n1/status", status, content_type=merge)).status == 200
    await api.ask("POST", PODS, pod("a"))
    await api.ask("POST", f"{PODS}/a/binding", {"metadata": {"name": "a"}, "target": {"name": "n1"}})
    async with front.session.get(front.url(f"{PODS}/a/log")) as answer:
        assert (answer.status, await answer.text()) == (200, "hello\n")
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port, ssl=front.context)
    writer.write(f"GET {PODS}/a/exec?command=ls&stdout=1 HTTP/1.1\r\nHost: x\r\n{upgrade}".encode())
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert head.startswith(b"HTTP/1.1 101")
    for size in (3, 300_000):
        writer.write(b"x" * size)
        assert await asyncio.wait_for(reader.readexactly(size), 5) == b"X" * size
    writer.close()
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "x"}
    async with front.session.get(front.url(f"{PODS}/a/exec?command=no&stdout=1"), headers=headers) as answer:
        assert (answer.status, await answer.text()) == (403, "no"), "the kubelet's own refusal"
    async with front.session.get(front.url(f"{PODS}/a/exec?command=ls&stdout=1")) as answer:
        assert answer.status == 400 and "Upgrade request required" in await answer.text()
    await api.server.kubelets.close()
    listener.close()
    await listener.wait_closed()


async def test_what_is_no_http_is_refused_and_fills_no_log(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    for junk in (b"\x00\xff\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port, ssl=front.context)
        writer.write(junk)
        assert b" 400 " in await asyncio.wait_for(reader.readline(), 5)
        writer.close()
    assert "Traceback" not in caplog.text
