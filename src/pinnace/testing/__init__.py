"""Shipped to users: clusters for tests, on simulated time, from a seed.

Nothing is imported until it is asked for: the pytest plugin is loaded in every run of pytest, also in those that
start no cluster.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pinnace.kubelet.simulated import Life, Lives
    from pinnace.testing.cluster import Cluster
    from pinnace.testing.loop import OutsideWorld, Stuck, simulate
    from pinnace.testing.sync import SyncCluster

__all__ = ["Cluster", "Life", "Lives", "OutsideWorld", "Stuck", "SyncCluster", "simulate"]

_HOMES = {
    "Cluster": "pinnace.testing.cluster",
    "Life": "pinnace.kubelet.simulated",
    "Lives": "pinnace.kubelet.simulated",
    "OutsideWorld": "pinnace.testing.loop",
    "Stuck": "pinnace.testing.loop",
    "SyncCluster": "pinnace.testing.sync",
    "simulate": "pinnace.testing.loop",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
