"""A GET over a connection of its own, for probes and hooks: no pool, no cookies, no verification, little cost."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

MAX_BODY = 10 * 1024
MAX_HEAD = 64 * 1024
MAX_REDIRECTS = 10


class HttpFault(Exception):
    """No answer, or none that makes sense; the words are Go's as far as they are known."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: str
    location: str = ""


def _insecure() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def get(
    url: str, headers: Sequence[tuple[str, str]], *, timeout: float, agent: str, follow: bool = True
) -> Answer:
    """GET, following redirects on the same host. Raises HttpFault; TimeoutError after `timeout` seconds."""
    async with asyncio.timeout(timeout):
        host = urlsplit(url).hostname
        for _ in range(MAX_REDIRECTS):
            answer = await _one(url, headers, agent)
            if not (follow and answer.status in (301, 302, 303, 307, 308) and answer.location):
                return answer
            url = urljoin(url, answer.location)
            if urlsplit(url).hostname != host:
                return answer          # a redirect elsewhere counts as success, with a warning
        raise HttpFault(f'Get "{url}": stopped after {MAX_REDIRECTS} redirects')


async def _one(url: str, headers: Sequence[tuple[str, str]], agent: str) -> Answer:
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if secure else 80)
    given = {name.lower() for name, _ in headers}
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"GET {path} HTTP/1.1"]
    if "host" not in given:
        lines.append(f"Host: {parts.netloc}")
    if "user-agent" not in given:
        lines.append(f"User-Agent: {agent}")
    if "accept" not in given:
        lines.append("Accept: */*")
    lines += [f"{name}: {value}" for name, value in headers if value or name.lower() not in ("user-agent", "accept")]
    lines.append("Connection: close")
    try:
        reader, writer = await asyncio.open_connection(
            host, port, ssl=_insecure() if secure else None, limit=MAX_HEAD
        )
    except (OSError, ssl.SSLError) as error:
        raise HttpFault(f'Get "{url}": dial tcp {host}:{port}: {reason(error)}') from error
    try:
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace"))
        return await _answer(reader, url)
    except (OSError, ssl.SSLError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
        raise HttpFault(f'Get "{url}": {reason(error)}') from error
    finally:
        writer.transport.abort()


async def _answer(reader: asyncio.StreamReader, url: str) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    words = head[0].split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdecimal():
        raise HttpFault(f'Get "{url}": net/http: HTTP/1.x transport connection broken: malformed HTTP response')
    location = next(
        (v.strip() for n, _, v in (line.partition(":") for line in head[1:]) if n.lower() == "location"), ""
    )
    length = next(
        (int(v) for n, _, v in (line.partition(":") for line in head[1:]) if n.lower() == "content-length"), None
    )
    body = b""
    limit = MAX_BODY if length is None else min(length, MAX_BODY)
    if words[1] not in ("204", "304"):
        with contextlib.suppress(asyncio.IncompleteReadError):
            while len(body) < limit:
                chunk = await reader.read(limit - len(body))
                if not chunk:
                    break
                body += chunk
    return Answer(int(words[1]), body.decode("utf-8", "replace"), location)


def reason(error: BaseException) -> str:
    """An error of the system in Go's words."""
    match error:
        case ConnectionRefusedError():
            return "connect: connection refused"
        case ConnectionResetError():
            return "read: connection reset by peer"
        case asyncio.IncompleteReadError():
            return "EOF"
        case OSError() if error.errno == 113:
            return "connect: no route to host"
        case OSError() if error.errno == 101:
            return "connect: network is unreachable"
        case _:
            return str(error) or type(error).__name__
