"""How fast the API server is: GET, durable creates, LIST and watch fan-out over TLS, one server process on SQLite.

    python bench/apiserver.py [--seconds 2] [--pods 10000] [--profile FILE]

The load comes from another process over 16 connections; both share the machine's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import multiprocessing
import ssl
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import uvloop

from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.apiserver.http import HttpFront, server_context
from pinnace.apiserver.inprocess import InProcessTransport
from pinnace.apiserver.resources.table import RESOURCES
from pinnace.apiserver.server import ApiServer
from pinnace.base.clock import SystemClock
from pinnace.base.randomness import Randomness
from pinnace.client.client import Client
from pinnace.cluster.certificates import Authority
from pinnace.store.sqlite import SqliteStore

CONNECTIONS = 16
PODS = "/api/v1/namespaces/default/pods"


def pod(name: str) -> dict[str, Any]:
    """A pod as a small Deployment makes it, about 1 KB."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "bench", "tier": "web"}, "annotations": {"note": "x" * 100}},
        "spec": {
            "containers": [
                {
                    "name": "web",
                    "image": "registry.example/web:1.0",
                    "ports": [{"containerPort": 8080, "name": "http"}],
                    "env": [{"name": f"KEY_{n}", "value": f"value-{n}"} for n in range(4)],
                    "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
                    "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}},
                }
            ]
        },
    }


async def serve(directory: Path, pipe: Connection) -> None:
    clock = SystemClock()
    authority = Authority(Authority.create("bench", clock.now()))
    certificate, key = authority.issue("server", hosts=["127.0.0.1"], now=clock.now(), server=True).write(
        directory, "server"
    )
    store = await SqliteStore.open(directory / "store" / "state.db", clock)
    server = ApiServer(store, RESOURCES, clock, Randomness())
    await server.start()
    client = Client(InProcessTransport(server))
    await client.create(core.Namespace(metadata=meta.ObjectMeta(name="default")))
    front = HttpFront(server)
    port = await front.listen("127.0.0.1", 0, server_context(str(certificate), str(key)))
    pipe.send((port, authority.certificate.decode()))
    await asyncio.to_thread(pipe.recv)
    await front.close()
    await server.close()
    await store.close()


def server_process(directory: str, pipe: Connection, profile: str) -> None:
    if not profile:
        uvloop.run(serve(Path(directory), pipe))
        return
    profiler = cProfile.Profile()
    profiler.runcall(uvloop.run, serve(Path(directory), pipe))
    profiler.dump_stats(profile)


class Line:
    """One kept-alive connection; requests are made by hand so that the load costs little."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        head += "\r\n"
        self._writer.write(head.encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        at = answer.lower().index(b"content-length: ") + 16
        length = int(answer[at : answer.index(b"\r", at)])
        return int(answer[9:12]), await self._reader.readexactly(length) if length else b""

    def close(self) -> None:
        self._writer.close()


async def load(port: int, authority: str, seconds: float, pods: int) -> dict[str, float]:
    context = ssl.create_default_context(cadata=authority)

    async def connect() -> Line:
        return Line(*await asyncio.open_connection("127.0.0.1", port, ssl=context, limit=1 << 26))

    lines = [await connect() for _ in range(CONNECTIONS)]
    out: dict[str, float] = {}
    made = 0

    async def create(line: Line, until: float, most: int) -> None:
        nonlocal made
        while time.perf_counter() < until and made < most:
            made += 1
            status, answer = await line.ask("POST", PODS, json.dumps(pod(f"pod-{made:06d}")).encode())
            if status != 201:
                raise RuntimeError(answer)

    busy = await cpu(lines[0])
    started = time.perf_counter()
    await asyncio.gather(*(create(line, started + seconds, 1 << 30) for line in lines))
    out["durable creates/s"] = made / (time.perf_counter() - started)
    out["server CPU a create, µs"] = (await cpu(lines[0]) - busy) * 1e6 / made
    await asyncio.gather(*(create(line, time.perf_counter() + 60, pods) for line in lines))

    done = 0

    async def get(line: Line, until: float) -> None:
        nonlocal done
        while time.perf_counter() < until:
            await line.ask("GET", f"{PODS}/pod-{done % 1000 + 1:06d}")
            done += 1

    busy = await cpu(lines[0])
    started = time.perf_counter()
    await asyncio.gather(*(get(line, started + seconds) for line in lines))
    out["GET/s"] = done / (time.perf_counter() - started)
    out["server CPU a GET, µs"] = (await cpu(lines[0]) - busy) * 1e6 / done

    times = []
    size = 0
    for _ in range(3):
        started = time.perf_counter()
        _, body = await lines[0].ask("GET", "/api/v1/pods")
        times.append(time.perf_counter() - started)
        size = len(body)
    out[f"LIST of {made} pods, s"] = min(times)
    out["LIST, MB"] = size / 1e6
    out["watch events/s to 100 watchers"] = await fan_out(connect, lines)
    for line in lines:
        line.close()
    return out


async def cpu(line: Line) -> float:
    """Seconds of processor time that the server has used: tells more than the rate where others share the machine."""
    _, text = await line.ask("GET", "/metrics")
    return float(text.partition(b"\nprocess_cpu_seconds_total ")[2].split(b"\n", 1)[0])


async def fan_out(connect: Any, lines: list[Line]) -> float:
    """Events delivered a second, over all watchers."""
    events = 200
    watchers = [await connect() for _ in range(100)]
    path = "/api/v1/namespaces/default/configmaps?watch=true&resourceVersion=0"

    async def read(line: Line) -> None:
        line._writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        seen = 0
        while seen < events:
            seen += (await line._reader.read(1 << 20)).count(b'{"type":"ADDED"')

    readers = [asyncio.create_task(read(line)) for line in watchers]
    await asyncio.sleep(0.3)
    started = time.perf_counter()

    async def write(line: Line, first: int) -> None:
        for number in range(first, events, len(lines)):
            body = json.dumps({"metadata": {"name": f"c{number}"}, "data": {"k": "v" * 200}}).encode()
            await line.ask("POST", "/api/v1/namespaces/default/configmaps", body)

    await asyncio.gather(*(write(line, first) for first, line in enumerate(lines)))
    await asyncio.gather(*readers)
    for line in watchers:
        line.close()
    return events * 100 / (time.perf_counter() - started)


def measure(seconds: float = 2.0, pods: int = 10_000, profile: str = "") -> dict[str, float]:
    """Run server and load; figures by name."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    with tempfile.TemporaryDirectory(prefix="pinnace-bench-") as directory:
        process = spawn.Process(target=server_process, args=(directory, theirs, profile))
        process.start()
        try:
            port, authority = ours.recv()
            return uvloop.run(load(port, authority, seconds, pods))
        finally:
            ours.send(None)
            process.join(20)
            if process.is_alive():
                process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the API server.")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--pods", type=int, default=10_000)
    parser.add_argument("--profile", default="")
    options = parser.parse_args()
    for name, value in measure(options.seconds, options.pods, options.profile).items():
        print(f"{name:<34}{value:>12,.3f}")


if __name__ == "__main__":
    main()
