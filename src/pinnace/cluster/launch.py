"""Starting and stopping clusters from outside: what `pinnace up`, `down` and `status` do."""

from __future__ import annotations

import ctypes.util
import os
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pinnace.base.errors import UserError
from pinnace.cluster import processes, progress
from pinnace.cluster.layout import Layout
from pinnace.cluster.processes import ProcessFile
from pinnace.cluster.settings import Settings

_PATIENCE = 120.0          # seconds until a cluster that is not ready counts as failed
_GRACE = 15.0              # seconds that a process of ours has to end by itself
_PROGRAMS = {"runc": "runc", "conmon": "conmon"}


@dataclass(frozen=True, slots=True)
class Report:
    """What `up` did: steps with the seconds after the start at which each was done."""

    started: bool
    steps: dict[str, float]
    seconds: float
    server: str


def missing_for_containers() -> str:
    """Why this machine cannot run containers, and how it could; "" if it can."""
    if platform.system() != "Linux":
        return "containers need Linux: nodes are simulated here"
    if os.geteuid() != 0:
        return "containers need root: nodes are simulated; run as root for real ones"
    absent = [package for program, package in _PROGRAMS.items() if shutil.which(program) is None]
    if ctypes.util.find_library("nftables") is None:
        absent.append("libnftables1")
    if absent:
        return f"containers need {', '.join(absent)}: nodes are simulated; apt-get install {' '.join(absent)}"
    return ""


def server_file(layout: Layout) -> ProcessFile:
    return ProcessFile(layout.run / "server.pid")


def node_file(layout: Layout, node: str) -> ProcessFile:
    return ProcessFile(layout.run / f"{node}.pid")


def up(layout: Layout, settings: Settings, *, tell: Callable[[str, float], None]) -> Report:
    """Start what does not run, and wait until all is ready. `tell` hears of each step as it is done.

    Raises UserError if it does not come up."""
    begun = time.monotonic()
    running = server_file(layout).pid()
    unchanged = layout.exists() and layout.load() == settings
    if running is not None and not unchanged:
        # The server takes its settings in at its start; nodes and containers go on meanwhile.
        processes.stop(running, grace=_GRACE)
        running = None
    if not unchanged:
        layout.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        layout.save(settings)
    if running is None:
        _progress_file(layout).unlink(missing_ok=True)
        command = processes.python("pinnace.cluster.server", str(layout.home.path), layout.name)
        server_file(layout).write(processes.start(command, log=layout.logs / "server.log"))
    done = _wait(layout, tell)
    return Report(running is None, done.steps, time.monotonic() - begun, done.server)


def _wait(layout: Layout, tell: Callable[[str, float], None]) -> progress.Progress:
    deadline = time.monotonic() + _PATIENCE
    told: set[str] = set()
    while True:
        state = progress.read(_progress_file(layout))
        if state is not None:
            for step, seconds in state.steps.items():
                if step not in told:
                    told.add(step)
                    tell(step, seconds)
            if state.error:
                raise UserError(state.error, hint=f"pinnace logs server --name {layout.name} says more")
            if state.ready:
                return state
        if server_file(layout).pid() is None:
            raise UserError("the server process ended", hint=f"its log: {layout.logs / 'server.log'}")
        if time.monotonic() > deadline:
            raise UserError(
                f"the cluster was not ready after {_PATIENCE:.0f} seconds", hint=f"logs are in {layout.logs}"
            )
        time.sleep(0.005)


def down(layout: Layout, *, purge: bool) -> bool:
    """Stop everything of a cluster and leave nothing behind; with `purge` its data too. Returns whether anything
    was there."""
    there = layout.path.exists()
    stop_processes(layout)
    if there and missing_for_containers() == "":
        from pinnace.cluster import cleanup

        cleanup.leave_nothing(layout)
    shutil.rmtree(layout.run, ignore_errors=True)
    if purge:
        standard = layout.home.path / "clusters" / layout.name
        if standard.is_symlink():
            standard.unlink()
        shutil.rmtree(layout.path, ignore_errors=True)
    return there


def stop_processes(layout: Layout) -> None:
    """End the server, then the nodes: it would start them again."""
    files = [server_file(layout), *(node_file(layout, node.name) for node in layout.nodes())]
    for file in files:
        pid = file.pid()
        if pid is not None:
            processes.stop(pid, grace=_GRACE)
        file.remove()


def _progress_file(layout: Layout) -> Path:
    return layout.run / "progress.json"
