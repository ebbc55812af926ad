"""The way in for other programs: the API server's real HTTPS front on loopback, and a kubeconfig that leads to it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import tempfile
from pathlib import Path

from pinnace.apiserver.http import HttpFront, server_context
from pinnace.base.clock import Clock
from pinnace.client import kubeconfig
from pinnace.client.transport import Request, Response
from pinnace.cluster.certificates import Authority
from pinnace.testing.control_plane import ControlPlane, Wrap, plainly

_HOST = "127.0.0.1"
_LAST_REQUESTS = 0.4        # seconds that requests under way have at the end


class _Present:
    """To whichever server is there now: it may have crashed and started again."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._control_plane = control_plane

    async def send(self, request: Request) -> Response:
        server = self._control_plane.server
        if server is None:
            raise ConnectionResetError("the API server is down")
        return await server.handle(request)

    async def close(self) -> None:
        return None


class Endpoint:
    """`open`, on the loop that is to serve; `close`. Certificates live in a private directory until then."""

    def __init__(
        self, control_plane: ControlPlane, authority: Authority, clock: Clock, wrap: Wrap = plainly
    ) -> None:
        """Who has a certificate of `authority` may come in. `wrap`: what lies between whoever comes in, the component
        "client", and the server."""
        self._control_plane = control_plane
        self._transport = wrap(_Present(control_plane), "client")
        self._authority = authority
        self._clock = clock
        self._directory: Path | None = None
        self._front: HttpFront | None = None
        self._listening: asyncio.Task[int] | None = None

    def open(self) -> Path:
        """The kubeconfig (0600). Who connects before the loop turns again waits that long.

        Raises RuntimeError if the server is down."""
        server = self._control_plane.server
        if server is None:
            raise RuntimeError("the API server is down")

        self._directory = Path(tempfile.mkdtemp(prefix="pinnace-"))     # 0700
        now = self._clock.now()
        authority = self._authority
        serving = authority.issue("kube-apiserver", hosts=[_HOST, "localhost"], now=now, server=True, client=False)
        admin = authority.issue("kubernetes-admin", organizations=["system:masters"], now=now)
        certificate, key = serving.write(self._directory, "apiserver")
        context = server_context(str(certificate), str(key), client_ca_text=authority.certificate.decode())
        listener = socket.create_server((_HOST, 0))                     # from here on the system queues who connects
        listener.setblocking(False)
        port = listener.getsockname()[1]
        self._front = HttpFront(server, handle=self._transport.send)
        self._listening = asyncio.get_running_loop().create_task(
            self._front.listen(_HOST, port, context, listener=listener)
        )
        path = self._directory / "kubeconfig"
        access = kubeconfig.Access(f"https://{_HOST}:{port}", authority.certificate, admin.certificate, admin.key)
        kubeconfig.merge(path, "pinnace", access)
        return path

    async def close(self) -> None:
        if self._front is not None and self._listening is not None:
            await self._listening
            # Connections end once their watches do, which the server ends.
            with contextlib.suppress(TimeoutError):
                await asyncio.gather(
                    asyncio.wait_for(self._front.close(), _LAST_REQUESTS), self._control_plane.close()
                )
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
