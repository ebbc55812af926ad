"""Keeps the node processes of a cluster alive: one that ends is started again, whoever had started it."""

from __future__ import annotations

import asyncio
import logging
import os

from pinnace.base.backoff import Backoff
from pinnace.base.clock import Clock
from pinnace.cluster import processes
from pinnace.cluster.layout import Layout
from pinnace.cluster.server import restart_node, start_node

log = logging.getLogger("pinnace.nodes")


class NodeProcess:
    """One node's process under watch. With `renew`, one that runs already is replaced: its hand-over has changed."""

    def __init__(self, layout: Layout, node: str, clock: Clock, *, renew: bool = False) -> None:
        self._layout = layout
        self._node = node
        self._clock = clock
        self._renew = renew
        self._backoff = Backoff(initial=0.1, maximum=10.0, reset_after=60.0)

    async def run(self) -> None:
        """Until cancelled; the process goes on then."""
        pid = start_node(self._layout, self._node)
        if self._renew:
            self._renew = False
            pid = await self._replace(pid)
        while True:
            await _ended(pid)
            processes.reap(pid)
            wait = self._backoff.next(self._node, self._clock.monotonic())
            log.warning("the process of node %s (pid %d) ended; starting it again in %.1f s", self._node, pid, wait)
            await self._clock.sleep(wait)
            pid = restart_node(self._layout, self._node)

    async def _replace(self, pid: int) -> int:
        await asyncio.to_thread(processes.stop, pid, grace=10.0)
        return restart_node(self._layout, self._node)


async def _ended(pid: int) -> None:
    """Wait for the end of any process, child or not."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
