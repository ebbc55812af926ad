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
        st.tuples(st.just("get")),
        st.tuples(st.just("done")),
        st.tuples(st.just("move"), st.integers(1, 5)),
    ),
    max_size=60,
)


@given(STEPS)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_like_the_model(steps: list[tuple[object, ...]]) -> None:
    """Ready keys once and in order; none worked on twice at a time; of several delays the shortest."""

    async def run() -> None:
        clock = ManualClock()
        queue: WorkQueue[str] = WorkQueue(clock)
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
                case ("get",) if ready:
                    assert await queue.get() == ready[0]
                    active.append(ready.pop(0))
                case ("done",) if active:
                    key = active.pop(0)
                    queue.done(key)
                    if key in again:
                        again.remove(key)
                        add(key)
                case ("move", int(seconds)):
                    clock.advance(seconds)
                    queue.tick()
                    for key in sorted((k for k, t in due.items() if t <= clock.monotonic()), key=due.__getitem__):
                        # Of keys that are due at the same time any may come first.
                        del due[key]
                        add(key)
                    assert set(queue._ready) == set(ready)
                    ready = list(queue._ready)
            assert list(queue._ready) == ready
            assert len(queue) == len(ready)
            assert queue.idle == (not ready and not active)
            assert (queue._timer is not None) == bool(due)
        queue.close()

    asyncio.run(run())


async def test_each_key_goes_to_one_of_several_who_wait() -> None:
    queue: WorkQueue[int] = WorkQueue(ManualClock())
    waiting = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.wait(waiting, timeout=0)
    queue.add(1)
    queue.add(2)
    queue.add(1)
    done, pending = await asyncio.wait(waiting, timeout=0.01)
    assert sorted(task.result() for task in done) == [1, 2] and len(pending) == 1
    pending.pop().cancel()


async def test_who_stops_waiting_takes_no_key_along() -> None:
    queue: WorkQueue[int] = WorkQueue(ManualClock())
    leaver, stayer = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
    await asyncio.wait([leaver, stayer], timeout=0)
    queue.add(1)
    leaver.cancel()
    assert await stayer == 1
    assert leaver.cancelled() or (await asyncio.wait([leaver]))[0].pop().cancelled()


async def test_delays_follow_the_loops_time() -> None:
    loop = asyncio.get_running_loop()
    clock = LoopClock(ManualClock().now(), loop)
    queue: WorkQueue[str] = WorkQueue(clock)
    begin = clock.monotonic()
    queue.add_after("slow", 0.02)
    queue.add_after("quick", 5.0)
    queue.add_after("quick", 0.005)
    assert [await queue.get(), await queue.get()] == ["quick", "slow"]
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


async def test_a_key_wakes_one_worker_and_a_cancelled_one_passes_it_on() -> None:
    queue: WorkQueue[str] = WorkQueue(ManualClock())
    first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add("a")
    first.cancel()          # woken and cancelled in the same moment
    assert await asyncio.wait_for(second, 1) == "a"
    await asyncio.gather(first, return_exceptions=True)
    assert first.cancelled()


async def test_what_work_raises_ends_the_serving() -> None:
    queue: WorkQueue[str] = WorkQueue(ManualClock())

    async def work(key: str) -> None:
        raise KeyError(key)

    queue.add("a")
    with pytest.raises(ExceptionGroup):
        await queue.serve(work, most=2)
    assert queue.idle
