"""A limit of time that costs nothing where nothing waits."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; TimeoutError when that takes longer. The timer is set only once `work` has to wait."""
    try:
        waiting = work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    async with asyncio.timeout(seconds):
        return await rest(work, waiting)


@types.coroutine
def rest(work: Coroutine[Any, Any, T], waiting: Any) -> Generator[Any, Any, T]:
    """Go on with work that has begun and waits."""
    while True:
        failure: BaseException | None = None
        answer = None
        try:
            answer = yield waiting
        except BaseException as error:      # a cancellation belongs to the work, as everything else
            failure = error
        try:
            waiting = work.send(answer) if failure is None else work.throw(failure)
        except StopIteration as done:
            result: T = done.value
            return result
