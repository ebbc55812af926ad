"""Where everything of a cluster lies on the disk."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pinnace.base.errors import UserError
from pinnace.cluster.files import write_secret
from pinnace.cluster.settings import Settings, check_name

_SETTINGS = "cluster.json"
# All that a cluster's directory ever holds.
_PARTS = ("pki", "store", "run", "logs", "nodes")


@dataclass(frozen=True, slots=True)
class Home:
    """PINNACE_HOME: the images of the machine, and its clusters."""

    path: Path

    @property
    def images(self) -> Path:
        return self.path / "images"

    def cluster(self, name: str, data_dir: Path | None = None) -> Layout:
        """The cluster's directory; elsewhere if the owner said so with --data-dir (then a link remembers it)."""
        check_name(name)
        standard = self.path / "clusters" / name
        if data_dir is not None and data_dir.resolve() != standard.resolve():
            _link(standard, data_dir.resolve(), name)
        return Layout(self, name, standard.resolve())

    def names(self) -> tuple[str, ...]:
        directory = self.path / "clusters"
        if not directory.is_dir():
            return ()
        return tuple(sorted(entry.name for entry in directory.iterdir() if (entry / _SETTINGS).exists()))


@dataclass(frozen=True, slots=True)
class Layout:
    """One cluster's directory."""

    home: Home
    name: str
    path: Path

    @property
    def settings_file(self) -> Path:
        return self.path / _SETTINGS

    @property
    def pki(self) -> Path:
        return self.path / "pki"

    @property
    def store(self) -> Path:
        return self.path / "store"

    @property
    def run(self) -> Path:
        """What only a running cluster has: process ids, logs' names, progress. Gone after `down`."""
        return self.path / "run"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def node(self, name: str) -> NodeLayout:
        return NodeLayout(name, self.path / "nodes" / name)

    def nodes(self) -> tuple[NodeLayout, ...]:
        """Every node that ever had a directory."""
        directory = self.path / "nodes"
        if not directory.is_dir():
            return ()
        return tuple(NodeLayout(entry.name, entry) for entry in sorted(directory.iterdir()) if entry.is_dir())

    @contextlib.contextmanager
    def locked(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Alone in starting or stopping this cluster; `waiting` is called if another command is at it."""
        directory = self.home.path / "clusters"
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = directory / f".{self.name}.lock"
        descriptor = _lock(path, waiting)
        try:
            yield
        finally:
            if not self.exists():
                path.unlink(missing_ok=True)
            os.close(descriptor)

    def purge(self) -> None:
        """Delete the cluster's data: what is ours in its directory, and the directory if nothing else is in it."""
        for part in _PARTS:
            shutil.rmtree(self.path / part, ignore_errors=True)
        self.settings_file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()
        standard = self.home.path / "clusters" / self.name
        if standard.is_symlink():
            standard.unlink()

    def exists(self) -> bool:
        return self.settings_file.exists()

    def load(self) -> Settings:
        try:
            return msgspec.json.decode(self.settings_file.read_bytes(), type=Settings)
        except FileNotFoundError:
            raise UserError(f"there is no cluster {self.name!r}", hint="pinnace up makes one") from None
        except msgspec.MsgspecError as error:
            raise UserError(f"{self.settings_file} is damaged: {error}") from error

    def save(self, settings: Settings) -> None:
        write_secret(self.settings_file, msgspec.json.format(msgspec.json.encode(settings)))


@dataclass(frozen=True, slots=True)
class NodeLayout:
    """One node's directory."""

    name: str
    path: Path

    @property
    def credentials(self) -> Path:
        """What the server hands the node process: see `cluster.credentials`."""
        return self.path / "node.json"

    @property
    def runtime(self) -> Path:
        return self.path / "runtime"

    @property
    def network(self) -> Path:
        return self.path / "network"

    @property
    def kubelet(self) -> Path:
        return self.path / "kubelet"


def cgroup_root(cluster: str, node: str = "") -> str:
    """Where a cluster's (or node's) cgroups are, below the roots of the hierarchies."""
    return f"/pinnace/{cluster}/{node}" if node else f"/pinnace/{cluster}"


def _link(standard: Path, data: Path, name: str) -> None:
    """Remember that the cluster's data lies in `data`. Raises UserError if that would hide or mix data."""
    if (standard / _SETTINGS).exists():
        hint = f"pinnace down --purge --name {name} frees it"
        raise UserError(f"cluster {name!r} has its data in {standard.resolve()}", hint=hint)
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        foreign = {entry.name for entry in data.iterdir()} - {_SETTINGS, *_PARTS, "lost+found"}
    except OSError as error:
        raise UserError(f"--data-dir {data}: {error.strerror}") from error
    if foreign:
        raise UserError(f"--data-dir {data} holds other things: {', '.join(sorted(foreign)[:3])}")
    standard.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if standard.is_symlink():
        standard.unlink()
    elif standard.exists():
        shutil.rmtree(standard)          # without settings: what an interrupted first start left
    standard.symlink_to(data, target_is_directory=True)


def _lock(path: Path, waiting: Callable[[], None]) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Whoever held it may have deleted the file together with the cluster: then this lock locks nothing.
        try:
            current = path.stat()
        except FileNotFoundError:
            current = None
        held = os.fstat(descriptor)
        if current is not None and (current.st_dev, current.st_ino) == (held.st_dev, held.st_ino):
            return descriptor
        os.close(descriptor)
