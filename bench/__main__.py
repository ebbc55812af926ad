"""`python -m bench [ROW …]`: run the rows, print the table, write bench/latest.json. Needs root for real containers.

A row that fails says so and the others go on; the exit code is 1 then.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.figures import Figure, Outcome, report, table
from bench.rows import ROWS

_FILE = Path(__file__).with_name("latest.json")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("row", nargs="*", metavar="ROW", help=f"one of: {', '.join(ROWS)} (default: all)")
    wanted = parser.parse_args().row or list(ROWS)
    unknown = [name for name in wanted if name not in ROWS]
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    outcomes = []
    for name in wanted:
        print(f"{name} …", end=" ", file=sys.stderr, flush=True)
        outcome = attempt(name, ROWS[name])
        print(f"{outcome.seconds:.0f} s, load {outcome.load} {outcome.error}", file=sys.stderr, flush=True)
        outcomes.append(outcome)
    print(table(outcomes))
    first, last = outcomes[0].load, machine_load()
    print(f"\n{os.cpu_count()} cores; the machine's load was {first} before and {last} after")
    _FILE.write_bytes(report(outcomes, machine=machine()))
    return 1 if any(outcome.error for outcome in outcomes) else 0


def attempt(name: str, row: Callable[[], list[Figure]]) -> Outcome:
    """Run one row; whatever goes wrong in it ends that row only."""
    load, start = machine_load(), time.perf_counter()
    try:
        figures = tuple(row())
    except Exception as error:
        return Outcome(name, time.perf_counter() - start, load, error=f"{type(error).__name__}: {error}")
    return Outcome(name, time.perf_counter() - start, load, figures)


def machine_load() -> str:
    """Over 1, 5 and 15 minutes. Well above what the bench itself brings, others disturb the figures."""
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def machine() -> dict[str, object]:
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "kernel": platform.release(),
        "python": platform.python_version(), "cores": os.cpu_count(), "load after": os.getloadavg(),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
