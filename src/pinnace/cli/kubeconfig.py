"""`pinnace kubeconfig`: a kubeconfig for one cluster, on standard output."""

from __future__ import annotations

import argparse
import sys

from pinnace.cli import options as common
from pinnace.client import kubeconfig
from pinnace.cluster.access import admin_access


def arguments(parser: argparse.ArgumentParser) -> None:
    common.add_name(parser)


def run(options: argparse.Namespace) -> int:
    layout = common.cluster(options)
    sys.stdout.write(kubeconfig.render(layout.load().context, admin_access(layout)))
    return 0
