"""How long a container that ends again and again waits before it is started once more. Pure."""

from __future__ import annotations

import re
from datetime import datetime

import msgspec

from pinnace.api.core import v1 as core

CRASH_INITIAL = 10.0
CRASH_MAXIMUM = 300.0
CRASH_RESET = 600.0          # a container that ran so long starts over


class CrashBackoff(msgspec.Struct, frozen=True, gc=False):
    """`seconds` to wait after an exit; `at` is when the container was last started because of it."""

    seconds: float
    at: float

    def until(self, ended: float) -> float:
        """When a container that ended then may start again: at once, if it had held for long enough."""
        return ended if ended - self.at > CRASH_RESET else ended + self.seconds

    @classmethod
    def after(cls, earlier: CrashBackoff | None, ended: float, now: float) -> CrashBackoff:
        """The state after one more restart, of a container that ended then."""
        if earlier is None or ended - earlier.at > CRASH_RESET:
            return cls(CRASH_INITIAL, now)
        return cls(min(CRASH_MAXIMUM, earlier.seconds * 2), now)

    @classmethod
    def reported(cls, status: core.ContainerStatus) -> CrashBackoff | None:
        """What was under way when the status was written, by a kubelet that has been restarted since."""
        waiting, last = status.state.waiting, status.lastState.terminated
        if waiting is None or waiting.reason != "CrashLoopBackOff" or last is None or not last.startedAt:
            return None
        told = re.match(r"back-off (?:(\d+)m)?(\d+)s ", waiting.message or "")
        if told is None:
            return None
        seconds = 60.0 * int(told[1] or 0) + int(told[2])
        return cls(seconds, datetime.fromisoformat(last.startedAt).timestamp())
