"""`pinnace up`: a cluster, ready to use."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import msgspec

from pinnace.base.errors import UserError
from pinnace.cli import options as common
from pinnace.cluster import launch, settings
from pinnace.cluster.layout import Layout
from pinnace.cluster.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    common.add_name(parser)
    parser.add_argument("--nodes", type=int, metavar="N", help="real nodes, each in a network namespace (default: 1)")
    parser.add_argument("--simulated-nodes", type=int, metavar="N", help="nodes whose pods only pretend to run")
    parser.add_argument("--no-egress", action="store_true", help="let nothing out of this machine")
    parser.add_argument("--data-dir", type=Path, metavar="D", help="where this cluster's data lies")
    parser.add_argument("--store", choices=("sqlite", "memory"), help="where objects are kept (default: sqlite)")
    parser.add_argument("--cluster-signing-duration", metavar="T", help="how long certificates last (default: 8760h)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings as YAML; flags win over them")
    parser.add_argument("--kubeconfig", metavar="FILE", help="where to put the context (default: as kubectl)")


def run(options: argparse.Namespace) -> int:
    layout = common.cluster(options, options.data_dir)
    with common.locked(layout):
        wanted = _wanted(options, layout)
        lacking = launch.missing_for_containers()
        if lacking:
            if options.nodes:
                raise UserError(lacking)
            print(lacking, file=sys.stderr)
            wanted = msgspec.structs.replace(wanted, nodes=0, simulated_nodes=wanted.simulated_nodes or 1)
        report = launch.up(layout, wanted, tell=_tell)
        _merge_kubeconfig(options, layout)
    state = "is ready" if report.started else "was running already"
    print(f"Cluster {layout.name} {state} ({report.seconds:.2f} s): {report.server}")
    print(f"kubectl --context {wanted.context} get nodes")
    return 0


def _wanted(options: argparse.Namespace, layout: Layout) -> Settings:
    base = layout.load() if layout.exists() else Settings(name=options.name)
    changes = settings.read_file(options.config) if options.config else {}
    if changes.setdefault("name", options.name) != options.name:
        raise UserError(f"the configuration is for cluster {changes['name']!r}, not {options.name!r}")
    for flag, field in (
        ("nodes", "nodes"), ("simulated_nodes", "simulatedNodes"), ("store", "store"),
        ("cluster_signing_duration", "clusterSigningDuration"),
    ):  # fmt: skip
        if getattr(options, flag) is not None:
            changes[field] = getattr(options, flag)
    if options.no_egress or os.environ.get("CI") == "true":
        changes["egress"] = False
    if options.simulated_nodes and options.nodes is None and not layout.exists():
        changes.setdefault("nodes", 0)
    return settings.combine(base, changes)


def _tell(step: str, seconds: float) -> None:
    print(f"  {seconds:5.2f} s  {step}", flush=True)


def _merge_kubeconfig(options: argparse.Namespace, layout: Layout) -> None:
    from pinnace.client import kubeconfig
    from pinnace.cluster.access import admin_access

    kubeconfig.merge(common.kubeconfig_path(options), layout.load().context, admin_access(layout))
