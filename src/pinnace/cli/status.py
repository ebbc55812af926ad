"""`pinnace status`: which clusters are on this machine, and what of them runs."""

from __future__ import annotations

import argparse
import json
from typing import Any

from pinnace.base.errors import UserError
from pinnace.cli import options as common
from pinnace.cluster import launch
from pinnace.cluster.layout import Layout


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", help="only this cluster; the exit code is 1 if it does not run")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")


def run(options: argparse.Namespace) -> int:
    home = common.machine()
    names = (options.name,) if options.name else home.names()
    states = [_state(home.cluster(name), damaged=not options.name) for name in names]
    if options.output == "json":
        print(json.dumps(states))
    elif not states:
        print("There are no clusters. pinnace up makes one.")
    else:
        for state in states:
            print(f"{state['name']}: {state['state']}  {state['server']}")
            for part, about in state["processes"].items():
                print(f"  {part:<24} {about}")
    return 0 if not options.name or states[0]["state"] == "running" else 1


def _state(layout: Layout, *, damaged: bool) -> dict[str, Any]:
    """`damaged`: a cluster that cannot be read is shown among the others instead of ending the command."""
    try:
        settings = layout.load()
    except UserError as error:
        if not damaged:
            raise
        return {"name": layout.name, "state": f"damaged: {error}", "server": "", "processes": {}}
    server = launch.server_file(layout).pid()
    parts = {"server": _about(server)}
    for node in settings.node_names():
        parts[node] = _about(launch.node_file(layout, node).pid())
    return {
        "name": layout.name,
        "state": "stopped" if server is None else "running" if launch.is_ready(layout) else "starting",
        "server": f"https://127.0.0.1:{settings.api_port}" if settings.api_port else "",
        "nodes": settings.nodes,
        "simulatedNodes": settings.simulated_nodes,
        "processes": parts,
    }


def _about(pid: int | None) -> str:
    return f"running, pid {pid}" if pid is not None else "not running"
