"""A busy day on simulated time, event for event: the benchmark's, followed commit by commit."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bench.simulated_day import NODES, keep_busy

from pinnace.testing.cluster import Cluster
from pinnace.testing.loop import simulate

_ROOT = Path(__file__).parents[2]
_DAY = 24


def trace(seed: int, hours: int) -> str:
    """A digest of every commit, in order."""

    async def run() -> str:
        async with Cluster(nodes=NODES, seed=seed) as cluster:
            written = hashlib.sha256()
            cluster.store.subscribe(
                lambda change: written.update(f"{change.revision} {change.key} {change.value!r}".encode()),
                after=cluster.store.revision,
            )
            await keep_busy(cluster, hours)
            return written.hexdigest()

    return simulate(run, seed=seed)


@pytest.mark.soak
def test_a_busy_day_is_the_same_for_the_same_seed_alone() -> None:
    """Under another PYTHONHASHSEED, too; and in another order for another seed."""

    def run(seed: int, hash_seed: str) -> str:
        program = f"import runpy; print(runpy.run_path({__file__!r})['trace']({seed}, {_DAY}))"
        paths = os.pathsep.join([str(_ROOT), str(_ROOT / "src")])
        return subprocess.run(
            [sys.executable, "-c", program], env=dict(os.environ, PYTHONHASHSEED=hash_seed, PYTHONPATH=paths),
            check=True, stdout=subprocess.PIPE, text=True,
        ).stdout  # fmt: skip

    assert run(1, "1") == run(1, "2") != run(2, "1")
