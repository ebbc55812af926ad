"""The message that a container leaves behind: its file, or where it asked for it the end of its log."""

from __future__ import annotations

from pathlib import Path

from pinnace.runtime.cri import Container

MAX_MESSAGE = 4096
MAX_LOG = 2048
MAX_LOG_LINES = 80


def message(container: Container, file: Path) -> str:
    """The termination message of a container that ended; "" if it left none."""
    text = ""
    try:
        with file.open("rb") as stream:
            text = stream.read(MAX_MESSAGE).decode("utf-8", "replace")
    except OSError:
        text = ""     # the pod's directory is gone already
    if text:
        return text
    policy = container.annotations.get("io.kubernetes.container.terminationMessagePolicy")
    if policy == "FallbackToLogsOnError" and container.exit_code != 0:
        return log_tail(Path(container.log_path))
    return ""


def log_tail(path: Path) -> str:
    """The last lines of a CRI log, without its prefixes."""
    try:
        with path.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - 16 * MAX_LOG))
            lines = stream.read().splitlines()
    except OSError:
        return ""
    texts = []
    for line in lines[-MAX_LOG_LINES:]:
        parts = line.split(b" ", 3)
        if len(parts) == 4:
            texts.append(parts[3] + (b"\n" if parts[2].startswith(b"F") else b""))
    return b"".join(texts)[-MAX_LOG:].decode("utf-8", "replace")
