"""Looks at the machine: what it is, and how it fares. Reads /proc and asks the file system; decides nothing."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
from pathlib import Path

from pinnace.kubelet.node_status import Machine

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}


def _read(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text().strip()
    return ""


def _os_image() -> str:
    for line in _read("/etc/os-release").splitlines():
        name, _, value = line.partition("=")
        if name == "PRETTY_NAME":
            return value.strip().strip('"')
    return "Linux"


def _memory(field: str) -> int:
    for line in _read("/proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        if name == field:
            return int(rest.split()[0]) * 1024
    return 0


def look(root: Path) -> Machine:
    """`root` lies on the file system whose size counts as the node's ephemeral storage."""
    root.mkdir(parents=True, exist_ok=True)
    system = platform.uname()
    machine_id = _read("/etc/machine-id")
    return Machine(
        architecture=_ARCHITECTURES.get(system.machine, system.machine),
        kernel=system.release,
        os_image=_os_image(),
        machine_id=machine_id,
        system_uuid=_read("/sys/class/dmi/id/product_uuid") or machine_id,
        boot_id=_read("/proc/sys/kernel/random/boot_id"),
        cpus=float(os.cpu_count() or 1),
        memory=_memory("MemTotal"),
        storage=shutil.disk_usage(root).total,
    )


def available_memory() -> int:
    return _memory("MemAvailable")


def free_share(path: Path) -> float:
    """The part of a file system that is free, 0 to 1."""
    usage = shutil.disk_usage(path)
    return usage.free / usage.total if usage.total else 1.0


def free_pids_share() -> float:
    most = int(_read("/proc/sys/kernel/pid_max") or 0)
    # The fourth word of loadavg is "runnable/all" scheduling entities.
    words = _read("/proc/loadavg").split()
    threads = int(words[3].partition("/")[2]) if len(words) > 3 else 0
    return 1.0 - threads / most if most else 1.0
