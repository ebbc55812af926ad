"""subPath: a part of a volume, mounted so that nobody can lead the mount out of the volume.

What a container could change while we look is never followed: the path is resolved once, checked to lie inside,
and then walked without following links; what was opened is bound, not what the name says by then.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pinnace.kubelet.environment import ConfigError
from pinnace.kubelet.volumes.linux import MS_BIND, MS_REC, Mounter


def bind(volume: Path, sub_path: str, target: Path, mounter: Mounter) -> None:
    """Bind `sub_path` of the volume at `target`; a missing one becomes a directory. Raises ConfigError."""
    if sub_path.startswith("/") or ".." in Path(sub_path).parts:
        raise ConfigError(f'subPath "{sub_path}" must be a relative path without ".."')
    base = volume.resolve()
    resolved = (base / sub_path).resolve()
    if resolved != base and base not in resolved.parents:
        raise ConfigError(f'subpath "{resolved}" not within volume path "{base}"')
    fd = _open(base, resolved.relative_to(base).parts)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            target.mkdir(exist_ok=True)
        else:
            target.touch()
        mounter.unmount(str(target))
        mounter.mount(f"/proc/self/fd/{fd}", str(target), "", MS_BIND | MS_REC)
    finally:
        os.close(fd)


def _open(base: Path, parts: tuple[str, ...]) -> int:
    """The file or directory, opened step by step without following links; missing directories are made."""
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(base, flags | os.O_DIRECTORY)
    mode = base.stat().st_mode & 0o7777
    try:
        for number, part in enumerate(parts):
            try:
                inner = os.open(part, flags, dir_fd=fd)
            except FileNotFoundError:
                os.mkdir(part, mode=mode, dir_fd=fd)
                os.chmod(part, mode, dir_fd=fd)
                inner = os.open(part, flags | os.O_DIRECTORY, dir_fd=fd)
            if stat.S_ISLNK(os.fstat(inner).st_mode):
                os.close(inner)
                raise ConfigError(f'subPath is not safe: "{"/".join(parts[: number + 1])}" became a symbolic link')
            os.close(fd)
            fd = inner
        return fd
    except BaseException:
        os.close(fd)
        raise

