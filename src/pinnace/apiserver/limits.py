"""How many requests are worked on at a time. Long-running ones (watches, logs, connections) do not count."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pinnace.api.errors import TooManyRequests

MOST_READS = 400
MOST_WRITES = 200


class Inflight:
    """Two counters, as upstream's --max-requests-inflight and --max-mutating-requests-inflight."""

    def __init__(self, reads: int = MOST_READS, writes: int = MOST_WRITES) -> None:
        self._most = {False: reads, True: writes}
        self.now = {False: 0, True: 0}

    @contextmanager
    def enter(self, writing: bool) -> Iterator[None]:
        """Raises TooManyRequests at the bound."""
        if self.now[writing] >= self._most[writing]:
            raise TooManyRequests.retry("Too many requests, please try again later.", 1)
        self.now[writing] += 1
        try:
            yield
        finally:
            self.now[writing] -= 1
