"""What may not happen inside simulated time: whatever waits for, or talks to, the world outside of the loop.

The loop refuses what it is asked itself. `guard` refuses what code does behind its back: starting a thread, connecting
a socket of the system, asking a name server. It is an audit hook (PEP 578), which the interpreter asks before it does
these; only threads are not announced before Python 3.12, there `Thread.start` asks it.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn


class OutsideWorld(RuntimeError):
    """Something under simulated time wanted a thread, a socket or a process: neither can wait in virtual time."""


class Refusals:
    """The calls of a loop that lead outside; all raise OutsideWorld. A mixin of `VirtualLoop`."""

    async def create_datagram_endpoint(self, *args: Any, **options: Any) -> NoReturn:
        raise OutsideWorld("simulated time has no network for datagrams: a datagram socket was to be opened")

    async def create_unix_connection(self, *args: Any, **options: Any) -> NoReturn:
        raise OutsideWorld("simulated time has no files: a Unix socket was to be connected")

    async def create_unix_server(self, *args: Any, **options: Any) -> NoReturn:
        raise OutsideWorld("simulated time has no files: a Unix socket was to be listened on")

    async def connect_accepted_socket(self, *args: Any, **options: Any) -> NoReturn:
        raise OutsideWorld("simulated time has no real sockets: an accepted one was to be served")

    async def connect_read_pipe(self, *args: Any, **options: Any) -> NoReturn:
        raise OutsideWorld("simulated time has no files: a pipe was to be read")

    async def connect_write_pipe(self, *args: Any, **options: Any) -> NoReturn:
        raise OutsideWorld("simulated time has no files: a pipe was to be written")

    async def subprocess_exec(self, *args: Any, **options: Any) -> NoReturn:
        raise OutsideWorld("simulated time has no processes")

    async def subprocess_shell(self, *args: Any, **options: Any) -> NoReturn:
        raise OutsideWorld("simulated time has no processes")

    async def sock_accept(self, sock: Any) -> NoReturn:
        raise OutsideWorld("simulated time has no real sockets: one was to accept")

    async def sock_recv(self, sock: Any, nbytes: int) -> NoReturn:
        raise OutsideWorld("simulated time has no real sockets: one was to be read")

    async def sock_recv_into(self, sock: Any, buf: Any) -> NoReturn:
        raise OutsideWorld("simulated time has no real sockets: one was to be read")

    async def sock_recvfrom(self, sock: Any, bufsize: int) -> NoReturn:
        raise OutsideWorld("simulated time has no real sockets: one was to be read")

    async def sock_recvfrom_into(self, sock: Any, buf: Any, nbytes: int = 0) -> NoReturn:
        raise OutsideWorld("simulated time has no real sockets: one was to be read")

    async def sock_sendall(self, sock: Any, data: Any) -> NoReturn:
        raise OutsideWorld("simulated time has no real sockets: one was to be written")

    async def sock_sendto(self, sock: Any, data: Any, address: Any) -> NoReturn:
        raise OutsideWorld(f"simulated time has no real sockets: one was to send to {address}")

    async def sock_sendfile(self, sock: Any, file: Any, *_: Any, **__: Any) -> NoReturn:
        raise OutsideWorld("simulated time has no real sockets: one was to be written")

    def add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:
        raise OutsideWorld(f"simulated time watches no files: {fd} was to be read")

    def add_writer(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:
        raise OutsideWorld(f"simulated time watches no files: {fd} was to be written")

    def remove_reader(self, fd: Any) -> bool:
        return False

    def remove_writer(self, fd: Any) -> bool:
        return False


_THREADS = frozenset({"_thread.start_new_thread", "_thread.start_joinable_thread"})
_SOCKETS = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})
_WATCHED = _THREADS | _SOCKETS | {"socket.getaddrinfo"}
_installed: list[bool] = []


def guard() -> None:
    """From now on threads on whose loop time is simulated are watched. It cannot be undone, and costs others one look
    into a set at each audited event."""
    if not _installed:
        _installed.append(True)
        sys.addaudithook(_audit)
        if sys.version_info < (3, 12):
            _announce_threads()


def _announce_threads() -> None:
    start = threading.Thread.start

    def announced(self: threading.Thread) -> None:
        sys.audit("_thread.start_new_thread", self.run, (), None)
        start(self)

    threading.Thread.start = announced  # type: ignore[method-assign]  # see the module


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in _WATCHED:
        return
    loop: Any = asyncio._get_running_loop()
    if not getattr(loop, "simulated", False):
        return
    if event in _THREADS:
        thread = getattr(arguments[0], "__self__", None)      # it is given a method of the Thread, or any function
        if not loop.admit(thread):
            name = getattr(thread, "name", None) or getattr(arguments[0], "__qualname__", "one")
            raise OutsideWorld(f"simulated time has no threads: {name!r} was to start")
        return
    if event == "socket.getaddrinfo":
        host = arguments[0]
        raise OutsideWorld(f"simulated time has no name servers: the address of {host} was asked for without the loop")
    elif arguments[0].family in (socket.AF_INET, socket.AF_INET6):
        raise OutsideWorld(f"simulated time has a network of its own: a real socket was to send to {arguments[-1]}")

