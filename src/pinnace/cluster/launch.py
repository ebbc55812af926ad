"""Starting and stopping clusters from outside: what `pinnace up`, `down` and `status` do.

Nothing heavy is imported here: the server process loads while this one still looks at its arguments.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pinnace.base.errors import UserError
from pinnace.cluster import processes, progress
from pinnace.cluster.layout import Layout
from pinnace.cluster.processes import ProcessFile
from pinnace.cluster.settings import Settings, check_change

_PATIENCE = 120.0          # seconds until a cluster that is not ready counts as failed
_GRACE = 15.0              # seconds that a process of ours has to end by itself
_SERVER, _NODE = "pinnace.cluster.server", "pinnace.cluster.node"
_PACKAGES = {"runc": "runc", "conmon": "conmon"}
_LIBRARY = "libnftables.so.1"
_NAMESPACES = Path("/run/netns")


@dataclass(frozen=True, slots=True)
class Report:
    """What `up` did: steps with the seconds after the start at which each was done."""

    started: bool
    steps: dict[str, float]
    seconds: float
    server: str


def missing_for_containers() -> str:
    """Why this machine cannot run containers, and how it could; "" if it can."""
    if sys.platform != "linux":
        return "containers need Linux: nodes are simulated here"
    if os.geteuid() != 0:
        return "containers need root: nodes are simulated; run as root for real ones"
    absent = [package for program, package in _PACKAGES.items() if shutil.which(program) is None]
    if not _library_there():
        absent.append("libnftables1")
    if absent:
        return f"containers need {', '.join(absent)}: nodes are simulated; apt-get install {' '.join(absent)}"
    return ""


def _library_there() -> bool:
    """As the dynamic linker would find it; asking ldconfig, as ctypes.util does, costs a process or two."""
    for directory in ("/usr/lib", "/lib", "/usr/lib64", "/lib64", "/usr/local/lib"):
        if (Path(directory) / _LIBRARY).exists() or any(Path(directory).glob(f"*-linux-*/{_LIBRARY}")):
            return True
    return False


def server_file(layout: Layout) -> ProcessFile:
    return ProcessFile(layout.run / "server.pid")


def node_file(layout: Layout, node: str) -> ProcessFile:
    return ProcessFile(layout.run / f"{node}.pid")


def is_ready(layout: Layout) -> bool:
    """Whether the server that runs has said so."""
    state = progress.read(_progress_file(layout))
    return state is not None and state.ready


def up(layout: Layout, settings: Settings, *, tell: Callable[[str, float], None]) -> Report:
    """Start what does not run, and wait until all is ready. `tell` hears of each step as it is done.

    The caller holds the cluster's lock. Raises UserError if it does not come up; what this call started has ended
    then."""
    begun = time.monotonic()
    before = layout.load() if layout.exists() else None
    if before is not None:
        check_change(before, settings)
    if settings.nodes and (_NAMESPACES / f"pinnace.{layout.name}.fabric").exists() and namesakes(layout):
        raise UserError(
            f"a cluster {layout.name!r} of another PINNACE_HOME runs on this machine", hint="choose another --name"
        )
    running = server_file(layout).pid()
    if running is not None and before != settings:
        # The server takes its settings in at its start; nodes and containers go on meanwhile.
        processes.stop(running, grace=_GRACE)
        running = None
    if before != settings:
        _drop_nodes(layout, settings)
        layout.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        layout.save(settings)
    if running is None:
        # One whose ProcessFile is lost would keep the store.
        for pid in _own(layout, _SERVER):
            processes.stop(pid, grace=_GRACE)
    others = _node_pids(layout)
    continued = layout.run.exists()
    try:
        if running is None:
            _progress_file(layout).unlink(missing_ok=True)
            command = processes.python(_SERVER, str(layout.home.path), layout.name)
            server_file(layout).write(processes.start(command, log=layout.logs / "server.log"))
        done = _wait(layout, tell)
    except BaseException:
        if running is None:
            _undo(layout, others, continued)
        raise
    return Report(running is None, done.steps, time.monotonic() - begun, done.server)


def _wait(layout: Layout, tell: Callable[[str, float], None]) -> progress.Progress:
    deadline = time.monotonic() + _PATIENCE
    told: dict[str, None] = {}
    log = layout.logs / "server.log"
    while True:
        alive = server_file(layout).pid() is not None
        state = progress.read(_progress_file(layout))
        if state is not None:
            for step, seconds in state.steps.items():
                if step not in told:
                    told[step] = None
                    tell(step, seconds)
            if state.error:
                raise UserError(state.error, hint=f"its log: {log}")
            if state.ready:
                return state
        if not alive:
            raise UserError("the server process ended", hint=f"its log: {log}")
        if time.monotonic() > deadline:
            raise UserError(
                f"the cluster was not ready after {_PATIENCE:.0f} seconds; done were: {', '.join(told) or 'nothing'}",
                hint=f"its logs: {layout.logs}",
            )
        time.sleep(0.005)


def _undo(layout: Layout, others: set[int], continued: bool) -> None:
    """End what a start in vain has started. Nodes and containers that were there before go on."""
    _stop(server_file(layout))
    for pid in _node_pids(layout) - others:
        processes.stop(pid, grace=_GRACE)
    if not continued:
        if missing_for_containers() == "":
            from pinnace.cluster import cleanup

            cleanup.leave_nothing(layout)
        shutil.rmtree(layout.run, ignore_errors=True)


def _drop_nodes(layout: Layout, settings: Settings) -> None:
    """The machine's part in a node's end, for nodes that are not wanted any more."""
    for node in layout.nodes():
        if node.name not in settings.node_names():
            _stop(node_file(layout, node.name))
            if missing_for_containers() == "":
                from pinnace.cluster import cleanup

                cleanup.drop_node(layout, node)


def down(layout: Layout, *, purge: bool) -> bool:
    """Stop everything of a cluster and leave nothing behind; with `purge` its data too. Returns whether anything
    was there. The caller holds the cluster's lock."""
    real = missing_for_containers() == ""
    there = layout.exists() or layout.run.exists() or bool(_own(layout, _SERVER) or _own(layout, _NODE))
    stop_processes(layout)
    if real:
        from pinnace.cluster import cleanup

        if namesakes(layout):
            # The namespaces, links and cgroups of that name are another's.
            there = there and layout.exists()
        else:
            # Even without data: somebody may have deleted it by hand.
            there = cleanup.leave_nothing(layout) or there
    shutil.rmtree(layout.run, ignore_errors=True)
    if purge:
        layout.purge()
    return there


def stop_processes(layout: Layout) -> None:
    """End the server, then the nodes: it would start them again."""
    _stop(server_file(layout))
    for pid in _own(layout, _SERVER):
        processes.stop(pid, grace=_GRACE)
    for file in sorted(layout.run.glob("*.pid")):
        _stop(ProcessFile(file))
    for pid in _own(layout, _NODE):
        processes.stop(pid, grace=_GRACE)


def namesakes(layout: Layout) -> bool:
    """Whether a cluster of this name runs from another PINNACE_HOME."""
    everybody = {pid for module in (_SERVER, _NODE) for pid in processes.find(module, layout.name)}
    return bool(everybody - {*_own(layout, _SERVER), *_own(layout, _NODE)})


def _own(layout: Layout, module: str) -> list[int]:
    return processes.find(module, str(layout.home.path), layout.name)


def _node_pids(layout: Layout) -> set[int]:
    files = [ProcessFile(path) for path in layout.run.glob("*.pid") if path.name != "server.pid"]
    return {pid for file in files if (pid := file.pid()) is not None}


def _stop(file: ProcessFile) -> None:
    pid = file.pid()
    if pid is not None:
        processes.stop(pid, grace=_GRACE)
    file.remove()


def _progress_file(layout: Layout) -> Path:
    return layout.run / "progress.json"
