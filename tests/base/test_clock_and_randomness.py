"""Time and chance, as parameters."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from pinnace.base.clock import Clock, LoopClock, ManualClock, SystemClock
from pinnace.base.randomness import NAME_ALPHABET, Randomness

START = datetime(2026, 1, 1, tzinfo=UTC)


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose time jumps to its next timer instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = 0.0

    def time(self) -> float:
        return self.offset

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:                     # type: ignore[attr-defined]
            self.offset = max(self.offset, self._scheduled[0]._when)  # type: ignore[attr-defined]
        super()._run_once()                                          # type: ignore[misc]


def test_a_loops_clock_is_virtual_where_the_loop_is() -> None:
    async def run() -> tuple[float, timedelta]:
        clock = LoopClock(START, asyncio.get_running_loop())
        await asyncio.gather(clock.sleep(3600), clock.sleep(86400), clock.sleep(-5))
        return clock.monotonic(), clock.now() - START

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(run()) == (86400, timedelta(days=1))


def test_a_sleep_that_is_given_up_leaves_no_timer() -> None:
    async def run() -> list[object]:
        loop = asyncio.get_running_loop()
        sleeper = asyncio.create_task(LoopClock(START, loop).sleep(3600))
        await asyncio.sleep(0)
        sleeper.cancel()
        await asyncio.gather(sleeper, return_exceptions=True)
        return [timer for timer in loop._scheduled if not timer.cancelled()]         # type: ignore[attr-defined]

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(run()) == []


async def test_a_manual_clock_moves_when_told() -> None:
    clock = ManualClock(START)
    assert (clock.now(), clock.monotonic()) == (START, 0)
    clock.advance(90)
    await clock.sleep(30)
    await clock.sleep(-30)
    assert (clock.now(), clock.monotonic()) == (START + timedelta(minutes=2), 120)


async def test_the_systems_clock() -> None:
    clock: Clock = SystemClock()
    before, wall = clock.monotonic(), clock.now()
    await clock.sleep(0.002)
    await clock.sleep(-1)
    assert 0.002 <= clock.monotonic() - before < 5
    assert wall.tzinfo is UTC and timedelta() <= clock.now() - wall < timedelta(seconds=5)


def drawn(source: Randomness) -> list[object]:
    return [source.uid(), source.suffix(), source.uniform(0, 1), source.jitter(1, 1), source.below(9), source.token()]


@given(st.integers())
def test_a_seed_reproduces_everything(seed: int) -> None:
    one, other = Randomness(seed), Randomness(seed)
    assert drawn(one) == drawn(other)
    assert drawn(one.fork()) == drawn(other.fork())
    assert drawn(one) == drawn(other)


@given(st.none() | st.integers(), st.integers(1, 10), st.integers(1, 1000), st.floats(0, 100))
def test_what_is_drawn_has_its_form(seed: int | None, length: int, bound: int, factor: float) -> None:
    source = Randomness(seed)
    uid = uuid.UUID(source.uid())
    assert uid.version == 4 and uid.variant == uuid.RFC_4122
    suffix = source.suffix(length)
    assert len(suffix) == length and set(suffix) <= set(NAME_ALPHABET)
    assert 0 <= source.below(bound) < bound
    assert 10 <= source.jitter(10, factor) <= 10 * (1 + factor)
    assert len(source.token(length)) == length


def test_a_fork_goes_its_own_way() -> None:
    whole, parted = Randomness(7), Randomness(7)
    fork = parted.fork()
    whole.fork()
    drawn(fork)                           # what the fork draws does not disturb its parent
    assert drawn(whole) == drawn(parted) != drawn(fork)
    assert drawn(Randomness()) != drawn(Randomness()) and drawn(Randomness().fork()) != drawn(Randomness().fork())
