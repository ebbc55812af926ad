"""A node's process: kubelet, pod network, service proxy and DNS of one node, in the node's network namespace.

    python -m pinnace.cluster.node HOME CLUSTER NODE

It starts together with the server and waits for the server's hand-over (node.json). Containers and the data path do
not need it: it may be killed and started again at any time. What it runs is in `node_agent.py`.
"""

from __future__ import annotations

import gc
import sys
import time
from pathlib import Path

from pinnace.cluster import processes
from pinnace.cluster.credentials import Credentials, read
from pinnace.cluster.layout import Home

_PATIENCE = 60.0


def main() -> None:
    gc.disable()        # nothing that is imported is garbage
    from pinnace.cluster import log, node_agent

    home, cluster, name = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    layout = Home(home).cluster(cluster)
    log.setup(layout.logs / f"{name}.log")
    credentials = _await_credentials(layout.node(name).credentials)
    processes.settle_garbage_collector()
    node_agent.main(credentials)


def _await_credentials(path: Path) -> Credentials:
    deadline = time.monotonic() + _PATIENCE
    while (credentials := read(path)) is None:
        if time.monotonic() > deadline:
            raise SystemExit(f"{path} did not appear")
        time.sleep(0.005)
    return credentials


if __name__ == "__main__":
    main()
