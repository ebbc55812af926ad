"""Writing a set of files so that a reader sees all of the old or all of the new.

As upstream's AtomicWriter: the files lie in a directory named by the moment, `..data` is a symbolic link to it that is
replaced by a rename, and each visible name is a link through `..data`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pinnace.base.randomness import Randomness

DATA = "..data"
_NEW_DATA = "..data_tmp"


@dataclass(frozen=True, slots=True)
class File:
    content: bytes
    mode: int = 0o644
    owner: int | None = None


def write(
    directory: Path, files: Mapping[str, File], *, now: datetime, randomness: Randomness, group: int | None = None
) -> bool:
    """Make `directory` show exactly these files; False if it did already. Paths are relative and have no `..`."""
    data = directory / DATA
    old = data.readlink().name if data.is_symlink() else ""
    if old and _same(directory / old, files):
        return False
    stamp = now.strftime("..%Y_%m_%d_%H_%M_%S.") + str(1_000_000_000 + randomness.below(1_000_000_000))
    fresh = directory / stamp
    fresh.mkdir(mode=0o755)
    fresh.chmod(0o755)
    for name, file in files.items():
        path = fresh / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
        path.chmod(_group_mode(file.mode) if group is not None else file.mode)
        if file.owner is not None or group is not None:
            os.chown(path, -1 if file.owner is None else file.owner, -1 if group is None else group)
    if group is not None:
        for inner in (fresh, *(p for p in fresh.rglob("*") if p.is_dir())):
            os.chown(inner, -1, group)
            inner.chmod(0o2775)
    new = directory / _NEW_DATA
    new.unlink(missing_ok=True)
    new.symlink_to(stamp)
    new.replace(data)
    _links(directory, {name.split("/", 1)[0] for name in files})
    if old:
        shutil.rmtree(directory / old, ignore_errors=True)
    return True


def _group_mode(mode: int) -> int:
    """The group of the pod may read what its owner may."""
    return mode | 0o440 | (0o110 if mode & 0o100 else 0)


def _same(directory: Path, files: Mapping[str, File]) -> bool:
    there = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
    return there == set(files) and all((directory / n).read_bytes() == f.content for n, f in files.items())


def _links(directory: Path, names: set[str]) -> None:
    for name in names:
        link = directory / name
        if not link.is_symlink():
            link.symlink_to(f"{DATA}/{name}")
    for entry in directory.iterdir():
        if not entry.name.startswith("..") and entry.name not in names:
            entry.unlink()
