"""asyncio's transports over the two pipes of a connection, with the contract that the loops of the platforms keep.

What a protocol sees is what it would see of a socket: `connection_made` first, then data, then perhaps the end, and
`connection_lost` once; `pause_writing` above the high-water mark; a close that sends what is buffered, and an abort
that does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import warnings
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pinnace.testing.net.pipes import Pipe

if TYPE_CHECKING:
    from pinnace.testing.net.servers import MemoryServer

Address = tuple[Any, ...]      # (host, port), or with IPv6's two more


class End:
    """One end of a connection: what arrives, what is sent, and who stands at both ends."""

    def __init__(
        self, inbound: Pipe, outbound: Pipe, sockname: Address, peername: Address, among: dict[End, tuple[Pipe, Pipe]]
    ) -> None:
        self.inbound = inbound
        self.outbound = outbound
        self.sockname = sockname
        self.peername = peername
        self.kept = False        # a transport has it
        self.closed = False
        self._among = among      # those that are open
        self.socket = MemorySocket(self)

    def close(self) -> None:
        """As a kernel closes a socket: the other side sees the end, or a reset if not everything was read."""
        if self.closed:
            return
        self.closed = True
        unread = self.inbound.waiting
        self.inbound.on_refusal = self.outbound.send_reset
        self.inbound.leave()
        self.outbound.forget()
        if unread:
            self.outbound.send_reset()
        else:
            self.outbound.end()
        self.socket.release()
        self._among.pop(self, None)


class MemorySocket:
    """What `get_extra_info("socket")` gives: it has names and options, and nothing can be done with it."""

    type = socket.SOCK_STREAM
    proto = socket.IPPROTO_TCP

    def __init__(self, end: End | None, sockname: Address = ()) -> None:
        self._end = weakref.ref(end) if end is not None else None
        self._name = end.sockname if end is not None else sockname
        self._peer = end.peername if end is not None else None
        self._options: dict[tuple[int, int], Any] = {}
        self._flag = -1
        self._release: Callable[[], object] = _nothing

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if len(self._name) == 4 else socket.AF_INET

    def fileno(self) -> int:
        """A descriptor that can be polled right now, once: it is readable if the connection has something to read.
        (httpcore asks so whether an idle connection can be used again.) -1 if it is closed."""
        end = self._end() if self._end is not None else None
        if end is None or end.closed or not hasattr(os, "eventfd"):
            return -1
        if self._flag < 0:
            self._flag = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._release = weakref.finalize(end, os.close, self._flag)
        pipe = end.inbound
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._flag)
        if pipe.waiting or pipe.ended or pipe.reset is not None:
            os.eventfd_write(self._flag, 1)
        return self._flag

    def release(self) -> None:
        self._release()      # once, whoever calls it

    def getsockname(self) -> Address:
        return self._name

    def getpeername(self) -> Address:
        if self._peer is None:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return self._peer

    def setsockopt(self, level: int, option: int, value: Any, *_: Any) -> None:
        self._options[level, option] = value

    def getsockopt(self, level: int, option: int, *_: Any) -> Any:
        return self._options.get((level, option), 0)

    def gettimeout(self) -> float:
        return 0.0

    def settimeout(self, value: float | None) -> None:
        if value != 0:
            raise ValueError("a socket of a transport cannot wait")

    def setblocking(self, flag: bool) -> None:
        if flag:
            raise ValueError("a socket of a transport cannot block")

    def __repr__(self) -> str:
        return f"<MemorySocket {self._name}>" if self._peer is None else f"<MemorySocket {self._name} to {self._peer}>"


class MemoryTransport(asyncio.transports._FlowControlMixin, asyncio.Transport):
    """See the module. `waiter` is set once the protocol knows of its connection."""

    # Of the mixin, on every supported Python; the type stubs leave them out.
    _maybe_pause_protocol: Callable[[], None]
    _maybe_resume_protocol: Callable[[], None]

    _start_tls_compatible = True      # which asyncio asks before it puts TLS on top, now or later
    _sendfile_compatible = asyncio.constants._SendfileMode.FALLBACK

    def __init__(
        self, loop: asyncio.AbstractEventLoop, end: End, protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None, extra: Mapping[str, Any] | None = None,
        server: MemoryServer | None = None,
    ) -> None:
        super().__init__(dict(extra or {}), loop)
        self._extra: dict[str, Any]
        self._extra.update(socket=end.socket, sockname=end.sockname, peername=end.peername)
        self._loop: asyncio.AbstractEventLoop = loop
        self._end = end
        self._server = server
        self._buffer = bytearray()
        self._started = self._paused = self._waking = False
        self._eof = self._heard_end = self._closing = self._finished = False
        self._losing = False
        self.set_protocol(protocol)
        if server is not None:
            server.attach(self)
        end.inbound.on_arrival = self._wake
        end.outbound.on_room = self._room
        end.outbound.on_loss = self._force_close
        loop.call_soon(protocol.connection_made, self)
        loop.call_soon(self._start)          # nothing is read before the protocol knows its transport
        if waiter is not None:
            loop.call_soon(_set, waiter)

    def __repr__(self) -> str:
        state = "closed" if self._finished else "closing" if self._closing else "open"
        return f"<MemoryTransport {state} {self._end.sockname} to {self._end.peername}>"

    def __del__(self) -> None:
        if not self._finished:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self, stacklevel=2)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol: Any = protocol
        self._buffered = isinstance(protocol, asyncio.BufferedProtocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        found: asyncio.BaseProtocol = self._protocol
        return found

    # ------------------------------------------------------------------------------------------------------ reading

    def _start(self) -> None:
        self._started = True
        self._wake()

    def is_reading(self) -> bool:
        return not self._paused and not self._closing

    def pause_reading(self) -> None:
        if not self._closing:
            self._paused = True

    def resume_reading(self) -> None:
        if not self._closing and self._paused:
            self._paused = False
            self._wake()

    def _wake(self) -> None:
        pipe = self._end.inbound
        if pipe.reset is not None and self._buffer and not self._losing:
            self._loop.call_soon(self._force_close, pipe.reset)     # whoever waits for room hears of it, reading or not
        if self._waking or not self._started or self._paused or self._closing:
            return
        if pipe.waiting or pipe.reset is not None or (pipe.ended and not self._heard_end):
            self._waking = True
            self._loop.call_soon(self._read)

    def _read(self) -> None:
        self._waking = False
        if self._paused or self._closing:
            return
        pipe = self._end.inbound
        try:
            if pipe.waiting:
                self._hand_over(pipe)
            elif pipe.reset is not None:
                self._force_close(pipe.reset)
            elif pipe.ended and not self._heard_end:
                self._heard_end = True
                if not self._protocol.eof_received():
                    self.close()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._fatal_error(error, "Fatal error: the protocol failed at what it received.")
            return
        self._wake()

    def _hand_over(self, pipe: Pipe) -> None:
        if not self._buffered:
            self._protocol.data_received(pipe.take())
            return
        buffer = memoryview(self._protocol.get_buffer(-1))
        if not len(buffer):
            raise RuntimeError("get_buffer() returned an empty buffer")
        self._protocol.buffer_updated(pipe.take_into(buffer))

    # ------------------------------------------------------------------------------------------------------ writing

    def write(self, data: Any) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self._eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if not data or self._losing:
            return
        if isinstance(data, memoryview):
            data = data.cast("B")
        if self._end.inbound.reset is not None:
            self._force_close(self._end.inbound.reset)
            return
        if not self._buffer:
            sent = self._end.outbound.send(data)
            if sent == len(data):
                return
            data = memoryview(data)[sent:]
        self._buffer += data
        self._maybe_pause_protocol()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def _room(self) -> None:
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._losing or not self._buffer:
            return
        sent = self._end.outbound.send(self._buffer)
        del self._buffer[:sent]
        self._maybe_resume_protocol()           # which may write again
        if self._buffer:
            return
        if self._closing:
            self._lose(None)
        elif self._eof:
            self._end.outbound.end()

    def get_write_buffer_size(self) -> int:
        return len(self._buffer)

    def write_eof(self) -> None:
        if self._closing or self._eof:
            return
        self._eof = True
        if not self._buffer:
            self._end.outbound.end()

    def can_write_eof(self) -> bool:
        return True

    # ------------------------------------------------------------------------------------------------------- ending

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        if not self._buffer:
            self._losing = True
            self._loop.call_soon(self._lose, None)

    def abort(self) -> None:
        self._force_close(None)

    def _force_close(self, error: BaseException | None) -> None:
        """Of this name for asyncio's TLS, which calls it."""
        if self._losing:
            return
        self._buffer.clear()
        self._closing = self._losing = True
        self._loop.call_soon(self._lose, error)

    def _fatal_error(self, error: BaseException, message: str) -> None:
        if not isinstance(error, OSError):
            self._loop.call_exception_handler(
                {"message": message, "exception": error, "transport": self, "protocol": self._protocol}
            )
        self._force_close(error)

    def _lose(self, error: BaseException | None) -> None:
        if self._finished:
            return
        self._losing = self._finished = True
        try:
            self._protocol.connection_lost(error)
        finally:
            self._end.close()
            self._protocol = None
            if self._server is not None:
                self._server.detach(self)
                self._server = None


def _set(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _nothing() -> None:
    return
