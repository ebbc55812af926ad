"""fsGroup: the pod's group owns its volumes and may use what lies in them."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def set_group(directory: Path, group: int, *, readonly: bool = False, only_on_mismatch: bool = False) -> None:
    """Give the tree to the group, with setgid directories, as upstream's SetVolumeOwnership."""
    if only_on_mismatch:
        top = directory.lstat()
        if top.st_gid == group and top.st_mode & stat.S_ISGID:
            return
    mask = 0o440 if readonly else 0o660
    for path in (directory, *directory.rglob("*")):
        info = path.lstat()
        if stat.S_ISLNK(info.st_mode):
            os.lchown(path, -1, group)
            continue
        os.chown(path, -1, group)
        mode = stat.S_IMODE(info.st_mode) | mask
        if stat.S_ISDIR(info.st_mode):
            mode |= stat.S_ISGID | 0o110
        path.chmod(mode)
