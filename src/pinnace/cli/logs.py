"""`pinnace logs`: what the server or a node process of a cluster wrote."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time

from pinnace.base.errors import UserError
from pinnace.cli import options as common

_EVERY = 0.2        # seconds between two looks for more


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
    path = layout.logs / f"{options.component}.log"
    file = path.open("rb")
    try:
        while True:
            shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()
            if not options.follow:
                return 0
            time.sleep(_EVERY)
            if path.exists() and not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                # It had grown too large and was begun anew; what came at its end is still to be read.
                shutil.copyfileobj(file, sys.stdout.buffer)
                file.close()
                file = path.open("rb")
    finally:
        file.close()
