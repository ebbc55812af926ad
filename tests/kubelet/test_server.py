"""The kubelet's server with real containers, spoken to as kubectl does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from pinnace.kubelet.server.server import KubeletServer
from pinnace.kubelet.server.spdy import Data, Framer, SynReply, SynStream

from .fakes import make_pod
from .test_real import WAIT, Node, archive, directory, node, shell

__all__ = ["archive", "directory"]
pytestmark = [pytest.mark.root, pytest.mark.real]


@contextlib.asynccontextmanager
async def served(
    path: Path, image: Path, script: str, **more: Any
) -> AsyncIterator[tuple[Node, aiohttp.ClientSession]]:
    async with node(path, image) as n:
        n.api.add_pod(make_pod(containers=[shell(script, **more)]))
        await n.until(n.ready)
        server = KubeletServer(n.kubelet, address="127.0.0.1", context=None, port=0)
        task = asyncio.create_task(server.run())
        await server.listening.wait()
        async with aiohttp.ClientSession(base_url=f"http://127.0.0.1:{server.port}") as session:
            try:
                yield n, session
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


async def run_command(
    session: aiohttp.ClientSession,
    command: list[str],
    *,
    stdin: bytes | None = None,
    protocol: str = "v5.channel.k8s.io",
    tty: bool = False,
) -> tuple[dict[int, bytes], dict[str, Any]]:
    query = [("command", word) for word in command] + [("output", "1")]
    query += [("tty", "1")] if tty else [("error", "1")]
    query += [("input", "1")] if stdin is not None else []
    out: dict[int, bytes] = {}
    async with session.ws_connect("/exec/default/web/app", params=query, protocols=(protocol,)) as socket:
        assert socket.protocol == protocol
        if tty:
            await socket.send_bytes(b"\x04" + json.dumps({"Width": 123, "Height": 45}).encode())
        if stdin is not None:
            await socket.send_bytes(b"\x00" + stdin)
            if protocol.startswith("v5"):
                await socket.send_bytes(b"\xff\x00")
        async with asyncio.timeout(10):
            async for message in socket:
                out[message.data[0]] = out.get(message.data[0], b"") + message.data[1:]
    return out, json.loads(out.pop(3))


async def test_exec(directory: Path, archive: Path) -> None:
    async with served(directory, archive, WAIT) as (_, session):
        out, status = await run_command(session, ["sh", "-c", "echo out; echo err >&2; exit 7"])
        assert (out[1], out[2]) == (b"out\n", b"err\n")
        assert status["reason"] == "NonZeroExitCode"
        assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "7"}]
        out, status = await run_command(session, ["cat"], stdin=b"x" * 200_000)
        assert (out[1], status["status"]) == (b"x" * 200_000, "Success")
        out, status = await run_command(session, ["head", "-c", "5"], stdin=b"hello", protocol="v4.channel.k8s.io")
        assert (out[1], status["status"]) == (b"hello", "Success")
        out, _ = await run_command(session, ["sh", "-c", "sleep 0.2; stty size"], tty=True, stdin=b"")
        assert b"45 123" in out[1]
        async with session.get("/exec/default/web/app", params={"command": "ls"}) as answer:
            assert answer.status == 400
        async with session.get("/exec/default/nope/app", params={"command": "ls"}) as answer:
            assert answer.status in (400, 404)


async def test_logs(directory: Path, archive: Path) -> None:
    script = f"for i in 1 2 3 4 5; do echo line $i; done; echo bad >&2; {WAIT}"
    async with served(directory, archive, script) as (n, session):
        await n.until(lambda: " bad\n" in n.log())

        async def logs(**query: str) -> str:
            async with session.get("/containerLogs/default/web/app", params=query) as answer:
                return f"{answer.status} {await answer.text()}"

        assert await logs() == "200 " + "".join(f"line {i}\n" for i in range(1, 6)) + "bad\n"
        assert await logs(tailLines="2") == "200 line 5\nbad\n"
        assert await logs(tailLines="0") == "200 "
        assert await logs(limitBytes="9") == "200 line 1\nli"
        assert await logs(stream="Stderr") == "200 bad\n"
        assert (await logs(timestamps="true", tailLines="1")).endswith("Z bad\n")
        refusal = await logs(previous="true")
        message = 'previous terminated container "app" in pod "web" not found'
        assert refusal.startswith("400 ") and json.loads(refusal[4:])["message"] == message
        assert (await logs(tailLines="x")).startswith("400")


async def test_logs_are_followed_to_the_end_over_a_rotation(directory: Path, archive: Path) -> None:
    script = "i=0; while [ $i -lt 10 ]; do echo line $i; i=$((i+1)); sleep 0.1; done"
    async with served(directory, archive, script) as (n, session):
        async with session.get("/containerLogs/default/web/app", params={"follow": "true"}) as answer:
            reading = asyncio.create_task(answer.text())
            await n.until(lambda: "line 3" in n.log())
            config = n.kubelet.config
            object.__setattr__(config, "log_max_bytes", 10)
            await n.kubelet._keeper.rotate_logs()
            async with asyncio.timeout(10):
                text = await reading
        assert text == "".join(f"line {i}\n" for i in range(10))
        await n.until(lambda: (n.status().containerStatuses or [])[0].restartCount == 1)
        async with session.get("/containerLogs/default/web/app", params={"previous": "true"}) as answer:
            assert "line 9\n" in await answer.text()


async def test_logs_of_a_container_that_the_runtime_forgot(directory: Path, archive: Path) -> None:
    async with served(directory, archive, WAIT) as (n, session):
        pod = make_pod("done", restartPolicy="Never", containers=[shell("echo bye")])
        n.api.add_pod(pod)
        await n.until(lambda: n.api.pod("done").status.phase == "Succeeded")     # type: ignore[union-attr]
        for container in await n.runtime.containers():
            if container.labels["io.kubernetes.pod.name"] == "done":
                await n.runtime.remove_sandbox(container.sandbox_id)
        async with session.get("/containerLogs/default/done/app") as answer:
            assert (answer.status, await answer.text()) == (200, "bye\n")


async def test_port_forward_through_spdy(directory: Path, archive: Path) -> None:
    script = f"while :; do echo pong | nc -l -p 8080; done & {WAIT}"
    async with served(directory, archive, script) as (_, session):
        await asyncio.sleep(0.3)
        async with session.ws_connect("/portForward/default/web", protocols=("SPDY/3.1+portforward.k8s.io",)) as socket:
            framer = Framer()
            for number, kind in ((1, "error"), (3, "data")):
                headers = {"streamtype": kind, "port": "8080", "requestid": "0"}
                await socket.send_bytes(framer.encode(SynStream(number, headers, fin=kind == "error")))
            got: dict[int, bytes] = {}
            replies: set[int] = set()
            async with asyncio.timeout(10):
                while b"pong\n" not in got.get(3, b""):
                    for frame in framer.feed(await socket.receive_bytes()):
                        if isinstance(frame, SynReply):
                            replies.add(frame.stream)
                        elif isinstance(frame, Data):
                            got[frame.stream] = got.get(frame.stream, b"") + frame.data
            assert replies == {1, 3}
            for number, kind in ((5, "error"), (7, "data")):
                headers = {"streamtype": kind, "port": "9", "requestid": "1"}
                await socket.send_bytes(framer.encode(SynStream(number, headers, fin=kind == "error")))
            async with asyncio.timeout(10):
                while not got.get(5):
                    for frame in framer.feed(await socket.receive_bytes()):
                        if isinstance(frame, Data):
                            got[frame.stream] = got.get(frame.stream, b"") + frame.data
            assert b"error forwarding port 9 to pod" in got[5]


async def test_port_forward_through_channels(directory: Path, archive: Path) -> None:
    async with (
        served(directory, archive, f"while :; do echo pong | nc -l -p 8080; done & {WAIT}") as (_, session),
        contextlib.AsyncExitStack() as stack,
    ):
        await asyncio.sleep(0.3)      # until nc listens
        socket = await stack.enter_async_context(
            session.ws_connect("/portForward/default/web?port=8080", protocols=("v4.channel.k8s.io",))
        )
        assert await socket.receive_bytes() == b"\x00" + struct.pack("<H", 8080)
        assert await socket.receive_bytes() == b"\x01" + struct.pack("<H", 8080)
        async with asyncio.timeout(10):
            assert await socket.receive_bytes() == b"\x00pong\n"


async def test_figures(directory: Path, archive: Path) -> None:
    async with served(directory, archive, WAIT) as (_, session):
        async with session.get("/stats/summary") as answer:
            summary = await answer.json()
        (pod,) = summary["pods"]
        assert pod["podRef"]["name"] == "web" and pod["memory"]["workingSetBytes"] > 0
        async with session.get("/metrics/resource") as answer:
            labels = '{container="app",namespace="default",pod="web"}'
            assert f"container_memory_working_set_bytes{labels}" in await answer.text()
        async with session.get("/pods") as answer:
            assert (await answer.json())["items"][0]["metadata"]["name"] == "web"
