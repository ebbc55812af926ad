"""Rows `store`, `network` and `runtime`: single parts, without the rest of the cluster."""

from __future__ import annotations

import uvloop

from bench import network, runtime, store
from bench.figures import Figure

_ROUNDS = 8


def store_row() -> list[Figure]:
    return _figures("store", store.measure())


def network_row() -> list[Figure]:
    return _figures("network", uvloop.run(network.measure()))


def runtime_row() -> list[Figure]:
    return _figures("runtime", uvloop.run(runtime.measure(_ROUNDS)))


def _figures(part: str, found: dict[str, float]) -> list[Figure]:
    return [figure(f"{part}: {name}", value) for name, value in found.items()]


def figure(name: str, value: float) -> Figure:
    """A part's own name for a value ends with its unit: `create, ms`, `16 callers, commits/s`."""
    what, _, unit = name.rpartition(", ")
    if not what and name.endswith("/s"):
        what, unit = name[: -len("/s")], "/s"
    return Figure(what or name, value, unit if what else "", more=unit.endswith("/s"))
