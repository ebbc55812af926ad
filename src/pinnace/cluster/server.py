"""The server process: API server, controllers and scheduler of one cluster, and the keeper of its node processes.

    python -m pinnace.cluster.server HOME CLUSTER

What happens at its start, as much of it as possible at the same time: node processes begin to load; certificates;
store; network; API server; bootstrap objects; controllers and scheduler. `progress.json` says how far it is.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from pinnace.cluster import processes
from pinnace.cluster.layout import Home, Layout
from pinnace.cluster.processes import ProcessFile


def main() -> None:
    gc.disable()        # nothing that is imported is garbage; `control_plane.main` enables it again
    home, cluster = Path(sys.argv[1]), sys.argv[2]
    layout = Home(home).cluster(cluster)
    # Loading is what a node process does first, and what takes it longest: it begins before our own.
    for node in layout.load().node_names():
        start_node(layout, node)
    with _without_system_authorities():
        from pinnace.cluster import control_plane

    control_plane.main(layout)


@contextlib.contextmanager
def _without_system_authorities() -> Iterator[None]:
    """aiohttp reads the system's certificate authorities, twice, while it is imported: an eighth of all loading. Those
    are for callers that name no context of their own; in this process everybody does."""
    names = ("SSL_CERT_FILE", "SSL_CERT_DIR")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, os.devnull))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def start_node(layout: Layout, node: str) -> int:
    """The node's process: the one that runs, or a new one that waits for its hand-over. Returns its pid."""
    file = ProcessFile(layout.run / f"{node}.pid")
    running = file.pid()
    if running is not None:
        return running
    layout.node(node).credentials.unlink(missing_ok=True)
    return restart_node(layout, node)


def restart_node(layout: Layout, node: str) -> int:
    """A new process for a node whose hand-over still holds. Returns its pid."""
    command = processes.python("pinnace.cluster.node", str(layout.home.path), layout.name, node)
    pid = processes.start(command, log=layout.logs / f"{node}.log")
    ProcessFile(layout.run / f"{node}.pid").write(pid)
    return pid


if __name__ == "__main__":
    main()
