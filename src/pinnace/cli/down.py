"""`pinnace down`: nothing of the cluster runs any more; its data stays unless it is purged."""

from __future__ import annotations

import argparse

from pinnace.cli import options as common
from pinnace.client import kubeconfig
from pinnace.cluster import launch
from pinnace.cluster.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    common.add_name(parser)
    parser.add_argument("--purge", action="store_true", help="delete the cluster's data too")
    parser.add_argument("--kubeconfig", metavar="FILE", help="where to take the context out of (default: as kubectl)")


def run(options: argparse.Namespace) -> int:
    layout = common.cluster(options)
    with common.locked(layout):
        there = launch.down(layout, purge=options.purge)
        if not launch.namesakes(layout):           # whose context it would be
            kubeconfig.remove(common.kubeconfig_path(options), Settings(name=options.name).context)
    if not there:
        print(f"There is no cluster {options.name}.")
    elif options.purge or not layout.exists():
        print(f"Cluster {options.name} is gone.")
    else:
        print(f"Cluster {options.name} is stopped; pinnace up brings it back.")
    return 0
