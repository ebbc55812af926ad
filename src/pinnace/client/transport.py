"""The seam under the client: one request, one answer. HTTPS and in-process are two transports behind it; the
API server's handler is one function of the same shape."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from pinnace.api import codec

# Among the revisions that a caller reacted to: no write, but time that had passed (a schedule, a deadline, a
# heartbeat that was due).
TIMER = 0


@dataclass(frozen=True, slots=True)
class User:
    """Who makes a request, as authentication found it."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Request(msgspec.Struct):
    """One call of the API.

    `path` is decoded ("/api/v1/namespaces/default/pods"); `query` keeps repeated parameters; header names
    are lower case. `user` is set by a transport that has authenticated already (in-process), or by
    the server's authenticator. `body` is whole; streams in the other direction are `Upgrade`d connections.

    `given` is the object that a body would say, where sender and server share a process: see `Client.update`. It has
    what a server has sent before, or the same form: quantities are canonical, no list or map is empty that may be
    left out. A transport that leaves the process sends its JSON.
    """

    method: str
    path: str
    query: Mapping[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    body: bytes = b""
    user: User | None = None
    because: tuple[int, ...] = ()          # revisions that the caller reacted to, or TIMER (header Pinnace-Because)
    about: str = ""                        # object it acts for, e.g. "Job.batch/default/backup" (header Pinnace-About)
    remote: str = ""                       # the peer's address
    peer_certificate: bytes | None = None  # DER
    given: object = None                   # instead of `body`: the object itself, the server's from now on
    upgrade: object = None                 # the HTTP front's handle for WebSocket and raw upgrades

    def text(self) -> bytes:
        """What goes over a wire."""
        return codec.encode(self.given) if self.given is not None else self.body


class WatchLine(msgspec.Struct, frozen=True, gc=False):
    """One watch event: its kind, the object as decoded by the server (shared: never change it), its line."""

    type: str          # ADDED, MODIFIED, DELETED, BOOKMARK, ERROR
    object: object     # the typed object where the server has it; None if only bytes are known
    line: bytes        # the JSON line, newline included


# An event's type, its object (shared: never change it), and the object's revision as a number.
Tell = Callable[[str, object, int], None]


class DirectWatch(ABC):
    """A watch whose source lies in this process: `Response.watch` may be one. It is iterated or subscribed to, not
    both, and closed at the end."""

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[tuple[WatchLine, ...]]: ...

    @abstractmethod
    async def __anext__(self) -> tuple[WatchLine, ...]: ...

    @abstractmethod
    def subscribe(self, tell: Tell) -> asyncio.Future[None]:
        """Call `tell` for every event, in the call that makes it, and at once for those that are there already.

        Nothing is queued, so that there is no bound to exceed; there are no bookmarks but the one after initial
        events, and no limit of time. `tell` must be quick and must not raise. The future is done when the server
        ends the watch, with the StatusError that it gives as reason, if any."""

    @abstractmethod
    def redirect(self, tell: Tell) -> None:
        """Call that one instead, for every event from now on; nothing happens once the watch is over."""

    @abstractmethod
    async def aclose(self) -> None: ...


class Response(msgspec.Struct):
    """An answer. Exactly one of `body`, `stream`, `watch` carries content.

    `object` is the decoded form of `body` where the server had it at hand (in-process callers use it and
    must not change it).
    """

    status: int
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    body: bytes = b""
    object: object = None
    stream: AsyncIterator[bytes] | None = None
    watch: AsyncIterator[tuple[WatchLine, ...]] | None = None   # batches, as many as are there


class Transport(Protocol):
    """Sends a request. Raises `ConnectionError` or `TimeoutError` when no answer came; an answer of any
    status is returned, not raised."""

    def send(self, request: Request) -> Coroutine[Any, Any, Response]: ...

    async def close(self) -> None: ...
