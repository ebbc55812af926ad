"""A pod's namespaces and files: made in one go on a thread of their own, kept by bind mounts, removed again.

There is no pause process: a namespace lives as long as it is mounted somewhere. `engine.py` decides when; the
functions here block and do.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

from pinnace.runtime import linux
from pinnace.runtime.cri import RuntimeFault, SandboxSpec
from pinnace.runtime.oci import SandboxView

SHM_SIZE = 64 << 20
# As containerd 2 does by default: pods may ping, and bind low ports, without a capability.
DEFAULT_SYSCTLS: Mapping[str, str] = {
    "net.ipv4.ip_unprivileged_port_start": "0",
    "net.ipv4.ping_group_range": "0 2147483647",
}
MAX_HOSTNAME = 64
CONNECT_TIMEOUT = 10.0                   # seconds


def resolv_conf(spec: SandboxSpec) -> str:
    """The file's content; empty: the pod gets the machine's own."""
    if not (spec.dns_servers or spec.dns_searches or spec.dns_options):
        return ""
    lines = []
    if spec.dns_searches:
        lines.append(f"search {' '.join(spec.dns_searches)}")
    lines += [f"nameserver {server}" for server in spec.dns_servers]
    if spec.dns_options:
        lines.append(f"options {' '.join(spec.dns_options)}")
    return "\n".join(lines) + "\n"


def namespace_flags(spec: SandboxSpec) -> dict[str, int]:
    """Which namespaces the pod has for itself; the host's name is replaced even on the host's network."""
    flags = {"uts": linux.CLONE_NEWUTS}
    if not spec.host_network:
        flags["net"] = linux.CLONE_NEWNET
    if not spec.host_ipc:
        flags["ipc"] = linux.CLONE_NEWIPC
    return flags


def make(directory: Path, spec: SandboxSpec) -> None:
    """Make everything below `directory`, which must not exist. Leaves nothing behind when it fails.

    Moves the calling thread into the new namespaces: it must be one of its own (`linux.on_new_thread`).
    """
    (directory / "ns").mkdir(parents=True, mode=0o700)
    try:
        (directory / "hostname").write_text(spec.hostname + "\n")
        (directory / "hostname").chmod(0o644)
        dns = resolv_conf(spec) or _host_resolv_conf()
        (directory / "resolv.conf").write_text(dns)
        (directory / "resolv.conf").chmod(0o644)
        _make_namespaces(directory, spec)
        if not spec.host_ipc:
            (directory / "shm").mkdir()
            linux.mount(
                "shm", str(directory / "shm"), "tmpfs", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC,
                f"mode=1777,size={SHM_SIZE}",
            )  # fmt: skip
    except OSError as error:
        remove(directory)
        raise RuntimeFault(f"failed to create the pod sandbox: {error}") from error
    except BaseException:
        remove(directory)
        raise


def _host_resolv_conf() -> str:
    with contextlib.suppress(OSError):
        return Path("/etc/resolv.conf").read_text()
    return ""


def _make_namespaces(directory: Path, spec: SandboxSpec) -> None:
    flags = namespace_flags(spec)
    combined = 0
    for flag in flags.values():
        combined |= flag
    linux.unshare(combined)
    linux.sethostname(spec.hostname[:MAX_HOSTNAME])
    sysctls = dict(spec.sysctls)
    if "net" in flags:
        linux.bring_up("lo")
        sysctls = {**DEFAULT_SYSCTLS, **sysctls}
    for name, value in sysctls.items():
        _set_sysctl(name, value)
    for kind in flags:
        target = directory / "ns" / kind
        target.touch()
        linux.bind(linux.namespace_path(kind), str(target))


def sysctl_path(name: str) -> str:
    """The file below /proc/sys. Whichever of `.` and `/` comes first separates; the other stands for it inside
    a part, as in an interface's name (sysctl.d(5))."""
    dot, slash = name.find("."), name.find("/")
    if slash < 0 or 0 <= dot < slash:
        name = name.translate(str.maketrans("./", "/."))
    if any(part in ("", "..", ".") for part in name.split("/")):
        raise RuntimeFault(f"failed to set sysctl {name}: not a sysctl's name")
    return name


def _set_sysctl(name: str, value: str) -> None:
    path = sysctl_path(name)
    try:
        (Path("/proc/sys") / path).write_text(value)
    except OSError as error:
        if name in DEFAULT_SYSCTLS and error.filename is not None and error.errno == 2:
            return  # a kernel without IPv4
        raise RuntimeFault(f"failed to set sysctl {name} to {value!r}: {error.strerror}") from error


def view(directory: Path, spec: SandboxSpec, *, pid_namespace: str | None) -> SandboxView:
    """What the pod's containers share."""
    kinds = {"net": "network", "ipc": "ipc", "uts": "uts"}
    return SandboxView(
        hostname=spec.hostname,
        namespaces={kinds[kind]: str(directory / "ns" / kind) for kind in namespace_flags(spec)},
        pid_namespace=pid_namespace,
        shm="/dev/shm" if spec.host_ipc else str(directory / "shm"),
        resolv_conf=str(directory / "resolv.conf"),
        hostname_file=str(directory / "hostname"),
    )


def alive(directory: Path, spec: SandboxSpec) -> bool:
    """Whether the namespaces are still mounted where we put them."""
    here = directory.stat().st_dev if directory.exists() else 0
    for kind in namespace_flags(spec):
        try:
            if (directory / "ns" / kind).stat().st_dev == here:
                return False
        except FileNotFoundError:
            return False
    return True


def connect(netns: str, port: int) -> socket.socket:
    """A connection to localhost:port inside a network namespace ("": our own). Needs a thread of its own.

    A socket stays in the namespace that it was made in, wherever it is used afterwards.
    """
    if netns:
        fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            linux.setns(fd, linux.CLONE_NEWNET)
        finally:
            os.close(fd)
    failure = ""
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        except OSError as error:
            failure = failure or str(error.strerror)
            continue
        try:
            sock.settimeout(CONNECT_TIMEOUT)
            sock.connect((address, port))
            sock.setblocking(False)
            return sock
        except OSError as error:
            sock.close()
            failure = failure or f"dial tcp4 127.0.0.1:{port}: connect: {(error.strerror or str(error)).lower()}"
    raise RuntimeFault(f"failed to connect to localhost:{port} inside the pod's network namespace: {failure}")


def remove(directory: Path) -> None:
    """Unmount and delete; nothing happens if it is gone. Never deletes through a mount."""
    for path in (directory / "shm", *(directory / "ns" / kind for kind in ("net", "ipc", "uts"))):
        linux.unmount_all(str(path))
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        for point in linux.mounts_below(str(directory)):
            linux.unmount_all(point)
        shutil.rmtree(directory)
