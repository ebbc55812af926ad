"""The whole control plane from a seed, under faults: always right in the end, and never wrong on the way.

`PINNACE_SEEDS` seeds from `PINNACE_FIRST_SEED` on; without it as many as take about a minute. `make
soak` runs 20,000, spread over processes. A failure prints the line that replays it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .run import run

IN_CI = 200
IN_SOAK = 20_000
_ROOT = Path(__file__).parents[2]

# Seeds that have found a bug, with what it was: docs/track-record.md tells more. What a seed draws changes with the
# code, so each bug has a test of its own, at the lowest level, as well.
PINNED = {
    2: "pods of a deleted job kept their finalizer",
    11: "a creation whose answer was lost was made again",
    15: "a deletion that lost a race was forgotten",
    20: "a deletion that came with an answer was passed over by its node",
    43: "a deployment that was scaled down and rolled at once let all its pods go",
    44: "a pod that a finalizer held was deleted again and again",
    24: "a binding whose answer was lost gave its place away",
    10447: "a status that was written though its answer was lost stayed",
}


@pytest.mark.parametrize("seed", PINNED, ids=str)
def test_a_pinned_seed(seed: int) -> None:
    result = run(seed)
    assert not result.error, result.error


def _many(first: int, count: int) -> None:
    """Spread over processes, each with every so-manieth seed."""
    number = os.cpu_count() or 1
    commands = [
        [sys.executable, "-m", "tests.simulation", "--json", f"{first + n}-{first + count - 1}/{number}"]
        for n in range(number)
    ]
    running = [subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True) for command in commands]
    results = [json.loads(line) for process in running for line in process.communicate()[0].splitlines()]
    assert len(results) == count, f"{len(results)} of {count} seeds were run"
    found = [result["error"] for result in results if result["error"]]
    assert not found, f"{len(found)} of {count} seeds failed\n" + "\n".join(found[:5])
    assert sum(sum(result["faults"].values()) for result in results) > count, "hardly any faults were done"


def test_seeds() -> None:
    _many(1000, IN_CI)


@pytest.mark.soak
def test_many_seeds() -> None:
    _many(int(os.environ.get("PINNACE_FIRST_SEED", "10000")), int(os.environ.get("PINNACE_SEEDS", str(IN_SOAK))))


def test_the_same_seed_gives_the_same_run() -> None:
    first, again = run(7), run(7)
    assert (first.revisions, first.virtual, first.faults) == (again.revisions, again.virtual, again.faults)
