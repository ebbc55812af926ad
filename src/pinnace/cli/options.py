"""What several verbs take alike."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from pinnace.cluster.layout import Home, Layout
from pinnace.cluster.settings import DEFAULT_NAME, home

if TYPE_CHECKING:
    from pinnace.runtime.images.service import Images


def add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", default=DEFAULT_NAME, help=f"the cluster's name (default: {DEFAULT_NAME})")


def machine() -> Home:
    """This user's PINNACE_HOME."""
    return Home(home(os.environ, root=os.geteuid() == 0))


def cluster(options: argparse.Namespace, data_dir: Path | None = None) -> Layout:
    return machine().cluster(options.name, data_dir)


def locked(layout: Layout) -> AbstractContextManager[None]:
    """Alone in starting or stopping the cluster."""
    return layout.locked(
        lambda: print(f"another pinnace command is at cluster {layout.name}: waiting for it", file=sys.stderr)
    )


def kubeconfig_path(options: argparse.Namespace) -> Path:
    from pinnace.client.kubeconfig import default_path

    given = getattr(options, "kubeconfig", None)
    return Path(given) if given else default_path(os.environ)


def images() -> Images:
    """The machine's image store. Raises UserError where containers cannot be had."""
    from pinnace.base.clock import SystemClock
    from pinnace.base.errors import UserError
    from pinnace.base.randomness import Randomness
    from pinnace.cluster.launch import missing_for_containers
    from pinnace.runtime.images.registry import Puller
    from pinnace.runtime.images.service import Images
    from pinnace.runtime.images.store import ImageStore

    lacking = missing_for_containers()
    if lacking:
        raise UserError(lacking)
    store = ImageStore(machine().images, Randomness())
    return Images(store, Puller(store, SystemClock(), egress=False))
