"""What a kubelet is told when it starts, and the doors it uses: paths, addresses, limits."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pinnace.network.ipam import HostPort

KUBELET_VERSION = "v1.36.0"


@dataclass(frozen=True, slots=True)
class KubeletConfig:
    """One node's settings. Directories are made as needed; nothing is written elsewhere."""

    node_name: str
    root: Path                              # pods/<uid>/… below it, as /var/lib/kubelet
    log_root: Path                          # <namespace>_<name>_<uid>/<container>/<n>.log below it
    host_ips: tuple[str, ...]
    cgroup_root: str = "/pinnace"           # path below the cgroup hierarchy
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[tuple[str, str, str], ...] = ()      # key, value, effect; at registration only
    cluster_dns: tuple[str, ...] = ()
    cluster_domain: str = "cluster.local"
    egress: bool = False                    # without it pods do not see the host's resolver or search domains
    host_resolv_conf: Path = Path("/etc/resolv.conf")
    max_pods: int = 110
    cpus: float | None = None               # capacity, where it is not the machine's
    memory: int | None = None
    reserved_memory: int = 100 * 2**20      # kept from allocatable, as upstream's hard eviction threshold
    server_port: int = 10250
    parallel_pulls: int = 3
    parallel_pods: int = 16                 # sandboxes made at the same time
    lease_seconds: float = 40.0
    lease_every: float = 10.0
    status_every: float = 300.0
    image_gc_high: float = 0.85             # of the file system that holds the images
    image_gc_low: float = 0.80
    log_max_bytes: int = 10 * 2**20
    log_max_files: int = 5
    pids_limit: int | None = None
    provider_id: str = ""
    pod_cidr: str = ""
    declared_version: str = KUBELET_VERSION

    def pod_directory(self, uid: str) -> Path:
        return self.root / "pods" / uid

    def log_directory(self, namespace: str, name: str, uid: str) -> Path:
        return self.log_root / f"{namespace}_{name}_{uid}"


class Network(Protocol):
    """The pod network's door (`network/pods.py`)."""

    async def add(
        self, netns: str, sandbox_id: str, pod: str = "", host_ports: Iterable[HostPort] = ()
    ) -> tuple[str, ...]:
        """Give the namespace its interface, addresses and routes; the addresses, the first one primary."""
        ...

    async def remove(self, sandbox_id: str) -> None:
        """Take back what `add` gave; nothing happens if there is nothing."""
        ...

    async def sweep(self, live: Collection[str]) -> list[str]:
        """Take back what belongs to none of these sandboxes."""
        ...

    async def check(self) -> str | None:
        """Why pods cannot be connected now, or None."""
        ...
