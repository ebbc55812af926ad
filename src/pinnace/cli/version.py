"""`pinnace version`."""

from __future__ import annotations

import argparse
import json
import platform

from pinnace.version import KUBERNETES_VERSION, __version__


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")


def run(options: argparse.Namespace) -> int:
    facts = {
        "pinnace": __version__,
        "kubernetes": KUBERNETES_VERSION,
        "python": platform.python_version(),
        "platform": f"{platform.system().lower()}/{platform.machine()}",
    }
    if options.output == "json":
        print(json.dumps(facts))
    else:
        for name, value in facts.items():
            print(f"{name:<12}{value}")
    return 0
