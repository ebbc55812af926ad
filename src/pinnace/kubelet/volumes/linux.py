"""The two system calls that volumes need: mount and umount2."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Protocol

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2


class Mounter(Protocol):
    def mount(self, source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
        """Raises OSError."""
        ...

    def unmount(self, target: str) -> None:
        """Lazily; nothing happens if nothing is mounted there. Raises OSError."""
        ...

    def mounted(self, below: str) -> list[str]:
        """Mount points at or below a path, the deepest first."""
        ...


class SystemMounter:
    """The kernel's own mounts."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)

    def mount(self, source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
        done = self._libc.mount(
            os.fsencode(source), os.fsencode(target), kind.encode() or None, ctypes.c_ulong(flags),
            data.encode() or None,
        )  # fmt: skip
        if done != 0:
            error = ctypes.get_errno()
            raise OSError(error, f"mount {source} at {target}: {os.strerror(error)}")

    def unmount(self, target: str) -> None:
        if self._libc.umount2(os.fsencode(target), MNT_DETACH) != 0:
            error = ctypes.get_errno()
            if error not in (2, 22):        # ENOENT, EINVAL: nothing is mounted there
                raise OSError(error, f"unmount {target}: {os.strerror(error)}")

    def mounted(self, below: str) -> list[str]:
        points = []
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            point = line.split(" ")[4].encode().decode("unicode_escape")
            if point == below or point.startswith(below + "/"):
                points.append(point)
        return sorted(points, key=len, reverse=True)
