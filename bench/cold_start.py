"""Row `cold-start`: one command, from nothing to all nodes Ready and DNS answering."""

from __future__ import annotations

import statistics

from bench import budget
from bench.clusters import prepared
from bench.figures import Figure

_ROUNDS = 5


def cold_start() -> list[Figure]:
    ups: list[float] = []
    for _ in range(_ROUNDS):
        with prepared() as cluster:
            ups.append(cluster.up())
    return [
        Figure("cold start to node Ready and DNS answering", statistics.median(ups), "s", target=budget.COLD_START),
        Figure("cold start, slowest", max(ups), "s"),
    ]
