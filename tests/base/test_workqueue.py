"""The work queue against a simple model, and its waiting."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pinnace.base.backoff import Backoff
from pinnace.base.clock import LoopClock, ManualClock
from pinnace.base.workqueue import WorkQueue

KEYS = st.sampled_from("abc")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), KEYS),
        st.tuples(st.just("after"), KEYS, st.integers(-1, 9)),
        st.tuples(st.just("done")),
        st.tuples(st.just("dismiss"), KEYS),
        st.tuples(st.just("move"), st.integers(1, 5)),
    ),
    max_size=60,
)


class Held:
    """Work on keys that lasts until it is told to end."""

    def __init__(self) -> None:
        self.active: dict[str, asyncio.Event] = {}
        self.begun: list[str] = []

    async def work(self, key: str) -> None:
        assert key not in self.active, "worked on twice at a time"
        self.begun.append(key)
        self.active[key] = asyncio.Event()
        await self.active[key].wait()
        del self.active[key]


async def settle() -> None:
    """Let everything happen that takes no time."""
    for _ in range(12):
        await asyncio.sleep(0)


@pytest.mark.parametrize("most", [1, 2])
@given(STEPS)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_like_the_model(most: int, steps: list[tuple[object, ...]]) -> None:
    """Ready keys once and in order; none worked on twice at a time; of several delays the shortest."""

    async def run() -> None:
        clock = ManualClock()
        queue: WorkQueue[str] = WorkQueue(clock)
        held = Held()
        serving = asyncio.create_task(queue.serve(held.work, most=most))
        ready: list[str] = []
        active: list[str] = []
        again: set[str] = set()
        due: dict[str, float] = {}

        def add(key: str) -> None:
            if key in active:
                again.add(key)
            elif key not in ready:
                ready.append(key)

        for step in steps:
            match step:
                case ("add", str(key)):
                    queue.add(key)
                    add(key)
                case ("after", str(key), int(seconds)):
                    queue.add_after(key, seconds)
                    if seconds <= 0:
                        add(key)
                    else:
                        due[key] = min(due.get(key, 1e9), clock.monotonic() + seconds)
                case ("done",) if active:
                    key = active.pop(0)
                    held.active[key].set()
                    if key in again:
                        again.remove(key)
                        add(key)
                case ("dismiss", str(key)):
                    queue.dismiss(key)
                    again.discard(key)
                case ("move", int(seconds)):
                    clock.advance(seconds)
                    before = len(queue)
                    queue.tick()
                    for key in sorted((k for k, t in due.items() if t <= clock.monotonic()), key=due.__getitem__):
                        del due[key]
                        add(key)
                    # Of keys that are due at the same time any may come first.
                    assert set(queue._ready) == set(ready) and ready[:before] == list(queue._ready)[:before]
                    ready = list(queue._ready)
            await settle()
            while ready and len(active) < most:
                active.append(ready.pop(0))
            assert sorted(held.active) == sorted(active)
            assert list(queue._ready) == ready
            assert len(queue) == len(ready)
            assert queue.idle == (not ready and not active)
            assert (queue._timer is not None) == bool(due)
        queue.close()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    asyncio.run(run())


async def test_each_key_goes_to_one_of_several_who_wait() -> None:
    queue: WorkQueue[str] = WorkQueue(ManualClock())
    held = Held()
    serving = asyncio.create_task(queue.serve(held.work, most=3))
    for key in "abc":
        queue.add(key)
    await settle()
    assert sorted(held.active) == ["a", "b", "c"]
    for ended in held.active.values():
        ended.set()
    await settle()
    held.begun.clear()
    for key in "ddef":
        queue.add(key)
    await settle()
    assert held.begun == ["d", "e", "f"]
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    assert queue.idle


async def test_delays_follow_the_loops_time() -> None:
    loop = asyncio.get_running_loop()
    clock = LoopClock(ManualClock().now(), loop)
    queue: WorkQueue[str] = WorkQueue(clock)
    begin = clock.monotonic()
    queue.add_after("slow", 0.02)
    queue.add_after("quick", 5.0)
    queue.add_after("quick", 0.005)
    handed: list[str] = []

    async def work(key: str) -> None:
        handed.append(key)
        if len(handed) == 2:
            raise EOFError

    with pytest.raises(ExceptionGroup):
        await queue.serve(work, most=1)
    assert handed == ["quick", "slow"]
    assert 0.02 <= clock.monotonic() - begin < 2
    assert queue._timer is None


def test_a_delay_that_is_over_may_be_prolonged() -> None:
    async def run() -> list[tuple[float, list[str]]]:
        clock = ManualClock()
        until = {"a": 5.0}
        queue: WorkQueue[str] = WorkQueue(clock, put_off=lambda key, due: until.get(key))
        for key in "ab":
            queue.add_after(key, 2)
        found = []
        for _ in range(6):
            clock.advance(1)
            queue.tick()
            found.append((clock.monotonic(), list(queue._ready)))
        queue.close()
        return found

    assert [ready for _, ready in asyncio.run(run())] == [[], ["b"], ["b"], ["b"], ["b", "a"], ["b", "a"]]


def test_retries_back_off_until_they_are_forgotten() -> None:
    async def run() -> list[float]:
        queue: WorkQueue[str] = WorkQueue(ManualClock(), Backoff(initial=1, maximum=5))
        delays = [queue.retry("a") for _ in range(4)] + [queue.retry("b")]
        queue.forget("a")
        delays.append(queue.retry("a"))
        queue.close()
        return delays

    assert asyncio.run(run()) == [1, 2, 4, 5, 1, 1]


@pytest.mark.parametrize(
    ("times", "delays"),
    [
        ([0, 0, 0, 0, 0], [1, 2, 4, 8, 10]),
        ([0, 5, 20], [1, 2, 4]),
        ([0, 31], [1, 1]),
        ([0, 0, 30.0], [1, 2, 4]),
    ],
)
def test_backoff(times: list[float], delays: list[float]) -> None:
    backoff = Backoff(initial=1, maximum=10, reset_after=30)
    assert [backoff.next("k", time) for time in times] == delays


@given(st.integers(0, 10**9), st.floats(0.001, 10), st.floats(1, 10))
def test_a_delay_is_bounded(failures: int, initial: float, factor: float) -> None:
    backoff = Backoff(initial=initial, maximum=60, factor=factor)
    assert initial <= backoff.delay(failures) <= 60 or initial > 60
    assert backoff.delay(failures) <= backoff.delay(failures + 1)


def test_backoff_remembers_so_many_keys() -> None:
    backoff = Backoff(initial=1, maximum=10, capacity=2)
    for key in ("a", "b", "a", "c"):
        backoff.next(key, 0)
    assert [backoff.failures(key) for key in "abc"] == [2, 0, 1]


async def test_workers_come_as_they_are_needed_and_go_with_the_last() -> None:
    queue: WorkQueue[int] = WorkQueue(ManualClock())
    gate = asyncio.Event()
    busy: list[int] = []
    tasks = len(asyncio.all_tasks())

    async def work(key: int) -> None:
        busy.append(key)
        if key < 3:
            await gate.wait()

    serving = asyncio.create_task(queue.serve(work, most=3, name="worker"))
    await asyncio.sleep(0.01)
    assert len(asyncio.all_tasks()) == tasks + 2, "one waits for the first key"
    for key in (0, 1, 2, 9):
        queue.add(key)
    await asyncio.sleep(0.01)
    assert busy == [0, 1, 2], "no more than three at a time"
    gate.set()
    await asyncio.sleep(0.01)
    assert busy == [0, 1, 2, 9]
    assert queue.idle
    queue.add(5)
    await asyncio.sleep(0.01)
    assert busy[-1] == 5
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    assert len(asyncio.all_tasks()) == tasks


async def test_a_worker_that_goes_away_leaves_what_it_was_woken_for_to_another() -> None:
    queue: WorkQueue[str] = WorkQueue(ManualClock())
    held = Held()
    before = asyncio.all_tasks()
    serving = asyncio.create_task(queue.serve(held.work, most=2, name="worker"))
    queue.add("a")
    await settle()
    held.active["a"].set()
    await settle()
    workers = [task for task in asyncio.all_tasks() - before if task is not serving]
    assert len(workers) == len(queue._waiting) == 2
    queue.add("b")
    woken = next(task for task in workers if task._fut_waiter is None or task._fut_waiter.done())   # type: ignore[attr-defined]
    woken.cancel()          # woken and cancelled in the same moment
    await settle()
    assert list(held.active) == ["b"]
    held.active["b"].set()
    await settle()
    queue.add("c")
    await settle()
    assert list(held.active) == ["c"]
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def test_who_is_cancelled_while_waiting_keeps_no_key_from_the_others() -> None:
    queue: WorkQueue[str] = WorkQueue(ManualClock())
    held = Held()
    serving = asyncio.create_task(queue.serve(held.work, most=1))
    await settle()
    serving.cancel()
    queue.add("a")          # in the same moment
    await asyncio.gather(serving, return_exceptions=True)
    serving = asyncio.create_task(queue.serve(held.work, most=1))
    await settle()
    assert list(held.active) == ["a"]
    held.active["a"].set()
    await settle()
    queue.add("b")
    await settle()
    assert list(held.active) == ["b"]
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def test_what_work_raises_ends_the_serving() -> None:
    queue: WorkQueue[str] = WorkQueue(ManualClock())

    async def work(key: str) -> None:
        raise KeyError(key)

    queue.add("a")
    with pytest.raises(ExceptionGroup):
        await queue.serve(work, most=2)
    assert queue.idle
