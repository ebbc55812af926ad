"""What the server hands to a node process: where it is, who it is, whom it may trust."""

from __future__ import annotations

from pathlib import Path

import msgspec

from pinnace.cluster.files import write_secret


class Identity(msgspec.Struct, frozen=True):
    """A certificate and its key, PEM."""

    certificate: str
    key: str


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """One node's hand-over (node.json, 0600). `netns` is empty where the node lives in the host's namespace."""

    node: str
    cluster: str
    server: str
    ca: str
    kubelet: Identity
    proxy: Identity
    serving: Identity
    netns: str
    ip: str
    pod_cidr: str
    cluster_cidr: str
    service_cidr: str
    dns_ip: str
    domain: str
    egress: bool
    runtime_root: str
    image_root: str
    network_root: str
    kubelet_root: str
    log_root: str
    cgroup_root: str

    def place(self) -> Credentials:
        """All but the certificates, which are made anew at each start of the server: a node keeps those it has."""
        nobody = Identity("", "")
        return msgspec.structs.replace(self, kubelet=nobody, proxy=nobody, serving=nobody)

    def write(self, path: Path) -> None:
        write_secret(path, msgspec.json.encode(self), durable=False)


def read(path: Path) -> Credentials | None:
    """None if there is none, or one of an older kind."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Credentials)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
