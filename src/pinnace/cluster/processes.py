"""Processes of a cluster: started apart from the terminal, known by pid and start time, ended by pid."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pinnace.cluster.files import write_secret


@dataclass(frozen=True, slots=True)
class ProcessFile:
    """Remembers a process in a file, so that a later command can find it; never mistakes a recycled pid."""

    path: Path

    def write(self, pid: int) -> None:
        write_secret(self.path, f"{pid} {start_time(pid)} {_boot()}\n".encode(), durable=False)

    def pid(self) -> int | None:
        """The process's id if it still runs."""
        try:
            pid, started, boot = self.path.read_text().split()
            known = int(started)
            return int(pid) if known and boot == _boot() and start_time(int(pid)) == known else None
        except (OSError, ValueError):
            return None

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def _boot() -> str:
    """Which boot of the machine this is: after the next one the same pid may have started at the same tick."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "-"


def start_time(pid: int) -> int:
    """Clock ticks after boot at which the process started; 0 if there is none, or only its zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return _portable_start_time(pid)
    fields = stat[stat.rindex(")") + 2 :].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


def _portable_start_time(pid: int) -> int:
    """Without /proc (macOS) the start time is not to be had cheaply: 1 stands for "it runs"."""
    if Path("/proc/self").exists():
        return 0
    try:
        os.kill(pid, 0)
    except OSError:
        return 0
    return 1


def python(module: str, *arguments: str) -> list[str]:
    """The command line for a module of ours under this interpreter, isolated from the user's environment."""
    return [sys.executable, "-P", "-m", module, *arguments]


def find(*words: str) -> list[int]:
    """The processes whose command line has all these words: what is to be found without a ProcessFile."""
    wanted = {word.encode() for word in words}
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if wanted <= set(entry.read_bytes().split(b"\0")):
                found.append(int(entry.parent.name))
    return found


def find_below(directory: Path, *, program: str) -> list[int]:
    """The processes of a program that got a path below the directory as an argument."""
    root = f"{directory}/".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            name, *words = entry.read_bytes().split(b"\0")
            if name.rpartition(b"/")[2] == program.encode() and any(word.startswith(root) for word in words):
                found.append(int(entry.parent.name))
    return found


def start(command: Sequence[str], *, log: Path) -> int:
    """Start a process in a session of its own with its output appended to `log`; returns its pid."""
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    # Hundreds of modules compiled anew at each start would double its time.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    if path := environment.get("PYTHONPATH"):
        environment["PYTHONPATH"] = os.pathsep.join(str(Path(part).resolve()) for part in path.split(os.pathsep))
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=descriptor, stderr=descriptor, start_new_session=True, cwd="/",
            env=environment,
        )  # fmt: skip
    finally:
        os.close(descriptor)
    # Whoever started it may outlive it or not: its end is told by its ProcessFile, not by wait().
    process.returncode = 0
    return process.pid


def stop(pid: int, *, grace: float) -> None:
    """SIGTERM, after `grace` seconds SIGKILL; returns when it is gone."""
    if not hasattr(os, "pidfd_open"):
        _stop_polling(pid, grace)
        return
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        if not select.select([descriptor], [], [], grace)[0]:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            select.select([descriptor], [], [], 10.0)
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)
    reap(pid)


def settle_garbage_collector() -> None:
    """Once all is loaded. Wire objects have no cycles and are not tracked: what is left for the collector are futures
    and tasks, which Python's own thresholds would look through, with everything else, many times a second."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    gc.enable()


def reap(pid: int) -> None:
    """Take an ended child off the process table; nothing happens if it is no child of ours or still runs."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _stop_polling(pid: int, grace: float) -> None:
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        for _ in range(max(1, int(seconds / 0.05))):
            reap(pid)
            if not start_time(pid):
                return
            select.select([], [], [], 0.05)
