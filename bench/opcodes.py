"""`python -m bench.opcodes [MINUTES]`: what a commit of a busy simulated cluster costs, in Python's own steps.

Seconds wander by a third from hour to hour on a shared machine; the number of opcodes that a commit takes, with
everything that reacts to it, is the same each time. So this tells whether a change made things cheaper, and where they
are spent. What is done in C (JSON, dictionaries) does not show: for that, look at the row `simulated-day`.
"""

from __future__ import annotations

import sys
from collections import Counter
from types import CodeType, FrameType
from typing import Any

from bench import simulated_day
from pinnace.testing.cluster import Cluster
from pinnace.testing.loop import simulate

_SHOWN = 40


class Opcodes:
    """Counts the opcodes and calls of each function between `start` and `stop`."""

    def __init__(self) -> None:
        self.steps: Counter[CodeType] = Counter()
        self.calls: Counter[CodeType] = Counter()

    def start(self) -> None:
        sys.settrace(self._called)

    def stop(self) -> None:
        sys.settrace(None)

    def _called(self, frame: FrameType, _: str, __: Any) -> Any:
        frame.f_trace_opcodes = True
        self.calls[frame.f_code] += 1
        return self._stepped

    def _stepped(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "opcode":
            self.steps[frame.f_code] += 1
        return self._stepped


async def count(minutes: int) -> tuple[Opcodes, int]:
    """The opcodes of so many minutes of the busy day, and the commits in them."""
    found = Opcodes()
    async with Cluster(nodes=simulated_day.NODES, seed=1) as cluster:
        await simulated_day.fill(cluster)
        await cluster.advance(minutes=2)
        revision = cluster.store.revision
        found.start()
        try:
            await cluster.advance(minutes=minutes)
        finally:
            found.stop()
        return found, cluster.store.revision - revision


def main(words: list[str]) -> None:
    found, commits = simulate(lambda: count(int(words[0]) if words else 10), seed=1)
    write = sys.stdout.write
    write(f"{sum(found.steps.values()) / commits:.0f} opcodes a commit, of {commits} commits\n")
    files: Counter[str] = Counter()
    for code, steps in found.steps.items():
        files[_file(code)] += steps
    for file, steps in files.most_common(_SHOWN):
        write(f"{steps / commits:8.1f}  {file}\n")
    write("\n")
    for code, steps in found.steps.most_common(_SHOWN):
        calls = found.calls[code] / commits
        write(f"{steps / commits:8.1f}  {calls:5.2f} calls  {_file(code)}:{code.co_firstlineno} {code.co_qualname}\n")


def _file(code: CodeType) -> str:
    return code.co_filename.rpartition("/pinnace/")[2]


if __name__ == "__main__":
    main(sys.argv[1:])
