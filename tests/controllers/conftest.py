"""A running controller manager on a small server, and shorthands to drive it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest

from pinnace.base.clock import LoopClock
from pinnace.base.randomness import Randomness
from pinnace.client.client import Client
from pinnace.controllers.manager import ControllerManager, Options

from .fake import FakeServer

K = TypeVar("K")


class World:
    """A server with all controllers running on it."""

    def __init__(self) -> None:
        self.clock = LoopClock(datetime(2026, 1, 1, tzinfo=UTC), asyncio.get_running_loop())
        self.server = FakeServer(self.clock)
        self.client = Client(self.server, agent="test")
        options = Options(root_ca="PEM", cluster_cidr="10.244.0.0/16", node_monitor_grace=0.3)
        self.manager = ControllerManager(
            lambda agent, user: self.client.acting_as(agent, user), self.clock, Randomness(7), options
        )

    async def settle(self) -> None:
        """Return when the controllers have had nothing to do for some turns of the loop."""
        async with asyncio.timeout(10):
            quiet = 0
            while quiet < 20:
                before = self.server.revision, len(self.server.requests)
                await asyncio.sleep(0.001)
                same = before == (self.server.revision, len(self.server.requests))
                quiet = quiet + 1 if same and self.manager.idle else 0

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():   # noqa: ASYNC110  (state that has no event)
                await asyncio.sleep(0.005)

    def objects(self, plural: str) -> list[dict[str, Any]]:
        return list(self.server.objects.get(plural, {}).values())

    def names(self, plural: str, namespace: str = "") -> set[str]:
        found = self.server.objects.get(plural, {})
        return {name for ns, name in found if namespace in ("", ns)}

    def events(self, reason: str) -> list[str]:
        return [event["message"] for event in self.objects("events") if event["reason"] == reason]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    task = asyncio.create_task(world.manager.run())
    await world.manager.ready.wait()
    await world.settle()
    try:
        yield world
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
