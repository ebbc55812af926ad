"""The OCI runtime configuration of a container: a pure function of what the kubelet asked for, the image's
configuration, and what the sandbox offers. `containers.py` collects the inputs and writes the result for runc.

Defaults (mounts, capabilities, masked paths) are containerd's, since that is what images are made for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pinnace.runtime.cri import ContainerSpec, Device, Mount, Resources, RuntimeFault, SecurityContext
from pinnace.runtime.seccomp import runtime_default
from pinnace.runtime.users import ProcessUser

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
)  # fmt: skip
"""By number, as <linux/capability.h> has them."""

DEFAULT_CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL",
    "CAP_AUDIT_WRITE",
)  # fmt: skip

MASKED_PATHS = (
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/sys/devices/virtual/powercap", "/proc/scsi",
)  # fmt: skip
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

PAUSE_RESOURCES = Resources(cpu_shares=2, oom_score_adj=-998)

_PROPAGATION = {"": "rprivate", "private": "rprivate", "hostToContainer": "rslave", "bidirectional": "rshared"}


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image says about how to run it (the `config` of its configuration)."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    stop_signal: str = ""
    volumes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SandboxView:
    """What the pod gives to each of its containers. An empty path means the host's own."""

    hostname: str
    namespaces: Mapping[str, str] = field(default_factory=dict)   # "network", "ipc", "uts" → path
    pid_namespace: str | None = ""       # a path: shared; "": one of its own; None: the host's
    shm: str = ""
    resolv_conf: str = ""
    hostname_file: str = ""


@dataclass(frozen=True, slots=True)
class HostView:
    """What the machine allows."""

    cgroup_v2: bool
    architecture: str
    capabilities: int                    # our own, as a bit set: nobody can be given more
    oom_score_adj: int | None = None     # the lowest value that may be set; None: any
    devices: tuple[Device, ...] = ()     # for privileged containers


def process_args(spec: ContainerSpec, image: ImageConfig) -> list[str]:
    """Kubernetes' rule: a command drops the image's cmd as well; args alone keep the entrypoint."""
    entrypoint = spec.command or image.entrypoint
    args = spec.args if spec.args or spec.command else image.cmd
    if not (combined := [*entrypoint, *args]):
        raise RuntimeFault("no command specified")
    return combined


def process_env(spec: ContainerSpec, image: ImageConfig, hostname: str) -> list[str]:
    """PATH and HOSTNAME first, then the image's, then the pod's; of equal names the last wins."""
    values: dict[str, str] = {"PATH": DEFAULT_PATH}
    if spec.tty:
        values["TERM"] = "xterm"
    values["HOSTNAME"] = hostname
    for item in image.env:
        name, _, value = item.partition("=")
        values[name] = value
    values.update(spec.env)
    return [f"{name}={value}" for name, value in values.items()]


def capability_set(security: SecurityContext, available: int) -> list[str]:
    """The capabilities that the process has, in the kernel's order. What we have not, nobody gets."""
    if security.privileged:
        chosen = set(CAPABILITIES)
    else:
        chosen = set(DEFAULT_CAPABILITIES)
        added = {_capability(name) for name in security.add_capabilities}
        dropped = {_capability(name) for name in security.drop_capabilities}
        if "CAP_ALL" in added:
            chosen = set(CAPABILITIES)
        if "CAP_ALL" in dropped:
            chosen = set()
        chosen = (chosen | added) - dropped
    return [name for number, name in enumerate(CAPABILITIES) if name in chosen and available & 1 << number]


def _capability(name: str) -> str:
    upper = name.upper()
    return upper if upper.startswith("CAP_") else f"CAP_{upper}"


def linux_resources(resources: Resources, *, v2: bool) -> dict[str, Any]:
    """Limits in OCI's form (runc converts shares to weight itself)."""
    out: dict[str, Any] = {}
    cpu: dict[str, int] = {}
    if resources.cpu_shares is not None:
        cpu["shares"] = max(2, resources.cpu_shares)
    if resources.cpu_quota is not None:
        cpu["quota"] = resources.cpu_quota if resources.cpu_quota > 0 else -1
    if resources.cpu_period:
        cpu["period"] = resources.cpu_period
    if cpu:
        out["cpu"] = cpu
    if resources.memory_limit is not None:
        limit = resources.memory_limit if resources.memory_limit > 0 else -1
        out["memory"] = {"limit": limit}
        if v2:
            # KEP-2400: no swap for containers with a limit; and a container dies as a whole (memory.oom.group).
            out["memory"]["swap"] = limit
            out["unified"] = {"memory.oom.group": "1"}
    if resources.pids_limit is not None:
        out["pids"] = {"limit": resources.pids_limit if resources.pids_limit > 0 else -1}
    return out


def default_mounts(spec: ContainerSpec, sandbox: SandboxView, host: HostView) -> list[dict[str, Any]]:
    """What every container has, before the pod's own volumes."""
    rw = "rw" if spec.security.privileged else "ro"
    nothing = ["nosuid", "noexec", "nodev"]
    mounts: list[dict[str, Any]] = [
        _special("/proc", "proc", "proc", nothing),
        _special("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _special("/dev/pts", "devpts", "devpts",
                 ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        _special("/dev/mqueue", "mqueue", "mqueue", nothing),
        _special("/sys", "sysfs", "sysfs", [*nothing, rw]),
        _special("/sys/fs/cgroup", "cgroup", "cgroup", [*nothing, "relatime", rw]),
    ]  # fmt: skip
    if sandbox.shm:
        mounts.append(_special("/dev/shm", "bind", sandbox.shm, ["rbind", "rw", "rprivate"]))
    write = "ro" if spec.security.readonly_rootfs else "rw"
    for target, source in (("/etc/hostname", sandbox.hostname_file), ("/etc/resolv.conf", sandbox.resolv_conf)):
        if source:
            mounts.append(_special(target, "bind", source, ["rbind", "rprivate", write]))
    taken = {_normal(mount.container_path) for mount in spec.mounts}
    return [mount for mount in mounts if mount["destination"] not in taken]


def _special(destination: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": options}


def _normal(path: str) -> str:
    return "/" + "/".join(part for part in path.split("/") if part)


def volume_mounts(mounts: Sequence[Mount]) -> list[dict[str, Any]]:
    """The pod's volumes: parents before what lies inside them."""
    out = []
    for mount in sorted(mounts, key=lambda m: len(_normal(m.container_path).split("/"))):
        if mount.propagation not in _PROPAGATION:
            raise RuntimeFault(f"unknown mount propagation {mount.propagation!r}")
        access = ("rro" if mount.recursive_readonly else "ro") if mount.readonly else "rw"
        options = ["rbind", _PROPAGATION[mount.propagation], access]
        out.append(_special(_normal(mount.container_path), "bind", mount.host_path, options))
    return out


def namespaces(sandbox: SandboxView, host: HostView) -> list[dict[str, str]]:
    out: list[dict[str, str]] = [{"type": "mount"}]
    out += [{"type": kind, "path": path} for kind, path in sandbox.namespaces.items() if path]
    if sandbox.pid_namespace is not None:
        out.append({"type": "pid"} | ({"path": sandbox.pid_namespace} if sandbox.pid_namespace else {}))
    if host.cgroup_v2:
        out.append({"type": "cgroup"})
    return out


def _device_rules(spec: ContainerSpec, devices: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if spec.security.privileged:
        return [{"allow": True, "access": "rwm"}]
    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    for device, numbers in zip(spec.devices, devices, strict=True):
        rules.append({
            "allow": True, "type": numbers["type"], "major": numbers["major"], "minor": numbers["minor"],
            "access": device.permissions,
        })  # fmt: skip
    return rules


def oom_score_adj(wanted: int | None, host: HostView) -> int | None:
    """Without CAP_SYS_RESOURCE the kernel refuses to go below the value we were started with."""
    if wanted is None or host.oom_score_adj is None:
        return wanted
    return max(wanted, host.oom_score_adj)


def process_section(
    spec: ContainerSpec, image: ImageConfig, sandbox: SandboxView, user: ProcessUser, host: HostView
) -> dict[str, Any]:
    """The `process` of the configuration; exec starts from it too."""
    caps = capability_set(spec.security, host.capabilities)
    process: dict[str, Any] = {
        "terminal": spec.tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.additional)},
        "args": process_args(spec, image),
        "env": process_env(spec, image, sandbox.hostname),
        "cwd": spec.working_dir or image.working_dir or "/",
        "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
        "noNewPrivileges": not spec.security.allow_privilege_escalation and not spec.security.privileged,
    }
    adjust = oom_score_adj(spec.resources.oom_score_adj, host)
    if adjust is not None:
        process["oomScoreAdj"] = adjust
    return process


def config(
    spec: ContainerSpec,
    image: ImageConfig,
    sandbox: SandboxView,
    user: ProcessUser,
    host: HostView,
    *,
    rootfs: str,
    cgroup: str,
    devices: Sequence[Mapping[str, Any]] = (),
    seccomp: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The whole config.json.

    `devices` are the OCI entries of `spec.devices` (or of `host.devices` when privileged); `seccomp` is the
    profile read from the file that a Localhost profile names.
    """
    process = process_section(spec, image, sandbox, user, host)
    bidirectional = any(mount.propagation == "bidirectional" for mount in spec.mounts)
    slave = any(mount.propagation == "hostToContainer" for mount in spec.mounts)
    linux: dict[str, Any] = {
        "namespaces": namespaces(sandbox, host),
        "cgroupsPath": cgroup,
        "resources": linux_resources(spec.resources, v2=host.cgroup_v2)
        | {"devices": _device_rules(spec, devices)},
        "devices": list(devices),
        "rootfsPropagation": "rshared" if bidirectional else "rslave" if slave else "rprivate",
    }
    if not spec.security.privileged:
        if spec.security.masked_paths:
            linux["maskedPaths"] = list(MASKED_PATHS)
            linux["readonlyPaths"] = list(READONLY_PATHS)
        if spec.security.seccomp == "RuntimeDefault":
            linux["seccomp"] = runtime_default(process["capabilities"]["bounding"], host.architecture)
        elif seccomp is not None:
            linux["seccomp"] = dict(seccomp)
    return {
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": rootfs, "readonly": spec.security.readonly_rootfs},
        "mounts": default_mounts(spec, sandbox, host) + volume_mounts(spec.mounts),
        "annotations": {"io.kubernetes.cri.container-name": spec.name},
        "linux": linux,
    }
