"""What a cluster in a test may cost: the aims with wide margins, as machines are shared (CPU time, not the clock's)."""

from __future__ import annotations

import asyncio
import gc
import statistics
import subprocess
import sys
import time
import weakref
from typing import Any

from pinnace.testing import Cluster, SyncCluster, simulate

_FIRST = """
import time
from pinnace.testing import SyncCluster
with SyncCluster():
    print(time.process_time())
"""


def test_the_first_in_a_process() -> None:
    """The aim is half a second, from a bare interpreter on; with bytecode, which is not always written here."""
    spent = min(
        float(subprocess.run([sys.executable, "-c", _FIRST], check=True, capture_output=True, timeout=60).stdout)
        for _ in range(2)
    )
    assert spent < 4.0


def test_each_further_one() -> None:
    """The aim is 30 ms."""
    spent = []
    for seed in range(12):
        begun = time.process_time()
        with SyncCluster(seed=seed):
            spent.append(time.process_time() - begun)
    assert statistics.median(spent) < 0.2


def test_two_hundred_side_by_side_know_nothing_of_each_other_and_give_all_back() -> None:
    left: list[weakref.ref[Any]] = []

    async def one(number: int, everyone: asyncio.Barrier) -> set[str]:
        async with Cluster(seed=number) as cluster:
            left.extend(weakref.ref(part) for part in (cluster, cluster.store, cluster.control_plane, cluster.nodes))
            await cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"only-{number}"}})
            await everyone.wait()
            found = {each.metadata.name for each in await cluster.list("cm", "")}
            await everyone.wait()
            return {name for name in found if name.startswith("only-")}

    async def all_of_them() -> list[set[str]]:
        everyone = asyncio.Barrier(200)
        return await asyncio.gather(*(one(number, everyone) for number in range(200)))

    assert simulate(all_of_them) == [{f"only-{number}"} for number in range(200)]
    gc.collect()
    assert len(left) == 800 and not [ref for ref in left if ref() is not None]
