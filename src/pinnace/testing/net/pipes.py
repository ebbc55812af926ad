"""One direction of a connection: what was sent, what is on its way, what has arrived and was not taken yet.

It keeps TCP's promises: bytes arrive in order or not at all, the sender may be ahead of the reader by a window and no
more, the end of one side is no end of the other, and who sends to somebody gone is told by a reset.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from collections.abc import Callable
from typing import Protocol

WINDOW = 256 * 1024        # bytes that a sender may be ahead of the reader
_GIVE_UP = 924.6           # seconds without an answer after which Linux ends a connection (tcp_retries2 = 15)

Item = bytes | None | BaseException       # bytes, the end, a reset


class Route(Protocol):
    """What lies between two hosts, as one of them sees it. Both may change at any time."""

    @property
    def latency(self) -> float:
        """Seconds from here to there."""
        ...

    @property
    def cut(self) -> bool:
        """Nothing gets through now."""
        ...


class Pipe:
    """`send` at one end, `take` at the other. `on_arrival` and `on_room` are called when there is something to take,
    or room again after `send` took less than it was offered."""

    def __init__(self, loop: asyncio.AbstractEventLoop, route: Route) -> None:
        self._loop = loop
        self._route = route
        self._size = 0                                       # of what was sent and not taken
        self._arrived: deque[bytes] = deque()
        self._flight: deque[tuple[float, Item]] = deque()
        self._full = False
        self._sealed = False                                 # the end or a reset was sent: nothing comes after
        self._reader_gone = False
        self._patience: asyncio.TimerHandle | None = None
        self.ended = False                                   # the end has arrived
        self.reset: BaseException | None = None              # a reset has arrived
        self.on_arrival: Callable[[], None] = _nobody
        self.on_room: Callable[[], None] = _nobody
        self.on_loss: Callable[[BaseException], None] = _lost    # asked of the sender: nobody has answered for too long
        self.on_refusal: Callable[[], None] = _nobody        # something arrived where nobody reads any more

    @property
    def cut(self) -> bool:
        """Nothing gets through now."""
        return self._route.cut

    # --------------------------------------------------------------------------------------------------- the sender

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """How many bytes were taken on: fewer than offered if the window is full."""
        size = len(data)
        if self._sealed:
            return size
        room = WINDOW - self._size
        if size > room:
            self._full = True
            size = max(room, 0)
            data = memoryview(data)[:size]
        if size:
            self._size += size
            self._post(bytes(data))
        return size

    def end(self) -> None:
        if not self._sealed:
            self._sealed = True
            self._post(None)

    def send_reset(self) -> None:
        if self._sealed and self.ended:
            self.reset = self.reset or _reset()              # the end was told; the reset goes after it
            self.on_arrival()
        else:
            self._sealed = True
            self._post(_reset())

    def _post(self, item: Item) -> None:
        latency = self._route.latency
        if not self._flight and not latency and not self._route.cut:
            self._land(item)
            return
        due = self._loop.time() + latency
        if self._flight:
            due = max(due, self._flight[-1][0])              # nothing overtakes
        self._flight.append((due, item))
        if self._route.cut:
            if self._patience is None:
                self._patience = self._loop.call_later(_GIVE_UP, self._give_up)
        else:
            self._loop.call_at(due, self._deliver)

    def _deliver(self) -> None:
        """Everything whose time has come lands, unless the route was cut meanwhile."""
        if self._route.cut:
            if self._patience is None and self._flight:
                self._patience = self._loop.call_later(_GIVE_UP, self._give_up)
            return
        now = self._loop.time()
        while self._flight and self._flight[0][0] <= now:
            self._land(self._flight.popleft()[1])

    def healed(self) -> None:
        """The route is whole again: what waited is sent once more."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        if not self._flight:
            return
        due = self._loop.time() + self._route.latency
        self._flight = deque((max(due, when), item) for when, item in self._flight)
        for when in {when: None for when, _ in self._flight}:
            self._loop.call_at(when, self._deliver)

    def _give_up(self) -> None:
        self._patience = None
        self.on_loss(TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)))

    def forget(self) -> None:
        """The sender is gone for good; what is on its way may still arrive."""
        self.on_room, self.on_loss = _nobody, _lost

    # --------------------------------------------------------------------------------------------------- the reader

    def _land(self, item: Item) -> None:
        if self._reader_gone:
            self._arrived.clear()
            self._size = 0
            if item is not None and not isinstance(item, BaseException):
                self.on_refusal()
            return
        if item is None:
            self.ended = True
        elif isinstance(item, bytes):
            self._arrived.append(item)
        else:
            self.reset = item
        self.on_arrival()

    @property
    def waiting(self) -> bool:
        """There are bytes to take."""
        return bool(self._arrived)

    def take(self) -> bytes:
        """All that has arrived."""
        data = self._arrived[0] if len(self._arrived) == 1 else b"".join(self._arrived)
        self._arrived.clear()
        self._took(len(data))
        return data

    def take_into(self, buffer: memoryview) -> int:
        """As much of it as the buffer holds."""
        filled, room = 0, len(buffer)
        while self._arrived and filled < room:
            chunk = self._arrived[0]
            part = min(len(chunk), room - filled)
            buffer[filled : filled + part] = chunk[:part]
            filled += part
            if part < len(chunk):
                self._arrived[0] = chunk[part:]
            else:
                self._arrived.popleft()
        self._took(filled)
        return filled

    def _took(self, size: int) -> None:
        self._size -= size
        if self._full and self._size < WINDOW:
            self._full = False
            self.on_room()

    def leave(self) -> None:
        """Nobody reads any more: what comes is thrown away, and answered with a reset."""
        self._reader_gone = True
        self.on_arrival = _nobody
        self._arrived.clear()
        self._took(self._size)


def _reset() -> ConnectionResetError:
    return ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))


def _nobody() -> None:
    return


def _lost(_: BaseException) -> None:
    return
