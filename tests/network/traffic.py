"""Small servers and clients inside network namespaces, on sockets that threads opened there."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pinnace.network.namespaces import run_in


@contextmanager
def serve(netns: str, port: int, *, kind: str = "tcp", answer: str = "", ip: str = "0.0.0.0") -> Iterator[None]:
    """Answers each connection (or datagram) with `answer`, a blank and the caller's address."""
    type_ = socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
    listener = run_in(netns, socket.socket, socket.AF_INET, type_)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((ip, port))
    stop = threading.Event()
    listener.settimeout(0.05)
    if kind == "tcp":
        listener.listen(64)

    def loop() -> None:
        while not stop.is_set():
            with suppress(TimeoutError):
                if kind == "tcp":
                    connection, peer = listener.accept()
                    with connection:
                        connection.sendall(f"{answer} {peer[0]}".encode())
                else:
                    _, peer = listener.recvfrom(2048)
                    listener.sendto(f"{answer} {peer[0]}".encode(), peer)

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        listener.close()


def call(
    netns: str, ip: str, port: int, *, kind: str = "tcp", timeout: float = 2.0, source: str = ""
) -> tuple[str, str]:
    """What a server answered: its own word, and the address that it saw the caller at. Raises OSError."""
    type_ = socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
    with run_in(netns, socket.socket, socket.AF_INET, type_) as caller:
        caller.settimeout(timeout)
        if source:
            caller.bind((source, 0))
        caller.connect((ip, port))
        if kind == "udp":
            caller.send(b"?")
        answer, _, peer = caller.recv(2048).decode().partition(" ")
        return answer, peer
