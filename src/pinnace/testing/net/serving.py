"""The API server's HTTPS front on the loop's network, and the ways in for clients: kubeconfigs."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from ssl import SSLContext
from types import TracebackType
from typing import Any

import yaml

from pinnace.api.authentication import v1 as authentication
from pinnace.api.core import v1 as core
from pinnace.apiserver.http import HttpFront, server_context
from pinnace.apiserver.server import ApiServer
from pinnace.client import kubeconfig
from pinnace.client.client import Client
from pinnace.client.kubeconfig import Access
from pinnace.client.transport import Request, Response
from pinnace.cluster.certificates import Authority, KeyPair
from pinnace.testing.authority import LIFE, VALID_FROM, simulated
from pinnace.testing.control_plane import ControlPlane, Wrap, plainly
from pinnace.testing.loop import VirtualLoop

_COMPONENT = "client"
_YEAR = 365 * 86400


@dataclass(frozen=True, slots=True)
class _Pki:
    """Made once a process: keys sign nothing that is compared, and making them costs more than a cluster."""

    authority: Authority
    admin: KeyPair
    contexts: dict[tuple[str, ...], SSLContext]

    def context(self, hosts: tuple[str, ...]) -> SSLContext:
        found = self.contexts.get(hosts)
        if found is not None:
            return found
        serving = self.authority.issue(
            "kube-apiserver", hosts=hosts, now=VALID_FROM, server=True, client=False, life=LIFE
        )
        with tempfile.TemporaryDirectory(prefix="pinnace-") as directory:      # 0700; OpenSSL reads files only
            certificate, key = serving.write(Path(directory), "apiserver")
            context = server_context(
                str(certificate), str(key), client_ca_text=self.authority.certificate.decode()
            )
        self.contexts[hosts] = context
        return context


_PKI: list[_Pki] = []


def _pki() -> _Pki:
    if not _PKI:
        authority = simulated()
        admin = authority.issue(
            "kubernetes-admin", organizations=["system:masters"], now=VALID_FROM, life=LIFE
        )
        _PKI.append(_Pki(authority, admin, {}))
    return _PKI[0]


class Served:
    """The API server at `url`; an asynchronous context that closes it.

    When the control plane crashes, connections are cut and new ones refused until it has started again; the
    certificates and kubeconfigs stay good. With `wrap` (see `ControlPlane`) requests can be made to fail: what it
    raises as ConnectionError cuts the client's connection.
    """

    def __init__(
        self, control_plane: ControlPlane, loop: asyncio.AbstractEventLoop, name: str, aliases: tuple[str, ...],
        ports: tuple[int, ...], wrap: Wrap | None,
    ) -> None:
        if not isinstance(loop, VirtualLoop):
            raise RuntimeError("the API server is served in memory on a loop with virtual time only")
        self._control_plane = control_plane
        self._loop = loop
        self._name = name
        self._ports = ports
        self._wrap = wrap or plainly
        self._pki = _pki()
        address = loop.network.add_host(name, *aliases)
        self._context = self._pki.context((name, *aliases, address, "localhost", "127.0.0.1"))
        self._front: HttpFront | None = None
        self._server: ApiServer | None = None
        self._opening: asyncio.Task[None] | None = None
        self._under_way: dict[asyncio.Task[Any], None] = {}
        self.url = f"https://{name}:{ports[0]}"
        self.admin = Access(self.url, self._pki.authority.certificate, self._pki.admin.certificate, self._pki.admin.key)

    async def __aenter__(self) -> Served:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        self._control_plane.followers.append(self._follow)
        if self._control_plane.server is not None:
            self._follow(self._control_plane.server)
            await self.listening()

    async def listening(self) -> None:
        """Return once a server that has started can be reached."""
        if self._opening is not None:
            await self._opening

    async def close(self) -> None:
        """End the connections that are open."""
        with suppress(ValueError):
            self._control_plane.followers.remove(self._follow)
        self._follow(None)
        await asyncio.sleep(0)

    # ------------------------------------------------------------------------------------------------------- ways in

    def kubeconfig(self, access: Access | None = None) -> str:
        """A kubeconfig's text, of the administrator if nobody else is named."""
        return kubeconfig.render("pinnace", access or self.admin)

    def config(self, access: Access | None = None) -> dict[str, Any]:
        """The same as a mapping."""
        found: dict[str, Any] = yaml.safe_load(self.kubeconfig(access))
        return found

    async def service_account(self, name: str, namespace: str = "default", *, seconds: int = 10 * _YEAR) -> Access:
        """The way in of a ServiceAccount that exists: a token, good for so many virtual seconds. It may do what
        roles allow it. Raises NotFound."""
        wanted = authentication.TokenRequest(
            spec=authentication.TokenRequestSpec(audiences=[], expirationSeconds=seconds)
        )
        client = Client(self._control_plane.transport(_COMPONENT), agent="pinnace-testing")
        made = await client.create_subresource(core.ServiceAccount, name, namespace, "token", wanted)
        token = made.status.token if made.status is not None else None
        return Access(self.url, self._pki.authority.certificate, token=token, namespace=namespace)

    # ------------------------------------------------------------------------------------------------------- serving

    def _follow(self, server: ApiServer | None) -> None:
        """The server has started, or is gone: at once, whatever was under way."""
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        if self._front is not None:
            self._front.abort()
            self._front = None
        for task in list(self._under_way):
            task.cancel()
        self._server = server
        if server is not None:
            self._opening = self._loop.create_task(self._open(server), name="API server's front")

    async def _open(self, server: ApiServer) -> None:
        transport = self._wrap(_Inside(server), _COMPONENT)

        async def handle(request: Request) -> Response:
            if self._server is not server:
                raise ConnectionResetError("the API server is down")
            task = asyncio.current_task()
            assert task is not None
            mine = task not in self._under_way
            self._under_way[task] = None
            try:
                return await transport.send(request)
            finally:
                if mine:
                    self._under_way.pop(task, None)

        front = self._front = HttpFront(server, handle=handle)
        with self._loop.network.at(self._name):
            for port in self._ports:
                await front.listen(self._name, port, self._context)


class _Inside:
    """To the server, as somebody who has yet to say who he is."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server

    async def send(self, request: Request) -> Response:
        return await self._server.handle(request)

    async def close(self) -> None:
        return None
