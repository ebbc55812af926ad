"""The transport of parts that live in the server's own process: no sockets, and objects instead of bytes."""

from __future__ import annotations

from pinnace.apiserver.access import MASTERS
from pinnace.apiserver.server import ApiServer
from pinnace.client.transport import Request, Response, User

ADMIN = User("system:apiserver", groups=(MASTERS, "system:authenticated"))


class InProcessTransport:
    """See `client.transport.Transport`. A request without a user acts as the server itself, unless it shows a
    certificate, which is then looked at as if it had come over TLS."""

    def __init__(self, server: ApiServer, user: User = ADMIN) -> None:
        self._server = server
        self._user = user

    async def send(self, request: Request) -> Response:
        if request.user is None and request.peer_certificate is None:
            request.user = self._user
        answer = self._server.begin(request, encoded=False)
        return answer if isinstance(answer, Response) else await answer

    async def close(self) -> None:
        return None
