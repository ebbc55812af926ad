"""The runtime's door: CRI's nouns and verbs. The kubelet knows this module and nothing behind it.

Field names follow CRI's messages (runtime/v1), in Python's spelling. Times are seconds since the epoch.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import msgspec


class RuntimeFault(Exception):
    """The runtime could not do it; the message is fit for an event."""


class NotFound(RuntimeFault):
    """No such sandbox, container or image."""


class ImagePullFault(RuntimeFault):
    """An image could not be had. `reason` is the kubelet's waiting reason."""

    def __init__(self, message: str, reason: str = "ErrImagePull") -> None:
        super().__init__(message)
        self.reason = reason   # ErrImagePull, InvalidImageName, RegistryUnavailable, SignatureValidationFailed


class ContainerState(enum.StrEnum):
    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"
    UNKNOWN = "unknown"


class SandboxState(enum.StrEnum):
    READY = "ready"
    NOTREADY = "notready"


class PodIdentity(msgspec.Struct, frozen=True, gc=False):
    name: str
    namespace: str
    uid: str
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Resources:
    """Limits as cgroups take them; None leaves a value alone."""

    cpu_shares: int | None = None        # v1 shares (2 … 262144); converted to weight on v2
    cpu_quota: int | None = None         # microseconds a period; -1: no limit
    cpu_period: int | None = None        # microseconds
    memory_limit: int | None = None      # bytes
    pids_limit: int | None = None
    oom_score_adj: int | None = None


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    identity: PodIdentity
    hostname: str
    log_directory: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    cgroup_parent: str = ""              # path below the cgroup root, e.g. /pinnace/kubepods/burstable/pod<uid>
    dns_servers: tuple[str, ...] = ()
    dns_searches: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    hosts: str = ""                      # content of /etc/hosts is the kubelet's to mount; kept for reference
    host_network: bool = False
    host_pid: bool = False
    host_ipc: bool = False
    share_process_namespace: bool = False
    sysctls: Mapping[str, str] = field(default_factory=dict)
    resources: Resources = Resources()
    runtime_handler: str = ""


class Sandbox(msgspec.Struct, frozen=True, gc=False):
    id: str
    identity: PodIdentity
    state: SandboxState
    created_at: float
    netns: str                           # path of the network namespace; "" with host_network
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    ips: tuple[str, ...] = ()            # filled by whoever set up the network (`set_sandbox_ips`)


@dataclass(frozen=True, slots=True)
class Mount:
    container_path: str
    host_path: str
    readonly: bool = False
    propagation: str = "private"         # private, hostToContainer, bidirectional
    recursive_readonly: bool = False


@dataclass(frozen=True, slots=True)
class Device:
    container_path: str
    host_path: str
    permissions: str = "rwm"


@dataclass(frozen=True, slots=True)
class SecurityContext:
    privileged: bool = False
    run_as_user: int | None = None
    run_as_username: str = ""
    run_as_group: int | None = None
    supplemental_groups: tuple[int, ...] = ()
    fs_group: int | None = None
    readonly_rootfs: bool = False
    allow_privilege_escalation: bool = True
    add_capabilities: tuple[str, ...] = ()
    drop_capabilities: tuple[str, ...] = ()
    seccomp: str = "Unconfined"          # Unconfined, RuntimeDefault, or a profile's path
    masked_paths: bool = True            # mask and make read-only what runtimes do by default (procMount)


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    name: str
    image: str                           # image id or reference present in the store
    attempt: int = 0
    command: tuple[str, ...] = ()        # replaces the image's entrypoint
    args: tuple[str, ...] = ()           # replaces the image's cmd
    working_dir: str = ""
    env: tuple[tuple[str, str], ...] = ()
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    log_path: str = ""                   # below the sandbox's log directory, e.g. web/0.log
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    stop_signal: str = ""
    resources: Resources = Resources()
    security: SecurityContext = SecurityContext()
    target_pid_of: str = ""              # ephemeral containers: share that container's PID namespace


class Container(msgspec.Struct, frozen=True, gc=False):
    id: str
    sandbox_id: str
    name: str
    attempt: int
    state: ContainerState
    image: str                           # as asked for
    image_id: str                        # sha256:… of the image's config
    created_at: float
    started_at: float
    finished_at: float
    exit_code: int
    reason: str                          # Completed, Error, OOMKilled, StartError, ContainerCannotRun
    message: str
    pid: int                             # 0 unless running
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    log_path: str                        # absolute


@dataclass(frozen=True, slots=True)
class Image:
    id: str                              # sha256:… of the config
    tags: tuple[str, ...]                # docker.io/library/busybox:latest
    digests: tuple[str, ...]             # name@sha256:…
    size: int                            # bytes
    user: str                            # as the image's config says
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class ContainerStats:
    container_id: str
    name: str
    sandbox_id: str
    timestamp: float
    cpu_nanoseconds: int
    memory_usage: int
    memory_working_set: int
    memory_rss: int
    pids: int
    rootfs_bytes: int


@dataclass(frozen=True, slots=True)
class RuntimeEvent:
    """A container's life moved on. `sandbox_id` names the pod to look at again."""

    kind: str                            # created, started, stopped, deleted, oom
    sandbox_id: str
    container_id: str


@dataclass(frozen=True, slots=True)
class ExecResult:
    exit_code: int
    stdout: bytes
    stderr: bytes


class ExecSession(Protocol):
    """A process inside a container with its streams attached."""

    async def write(self, data: bytes) -> None:
        """To stdin; waits when the process does not read."""
        ...

    async def close_stdin(self) -> None: ...

    def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """(1, …) for stdout, (2, …) for stderr, until both are closed. With a tty everything is (1, …)."""
        ...

    async def resize(self, width: int, height: int) -> None: ...

    async def wait(self) -> int:
        """The exit code. 127 (not found) or 126 (not executable) for a command that could not be started; the
        OCI runtime's words are then on stderr."""
        ...

    async def close(self) -> None:
        """Kill the process if it still runs and free everything."""
        ...


class ImageService(Protocol):
    async def pull(self, reference: str, *, auth: Mapping[str, str] | None = None) -> Image:
        """Fetch from the reference's registry. Raises ImagePullFault."""
        ...

    async def status(self, reference: str) -> Image | None: ...

    async def images(self) -> tuple[Image, ...]: ...

    async def load(self, path: str) -> tuple[Image, ...]:
        """Take in a docker-archive or OCI layout (tar, gzipped or not, or a directory)."""
        ...

    async def remove(self, reference: str) -> None: ...

    async def usage(self) -> tuple[int, int]:
        """(bytes used, inodes used) by images and snapshots. Cheap: nothing is walked."""
        ...


class Runtime(Protocol):
    """Sandboxes and containers. All operations are idempotent where CRI's are: stopping what is stopped and
    removing what is gone succeed."""

    @property
    def images(self) -> ImageService: ...

    @property
    def version(self) -> str:
        """As in node.status.nodeInfo.containerRuntimeVersion, e.g. `pinnace://0.1.0`."""
        ...

    async def run_sandbox(self, spec: SandboxSpec) -> Sandbox:
        """Make the pod's namespaces. Its network is set up by the caller, in the namespace of the result."""
        ...

    async def set_sandbox_ips(self, sandbox: str, ips: tuple[str, ...]) -> None:
        """Remember the addresses that the network gave, across restarts."""
        ...

    async def stop_sandbox(self, sandbox: str) -> None:
        """Kill what runs in it and mark it not ready; its network namespace stays until it is removed."""
        ...

    async def remove_sandbox(self, sandbox: str) -> None:
        """Stop and remove the sandbox with its containers, namespace and mounts."""
        ...

    async def sandboxes(self) -> tuple[Sandbox, ...]: ...

    async def create(self, sandbox: str, spec: ContainerSpec) -> str:
        """Prepare a container; returns its id. Raises RuntimeFault."""
        ...

    async def start(self, container: str) -> None:
        """Raises RuntimeFault with the OCI runtime's words when the command cannot be run; the container has
        then exited with code 128 and reason StartError."""
        ...

    async def stop(self, container: str, *, grace: float) -> None:
        """The stop signal, then after `grace` seconds SIGKILL; returns when it has exited."""
        ...

    async def remove(self, container: str) -> None:
        """Kill if need be and remove with its snapshot and state; its log file stays."""
        ...

    async def containers(self, sandbox: str | None = None) -> tuple[Container, ...]: ...

    async def container(self, container: str) -> Container:
        """Raises NotFound."""
        ...

    async def exec(
        self, container: str, command: tuple[str, ...], *, stdin: bool = False, tty: bool = False,
        stdout: bool = True, stderr: bool = True,
    ) -> ExecSession: ...

    async def exec_sync(self, container: str, command: tuple[str, ...], *, timeout: float) -> ExecResult:
        """Raises TimeoutError; the process is killed then. Output is bounded to 16 KiB a stream."""
        ...

    async def attach(self, container: str, *, stdin: bool, stdout: bool, stderr: bool) -> ExecSession: ...

    async def port_forward(self, sandbox: str, port: int) -> tuple[object, object]:
        """An (asyncio.StreamReader, StreamWriter) pair to 127.0.0.1:port inside the pod's network namespace."""
        ...

    async def reopen_log(self, container: str) -> None:
        """After the log file was renamed: write to a new one under the old name."""
        ...

    async def update_resources(self, container: str, resources: Resources) -> None:
        """Raises RuntimeFault where the kernel refuses."""
        ...

    async def update_sandbox_resources(self, sandbox: str, resources: Resources) -> None:
        """The limits of the pod as a whole."""
        ...

    async def stats(self, container: str) -> ContainerStats: ...

    def events(self) -> AsyncIterator[RuntimeEvent]:
        """What happens from now on. A consumer that falls 10,000 events behind loses the oldest, and gets a
        `RuntimeEvent("resync", "", "")` in their place."""
        ...
