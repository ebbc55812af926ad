"""conmon: one small process a container, which starts it through runc, holds its stdio, writes its log in CRI's
format and its exit code to a file. It lives on when we do not.

`launch` starts conmon and runc and returns when the container stands ready; `release` lets its command run. For
that, runc waits in a fifo which `runc start` does nothing but read and remove; doing so ourselves saves starting
another program (20 ms).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import select
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pinnace.runtime import process
from pinnace.runtime.cri import RuntimeFault

RUNC_DEADLINE = 60.0                     # seconds; creating a container takes 40 ms
CTL_RESIZE, CTL_REOPEN_LOG = 1, 2


@dataclass(frozen=True, slots=True)
class Programs:
    """Where the two programs are."""

    runc: str = "/usr/bin/runc"
    conmon: str = "/usr/bin/conmon"

    def missing(self) -> list[str]:
        return [path for path in (self.runc, self.conmon) if not os.access(path, os.X_OK)]


class SyncMessage(msgspec.Struct):
    """What conmon says about the start: the process's id, or a negative number and runc's words."""

    data: int = -1
    message: str = ""


def command(programs: Programs, id: str, bundle: Path, *, runc_root: Path, exits: Path, log: str, name: str,
            stdin: bool, stdin_once: bool, tty: bool) -> list[str]:  # fmt: skip
    """conmon's command line."""
    args = [
        programs.conmon, "--api-version", "1", "--cid", id, "--cuuid", id, "--name", name or id,
        "--runtime", programs.runc, "--bundle", str(bundle), "--exit-dir", str(exits),
        "--container-pidfile", str(bundle / "pid"), "--conmon-pidfile", str(bundle / "conmon.pid"),
        "--log-path", f"k8s-file:{log}", "--no-sync-log", "--full-attach", "--log-level", "error",
        "--runtime-arg", f"--root={runc_root}", "--runtime-arg", f"--log={bundle / 'runc.log'}",
        "--runtime-arg", "--log-format=json",
    ]  # fmt: skip
    if stdin or tty:
        args.append("--stdin")
    if stdin and not stdin_once:
        args.append("--leave-stdin-open")
    if tty:
        args.append("--terminal")
    return args


async def launch(args: list[str], bundle: Path) -> int:
    """Create the container; returns the id of its first process, which waits for `release`.

    Raises RuntimeFault with runc's words.
    """
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    env = {"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), "_OCI_SYNCPIPE": str(theirs.fileno())}
    reader = process.PipeReader(ours.detach())
    answer = bytearray()
    try:
        with theirs:
            child = process.spawn(args, pass_fds=[theirs.fileno()], env=env, cwd=str(bundle))
        try:
            async with asyncio.timeout(RUNC_DEADLINE):
                while b"\n" not in answer and (data := await reader.read()):
                    answer += data
                await child.wait()
        except TimeoutError:
            child.kill()
            raise RuntimeFault(f"creating the container took longer than {RUNC_DEADLINE:.0f} s") from None
    finally:
        reader.close()
    try:
        message = msgspec.json.decode(bytes(answer), type=SyncMessage)
    except msgspec.MsgspecError:
        reason = last_error(bundle / "runc.log") or "no reason given"
        raise RuntimeFault(f"conmon did not start the container: {reason}") from None
    if message.data > 0:
        return message.data
    raise RuntimeFault(start_failure(last_error(bundle / "runc.log") or message.message))


def last_error(log: Path) -> str:
    """The last error in runc's own log."""
    words = ""
    with contextlib.suppress(OSError):
        for line in log.read_bytes().splitlines()[-50:]:
            with contextlib.suppress(msgspec.MsgspecError):
                entry = msgspec.json.decode(line)
                if isinstance(entry, dict) and entry.get("level") in ("error", "fatal"):
                    words = str(entry.get("msg", ""))
    return words


def start_failure(words: str) -> str:
    """runc's words in the frame that containerd gives them, which users and tests know."""
    text = re.sub(r"^runc create failed: ", "", words.strip())
    return (
        "failed to create containerd task: failed to create shim task: OCI runtime create failed: "
        f"runc create failed: {text}: unknown"
    )


def release(runc_root: Path, id: str, alive: Callable[[], bool]) -> None:
    """Let a created container run its command. Blocks for well under a millisecond.

    Raises RuntimeFault if its first process is not `alive` any more.
    """
    fifo = runc_root / id / "exec.fifo"
    try:
        fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise RuntimeFault("cannot start a container that is not in the created state") from None
    try:
        # The open above lets the waiting process open its end and write a byte.
        _await_byte(fd, alive)
    finally:
        os.close(fd)
    fifo.unlink(missing_ok=True)


def _await_byte(fd: int, alive: Callable[[], bool]) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    for _ in range(50):
        poll.poll(100)
        with contextlib.suppress(BlockingIOError):
            if os.read(fd, 1):
                return
        if not alive():
            raise RuntimeFault("the container's first process ended before it could be started")
    raise RuntimeFault("the container's process did not start within 5 s")


def control(bundle: Path, kind: int, first: int = 0, second: int = 0) -> bool:
    """Tell conmon something through its fifo; False if it is gone."""
    try:
        fd = os.open(bundle / "ctl", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT):
            return False
        raise
    try:
        os.write(fd, f"{kind} {first} {second}\n".encode())
    finally:
        os.close(fd)
    return True


def conmon_pid(bundle: Path) -> int:
    """0 if unknown."""
    try:
        return int((bundle / "conmon.pid").read_text())
    except (OSError, ValueError):
        return 0


def alive(bundle: Path, id: str) -> bool:
    """Whether the container's conmon still runs."""
    try:
        return id.encode() in Path(f"/proc/{conmon_pid(bundle)}/cmdline").read_bytes()
    except OSError:
        return False


def running(id: str) -> bool:
    """The same, also in the moments before it has noted its own process id; looks at every process."""
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            with contextlib.suppress(OSError):
                command = (directory / "cmdline").read_bytes()
                if id.encode() in command and b"conmon" in command.partition(b"\0")[0]:
                    return True
    return False


def attach_socket(bundle: Path) -> socket.socket:
    """A connection to the container's stdio: output arrives as packets whose first byte names the stream."""
    # Through /proc, because a path in a socket's address is limited to 107 bytes.
    directory = os.open(bundle, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{directory}/attach")
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise RuntimeFault(f"cannot attach: {error.strerror or error}") from error
    finally:
        os.close(directory)
    return sock




def signal_number(name: str) -> int:
    """`SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`; SIGTERM for what is none of these."""
    text = name.strip().upper().removeprefix("SIG")
    if text.isdigit() and 0 < int(text) < signal.NSIG:
        return int(text)
    base, _, offset = text.partition("+")
    with contextlib.suppress(KeyError, ValueError):
        number = int(signal.Signals[f"SIG{base}"]) + (int(offset) if offset else 0)
        if 0 < number < signal.NSIG:
            return number
    return int(signal.SIGTERM)
