"""Starting programs (runc, conmon) and learning of their end without polling, whatever event loop runs.

`subprocess` uses vfork, so a large parent costs nothing; a pidfd tells the loop when the child is gone. (asyncio's
own subprocesses keep a thread for each child on Python 3.11.)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MAX_OUTPUT = 64 << 10


class Process:
    """A child of ours. `wait` may be called by several tasks."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[int] = self._loop.create_future()
        self._pidfd = os.pidfd_open(popen.pid)
        self._loop.add_reader(self._pidfd, self._ended)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        return self._done.result() if self._done.done() else None

    def _ended(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        code = self._popen.wait()
        if not self._done.done():
            self._done.set_result(code if code >= 0 else 128 - code)

    async def wait(self) -> int:
        """The exit code; 128 + n after signal n."""
        return await asyncio.shield(self._done)

    def signal(self, number: int) -> None:
        if not self._done.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)


def spawn(
    args: Sequence[str], *, stdin: int = subprocess.DEVNULL, stdout: int = subprocess.DEVNULL,
    stderr: int = subprocess.DEVNULL, pass_fds: Sequence[int] = (), env: Mapping[str, str] | None = None,
    cwd: str | None = None,
) -> Process:  # fmt: skip
    """Start a program in a session of its own. Takes about a millisecond."""
    return Process(
        subprocess.Popen(
            args, stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=pass_fds, cwd=cwd, start_new_session=True,
            env=env if env is not None else {"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")},
        )
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finished:
    code: int
    output: bytes


async def run(args: Sequence[str], *, deadline: float) -> Finished:
    """Run a program to its end; stdout and stderr together, the first 64 KiB. Raises TimeoutError."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.set_blocking(write_end, True)
    try:
        process = spawn(args, stdout=write_end, stderr=write_end)
    except BaseException:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
    pipe = PipeReader(read_end)
    output = bytearray()
    try:
        async with asyncio.timeout(deadline):
            while data := await pipe.read():
                if len(output) < MAX_OUTPUT:
                    output += data
            return Finished(await process.wait(), bytes(output[:MAX_OUTPUT]))
    finally:
        process.kill()
        pipe.close()


class PipeReader:
    """Reads a non-blocking descriptor (pipe, socket, terminal) on the loop; owns and closes it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False

    async def read(self, size: int = 65536) -> bytes:
        """What has come in, at least a byte; empty at the end (or after `close`)."""
        while not self._closed:
            try:
                return os.read(self.fd, size)
            except BlockingIOError:
                pass
            except (ConnectionResetError, OSError):
                return b""  # EIO: the last holder of a terminal is gone
            self._waiter = self._loop.create_future()
            self._loop.add_reader(self.fd, self._wake)
            try:
                await self._waiter
            finally:
                if not self._closed:
                    self._loop.remove_reader(self.fd)
                self._waiter = None
        return b""

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self.fd)
            os.close(self.fd)
            self._wake()


class PipeWriter:
    """Writes to a non-blocking descriptor on the loop, waiting while it is full; owns and closes it."""

    def __init__(self, fd: int, *, chunk: int = 65536) -> None:
        self.fd = fd
        self._chunk = chunk
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False
        self._lock = asyncio.Lock()

    async def write(self, data: bytes) -> None:
        """Raises BrokenPipeError when nobody reads any more."""
        async with self._lock:
            view = memoryview(data)
            while view:
                if self._closed:
                    raise BrokenPipeError("stdin is closed")
                try:
                    view = view[os.write(self.fd, view[: self._chunk]) :]
                    continue
                except BlockingIOError:
                    pass
                self._waiter = self._loop.create_future()
                self._loop.add_writer(self.fd, self._wake)
                try:
                    await self._waiter
                finally:
                    if not self._closed:
                        self._loop.remove_writer(self.fd)
                    self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._loop.remove_writer(self.fd)
            os.close(self.fd)
            self._wake()
