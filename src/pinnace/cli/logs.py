"""`pinnace logs`: what the server or a node process of a cluster wrote."""

from __future__ import annotations

import argparse
import shutil
import sys
import time

from pinnace.base.errors import UserError
from pinnace.cli import options as common


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("component", help="server, or a node's name")
    common.add_name(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="go on as more is written")


def run(options: argparse.Namespace) -> int:
    layout = common.cluster(options)
    names = sorted(path.stem for path in layout.logs.glob("*.log"))
    if options.component not in names:
        raise UserError(
            f"cluster {options.name!r} has no logs of {options.component!r}",
            hint=f"there are: {', '.join(names)}" if names else "it has never run",
        )
    with (layout.logs / f"{options.component}.log").open("rb") as file:
        while True:
            shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()
            if not options.follow:
                return 0
            time.sleep(0.2)
