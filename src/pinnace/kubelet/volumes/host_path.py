"""hostPath: a path of the node itself, checked and where asked for created."""

from __future__ import annotations

import stat
from pathlib import Path

from pinnace.kubelet.environment import ConfigError


def prepare(path: str, kind: str) -> str:
    """The path to mount. Raises ConfigError when it is not what `kind` says."""
    target = Path(path)
    match kind:
        case "":
            # Runtimes make what is missing a directory; ours is told to mount only what is there.
            if not target.exists() and not target.is_symlink():
                target.mkdir(parents=True, mode=0o755)
            return path
        case "DirectoryOrCreate":
            if not target.exists():
                target.mkdir(parents=True, mode=0o755)
            kind = "Directory"
        case "FileOrCreate":
            if not target.exists():
                target.touch(mode=0o644)
            kind = "File"
    wanted = {
        "Directory": (stat.S_ISDIR, "a directory"),
        "File": (stat.S_ISREG, "a file"),
        "Socket": (stat.S_ISSOCK, "a socket file"),
        "CharDevice": (stat.S_ISCHR, "a character device"),
        "BlockDevice": (stat.S_ISBLK, "a block device"),
    }
    if kind not in wanted:
        raise ConfigError(f"{kind} is an invalid volume type")
    check, what = wanted[kind]
    try:
        mode = target.stat().st_mode
    except OSError:
        raise ConfigError(f"hostPath type check failed: {path} is not {what}") from None
    if not check(mode):
        raise ConfigError(f"hostPath type check failed: {path} is not {what}")
    return path
