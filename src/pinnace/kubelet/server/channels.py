"""exec and attach over a WebSocket: the first byte of each message names the stream.

0 stdin, 1 stdout, 2 stderr, 3 the outcome as a Status, 4 terminal sizes; with v5 also 255: a stream is closed
(KEP-4006).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import WSMsgType, web

from pinnace.runtime.cri import ExecSession, RuntimeFault

log = logging.getLogger("pinnace.kubelet.exec")

V5, V4, V1 = "v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"
PROTOCOLS = (V5, V4, V1)
STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
MAX_MESSAGE = 4 << 20
CHUNK = 32 << 10


def success() -> dict[str, Any]:
    return {"metadata": {}, "status": "Success"}


def exit_status(code: int) -> dict[str, Any]:
    """The Status that tells how a command ended."""
    if code == 0:
        return success()
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


def internal_error(why: object) -> dict[str, Any]:
    return {
        "metadata": {}, "status": "Failure", "message": f"Internal error occurred: {why}", "reason": "InternalError",
        "details": {"causes": [{"message": str(why)}]}, "code": 500,
    }  # fmt: skip


async def serve(
    request: web.Request, start: Callable[[], Awaitable[ExecSession]], *, stdin: bool, attach: bool = False
) -> web.StreamResponse:
    """Speak to the session that `start` gives until it or the client has ended."""
    socket = web.WebSocketResponse(protocols=PROTOCOLS, compress=False, max_msg_size=MAX_MESSAGE)
    await socket.prepare(request)
    try:
        session = await start()
    except (RuntimeFault, TimeoutError) as fault:
        await _outcome(socket, internal_error(f"error executing command in container: {fault}"))
        await socket.close()
        return socket
    # Tells the client that the streams are there, as upstream does.
    await socket.send_bytes(bytes([STDOUT]))
    sending = asyncio.create_task(_send(socket, session, attach))
    receiving = asyncio.create_task(_receive(socket, session, stdin))
    try:
        await asyncio.wait((sending, receiving), return_when=asyncio.FIRST_COMPLETED)
        if receiving.done() and not sending.done():
            log.debug("the client left before its command had ended")
    finally:
        for task in (sending, receiving):
            task.cancel()
        results = await asyncio.gather(sending, receiving, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, ConnectionError):
                log.warning("exec: %r", result)
        await session.close()
        await socket.close()
    return socket


async def _send(socket: web.WebSocketResponse, session: ExecSession, attach: bool) -> None:
    """The session's output, then its outcome."""
    async for stream, data in session.output():
        for at in range(0, len(data), CHUNK):
            await socket.send_bytes(bytes([stream]) + data[at : at + CHUNK])
    code = await session.wait()
    await _outcome(socket, success() if attach else exit_status(code))


async def _outcome(socket: web.WebSocketResponse, status: dict[str, Any]) -> None:
    with contextlib.suppress(ConnectionError):
        if socket.ws_protocol != V1:
            await socket.send_bytes(bytes([ERROR]) + json.dumps(status).encode())
        elif status["status"] != "Success":
            await socket.send_bytes(bytes([ERROR]) + status["message"].encode())


async def _receive(socket: web.WebSocketResponse, session: ExecSession, stdin: bool) -> None:
    """What the client sends, until it leaves."""
    open_stdin = stdin
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            data = message.data.encode()
        elif message.type is WSMsgType.BINARY:
            data = message.data
        else:
            continue
        if not data:
            continue
        channel, payload = data[0], data[1:]
        if channel == STDIN and open_stdin:
            if payload:
                try:
                    await session.write(payload)
                except (ConnectionError, RuntimeFault, OSError):
                    open_stdin = False           # the process reads no more; its end will be told by itself
        elif channel == CLOSE and payload[:1] == bytes([STDIN]) and open_stdin:
            open_stdin = False
            await session.close_stdin()
        elif channel == RESIZE:
            await _resize(session, payload)


async def _resize(session: ExecSession, payload: bytes) -> None:
    try:
        size = json.loads(payload)
        width, height = int(size["Width"]), int(size["Height"])
    except (ValueError, KeyError, TypeError):
        return
    if 0 < width < 65536 and 0 < height < 65536:
        await session.resize(width, height)
