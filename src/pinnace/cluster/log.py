"""Logging of our processes: one line an entry, with a UTC time, to standard error, which is a file of bounded size."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

_MOST = 10 * 2**20      # bytes of a log; as much again is kept as NAME.log.1


class BoundedLog(logging.StreamHandler):  # type: ignore[type-arg]   # generic in the stubs only
    """Writes to standard error. If that is the file `path`, it begins anew when the file has grown too large."""

    def __init__(self, path: Path, *, most: int = _MOST) -> None:
        super().__init__()
        self._path = path
        self._most = most

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        descriptor = self.stream.fileno()
        if os.fstat(descriptor).st_size > self._most:
            self._begin_anew(descriptor)

    def _begin_anew(self, descriptor: int) -> None:
        """The old content keeps its name plus ".1"; what the interpreter itself writes follows to the new file."""
        if not (self._path.exists() and os.path.samestat(os.fstat(descriptor), self._path.stat())):
            return
        self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        fresh = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        for standard in {1, 2, descriptor}:
            os.dup2(fresh, standard)
        os.close(fresh)


def setup(path: Path) -> None:
    """`path` is the file that standard error goes to."""
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = BoundedLog(path)
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # One line a request would drown the rest.
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


def note_hangup() -> None:
    """The handler of SIGHUP."""
    logging.getLogger("pinnace").info("SIGHUP: going on without a terminal")
