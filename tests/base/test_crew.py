"""Who comes, when, and how many at a time."""

from __future__ import annotations

import asyncio
from collections import deque

import pytest

from pinnace.base.crew import Crew


class Owner:
    """A queue whose entries say for how many turns of the loop they have to wait."""

    def __init__(self, most: int) -> None:
        self.queue: deque[int] = deque()
        self.done: list[int] = []
        self.calls = self.under_way = self.most = 0
        self.crew = Crew(self.work, most=most, name="crew")

    def put(self, *turns: int) -> None:
        for number in turns:
            self.queue.append(number)
            self.crew.rouse()

    async def work(self) -> None:
        self.calls += 1
        while self.queue:
            turns = self.queue.popleft()
            if self.queue:
                self.crew.rouse()
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            try:
                if turns < 0:
                    raise ValueError(turns)
                for _ in range(turns):
                    await asyncio.sleep(0)
                self.done.append(turns)
            finally:
                self.under_way -= 1


async def settle(turns: int = 50) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


async def test_what_never_waits_is_done_by_one_whom_others_look_over_the_shoulder_once() -> None:
    owner = Owner(8)
    owner.put(*[0] * 20)
    await settle()
    assert (owner.done, owner.most, owner.calls) == ([0] * 20, 1, 2)
    owner.crew.dismiss()


async def test_as_many_wait_side_by_side_as_there_may_be_and_no_more() -> None:
    owner = Owner(4)
    owner.put(*[10] * 10)
    await settle()
    assert (owner.done, owner.most) == ([10] * 10, 4)
    owner.put(3, 0)          # those who rest are roused again
    await settle()
    assert owner.done[10:] == [0, 3]
    owner.crew.dismiss()


@pytest.mark.parametrize("most", [1, 3])
async def test_nothing_is_left_behind_by_one_who_fails(most: int, caplog: pytest.LogCaptureFixture) -> None:
    owner = Owner(most)
    owner.put(0, -1, 2, -1, 0, 1)
    await settle()
    assert sorted(owner.done) == [0, 0, 1, 2]
    assert len([record for record in caplog.records if record.exc_info]) == 2
    owner.crew.dismiss()


async def test_after_all_were_dismissed_others_come() -> None:
    owner = Owner(2)
    owner.put(1000, 1000)
    await settle(5)
    assert owner.under_way == 2
    ended = await asyncio.gather(*owner.crew.dismiss(), return_exceptions=True)
    assert [type(result) for result in ended] == [asyncio.CancelledError] * 2
    owner.put(0)
    await settle()
    assert (owner.done, owner.under_way) == ([0], 0)
    await asyncio.gather(*owner.crew.dismiss(), return_exceptions=True)
