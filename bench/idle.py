"""Row `idle`: what a server with one node takes when nothing happens: memory and CPU of all parts."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from bench import budget
from bench.clusters import running
from bench.figures import Figure

_SETTLE = 60.0
_WATCHED = 60.0


def idle() -> list[Figure]:
    with running() as cluster:
        time.sleep(_SETTLE)
        pids = cluster.pids()
        before, start = cpu_seconds(pids.values()), time.perf_counter()
        time.sleep(_WATCHED)
        percent = (cpu_seconds(pids.values()) - before) / (time.perf_counter() - start) * 100
        memory = {name: memory_mib(pid) for name, pid in pids.items()}
    pss, rss = (sum(found[column] for found in memory.values()) for column in (0, 1))
    figures = [
        Figure("resident memory (PSS), server + one node", pss, "MiB", target=budget.MEMORY),
        Figure("resident memory (RSS), server + one node", rss, "MiB"),
    ]
    for name, (own, _) in memory.items():
        figures.append(Figure(f"  PSS of the {'server' if name == 'server' else 'node'} process", own, "MiB"))
    return [*figures, Figure("idle CPU of all parts, of a core", percent, "%", target=budget.IDLE_CPU)]


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of the processes so far."""
    ticks = 0
    for pid in pids:
        stat = Path(f"/proc/{pid}/stat").read_text()
        fields = stat[stat.rindex(")") + 2 :].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int) -> tuple[float, float]:
    """(PSS, RSS): shared pages counted in part, and in full."""
    return parse_rollup(Path(f"/proc/{pid}/smaps_rollup").read_text())


def parse_rollup(text: str) -> tuple[float, float]:
    kib = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines() if line.endswith(" kB")}
    return kib["Pss"] / 1024, kib["Rss"] / 1024
