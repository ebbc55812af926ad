"""The deterministic loop: order by seed, time that costs nothing, no way out."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import anyio.to_thread
import pytest

from pinnace.testing.loop import OutsideWorld, Stuck, VirtualClock, VirtualLoop, simulate

_START = datetime(2026, 1, 1, tzinfo=UTC)
_TRACE = """
import asyncio
from pinnace.testing.loop import simulate
async def main():
    seen = []
    async def part(name):
        for _ in range(3):
            await asyncio.sleep(1)
            seen.append(name)
    await asyncio.gather(*(asyncio.create_task(part(n)) for n in "abcd"))
    return "".join(seen)
print(simulate(main, seed=11))
"""


async def _race() -> str:
    seen: list[str] = []

    async def part(name: str) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
            seen.append(name)

    await asyncio.gather(*(part(name) for name in "abcdef"))
    return "".join(seen)


def test_the_seed_decides_the_order() -> None:
    runs = [simulate(_race, seed=seed) for seed in range(8)]
    assert runs == [simulate(_race, seed=seed) for seed in range(8)]
    assert len(set(runs)) == 8


def test_a_day_of_sleep_costs_nothing() -> None:
    async def day() -> float:
        for _ in range(24):
            await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    begun = time.perf_counter()
    assert simulate(day) == 24 * 3600
    assert time.perf_counter() - begun < 0.5


def test_timeouts_are_virtual() -> None:
    async def wait() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(600):
                await asyncio.get_running_loop().create_future()
        return asyncio.get_running_loop().time()

    assert simulate(wait) == 600


def test_timers_run_in_the_order_of_their_moments() -> None:
    async def timers() -> list[float]:
        seen: list[float] = []

        async def after(seconds: float) -> None:
            await asyncio.sleep(seconds)
            seen.append(seconds)

        await asyncio.gather(*(after(seconds) for seconds in (3, 1, 0.5, 2)))
        return seen

    assert simulate(timers, seed=5) == [0.5, 1, 2, 3]


def test_timers_of_one_moment_run_in_the_order_in_which_they_were_set() -> None:
    async def timers() -> list[int]:
        loop, seen = asyncio.get_running_loop(), list[int]()
        set_ = [loop.call_at(1.0, seen.append, number % 5) for number in range(20)]      # some do the same
        for timer in set_[3:15]:
            timer.cancel()
        await asyncio.sleep(1.0)
        set_[0].cancel()               # too late
        return seen

    assert simulate(timers) == [0, 1, 2, 0, 1, 2, 3, 4]


def test_cancelled_timers_move_no_time_and_do_not_pile_up() -> None:
    async def timers() -> float:
        loop = asyncio.get_running_loop()
        for number in range(10_000):
            loop.call_later(1.0 + number, int).cancel()
            assert len(loop._moments) <= 101      # type: ignore[attr-defined]
        await loop.rest()                         # type: ignore[attr-defined]
        await asyncio.sleep(0.5)
        return loop.time()

    assert simulate(timers) == 0.5


class _Plain(VirtualLoop):
    """With the turns and the timers of asyncio."""

    _run_once = asyncio.BaseEventLoop._run_once        # type: ignore[attr-defined]
    _timer_handle_cancelled = asyncio.BaseEventLoop._timer_handle_cancelled     # type: ignore[attr-defined]
    call_soon, call_at, call_later = (
        asyncio.BaseEventLoop.call_soon, asyncio.BaseEventLoop.call_at, asyncio.BaseEventLoop.call_later
    )  # fmt: skip

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._selector = self

    def select(self, timeout: float | None) -> list[object]:
        self.steps += 1
        if timeout:
            self._virtual = self._scheduled[0].when()    # type: ignore[attr-defined]
        if len(self._ready) > 1:
            self._shuffle()
        return []

    def _process_events(self, events: list[object]) -> None:
        return


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_turn_is_just_as_asyncio_makes_it(seed: int) -> None:
    async def busy() -> tuple[list[tuple[float, int]], int]:
        loop = asyncio.get_running_loop()
        seen: list[tuple[float, int]] = []

        async def part(number: int) -> None:
            for step in range(5):
                try:
                    async with asyncio.timeout(1.0 + step % 3 + number / 1000):       # timers, most of them cancelled
                        await asyncio.sleep((number * 0.7548776662 + 0.0137) % 2.5)     # no two at one moment
                except TimeoutError:
                    await asyncio.sleep(0)
                seen.append((loop.time(), number))

        async with asyncio.TaskGroup() as group:
            for number in range(60):
                group.create_task(part(number))
            await asyncio.sleep(1000)
        return seen, loop.steps         # type: ignore[attr-defined]

    plain = _Plain(seed)
    try:
        assert simulate(busy, seed=seed) == plain.run_until_complete(busy())
    finally:
        plain.close()


def test_debug_mode_changes_nothing() -> None:
    async def race(debug: bool) -> str:
        loop = asyncio.get_running_loop()
        loop.set_debug(debug)
        loop.call_later(0.0, int)
        loop.call_later(1.0, int).cancel()
        try:
            return await _race()
        finally:
            loop.set_debug(False)

    assert simulate(lambda: race(False), seed=4) == simulate(lambda: race(True), seed=4)


def test_what_a_callback_raises_is_told_and_stops_nothing() -> None:
    async def fail() -> list[tuple[str, str, type[object]]]:
        loop, told = asyncio.get_running_loop(), []
        loop.set_exception_handler(lambda _, context: told.append(context))
        loop.call_soon(int, "now")
        loop.call_later(1, int, "later")
        loop.call_soon(told.append, {}).cancel()
        loop.call_later(1, told.append, {}).cancel()
        await asyncio.sleep(2)
        return [(context["message"][:21], str(context["exception"])[-7:], type(context["handle"])) for context in told]

    now, later = simulate(fail)
    assert now[:2] == ("Exception in callback", ": 'now'")
    assert later[:2] == ("Exception in callback", "'later'") and issubclass(later[2], asyncio.TimerHandle)


def test_a_clock_goes_with_its_loop() -> None:
    async def hour() -> list[object]:
        clock = VirtualClock(_START, asyncio.get_running_loop())       # type: ignore[arg-type]
        begun, at = clock.now(), clock.monotonic()
        await clock.sleep(3600)
        await clock.sleep(0)
        return [begun, clock.now() - begun, clock.monotonic() - at, clock.now() is clock.now()]

    assert simulate(hour) == [_START, timedelta(hours=1), 3600, True]


def test_what_can_never_happen_is_said() -> None:
    async def forever() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Stuck, match="never happen"):
        simulate(forever)


def test_there_are_no_threads_and_no_processes() -> None:
    async def leave() -> None:
        with pytest.raises(OutsideWorld, match="no threads: perf_counter"):
            await asyncio.to_thread(time.perf_counter)
        with pytest.raises(OutsideWorld, match="'worker' was to start"):
            threading.Thread(name="worker").start()
        with pytest.raises(OutsideWorld, match="'AnyIO worker thread' was to start"):
            await anyio.to_thread.run_sync(time.perf_counter)
        with pytest.raises(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, print)
        with pytest.raises(OutsideWorld, match="no processes"):
            await asyncio.create_subprocess_exec("true")

    simulate(leave)


def test_threads_may_be_called_in_their_place() -> None:
    told: contextvars.ContextVar[str] = contextvars.ContextVar("told", default="")

    async def work(seed: int) -> tuple[list[object], float]:
        found: list[object] = []
        loop = asyncio.get_running_loop()
        told.set("something")
        assert await asyncio.to_thread(told.get) == "something"
        assert await loop.run_in_executor(None, pow, 2, 5) == 32
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(divmod, 1, 0)

        async def one(number: int) -> None:
            # The later ones are done sooner, which must not be seen.
            await anyio.to_thread.run_sync(time.sleep, 0.02 / (number + 1))
            found.append(number)

        await asyncio.gather(*(one(number) for number in range(4)))
        with pytest.raises(ZeroDivisionError):
            await anyio.to_thread.run_sync(divmod, 1, 0)
        with pytest.raises(OutsideWorld, match="was to start"):
            threading.Thread().start()
        return found, loop.time()

    def run(seed: int) -> tuple[list[object], float]:
        return simulate(lambda: work(seed), seed=seed, threads="inline")

    first = run(1)
    assert first == run(1) and first[1] == 0
    assert len({str(run(seed)[0]) for seed in range(6)}) > 1


def test_the_guard_concerns_no_other_loop() -> None:
    simulate(lambda: asyncio.sleep(1))

    async def outside() -> int:
        return await asyncio.to_thread(pow, 2, 5)

    assert asyncio.run(outside()) == 32


def test_tasks_left_behind_are_ended() -> None:
    ended: list[bool] = []

    async def leave() -> None:
        async def stay() -> None:
            try:
                await asyncio.sleep(1e9)
            finally:
                ended.append(True)

        task = asyncio.create_task(stay())
        await asyncio.sleep(0)
        assert not task.done()

    simulate(leave)
    assert ended == [True]


def test_the_hash_seed_changes_nothing() -> None:
    def run(hash_seed: str) -> bytes:
        environment = dict(os.environ, PYTHONHASHSEED=hash_seed)
        return subprocess.run(
            [sys.executable, "-c", _TRACE], env=environment, check=True, capture_output=True, timeout=60
        ).stdout

    assert run("1") == run("2") != b""
