"""The rows of the bench, by the names they are called with, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bench import api, cold_start, idle, parts, pods, scheduling, simulated_day
from bench.figures import Figure

ROWS: Mapping[str, Callable[[], list[Figure]]] = {
    "cold-start": cold_start.cold_start,
    "idle": idle.idle,
    "create": api.create,
    "get": api.get,
    "list": api.list_,
    "watch": api.watch,
    "pods": pods.pods,
    "deployment": pods.deployment,
    "bind": scheduling.bind,
    "schedule": scheduling.schedule,
    "simulated": scheduling.simulated,
    "simulated-day": simulated_day.simulated_day,
    "store": parts.store_row,
    "network": parts.network_row,
    "runtime": parts.runtime_row,
}
