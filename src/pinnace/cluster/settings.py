"""What a cluster is, as its owner asked for it: read from flags and a file, kept in cluster.json."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec

from pinnace.base.errors import UserError

DEFAULT_NAME = "pinnace"
DOMAIN = "cluster.local"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?")
_MOST_NODES = 32               # real nodes on one machine: each is a process
_MOST_SIMULATED = 10_000
SIGNING_DURATION = "8760h"     # a year, as upstream's controller manager has it
_SHORTEST_SIGNING = timedelta(minutes=10)


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """The owner's wishes. Addresses are text in CIDR form; `apiPort` 0 means any free port."""

    name: str = DEFAULT_NAME
    nodes: int = 1
    simulated_nodes: int = 0
    egress: bool = True
    store: str = "sqlite"
    pod_cidr: str = "10.244.0.0/16"
    service_cidr: str = "10.96.0.0/16"
    node_subnet: str = ""          # chosen free at the first start if empty
    api_port: int = 0              # chosen at the first start if 0, and kept
    cluster_signing_duration: str = SIGNING_DURATION

    @property
    def context(self) -> str:
        """The name of the cluster's kubeconfig context: `pinnace`, `pinnace-NAME` for others."""
        return self.name if self.name == DEFAULT_NAME else f"{DEFAULT_NAME}-{self.name}"

    @property
    def kubernetes_ip(self) -> str:
        """The address of the Service default/kubernetes: the first of the service range."""
        return str(ipaddress.ip_network(self.service_cidr)[1])

    @property
    def dns_ip(self) -> str:
        """The address of the Service kube-system/kube-dns: the tenth of the service range, as kubeadm's."""
        return str(ipaddress.ip_network(self.service_cidr)[10])

    def node_names(self) -> tuple[str, ...]:
        return tuple(f"{self.name}-node-{number}" for number in range(1, self.nodes + 1))

    def simulated_names(self) -> tuple[str, ...]:
        return tuple(f"{self.name}-simulated-{number}" for number in range(1, self.simulated_nodes + 1))


def signing_duration(text: str) -> timedelta:
    """How long certificates last, in Go's notation ("4h", "1h30m"). Raises ValueError."""
    from pinnace.api import times  # which most commands need not load

    duration = timedelta(seconds=times.parse_duration(text))
    if duration < _SHORTEST_SIGNING:
        raise ValueError(f"certificates must last for 10 minutes at least, not {text}")
    return duration


def check_name(name: str) -> None:
    """Raises UserError for what cannot name a cluster. Names become parts of paths, links and namespaces."""
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} cannot be a cluster's name: use lower case letters, digits and '-', at most 32")


def check(settings: Settings) -> None:
    """Raises UserError for wishes that cannot be."""
    check_name(settings.name)
    if not 0 <= settings.nodes <= _MOST_NODES:
        raise UserError(f"--nodes must be from 0 to {_MOST_NODES}")
    if not 0 <= settings.simulated_nodes <= _MOST_SIMULATED:
        raise UserError(f"--simulated-nodes must be from 0 to {_MOST_SIMULATED}")
    if settings.store not in ("sqlite", "memory"):
        raise UserError(f"--store must be sqlite or memory, not {settings.store!r}")
    if not 0 <= settings.api_port <= 65535:
        raise UserError("apiPort must be from 0 to 65535")
    if settings.cluster_signing_duration != SIGNING_DURATION:
        try:
            signing_duration(settings.cluster_signing_duration)
        except (ValueError, OverflowError) as error:
            raise UserError(f"--cluster-signing-duration: {error}") from error
    networks = {}
    for field in ("pod_cidr", "service_cidr", "node_subnet"):
        text = getattr(settings, field)
        if text:
            networks[field] = _network(field, text)
    listed = list(networks.items())
    for position, (first, network) in enumerate(listed):
        for second, other in listed[position + 1 :]:
            if network.overlaps(other):
                raise UserError(f"{_camel(first)} {network} and {_camel(second)} {other} overlap")


def read_file(path: Path) -> dict[str, Any]:
    """A configuration file: YAML with the fields of Settings. Raises UserError."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a mapping of settings")
    return content


def combine(base: Settings, changes: Mapping[str, Any]) -> Settings:
    """`base` with changes (wire names, as in a file) on top. Raises UserError for unknown or wrong ones."""
    merged = msgspec.to_builtins(base) | dict(changes)
    try:
        settings = msgspec.convert(merged, Settings)
    except msgspec.ValidationError as error:
        raise UserError(f"the configuration is wrong: {error}") from error
    check(settings)
    return settings


def check_change(old: Settings, new: Settings) -> None:
    """Raises UserError for changes that a cluster with data cannot follow. `nodeSubnet` may be named later."""
    for field in ("store", "pod_cidr", "service_cidr", "node_subnet"):
        before, after = getattr(old, field), getattr(new, field)
        if before and before != after:
            raise UserError(
                f"{_camel(field)} of a cluster cannot be changed from {before} to {after}",
                hint=f"pinnace down --purge --name {old.name} makes room for a new one",
            )


def home(environment: Mapping[str, str], *, root: bool) -> Path:
    """PINNACE_HOME: where all state lies."""
    if environment.get("PINNACE_HOME"):
        return Path(environment["PINNACE_HOME"]).absolute()
    if root:
        return Path("/var/lib/pinnace")
    data = environment.get("XDG_DATA_HOME")
    return (Path(data) if data else Path(environment.get("HOME", "/tmp")) / ".local" / "share") / "pinnace"


def _network(field: str, text: str) -> ipaddress.IPv4Network:
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise UserError(f"{_camel(field)}: {error}") from error
    if network.prefixlen > 28:
        raise UserError(f"{_camel(field)} {network} is too small")
    return network


def _camel(field: str) -> str:
    head, *tail = field.split("_")
    return head + "".join(part.title() for part in tail)
