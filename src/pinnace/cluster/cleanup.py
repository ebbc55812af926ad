"""What a stopped cluster may have left on the machine, and its removal."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
from pathlib import Path

from pinnace.base.clock import SystemClock
from pinnace.base.randomness import Randomness
from pinnace.cluster.layout import Layout
from pinnace.network.fabric import Fabric
from pinnace.runtime.engine import BuiltinRuntime

_DETACH = 2     # MNT_DETACH


def cgroup_root(cluster: str, node: str = "") -> str:
    """Where a cluster's (or node's) cgroups are, below the roots of the hierarchies."""
    return f"/pinnace/{cluster}/{node}" if node else f"/pinnace/{cluster}"


def leave_nothing(layout: Layout) -> None:
    """Containers, mounts, cgroups, namespaces, links and rules of the cluster. Its processes have ended before."""
    asyncio.run(_stop_containers(layout))
    unmount_below(layout.path)
    if layout.exists():
        settings = layout.load()
        Fabric(layout.name, settings.node_subnet or "172.30.0.0/24").destroy()
    remove_cgroups(cgroup_root(layout.name))


async def _stop_containers(layout: Layout) -> None:
    clock, randomness = SystemClock(), Randomness()
    for node in layout.nodes():
        if not node.runtime.is_dir():
            continue
        runtime = BuiltinRuntime(
            node.runtime,
            layout.home.images,
            clock=clock,
            randomness=randomness,
            cgroup_root=cgroup_root(layout.name, node.name),
            egress=False,
        )
        await runtime.open()
        try:
            await runtime.destroy_all()
        finally:
            await runtime.close()


def unmount_below(directory: Path) -> None:
    """Every mount below a directory, the deepest first."""
    library = ctypes.CDLL(None, use_errno=True)
    root = str(directory.resolve())
    points = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in sorted((p for p in points if p == root or p.startswith(root + "/")), key=len, reverse=True):
        # Octal escapes stand for spaces and the like.
        library.umount2(point.encode().decode("unicode_escape").encode("latin-1"), _DETACH)


def remove_cgroups(path: str) -> None:
    """The cgroups below a path, in every hierarchy of this machine, and the path's own parents that are empty."""
    base = Path("/sys/fs/cgroup")
    roots = [base, *(entry for entry in base.iterdir() if entry.is_dir())] if base.is_dir() else []
    for root in roots:
        top = root / path.lstrip("/")
        if not top.is_dir():
            continue
        for directory, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                Path(directory).rmdir()
        with contextlib.suppress(OSError):
            top.parent.rmdir()         # /pinnace, if no other cluster is there
