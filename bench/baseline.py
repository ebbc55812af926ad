"""What this machine can do at most: a bare aiohttp server over TLS that answers given bytes and knows nothing.

`python -m bench.baseline CERTIFICATE KEY CA BODY` prints its port and serves until its standard input ends: every
request is read whole and answered with the bytes of the file BODY.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop
from aiohttp import web

from pinnace.apiserver.http import server_context


@contextmanager
def serving(pki: Path, body: bytes) -> Iterator[int]:
    """A baseline server with a cluster's certificates; its port."""
    with tempfile.NamedTemporaryFile(prefix="pinnace-bench-") as file:
        file.write(body)
        file.flush()
        paths = [str(pki / name) for name in ("apiserver.crt", "apiserver.key", "ca.crt")]
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.baseline", *paths, file.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            cwd=Path(__file__).resolve().parents[1],
        )  # fmt: skip
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.communicate(timeout=10)


async def serve(certificate: str, key: str, ca: str, body: bytes) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.can_read_body:
            await request.read()
        return web.Response(body=body, content_type="application/json")

    loop = asyncio.get_running_loop()
    context = server_context(certificate, key, client_ca=ca)
    listener = await loop.create_server(web.Server(answer, access_log=None), "127.0.0.1", 0, ssl=context)
    print(listener.sockets[0].getsockname()[1], flush=True)
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()
    listener.close()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]).read_bytes()))
