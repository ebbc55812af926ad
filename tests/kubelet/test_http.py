"""The bare HTTP client of probes, and who gets into the kubelet's server."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from pinnace.base.clock import SystemClock
from pinnace.base.randomness import Randomness
from pinnace.client.https import client_context
from pinnace.cluster.certificates import Authority
from pinnace.kubelet import http_get
from pinnace.kubelet.config import KubeletConfig
from pinnace.kubelet.kubelet import Kubelet
from pinnace.kubelet.server.server import KubeletServer

from .fakes import FakeApi, FakeMounter, FakeNetwork, FakeRuntime


@contextlib.asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[tuple[str, list[str]]]:
    """A server that gives one answer a connection, and what it was asked."""
    asked: list[str] = []
    left = list(answers)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(left.pop(0))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked
    finally:
        server.close()
        await server.wait_closed()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_a_plain_answer() -> None:
    async with answering(OK) as (url, asked):
        answer = await http_get.get(f"{url}/x?y=1", [("X-A", "b")], timeout=5, agent="kube-probe/1.36")
    assert (answer.status, answer.body) == (200, "ok")
    assert asked[0].startswith("GET /x?y=1 HTTP/1.1\r\nHost: 127.0.0.1:")
    assert "User-Agent: kube-probe/1.36\r\n" in asked[0] and "X-A: b\r\n" in asked[0]


async def test_redirects_on_the_same_host_are_followed() -> None:
    here = b"HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n"
    away = b"HTTP/1.1 302 Found\r\nLocation: http://example.invalid/\r\nContent-Length: 0\r\n\r\n"
    async with answering(here, OK) as (url, asked):
        assert (await http_get.get(url, [], timeout=5, agent="a")).status == 200
        assert asked[1].startswith("GET /there ")
    async with answering(away) as (url, _):
        assert (await http_get.get(url, [], timeout=5, agent="a")).status == 302


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"SSH-2.0\r\n\r\n"])
async def test_what_is_no_answer(answer: bytes) -> None:
    async with answering(answer) as (url, _):
        with pytest.raises(http_get.HttpFault):
            await http_get.get(url, [], timeout=5, agent="a")


async def test_nobody_there() -> None:
    words = 'Get "http://127.0.0.1:9/": dial tcp 127.0.0.1:9: connect: connection refused'
    with pytest.raises(http_get.HttpFault, match=words):
        await http_get.get("http://127.0.0.1:9/", [], timeout=5, agent="a")


# ------------------------------------------------------------------------------------ who gets in


def contexts(directory: Path, name: str, organizations: list[str]) -> tuple[ssl.SSLContext, ...]:
    """Of the server, of a client with that name, and of one without a certificate."""
    now = datetime.now(UTC)
    pair = Authority.create("test", now)
    authority = Authority(pair)
    serving = authority.issue("node", hosts=["127.0.0.1"], now=now, server=True).write(directory, "serving")
    client = authority.issue(name, organizations=organizations, now=now).write(directory, "client")
    ca = pair.certificate.decode()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=ca)
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_cert_chain(*serving)
    return server, client_context(ca=ca, certificate=client[0], key=client[1]), client_context(ca=ca)


@pytest.mark.parametrize(("name", "organizations", "status"), [
    ("kube-apiserver-kubelet-client", [], 200), ("admin", ["system:masters"], 200), ("eve", ["people"], 403),
])  # fmt: skip
async def test_only_the_api_server_and_administrators(
    tmp_path: Path, name: str, organizations: list[str], status: int
) -> None:
    serving, client, nobody = contexts(tmp_path, name, organizations)
    runtime: Any = FakeRuntime(SystemClock())
    config = KubeletConfig(node_name="n", root=tmp_path / "k", log_root=tmp_path / "l", host_ips=("127.0.0.1",))
    kubelet = Kubelet(
        config, FakeApi().client(), runtime, FakeNetwork(), clock=SystemClock(), randomness=Randomness(1),
        mounter=FakeMounter(),
    )  # fmt: skip
    server = KubeletServer(kubelet, address="127.0.0.1", context=serving, port=0)
    task = asyncio.create_task(server.run())
    await server.listening.wait()
    url = f"https://127.0.0.1:{server.port}/healthz"
    try:
        async with aiohttp.ClientSession() as session:
            async with session.get(url, ssl=client) as answer:
                assert answer.status == status
            with pytest.raises((aiohttp.ClientError, ConnectionError)):
                async with session.get(url, ssl=nobody) as answer:
                    assert answer.status == 401
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
