"""What an earlier process of ours left: records to take over, and remains that belong to nothing.

`engine.py` calls this when it opens. Everything is told from the state directory; no other node's is touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import signal
from collections.abc import Collection
from pathlib import Path

import msgspec

from pinnace.base.clock import Clock
from pinnace.runtime import conmon, linux, sandboxes
from pinnace.runtime.cgroups import Cgroups
from pinnace.runtime.cri import NotFound
from pinnace.runtime.state import ContainerRecord, Layout, SandboxRecord

CONMON_PAUSE, CONMON_TURNS = 0.01, 500   # seconds between looks at conmon, and how many: 5 s

log = logging.getLogger("pinnace.runtime")


class RuncState(msgspec.Struct):
    """runc's state.json, as far as it concerns us."""

    init_process_pid: int = 0
    init_process_start: int = 0
    cgroup_paths: dict[str, str] = {}


def records(layout: Layout) -> tuple[list[SandboxRecord], list[ContainerRecord]]:
    """Every record that can be read."""
    found_sandboxes: list[SandboxRecord] = []
    found_containers: list[ContainerRecord] = []
    for directory in layout.sandboxes.iterdir():
        with contextlib.suppress(NotFound):
            found_sandboxes.append(layout.read(SandboxRecord, directory.name))
    for directory in layout.containers.iterdir():
        with contextlib.suppress(NotFound):
            found_containers.append(layout.read(ContainerRecord, directory.name))
    return found_sandboxes, found_containers


def group_of(paths: dict[str, str], root: str, *, v2: bool) -> str:
    """The control group, below its hierarchy's root, from the full paths that runc noted."""
    full = paths.get("") if v2 else paths.get("pids") or paths.get("memory")
    if not full or not full.startswith(root + "/"):
        return ""
    relative = full.removeprefix(root).lstrip("/")
    return "/" + (relative if v2 else relative.partition("/")[2])


def _noted(directory: Path) -> RuncState:
    try:
        return msgspec.json.decode((directory / "state.json").read_bytes(), type=RuncState)
    except (OSError, msgspec.MsgspecError):
        return RuncState()


async def kill_remains(layout: Layout, cgroups: Cgroups, clock: Clock, id: str) -> None:
    """End a container that no record says to run, by what runc wrote down about it, and remove runc's state.

    We may have died while conmon was starting it: then its process is noted only a moment later. And conmon
    notes the end, in a file that must not be taken for that of a later start. So both are waited for.
    """
    directory = layout.runc / id
    state = RuncState()
    for _ in range(CONMON_TURNS):
        going_on = conmon.running(id)  # looked at first: what it has noted by then is all there will be
        state = _noted(directory)
        if state.init_process_pid > 0:
            linux.send_signal(state.init_process_pid, state.init_process_start, signal.SIGKILL)
        if not going_on:
            break
        await clock.sleep(CONMON_PAUSE)
    group = group_of(state.cgroup_paths, str(cgroups.root), v2=cgroups.v2)
    if group.endswith(id):
        await cgroups.remove(group)
    (layout.exits / id).unlink(missing_ok=True)
    await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


async def sweep_sandboxes(layout: Layout, known: Collection[str]) -> None:
    for directory in list(layout.sandboxes.iterdir()):
        if directory.name not in known:
            log.info("sweeping the remains of sandbox %s", directory.name)
            await asyncio.to_thread(sandboxes.remove, directory)


def strangers(layout: Layout, known: Collection[str]) -> list[str]:
    """Containers of which something is left but no record."""
    names = {path.name for path in (*layout.containers.iterdir(), *layout.runc.iterdir(), *layout.exits.iterdir())}
    return sorted(names.difference(known))
