"""What rules of `faults.py` do to watches whose source lies in this process.

An informer there is told of a commit in the call that makes it, which must cost nothing while there is no rule: the
layer between stands aside until there is one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TYPE_CHECKING

from pinnace.client.transport import DirectWatch, Tell, WatchLine
from pinnace.testing.fault_rules import Rule

if TYPE_CHECKING:
    from pinnace.testing.faults import Faults


class DirectUnderRules(DirectWatch):
    """A watch that began before there was a rule: iterated, it is `followed`; subscribed to, its events go straight
    to the subscriber until there is a rule, which may meet each later one. (One that begins under rules is iterated:
    what takes its turns can be late in more ways.)"""

    def __init__(
        self, inner: DirectWatch, followed: AsyncGenerator[tuple[WatchLine, ...], None], faults: Faults,
        met: Callable[[], Rule | None], clean: Callable[[Rule], bool],
    ) -> None:
        self._inner = inner
        self._followed = followed
        self._faults = faults
        self._met = met
        self._clean = clean
        self._late: deque[tuple[str, object, int]] = deque()      # held back; what follows waits behind it
        self._tell: Tell | None = None
        self._over: asyncio.Future[None] | None = None
        self._attended = False

    def __aiter__(self) -> AsyncIterator[tuple[WatchLine, ...]]:
        return self._followed

    async def __anext__(self) -> tuple[WatchLine, ...]:
        return await anext(self._followed)

    def subscribe(self, tell: Tell) -> asyncio.Future[None]:
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tell, self._over = tell, over
        self._attended = bool(self._faults.rules)
        theirs = self._inner.subscribe(self._told if self._attended else tell)
        if not self._attended:
            self._faults.unruled(self)

        def ended(theirs: asyncio.Future[None]) -> None:
            if not over.done() and not theirs.cancelled():
                error = theirs.exception()
                if error is not None:
                    _break(over, error)
                else:
                    over.set_result(None)

        theirs.add_done_callback(ended)
        return over

    def redirect(self, tell: Tell) -> None:
        self._tell = tell
        if not self._attended:
            self._inner.redirect(tell)

    def attend(self) -> None:
        """There are rules now, or have been."""
        self._attended = True
        self._inner.redirect(self._told)

    def _told(self, type: str, obj: object, revision: int) -> None:
        assert self._tell is not None and self._over is not None
        if self._over.done():
            return
        rule = self._met()
        if rule is not None and rule.fault == "slow":
            if not self._late:
                asyncio.get_running_loop().call_later(rule.seconds, self._catch_up)
        elif rule is not None:
            if self._clean(rule):
                self._over.set_result(None)
            else:
                _break(self._over, ConnectionResetError("connection reset by peer"))
            return
        elif not self._late:
            self._tell(type, obj, revision)
            return
        self._late.append((type, obj, revision))

    def _catch_up(self) -> None:
        assert self._tell is not None and self._over is not None
        while self._late and not self._over.done():
            self._tell(*self._late.popleft())

    async def aclose(self) -> None:
        self._faults.ended(self)
        await self._followed.aclose()
        await self._inner.aclose()


def _break(future: asyncio.Future[None], error: BaseException) -> None:
    future.set_exception(error)
    future.exception()       # a watcher that went away does not make it "never retrieved"
