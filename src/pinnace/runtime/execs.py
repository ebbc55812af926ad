"""Further processes in a running container: the `runc exec` command line, its files, and what its end means."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pinnace.runtime import conmon, streams
from pinnace.runtime.cri import ExecResult, RuntimeFault

EXEC_OUTPUT = 16 << 10                   # bytes a stream that exec_sync keeps
RUNC_FAILED = 255                        # also a code that a command may well end with: see `meaning`
NOT_EXECUTABLE, NOT_FOUND = 126, 127     # what a shell says


@dataclass(frozen=True, slots=True)
class ExecFiles:
    """What one exec has on disk while it lasts."""

    bundle: Path
    name: str

    @property
    def spec(self) -> Path:
        return self.bundle / f"exec-{self.name}.json"

    @property
    def pid(self) -> Path:
        return self.bundle / f"exec-{self.name}.pid"

    @property
    def log(self) -> Path:
        return self.bundle / f"exec-{self.name}.log"

    def inner_pid(self) -> int:
        """The process in the container, as we see it; 0 before it has started."""
        try:
            return int(self.pid.read_text())
        except (OSError, ValueError):
            return 0

    def meaning(self, code: int) -> int:
        """The command's exit code, or a shell's code for a command that could not be started."""
        if code != RUNC_FAILED or self.inner_pid():
            return code
        words = conmon.last_error(self.log)
        return NOT_EXECUTABLE if "permission denied" in words or "is a directory" in words else NOT_FOUND

    def remove(self) -> None:
        for path in (self.spec, self.pid, self.log):
            path.unlink(missing_ok=True)


def process_spec(config: bytes, command: tuple[str, ...], *, tty: bool) -> bytes:
    """The container's own process with another command: the same user, environment and rights."""
    section = msgspec.json.decode(config)["process"]
    section |= {"args": list(command), "terminal": tty}
    if tty:
        # Or the command may ask before runc has passed on the size of our terminal.
        section["consoleSize"] = {"width": streams.WIDTH, "height": streams.HEIGHT}
    if tty and not any(item.startswith("TERM=") for item in section["env"]):
        section["env"].append("TERM=xterm")
    return msgspec.json.encode(section)


def start(
    programs: conmon.Programs, runc_root: Path, container: str, files: ExecFiles, command: tuple[str, ...], *,
    stdin: bool, stdout: bool, stderr: bool, tty: bool,
) -> streams.ExecProcess:  # fmt: skip
    """Start a command in a container; its user is the container's."""
    if not command:
        raise RuntimeFault("exec needs a command")
    try:
        files.spec.write_bytes(process_spec((files.bundle / "config.json").read_bytes(), command, tty=tty))
        args = [
            programs.runc, f"--root={runc_root}", f"--log={files.log}", "--log-format=json", "exec",
            f"--process={files.spec}", f"--pid-file={files.pid}", container,
        ]  # fmt: skip
        if tty:
            return streams.start_with_terminal(args, files, stdin=stdin)
        return streams.start_with_pipes(args, files, stdin=stdin, stdout=stdout, stderr=stderr)
    except OSError as error:
        files.remove()
        raise RuntimeFault(f"failed to exec in container {container}: {error}") from error
    except BaseException:
        files.remove()
        raise


async def to_the_end(session: streams.ExecProcess, what: str, timeout: float) -> ExecResult:
    """Collect a session's output until it ends. Raises TimeoutError, after killing it."""
    output = {streams.STDOUT: bytearray(), streams.STDERR: bytearray()}

    async def collect() -> None:
        async for stream, data in session.output():
            kept = output[stream]
            kept += data[: EXEC_OUTPUT - len(kept)]

    collecting = asyncio.create_task(collect())
    try:
        async with asyncio.timeout(timeout if timeout > 0 else None):
            code = await session.wait()
            await collecting
    except TimeoutError:
        raise TimeoutError(f"command {what!r} timed out") from None
    finally:
        await session.close()
        collecting.cancel()
        await asyncio.gather(collecting, return_exceptions=True)
    return ExecResult(code, bytes(output[streams.STDOUT]), bytes(output[streams.STDERR]))
