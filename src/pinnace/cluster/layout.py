"""Where everything of a cluster lies on the disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from pinnace.base.errors import UserError
from pinnace.cluster.certificates import write_secret
from pinnace.cluster.settings import Settings


@dataclass(frozen=True, slots=True)
class Home:
    """PINNACE_HOME: the images of the machine, and its clusters."""

    path: Path

    @property
    def images(self) -> Path:
        return self.path / "images"

    def cluster(self, name: str, data_dir: Path | None = None) -> Layout:
        """The cluster's directory; elsewhere if the owner said so with --data-dir (then a link remembers it)."""
        standard = self.path / "clusters" / name
        if data_dir is not None and data_dir.absolute() != standard:
            standard.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if standard.is_symlink():
                standard.unlink()
            elif standard.exists():
                raise UserError(f"cluster {name!r} has its data in {standard} already; `pinnace down --purge` frees it")
            data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            standard.symlink_to(data_dir.absolute(), target_is_directory=True)
        return Layout(self, name, standard.resolve())

    def names(self) -> tuple[str, ...]:
        directory = self.path / "clusters"
        if not directory.is_dir():
            return ()
        return tuple(sorted(entry.name for entry in directory.iterdir() if (entry / "cluster.json").exists()))


@dataclass(frozen=True, slots=True)
class Layout:
    """One cluster's directory."""

    home: Home
    name: str
    path: Path

    @property
    def settings_file(self) -> Path:
        return self.path / "cluster.json"

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
        """What the server hands the node process: see `cluster.node.Credentials`."""
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
