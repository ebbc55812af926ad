"""Sessions with a process in a container: on pipes, on a terminal of ours, and attached to conmon."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import struct
import termios
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Protocol

from pinnace.runtime import conmon
from pinnace.runtime.process import PipeReader, PipeWriter, Process, spawn

STDIN, STDOUT, STDERR = 0, 1, 2
WIDTH, HEIGHT = 80, 24                   # of a terminal before it is resized
QUEUE = 64                               # chunks of output that wait for the reader
KILLED = 2.0                             # seconds that a killed process may take to be gone
STARTING_PAUSE, STARTING_TURNS = 0.005, 200  # seconds between looks for a process that is starting, and how many


class ExecNotes(Protocol):
    """What is noted on disk about an exec (`execs.ExecFiles`)."""

    def inner_pid(self) -> int: ...

    def meaning(self, code: int) -> int: ...

    def remove(self) -> None: ...


class Output:
    """Joins several readers into one bounded stream of (stream, data)."""

    def __init__(self, readers: list[tuple[int, PipeReader]]) -> None:
        self._queue: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue(QUEUE)
        self._open = len(readers)
        self._tasks = [asyncio.create_task(self._pump(stream, reader)) for stream, reader in readers]
        self._readers = readers

    async def _pump(self, stream: int, reader: PipeReader) -> None:
        while data := await reader.read(32768):
            await self._queue.put((stream, data))
        self._open -= 1
        if self._open == 0:
            await self._queue.put(None)

    async def __aiter__(self) -> AsyncIterator[tuple[int, bytes]]:
        if not self._readers:
            return
        while (item := await self._queue.get()) is not None:
            yield item
        self._queue.put_nowait(None)  # for whoever asks again

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _, reader in self._readers:
            reader.close()


class ExecProcess:
    """A process started by `runc exec`, which stays as its parent and passes on its exit code."""

    def __init__(
        self, process: Process, stdin: PipeWriter | None, output: Output, files: ExecNotes, *, terminal: int = -1
    ) -> None:
        self._process = process
        self._stdin = stdin
        self._output = output
        self._files = files
        self._terminal = terminal
        self._code: int | None = None

    async def write(self, data: bytes) -> None:
        if self._stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                await self._stdin.write(data)

    async def close_stdin(self) -> None:
        if self._stdin is None:
            return
        if self._terminal >= 0:
            with contextlib.suppress(OSError):
                await self._stdin.write(b"\x04")  # a terminal has no end of its own but this character
        else:
            self._stdin.close()

    def output(self) -> AsyncIterator[tuple[int, bytes]]:
        return self._output.__aiter__()

    async def resize(self, width: int, height: int) -> None:
        if self._terminal >= 0:
            set_window_size(self._terminal, width, height)
            self._process.signal(signal.SIGWINCH)

    async def wait(self) -> int:
        code = await self._process.wait()
        if self._code is None:
            self._code = self._files.meaning(code)
        return self._code

    async def _kill(self) -> None:
        """The processes in the container first: runc then ends by itself and leaves no zombie to anyone."""
        for _ in range(STARTING_TURNS):
            # runc notes the process a moment after it has started; until then it could not be found.
            if self._files.inner_pid() or await self._ended_within(STARTING_PAUSE):
                break
        pid = self._files.inner_pid()
        if pid > 0 and self._process.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # runc makes it the leader of a session of its own
            await self._ended_within(KILLED)
        self._process.kill()
        await self._ended_within(KILLED)

    async def _ended_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._process.wait()
        return self._process.exit_code is not None

    async def close(self) -> None:
        if self._process.exit_code is None:
            await self._kill()
        if self._code is None and self._process.exit_code is not None:
            self._code = self._files.meaning(self._process.exit_code)
        if self._stdin is not None:
            self._stdin.close()
        await self._output.close()
        self._files.remove()


def set_window_size(fd: int, width: int, height: int) -> None:
    with contextlib.suppress(OSError):
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", height & 0xFFFF, width & 0xFFFF, 0, 0))


def start_with_pipes(
    args: list[str], files: ExecNotes, *, stdin: bool, stdout: bool, stderr: bool
) -> ExecProcess:
    """Start `runc exec` on pipes."""
    theirs: list[int] = []
    readers: list[tuple[int, PipeReader]] = []
    targets = {}
    writer = None
    try:
        for stream, wanted in ((STDOUT, stdout), (STDERR, stderr)):
            if wanted:
                read_end, write_end = os.pipe2(os.O_CLOEXEC)
                os.set_blocking(read_end, False)
                readers.append((stream, PipeReader(read_end)))
                theirs.append(write_end)
                targets[stream] = write_end
        if stdin:
            read_end, write_end = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(write_end, False)
            writer = PipeWriter(write_end)
            theirs.append(read_end)
            targets[STDIN] = read_end
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        theirs.append(null)
        stdio = [targets.get(stream, null) for stream in (STDIN, STDOUT, STDERR)]
        process = spawn(args, stdin=stdio[STDIN], stdout=stdio[STDOUT], stderr=stdio[STDERR])
    except BaseException:
        for _, reader in readers:
            reader.close()
        if writer is not None:
            writer.close()
        raise
    finally:
        for fd in theirs:
            os.close(fd)
    return ExecProcess(process, writer, Output(readers), files)


def start_with_terminal(args: list[str], files: ExecNotes, *, stdin: bool) -> ExecProcess:
    """Start `runc exec --tty` on a terminal of ours; runc joins it to the one inside the container."""
    master, slave = os.openpty()
    try:
        set_window_size(master, WIDTH, HEIGHT)
        process = spawn(args, stdin=slave, stdout=slave, stderr=slave)
    except BaseException:
        os.close(master)
        raise
    finally:
        os.close(slave)
    os.set_blocking(master, False)
    writer_fd = os.dup(master)
    reader = PipeReader(master)
    writer = PipeWriter(writer_fd, chunk=2048) if stdin else None
    if writer is None:
        os.close(writer_fd)
    return ExecProcess(process, writer, Output([(STDOUT, reader)]), files, terminal=master)


class AttachSession:
    """A client of a container's own stdio. Closing it leaves the container alone."""

    def __init__(
        self, bundle: Path, *, stdin: bool, stdout: bool, stderr: bool,
        exited: Callable[[], asyncio.Future[int]],
    ) -> None:  # fmt: skip
        self._bundle = bundle
        self._sock: socket.socket = conmon.attach_socket(bundle)
        self._wanted = {stream for stream, wanted in ((STDOUT, stdout), (STDERR, stderr)) if wanted}
        self._exited = exited
        self._reader = PipeReader(os.dup(self._sock.fileno()))
        self._writer = PipeWriter(os.dup(self._sock.fileno()), chunk=8192) if stdin else None

    async def write(self, data: bytes) -> None:
        if self._writer is not None:
            await self._writer.write(data)

    async def close_stdin(self) -> None:
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        # conmon sends packets of at most 8 KiB and one byte that names the stream (2: stdout, 3: stderr).
        while packet := await self._reader.read(65536):
            stream = packet[0] - 1
            if stream in self._wanted and len(packet) > 1:
                yield stream, packet[1:]

    async def resize(self, width: int, height: int) -> None:
        conmon.control(self._bundle, conmon.CTL_RESIZE, height, width)

    async def wait(self) -> int:
        return await self._exited()

    async def close(self) -> None:
        self._reader.close()
        if self._writer is not None:
            self._writer.close()
        self._sock.close()
