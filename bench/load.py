"""The load generator: a process of its own that drives an API server over TLS, as cheaply as Python can.

`python -m bench.load` reads a Job as JSON from standard input and prints what came of it. Connections are bare
protocols of uvloop: a request is bytes made beforehand, of an answer only its head is looked at.
"""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import uvloop

_ROOT = Path(__file__).resolve().parents[1]
_PATIENCE = 110.0              # seconds that a whole job may take
_EVENT = b'{"type":"'          # begins each watch line; the objects watched have nothing like it inside
_MARK = b"%NUMBER%"            # in a body: stands for the request's number


class Job(msgspec.Struct, kw_only=True):
    """`total` requests (or as many as fit into `seconds`) over `connections`; first, `watchers` watches are opened
    on `watch`, and the job ends when each has seen `total` events."""

    port: int
    ca: str
    certificate: str
    key: str
    path: str
    method: str = "GET"
    body: str = ""
    connections: int = 16
    total: int = 0
    seconds: float = 0.0
    watch: str = ""
    watchers: int = 0


class Result(msgspec.Struct, kw_only=True):
    """Times in seconds; `delivered` counts watch events."""

    requests: int
    failures: int
    seconds: float
    latencies: list[float]
    delivered: int = 0
    bytes: int = 0
    answer: str = ""           # the first that was a failure
    began: float = 0.0         # perf_counter of the first request: one clock for all processes of a Linux machine

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


class LoadFailed(Exception):
    """The load did not come to its end, or the server refused some of it."""


def run(job: Job) -> Result:
    """Do a job in a process of its own. Raises LoadFailed."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.load"], input=msgspec.json.encode(job), capture_output=True, check=False,
        timeout=_PATIENCE + 10, cwd=_ROOT,
    )  # fmt: skip
    if done.returncode:
        raise LoadFailed(done.stderr.decode(errors="replace").strip())
    result = msgspec.json.decode(done.stdout, type=Result)
    if result.failures:
        raise LoadFailed(f"{result.failures} of {result.requests} requests failed, the first with: {result.answer}")
    return result


class Source:
    """The requests of a job, one after the other, shared by its connections; and what came of them."""

    def __init__(self, job: Job) -> None:
        self._requests = requests(job)
        self._left = job.total
        self._seconds = job.seconds
        self._until = 0.0
        self.result = Result(requests=0, failures=0, seconds=0.0, latencies=[])

    def begin(self) -> None:
        """The time runs from here on."""
        self._until = time.perf_counter() + self._seconds

    def next(self) -> bytes | None:
        if self._seconds:
            if time.perf_counter() >= self._until:
                return None
        elif self._left <= 0:
            return None
        self._left -= 1
        return next(self._requests)

    def answered(self, head: bytes, seconds: float, size: int) -> None:
        result = self.result
        result.requests += 1
        result.latencies.append(seconds)
        result.bytes += size
        if not head.startswith(b"HTTP/1.1 2"):
            result.failures += 1
            result.answer = result.answer or head[:300].decode("latin-1")


def requests(job: Job) -> Iterator[bytes]:
    """The bytes of each request; the body's mark becomes its number."""
    line = f"{job.method} {job.path} HTTP/1.1\r\nHost: 127.0.0.1:{job.port}\r\nAccept: application/json\r\n"
    if not job.body:
        whole = f"{line}\r\n".encode()
        while True:
            yield whole
    line += "Content-Type: application/json\r\nContent-Length: "
    before, *rest = job.body.encode().split(_MARK)
    number = 0
    while True:
        body = (b"%d" % number).join((before, *rest))
        yield line.encode() + b"%d\r\n\r\n" % len(body) + body
        number += 1


class Caller(asyncio.Protocol):
    """One connection: a request, its whole answer, the next request."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._transport: asyncio.Transport | None = None
        self._head = b""
        self._missing = -1             # bytes of the answer's body; -1 while the head is not whole
        self._size = 0
        self._sent = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # of TLS: it can write

    def start(self) -> None:
        self._next()

    def data_received(self, data: bytes) -> None:
        if self._missing >= 0:
            self._missing -= len(data)
        else:
            self._head += data
            head, end, body = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._size = content_length(head)
            self._missing = self._size - len(body)
        if self._missing <= 0:
            self._source.answered(self._head, time.perf_counter() - self._sent, self._size)
            self._head, self._missing = b"", -1
            self._next()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the server closed a connection"))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _next(self) -> None:
        request = self._source.next()
        if request is None:
            if not self.done.done():
                self.done.set_result(None)
            return
        assert self._transport is not None
        self._sent = time.perf_counter()
        self._transport.write(request)


class Watcher(asyncio.Protocol):
    """One watch, whose events are counted and not read."""

    def __init__(self, request: bytes, wanted: int) -> None:
        self._request = request
        self._wanted = wanted
        self._rest = b""
        self._transport: asyncio.Transport | None = None
        loop = asyncio.get_running_loop()
        self.open: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()
        self.seen = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # of TLS: it can write
        self._transport.write(self._request)  # type: ignore[union-attr]  # set one line above

    def data_received(self, data: bytes) -> None:
        if not self.open.done():
            if data.startswith(b"HTTP/1.1 200"):
                self.open.set_result(None)
            else:
                self.open.set_exception(LoadFailed(data[:300].decode("latin-1")))
        data = self._rest + data
        self.seen += data.count(_EVENT)
        self._rest = data[1 - len(_EVENT) :]       # too short to hold a whole mark: none is counted twice
        if self.seen >= self._wanted and not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        for future in (self.open, self.done):
            if not future.done():
                future.set_exception(error or ConnectionError("the server ended a watch"))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise LoadFailed(f"an answer without its length: {head[:300].decode('latin-1')}")


async def perform(job: Job) -> Result:
    loop = asyncio.get_running_loop()
    context = ssl.create_default_context(cafile=job.ca)
    context.load_cert_chain(job.certificate, job.key)
    watchers = [await _watch(loop, job, context) for _ in range(job.watchers)]
    await asyncio.gather(*(watcher.open for watcher in watchers))
    callers = []
    source = Source(job)
    for _ in range(job.connections):
        _, caller = await loop.create_connection(lambda: Caller(source), "127.0.0.1", job.port, ssl=context)
        callers.append(caller)
    source.begin()
    begun = time.perf_counter()
    for caller in callers:
        caller.start()
    await asyncio.gather(*(caller.done for caller in callers), *(watcher.done for watcher in watchers))
    source.result.began, source.result.seconds = begun, time.perf_counter() - begun
    source.result.delivered = sum(watcher.seen for watcher in watchers)
    for caller in callers:
        caller.close()
    for watcher in watchers:
        watcher.close()
    return source.result


async def _watch(loop: asyncio.AbstractEventLoop, job: Job, context: ssl.SSLContext) -> Watcher:
    request = f"GET {job.watch} HTTP/1.1\r\nHost: 127.0.0.1:{job.port}\r\nAccept: application/json\r\n\r\n".encode()
    _, watcher = await loop.create_connection(
        lambda: Watcher(request, job.total), "127.0.0.1", job.port, ssl=context
    )
    return watcher


async def _main() -> None:
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    result = await asyncio.wait_for(perform(job), _PATIENCE)
    sys.stdout.buffer.write(msgspec.json.encode(result))


if __name__ == "__main__":
    uvloop.run(_main())
