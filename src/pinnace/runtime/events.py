"""Who is told what happens: a hub with bounded queues, and the watch on conmon's exit files.

conmon writes `<exit dir>/<container id>` with the exit code when a container's first process has ended. inotify
tells us of the file within a millisecond, without a poll and without a process to start; files that came while
we were away are simply there.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from pinnace.runtime import linux
from pinnace.runtime.cri import RuntimeEvent

BACKLOG = 10_000
RESYNC = RuntimeEvent("resync", "", "")


class _Queue:
    """What one consumer has not seen yet."""

    def __init__(self, backlog: int) -> None:
        self.events: deque[RuntimeEvent] = deque(maxlen=backlog)
        self.wake = asyncio.Event()
        self.lost = False

    def put(self, event: RuntimeEvent) -> None:
        self.lost = self.lost or len(self.events) == self.events.maxlen
        self.events.append(event)
        self.wake.set()


class EventHub:
    """Fans events out to consumers, each with a queue of its own that drops the oldest when it is full."""

    def __init__(self, backlog: int = BACKLOG) -> None:
        self._backlog = backlog
        self._queues: set[_Queue] = set()

    def publish(self, event: RuntimeEvent) -> None:
        for queue in self._queues:
            queue.put(event)

    def subscribe(self) -> AsyncGenerator[RuntimeEvent, None]:
        """Events from this call on (not only from the first `anext`)."""
        queue = _Queue(self._backlog)
        self._queues.add(queue)
        return self._drain(queue)

    async def _drain(self, queue: _Queue) -> AsyncGenerator[RuntimeEvent, None]:
        try:
            while True:
                if queue.lost:
                    queue.lost = False
                    yield RESYNC
                while queue.events and not queue.lost:
                    yield queue.events.popleft()
                if not queue.lost:
                    queue.wake.clear()
                    await queue.wake.wait()
        finally:
            self._queues.discard(queue)


class ExitWatch:
    """Calls `found(container id, exit code, time)` for each exit file, those that are there already included."""

    def __init__(self, directory: Path, found: Callable[[str, int, float], None]) -> None:
        self._directory = directory
        self._found = found
        self._fd = -1

    def open(self) -> None:
        self._fd = linux.inotify(str(self._directory), linux.IN_CLOSE_WRITE | linux.IN_MOVED_TO)
        asyncio.get_running_loop().add_reader(self._fd, self._readable)
        self.scan()

    def close(self) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def scan(self) -> None:
        for path in self._directory.iterdir():
            self._look(path.name)

    def _readable(self) -> None:
        names = linux.inotify_names(self._fd)
        if names is None:
            self.scan()
            return
        for name in names:
            self._look(name)

    def _look(self, name: str) -> None:
        if "." in name:
            return  # conmon's temporary file, renamed in a moment
        path = self._directory / name
        try:
            code, when = int(path.read_text()), path.stat().st_mtime
        except (OSError, ValueError):
            return  # removed meanwhile, or not written yet: the next notification brings it
        self._found(name, code, when)
