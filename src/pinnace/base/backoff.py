"""Exponential backoff, per key, without a clock of its own."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field


@dataclass
class Backoff:
    """Delays that double from `initial` to `maximum` seconds.

    `reset_after`: a key that has been left alone for so many seconds starts over (None: only `forget` does).
    At most `capacity` keys are remembered, in `failed`; the oldest is dropped at the bound.
    """

    initial: float
    maximum: float
    factor: float = 2.0
    reset_after: float | None = None
    capacity: int = 100_000
    failed: dict[Hashable, tuple[int, float]] = field(default_factory=dict)

    def next(self, key: Hashable, monotonic: float) -> float:
        """Count a failure of `key` and return how many seconds to wait."""
        failures, last = self.failed.pop(key, (0, monotonic))
        if self.reset_after is not None and monotonic - last > self.reset_after:
            failures = 0
        if len(self.failed) >= self.capacity:
            self.failed.pop(next(iter(self.failed)))
        self.failed[key] = (failures + 1, monotonic)
        return self.delay(failures)

    def delay(self, failures: int) -> float:
        """Seconds to wait after so many earlier failures."""
        # 2**64 is beyond any sensible maximum: bounding the exponent keeps the power finite.
        return min(self.maximum, self.initial * self.factor ** min(failures, 64))

    def failures(self, key: Hashable) -> int:
        return self.failed.get(key, (0, 0.0))[0]

    def forget(self, key: Hashable) -> None:
        """The key succeeded: its next failure waits `initial` again."""
        self.failed.pop(key, None)
