"""What a stopped cluster may have left on the machine, and its removal."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from pinnace.base.clock import SystemClock
from pinnace.base.randomness import Randomness
from pinnace.cluster import processes
from pinnace.cluster.layout import Layout, NodeLayout, cgroup_root
from pinnace.network.fabric import Fabric
from pinnace.runtime.engine import BuiltinRuntime

_DETACH = 2     # MNT_DETACH
_HIERARCHIES = Path("/sys/fs/cgroup")
_DYING = 2.0    # seconds for killed processes to leave their cgroups


def leave_nothing(layout: Layout) -> bool:
    """Remove containers, mounts, cgroups, namespaces, links and rules of the cluster; returns whether any of them was
    there. Its processes have ended before."""
    if layout.exists():
        asyncio.run(_stop_containers(layout, layout.nodes()))
    # What is left then, or where the runtime's state was deleted by hand, is known by path and name only.
    _kill_conmons(layout.path)
    found = remove_cgroups(cgroup_root(layout.name))
    unmount_below(layout.path)
    subnet = (layout.load().node_subnet if layout.exists() else "") or "172.30.0.0/24"
    return bool(Fabric(layout.name, subnet).destroy()) or found


def drop_node(layout: Layout, node: NodeLayout) -> None:
    """The same for one node, and its data; its namespace is dropped by the server's next start."""
    asyncio.run(_stop_containers(layout, [node]))
    unmount_below(node.path)
    remove_cgroups(cgroup_root(layout.name, node.name))
    shutil.rmtree(node.path, ignore_errors=True)


async def _stop_containers(layout: Layout, nodes: Iterable[NodeLayout]) -> None:
    clock, randomness = SystemClock(), Randomness()
    for node in nodes:
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


def _kill_conmons(directory: Path) -> None:
    """What holds the containers of a cluster whose runtime state was deleted by hand."""
    for pid in processes.find_below(directory, program="conmon"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def unmount_below(directory: Path) -> None:
    """Every mount below a directory, the deepest first."""
    library = ctypes.CDLL(None, use_errno=True)
    root = str(directory.resolve())
    points = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in sorted((p for p in points if p == root or p.startswith(root + "/")), key=len, reverse=True):
        # Octal escapes stand for spaces and the like.
        library.umount2(point.encode().decode("unicode_escape").encode("latin-1"), _DETACH)


def remove_cgroups(path: str) -> bool:
    """The cgroups below a path, with the processes in them, in every hierarchy of this machine, and the path's own
    parent if it is empty. Returns whether there were any."""
    base = _HIERARCHIES
    roots = [base, *(entry for entry in base.iterdir() if entry.is_dir())] if base.is_dir() else []
    tops = [root / path.lstrip("/") for root in roots if (root / path.lstrip("/")).is_dir()]
    deadline = time.monotonic() + _DYING
    while any(_kill_within(top) for top in tops) and time.monotonic() < deadline:
        time.sleep(0.005)
    for top in tops:
        for directory, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                Path(directory).rmdir()
    for root in roots:
        with contextlib.suppress(OSError):
            (root / path.lstrip("/")).parent.rmdir()         # /pinnace, if no other cluster is there
    return bool(tops)


def _kill_within(top: Path) -> int:
    """Returns how many processes were there."""
    count = 0
    for directory, _, _ in os.walk(top):
        with contextlib.suppress(OSError):
            for pid in map(int, (Path(directory) / "cgroup.procs").read_text().split()):
                count += 1
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    return count
