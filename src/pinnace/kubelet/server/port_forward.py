"""port-forward: connections of a client to ports inside a pod's network namespace.

Two ways to say it over a WebSocket: SPDY inside (kubectl since 1.31), where each connection is a pair of streams,
and the older channels, where each port has one connection and two channels.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import WSMsgType, web

from pinnace.kubelet.server.spdy import Session, SpdyError, Stream
from pinnace.runtime.cri import RuntimeFault

log = logging.getLogger("pinnace.kubelet.portforward")

TUNNEL = "SPDY/3.1+portforward.k8s.io"
CHANNELS = "v4.channel.k8s.io"
PROTOCOLS = (TUNNEL, CHANNELS, "portforward.k8s.io")
MAX_MESSAGE = 4 << 20
CHUNK = 32 << 10
MAX_CONNECTIONS = 256

Dial = Callable[[int], Awaitable[tuple[Any, Any]]]
"""Connects to a port of the pod; raises RuntimeFault or OSError."""


async def serve(request: web.Request, pod: str, dial: Dial) -> web.StreamResponse:
    """`pod` is how errors call it."""
    socket = web.WebSocketResponse(protocols=PROTOCOLS, compress=False, max_msg_size=MAX_MESSAGE)
    if not socket.can_prepare(request):
        return web.Response(status=400, text="unable to upgrade: a WebSocket is needed\n")
    await socket.prepare(request)
    if socket.ws_protocol == TUNNEL:
        await _tunnel(socket, pod, dial)
    else:
        asked = request.query.getall("port", []) or request.query.getall("ports", [])
        ports = [int(port) for value in asked for port in value.split(",") if port.isdecimal()]
        await _channels(socket, pod, dial, ports)
    await socket.close()
    return socket


# ------------------------------------------------------------------------------------------------ SPDY inside


class _Tunnel:
    """Pairs the streams of each connection, and runs it."""

    def __init__(self, socket: web.WebSocketResponse, pod: str, dial: Dial) -> None:
        self._pod = pod
        self._dial = dial
        self._waiting: dict[tuple[str, str], dict[str, Stream]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.session = Session(socket.send_bytes, self._opened)

    async def _opened(self, stream: Stream) -> None:
        kind, port = stream.headers.get("streamtype", ""), stream.headers.get("port", "")
        if kind not in ("data", "error") or not port.isdecimal() or not 0 < int(port) < 65536:
            await stream.close()
            return
        key = (stream.headers.get("requestid", ""), port)
        pair = self._waiting.setdefault(key, {})
        pair[kind] = stream
        if len(pair) == 2:
            del self._waiting[key]
            if len(self._tasks) >= MAX_CONNECTIONS:
                await pair["error"].write(b"too many connections")
                await pair["error"].close()
                await pair["data"].close()
                return
            task = asyncio.create_task(self._run(pair["data"], pair["error"], int(port)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, data: Stream, error: Stream, port: int) -> None:
        try:
            reader, writer = await self._dial(port)
        except (RuntimeFault, OSError) as fault:
            text = f"error forwarding port {port} to pod {self._pod}: {fault}"
            await error.write(text.encode())
            await error.close()
            await data.close()
            return
        try:
            up = asyncio.create_task(_upload(data.read, writer))
            try:
                while chunk := await reader.read(CHUNK):
                    await data.write(chunk)
            finally:
                up.cancel()
                await asyncio.gather(up, return_exceptions=True)
        except OSError as fault:
            await error.write(f"error forwarding port {port} to pod {self._pod}: {fault}".encode())
        finally:
            writer.close()
            await data.close()
            await error.close()

    async def close(self) -> None:
        self.session.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _upload(read: Callable[[], Awaitable[bytes]], writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await read():
            writer.write(chunk)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


async def _tunnel(socket: web.WebSocketResponse, pod: str, dial: Dial) -> None:
    tunnel = _Tunnel(socket, pod, dial)
    try:
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                await tunnel.session.feed(message.data)
    except SpdyError as error:
        log.warning("port-forward to %s: %s", pod, error)
    except ConnectionError as error:
        log.debug("port-forward to %s: %s", pod, error)
    finally:
        await tunnel.close()


# -------------------------------------------------------------------------------------------------- channels


async def _channels(socket: web.WebSocketResponse, pod: str, dial: Dial, ports: list[int]) -> None:
    """Channel 2i is the data of port i, 2i+1 its errors; both begin with the port, two bytes, little endian."""
    queues: list[asyncio.Queue[bytes]] = []
    tasks = []
    try:
        for number, port in enumerate(ports[:128]):
            for channel in (2 * number, 2 * number + 1):
                await socket.send_bytes(bytes([channel]) + struct.pack("<H", port))
            queue: asyncio.Queue[bytes] = asyncio.Queue(64)
            queues.append(queue)
            tasks.append(asyncio.create_task(_channel(socket, pod, dial, port, number, queue)))
        async for message in socket:
            if message.type is WSMsgType.BINARY and message.data:
                number, odd = divmod(message.data[0], 2)
                if not odd and number < len(queues) and len(message.data) > 1:
                    await queues[number].put(message.data[1:])
    except ConnectionError as error:
        log.debug("port-forward to %s: %s", pod, error)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _channel(
    socket: web.WebSocketResponse, pod: str, dial: Dial, port: int, number: int, queue: asyncio.Queue[bytes]
) -> None:
    try:
        reader, writer = await dial(port)
    except (RuntimeFault, OSError) as fault:
        text = f"error forwarding port {port} to pod {pod}: {fault}"
        await socket.send_bytes(bytes([2 * number + 1]) + text.encode())
        return
    up = asyncio.create_task(_upload(queue.get, writer))
    try:
        while chunk := await reader.read(CHUNK):
            await socket.send_bytes(bytes([2 * number]) + chunk)
    finally:
        up.cancel()
        await asyncio.gather(up, return_exceptions=True)
        writer.close()
