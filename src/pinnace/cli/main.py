"""The first thing that runs: finds the verb and imports only its file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Protocol


class Verb(Protocol):
    """What a verb's module offers."""

    def arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, options: argparse.Namespace) -> int: ...


# verb -> (module, what it does)
VERBS: dict[str, tuple[str, str]] = {
    "up": ("up", "start a cluster, and wait until it is ready"),
    "down": ("down", "stop a cluster, leaving nothing running; --purge deletes its data"),
    "status": ("status", "show the clusters of this machine and how they are"),
    "kubeconfig": ("kubeconfig", "print a cluster's kubeconfig"),
    "image": ("image", "load, list, remove and build images"),
    "demo": ("demo", "deploy a small application in two tiers"),
    "logs": ("logs", "show what a component of a cluster wrote"),
    "why": ("why", "tell why an object is as it is: who wrote it, and because of what"),
    "version": ("version", "print the version"),
}


def entry() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code. A person's mistakes give one line, never a traceback."""
    from pinnace.base.errors import UserError

    verb = next((word for word in arguments if not word.startswith("-")), "")
    parser = _parser(verb)
    options = parser.parse_args(arguments)
    if not options.verb:
        parser.print_help()
        return 0
    try:
        return int(options.run(options))
    except UserError as error:
        print(f"pinnace: {error}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (`pinnace logs | head`): nothing is left to say.
        sys.stderr.close()
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"pinnace: {where}{error.strerror or error}", file=sys.stderr)
        return 1


def _parser(verb: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pinnace", description="Kubernetes, whole, in Python.")
    parser.add_argument("--version", action="version", version=_version())
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    for name, (module, text) in VERBS.items():
        sub = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name == verb:
            code = import_module(f"pinnace.cli.{module}")
            code.arguments(sub)
            sub.set_defaults(run=code.run)
    return parser


def _version() -> str:
    from pinnace.version import KUBERNETES_VERSION, __version__

    return f"pinnace {__version__} (Kubernetes {KUBERNETES_VERSION})"
