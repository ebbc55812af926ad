"""The keeper of node processes, with a dummy in their place."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pinnace.base.clock import SystemClock
from pinnace.cluster import launch, processes, server
from pinnace.cluster.layout import Home, Layout
from pinnace.cluster.node_processes import NodeProcess
from pinnace.cluster.processes import ProcessFile

NODE = "one-node-1"


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Layout]:
    def dummy(module: str, *arguments: str) -> list[str]:
        return [sys.executable, "-S", "-c", "import time; time.sleep(60)", module, *arguments]

    monkeypatch.setattr(processes, "python", dummy)
    made = Home(tmp_path).cluster("one")
    yield made
    launch.stop_processes(made)


async def running(layout: Layout, *, other_than: int = 0) -> int:
    """The node's process, once it is there."""
    file = ProcessFile(layout.run / f"{NODE}.pid")
    async with asyncio.timeout(10):
        while (pid := file.pid()) in (None, other_than):
            await SystemClock().sleep(0.005)
    assert pid is not None
    return pid


async def test_a_killed_process_is_started_again(layout: Layout) -> None:
    keeper = asyncio.create_task(NodeProcess(layout, NODE, SystemClock()).run())
    first = await running(layout)
    os.kill(first, signal.SIGKILL)
    second = await running(layout, other_than=first)
    keeper.cancel()
    await asyncio.gather(keeper, return_exceptions=True)
    assert processes.start_time(second), "it goes on without its keeper"


async def test_one_that_runs_is_kept(layout: Layout) -> None:
    first = server.start_node(layout, NODE)
    keeper = asyncio.create_task(NodeProcess(layout, NODE, SystemClock()).run())
    await SystemClock().sleep(0.05)
    assert await running(layout) == first
    keeper.cancel()
    await asyncio.gather(keeper, return_exceptions=True)


async def test_one_with_an_outdated_hand_over_is_replaced(layout: Layout) -> None:
    first = server.start_node(layout, NODE)
    keeper = asyncio.create_task(NodeProcess(layout, NODE, SystemClock(), renew=True).run())
    second = await running(layout, other_than=first)
    assert processes.start_time(first) == 0
    keeper.cancel()
    await asyncio.gather(keeper, return_exceptions=True)
    assert processes.start_time(second)


def test_a_new_process_waits_for_a_new_hand_over(layout: Layout) -> None:
    credentials = layout.node(NODE).credentials
    credentials.parent.mkdir(parents=True)
    credentials.write_text("old")
    server.start_node(layout, NODE)
    assert not credentials.exists()
