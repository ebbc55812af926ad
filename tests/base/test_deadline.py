"""A limit of time whose timer exists only while something waits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pinnace.base.deadline import within


class Loop(asyncio.SelectorEventLoop):
    """Counts timers."""

    timers = 0

    def call_at(self, *args: Any, **options: Any) -> asyncio.TimerHandle:
        self.timers += 1
        return super().call_at(*args, **options)


def run(main: Any) -> int:
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())
        loop = runner.get_loop()
        assert isinstance(loop, Loop)
        return loop.timers


def test_what_does_not_wait_needs_no_timer() -> None:
    async def quick() -> int:
        return 3

    async def bad() -> None:
        raise KeyError("x")

    async def main() -> None:
        assert await within(1, quick()) == 3
        with pytest.raises(KeyError):
            await within(1, bad())

    assert run(main) == 0


def test_what_waits_goes_on_with_results_and_errors() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        good, bad = loop.create_future(), loop.create_future()
        seen: list[Any] = []

        async def work() -> str:
            await asyncio.sleep(0)
            seen.append(await good)
            try:
                await bad
            except ValueError:
                seen.append("bad")
            async with asyncio.timeout(5):
                await asyncio.sleep(0)
            return "done"

        task = asyncio.create_task(within(5, work()))
        await asyncio.sleep(0)
        good.set_result(1)
        bad.set_exception(ValueError())
        assert await task == "done"
        assert seen == [1, "bad"]

    assert run(main) == 2


def test_late_and_cancelled() -> None:
    async def main() -> None:
        ended: list[str] = []

        async def work() -> None:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

        with pytest.raises(TimeoutError):
            await within(0.01, work())
        task = asyncio.create_task(within(60, work()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == ["cancelled", "cancelled"]

        async def inside() -> str:
            try:
                async with asyncio.timeout(0.01):
                    await work()
            except TimeoutError:
                return "the inner one"
            return ""

        assert await within(60, inside()) == "the inner one"

    run(main)
