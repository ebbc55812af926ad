"""Python's collector of cycles, kept from looking too often while clusters run in this process.

A cluster makes many small objects that live on, and hardly a cycle. At Python's own thresholds the collector walks
all of them again and again: a tenth of the CPU of a simulated day.
"""

from __future__ import annotations

import gc

_THRESHOLDS = (100_000, 20, 50)
_before: list[tuple[int, int, int]] = []      # the process's own thresholds, while there are clusters
_running = 0


def calm() -> None:
    """A cluster starts."""
    global _running
    _running += 1
    if _running == 1:
        _before.append(gc.get_threshold())
        gc.set_threshold(*_THRESHOLDS)


def resume() -> None:
    """A cluster has ended; with the last one the process's own thresholds are back."""
    global _running
    _running -= 1
    if _running == 0:
        gc.set_threshold(*_before.pop())
