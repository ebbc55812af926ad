"""Parts that die come back; parts that are stopped stay away, whatever they do about it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from pinnace.base.clock import ManualClock
from pinnace.base.supervisor import Supervisor


class Part:
    """Dies in its own way some times, then stays."""

    def __init__(self, deaths: int, die: Callable[[], Awaitable[None]]) -> None:
        self.starts = 0
        self.settled = asyncio.Event()
        self._deaths = deaths
        self._die = die

    async def run(self) -> None:
        self.starts += 1
        if self.starts <= self._deaths:
            await self._die()
            return
        self.settled.set()
        await asyncio.Event().wait()


async def raises() -> None:
    raise ValueError("broken")


async def returns() -> None:
    return None


async def is_cancelled_inside() -> None:
    inner = asyncio.ensure_future(asyncio.Event().wait())
    inner.cancel()
    await inner


async def raises_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(raises())


@pytest.mark.parametrize("die", [raises, returns, is_cancelled_inside, raises_a_group])
async def test_a_part_that_dies_comes_back(die: Callable[[], Awaitable[None]]) -> None:
    clock = ManualClock()
    part = Part(3, die)
    async with Supervisor(clock) as supervisor, asyncio.timeout(20):
        supervisor.start("part", part.run)
        with pytest.raises(ValueError, match="running already"):
            supervisor.start("part", part.run)
        await part.settled.wait()
        assert supervisor.restarts == {"part": 3}
    assert clock.monotonic() == pytest.approx(0.2 + 0.4 + 0.8)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "part"]


async def swallows() -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return


async def fails_to_clean_up() -> None:
    try:
        await asyncio.Event().wait()
    finally:
        raise ValueError("cannot clean up")


async def takes_a_while() -> None:
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.wait([asyncio.ensure_future(returns())])


@pytest.mark.parametrize("part", [swallows, fails_to_clean_up, takes_a_while])
async def test_a_stopped_part_stays_away(part: Callable[[], Awaitable[None]], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    supervisor = Supervisor(ManualClock())
    supervisor.start("part", part)
    await asyncio.wait([asyncio.ensure_future(returns())])
    async with asyncio.timeout(20):
        await supervisor.stop("part")
        await supervisor.stop("part")
    assert supervisor.restarts == {}
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "part"]


async def test_the_last_started_ends_first() -> None:
    ended: list[str] = []

    def part(name: str) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(name)

        return run

    async with Supervisor(ManualClock()) as supervisor:
        for name in ("store", "server", "scheduler"):
            supervisor.start(name, part(name))
        await asyncio.wait([asyncio.ensure_future(returns())])
    assert ended == ["scheduler", "server", "store"]
