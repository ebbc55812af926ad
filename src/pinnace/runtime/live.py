"""A container in the memory of `engine.py`: its record, a lock for what changes it, and its end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from pinnace.runtime.state import ContainerRecord


class Live:
    """One container."""

    def __init__(self, record: ContainerRecord) -> None:
        self.record = record
        self.lock = asyncio.Lock()
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.removed = False
        self.pidfd = -1
        self.written: tuple[float, int] = (float("-inf"), 0)   # when measured (monotonic), and bytes

    def watch(self, gone: Callable[[Live], None]) -> None:
        """Call when the process has ended: conmon, which tells the exit code, may have been killed itself."""
        try:
            self.pidfd = os.pidfd_open(self.record.pid)
        except OSError:
            gone(self)
            return
        asyncio.get_running_loop().add_reader(self.pidfd, self._gone, gone)

    def _gone(self, gone: Callable[[Live], None]) -> None:
        self.unwatch()
        gone(self)

    def unwatch(self) -> None:
        if self.pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self.pidfd)
            os.close(self.pidfd)
            self.pidfd = -1

    def end(self, code: int) -> None:
        self.unwatch()
        if not self.ended.done():
            self.ended.set_result(code)
