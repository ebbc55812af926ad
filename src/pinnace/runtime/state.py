"""What the runtime remembers on disk, one JSON file a sandbox and a container.

Written whole and renamed into place. There is no fsync: after a power loss no container runs any more, and a
record that cannot be read is swept away with its leftovers.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TypeVar

import msgspec

from pinnace.base.clock import Clock
from pinnace.runtime.cri import (
    Container,
    ContainerSpec,
    ContainerState,
    NotFound,
    Resources,
    RuntimeFault,
    Sandbox,
    SandboxSpec,
    SandboxState,
)


class SandboxRecord(msgspec.Struct, kw_only=True):
    """A pod's namespaces."""

    id: str
    spec: SandboxSpec
    created_at: float
    boot: str
    stopped: bool = False
    netns: str = ""
    ips: tuple[str, ...] = ()
    pause: str = ""                      # id of the container that holds the shared PID namespace

    def view(self, *, alive: bool) -> Sandbox:
        ready = alive and not self.stopped
        return Sandbox(
            id=self.id,
            identity=self.spec.identity,
            state=SandboxState.READY if ready else SandboxState.NOTREADY,
            created_at=self.created_at,
            netns=self.netns,
            labels=self.spec.labels,
            annotations=self.spec.annotations,
            ips=self.ips,
        )


class ContainerRecord(msgspec.Struct, kw_only=True):
    """A container, from create to remove."""

    id: str
    sandbox_id: str
    spec: ContainerSpec
    image_id: str
    cgroup: str
    log_path: str
    created_at: float
    boot: str
    stop_signal: str = "SIGTERM"
    state: ContainerState = ContainerState.CREATED
    started_at: float = 0.0
    finished_at: float = 0.0
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    pid: int = 0
    ticks: int = 0                       # with the pid, the identity of the process
    own_pid_namespace: bool = True       # then killing the first process kills them all
    overlay: bool = True
    resources: Resources = Resources()   # as last set

    def view(self) -> Container:
        return Container(
            id=self.id,
            sandbox_id=self.sandbox_id,
            name=self.spec.name,
            attempt=self.spec.attempt,
            state=self.state,
            image=self.spec.image,
            image_id=self.image_id,
            created_at=self.created_at,
            started_at=self.started_at,
            finished_at=self.finished_at,
            exit_code=self.exit_code,
            reason=self.reason,
            message=self.message,
            pid=self.pid if self.state is ContainerState.RUNNING else 0,
            labels=self.spec.labels,
            annotations=self.spec.annotations,
            log_path=self.log_path,
        )


def merged(old: Resources, new: Resources) -> Resources:
    """What is set after an update: None leaves a value alone."""
    return Resources(**{
        name: getattr(old, name) if getattr(new, name) is None else getattr(new, name)
        for name in Resources.__dataclass_fields__
    })  # fmt: skip


R = TypeVar("R", SandboxRecord, ContainerRecord)
LOCK_PAUSE, LOCK_TURNS = 0.02, 25       # seconds between attempts to get the lock, and how many
_encoder = msgspec.json.Encoder()


def write_atomically(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace a file so that a reader sees the old content or the new, never a part."""
    fresh = path.with_name(f".{path.name}.new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    fresh.replace(path)


class Layout:
    """Where things lie below a runtime's state directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sandboxes = root / "sandboxes"
        self.containers = root / "containers"
        self.exits = root / "exits"
        self.runc = root / "runc"
        self._lock = -1

    def make(self) -> None:
        for path in (self.root, self.sandboxes, self.containers, self.exits, self.runc):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)

    async def lock(self, clock: Clock) -> None:
        """Raises RuntimeFault when another process works on this directory.

        A process that was killed while it started a program may hold the lock a moment longer, through its child.
        """
        self._lock = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for _ in range(LOCK_TURNS):
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                await clock.sleep(LOCK_PAUSE)
        self.unlock()
        raise RuntimeFault(f"another process runs the containers of {self.root}")

    def unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def sandbox(self, id: str) -> Path:
        return self.sandboxes / id

    def container(self, id: str) -> Path:
        return self.containers / id

    def write(self, record: SandboxRecord | ContainerRecord) -> None:
        write_atomically(self._file(type(record), record.id), _encoder.encode(record))

    def read(self, kind: type[R], id: str) -> R:
        """Raises NotFound when there is no record, or none that can be read."""
        try:
            return msgspec.json.decode(self._file(kind, id).read_bytes(), type=kind)
        except (OSError, msgspec.MsgspecError) as error:
            raise NotFound(f"no record of {id}: {error}") from error

    def _file(self, kind: type[SandboxRecord] | type[ContainerRecord], id: str) -> Path:
        if kind is SandboxRecord:
            return self.sandboxes / id / "sandbox.json"
        return self.containers / id / "container.json"
