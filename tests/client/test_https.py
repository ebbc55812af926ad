"""The HTTPS transport against a small TLS server on the loopback."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from pinnace.base.clock import SystemClock
from pinnace.client import https
from pinnace.client.https import HttpsTransport, client_context
from pinnace.client.transport import Request, WatchLine
from pinnace.cluster.certificates import Authority

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
WATCH = {"watch": ("true",)}


class Server:
    """Answers every request with `handler`."""

    def __init__(self, directory: Path) -> None:
        self.handler: Handler
        now = SystemClock().now()
        self.authority = Authority(Authority.create("test", now))
        pair = self.authority.issue("server", hosts=["127.0.0.1"], now=now, server=True, client=False)
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=self.authority.certificate.decode())
        self._context.verify_mode = ssl.CERT_OPTIONAL
        self._context.load_cert_chain(*pair.write(directory, "server"))
        client = self.authority.issue("ann", organizations=["staff"], now=now)
        certificate, key = client.write(directory, "ann")
        self.context = client_context(ca=self.authority.certificate, certificate=certificate, key=key)
        self.url = ""

    async def start(self) -> web.ServerRunner:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            return await self.handler(request)  # type: ignore[arg-type]

        runner = web.ServerRunner(web.Server(handle), shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._context)
        await site.start()
        self.url = f"https://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    def transport(self, **more: object) -> HttpsTransport:
        return HttpsTransport(self.url, self.context, **more)  # type: ignore[arg-type]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    made = Server(tmp_path)
    runner = await made.start()
    yield made
    await runner.cleanup()


@pytest.fixture
async def transport(server: Server) -> AsyncIterator[HttpsTransport]:
    made = server.transport()
    yield made
    await made.close()


def streaming(*chunks: bytes, gate: asyncio.Event | None = None, cut: bool = False) -> Handler:
    """Chunks as the peer's reader sees them: each is sent when the one before has had time to arrive."""

    async def handle(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        for chunk in chunks:
            await answer.write(chunk)
            await SystemClock().sleep(0.005)
        if gate is not None:
            await gate.wait()
        if cut and request.transport is not None:
            request.transport.abort()
        return answer

    return handle


async def lines(transport: HttpsTransport) -> list[tuple[WatchLine, ...]]:
    response = await transport.send(Request("GET", "/api/v1/pods", WATCH))
    assert response.watch is not None
    return [batch async for batch in response.watch]


def event(number: int, size: int = 0) -> bytes:
    return b'{"type":"ADDED","object":{"n":%d,"pad":"%s"}}\n' % (number, b"x" * size)


async def test_a_request_as_it_is_meant(server: Server, transport: HttpsTransport) -> None:
    async def handle(request: web.Request) -> web.Response:
        assert request.transport is not None
        peer = request.transport.get_extra_info("peercert")
        return web.json_response(
            {
                "method": request.method, "path": request.raw_path, "body": await request.text(),
                "subject": [list(part[0]) for part in peer["subject"]], "type": request.headers["Content-Type"],
                "because": request.headers["Pinnace-Because"],
            },
            status=201, headers={"X-Answer": "yes"},
        )  # fmt: skip

    server.handler = handle
    response = await transport.send(
        Request("POST", "/api/v1/a b/ü/50%", {"labelSelector": ("a=b,c", "d")}, {"content-type": "application/json"},
                b"{}", because=tuple(range(20)))
    )  # fmt: skip
    assert response.status == 201 and response.headers["x-answer"] == "yes"
    assert msgspec.json.decode(response.body) == {
        "method": "POST", "path": "/api/v1/a%20b/%C3%BC/50%25?labelSelector=a%3Db%2Cc&labelSelector=d", "body": "{}",
        "subject": [["organizationName", "staff"], ["commonName", "ann"]], "type": "application/json",
        "because": ",".join(map(str, range(16))),
    }  # fmt: skip


@pytest.mark.parametrize("status", [302, 400, 401, 404, 409, 500, 503])
@pytest.mark.parametrize("query", [{}, WATCH, {"follow": ("true",)}])
async def test_an_answer_is_an_answer(
    server: Server, transport: HttpsTransport, status: int, query: dict[str, tuple[str, ...]]
) -> None:
    async def handle(_: web.Request) -> web.Response:
        return web.Response(status=status, body=b'{"kind":"Status"}', headers={"location": "/elsewhere"})

    server.handler = handle
    response = await transport.send(Request("GET", "/x", query))
    assert (response.status, response.body, response.watch) == (status, b'{"kind":"Status"}', None)


async def test_lines_are_whole_wherever_chunks_end(server: Server, transport: HttpsTransport) -> None:
    first, second, third = event(1), event(2), event(3)
    server.handler = streaming(
        first[:10], first[10:-1], b"\n" + second + third[:1], b"", third[1:], b"\n \n", event(4) + event(5)
    )
    batches = await lines(transport)
    assert [line.line for batch in batches for line in batch] == [event(number) for number in range(1, 6)]
    assert {line.type for batch in batches for line in batch} == {"ADDED"}


class Answer:
    """As much of aiohttp's answer as a watch reads."""

    def __init__(self, chunks: list[bytes]) -> None:
        self.chunks = chunks
        self.closed = False
        self.content = self

    async def iter_any(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            yield chunk

    def close(self) -> None:
        self.closed = True


@given(st.lists(st.integers(0, 30), max_size=8), st.lists(st.integers(0, 400), max_size=12))
def test_batches_are_all_that_is_whole(sizes: list[int], cuts: list[int]) -> None:
    events = [event(number, size) for number, size in enumerate(sizes)]
    text = b"".join(events)
    ends = sorted({min(cut, len(text)) for cut in cuts} | {len(text)})
    chunks = [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    whole = [text[:end].count(b"\n") for end in ends]       # lines that are there after each chunk
    expected = [events[before:after] for before, after in zip([0, *whole], whole, strict=False) if after > before]
    answer = Answer(chunks)

    async def read() -> list[list[bytes]]:
        return [[line.line for line in batch] async for batch in https._lines(answer)]  # type: ignore[arg-type]

    assert asyncio.run(read()) == expected
    assert answer.closed


async def test_lines_come_as_they_are_sent_and_a_watch_can_be_left(server: Server, transport: HttpsTransport) -> None:
    gate = asyncio.Event()
    server.handler = streaming(event(1), gate=gate)
    response = await transport.send(Request("GET", "/api/v1/pods", WATCH))
    watch = response.watch
    assert watch is not None
    async with asyncio.timeout(20):
        assert [line.line for line in await anext(watch)] == [event(1)]
        await watch.aclose()  # type: ignore[attr-defined]
    gate.set()


@pytest.mark.parametrize(
    "handler",
    [
        streaming(event(1), cut=True),
        streaming(event(1), b'{"type":\n'),
        streaming(event(1), b'{"object":{}}\n'),
    ],
)
async def test_a_watch_that_breaks_off(server: Server, transport: HttpsTransport, handler: Handler) -> None:
    server.handler = handler
    with pytest.raises(ConnectionError):
        await lines(transport)


async def test_a_line_is_bounded(
    server: Server, transport: HttpsTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(https, "_MAX_LINE", 300_000)
    server.handler = streaming(event(1, 200_000) + event(2, 200_000))
    assert sum(map(len, await lines(transport))) == 2
    server.handler = streaming(event(1, 400_000))
    with pytest.raises(ConnectionError, match="longer than any object"):
        await lines(transport)


async def test_logs_are_followed(server: Server, transport: HttpsTransport) -> None:
    server.handler = streaming(b"one\n", b"two")
    response = await transport.send(Request("GET", "/log", {"follow": ("true",)}))
    assert response.stream is not None
    assert b"".join([chunk async for chunk in response.stream]) == b"one\ntwo"
    whole = await transport.send(Request("GET", "/log", {"follow": ("false",), "watch": ("false",)}))
    assert whole.body == b"one\ntwo"


async def test_nobody_there(server: Server) -> None:
    refused = HttpsTransport("https://127.0.0.1:1", server.context)
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1"):
        await refused.send(Request("GET", "/"))
    await refused.close()


async def test_somebody_else_there(server: Server) -> None:
    async def handle(_: web.Request) -> web.Response:
        return web.Response()

    server.handler = handle
    other = Authority.create("other", SystemClock().now()).certificate
    for context in (client_context(ca=other), client_context(ca=None)):
        distrusting = HttpsTransport(server.url, context)
        with pytest.raises(ConnectionError):
            await distrusting.send(Request("GET", "/"))
        await distrusting.close()
    careless = HttpsTransport(server.url, client_context(ca=None, verify=False))
    assert (await careless.send(Request("GET", "/"))).status == 200
    await careless.close()


async def test_a_token_is_read_anew(server: Server, tmp_path: Path) -> None:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(text=request.headers.get("Authorization", ""))

    server.handler = handle
    path = tmp_path / "token"
    from_file, fixed = server.transport(token=path), server.transport(token="fixed")
    for token in ("one", "two"):
        path.write_text(token + "\n")
        assert (await from_file.send(Request("GET", "/"))).body == f"Bearer {token}".encode()
    assert (await fixed.send(Request("GET", "/"))).body == b"Bearer fixed"
    await from_file.close()
    await fixed.close()
