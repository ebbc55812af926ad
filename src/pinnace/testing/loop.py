"""A deterministic event loop: virtual time, a seeded order of what is ready, and no way to the outside.

Everything under test runs in one thread on this loop. When nothing is ready, time jumps to the next timer, so
that a day of sleeping costs nothing; what is ready at the same moment runs in an order drawn from the seed.
The order within one task, and of the timers of different moments, is as it always is. Connections are made within
the loop's own `Network`; whatever else would leave raises `OutsideWorld`.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import random
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextvars import Context, copy_context
from datetime import datetime, timedelta
from typing import Any, TypeVar
from weakref import WeakSet

from pinnace.base.clock import LoopClock
from pinnace.testing.network import Network
from pinnace.testing.outside import OutsideWorld, Refusals, guard
from pinnace.testing.threads import Threads, Workers, call, refuse

__all__ = ["OutsideWorld", "Stuck", "Threads", "VirtualClock", "VirtualLoop", "simulate"]

T = TypeVar("T")


_MANY = 100                # moments, from which on they are cleared away when at most of them nothing happens any more


class Stuck(RuntimeError):
    """Nothing is ready and no timer is set: what is awaited can never happen."""


class _Step(asyncio.Handle):
    """One is made for each step of each task. It knows nothing of what is kept for the debug mode."""

    __slots__ = ()
    _repr = _source_traceback = None

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...], loop: Any, context: Any) -> None:
        self._callback, self._args, self._loop, self._cancelled = callback, args, loop, False
        self._context = context if context is not None else copy_context()

    def cancel(self) -> None:
        self._cancelled = True
        self._callback = self._args = None      # type: ignore[assignment]  # as asyncio does: whatever they hold


class _Timer(asyncio.TimerHandle):
    """The same, later. Each is itself alone, also where another does the same at the same moment."""

    __slots__ = ()
    __hash__ = object.__hash__
    __eq__ = object.__eq__

    def __init__(
        self, when: float, callback: Callable[..., object], args: tuple[Any, ...], loop: Any, context: Any
    ) -> None:
        if loop._debug:
            super().__init__(when, callback, args, loop, context)
            return
        self._callback, self._args, self._loop = callback, args, loop
        self._context = context if context is not None else copy_context()
        self._cancelled, self._repr, self._source_traceback = False, None, None
        self._when = when


class VirtualLoop(Refusals, asyncio.BaseEventLoop):  # type: ignore[misc]  # add_reader: as run_in_executor
    """The loop. `seed` decides the order of callbacks that are ready at the same moment.

    `threads`: what becomes of `loop.run_in_executor` and `asyncio.to_thread`. "refuse" raises OutsideWorld. With
    "inline" the function is called at once, in its place: the run stays the same for the same seed, but virtual time
    and all other tasks stand still until it returns, and what waits for another task never does. anyio's worker
    threads are waited for in the same way; any other thread is refused.
    `latency`: of the network, in virtual seconds.

    Signals cannot be handled (NotImplementedError, as on other loops without them).
    """

    simulated = True                      # which the guard of `outside` asks

    # Of BaseEventLoop, on every supported Python; the type stubs leave them out.
    _ready: deque[asyncio.Handle]
    _asyncgens: WeakSet[AsyncGenerator[Any, Any]]
    _closed: bool
    _debug: bool
    _stopping: bool
    _check_closed: Callable[[], None]
    _check_thread: Callable[[], None]
    _check_callback: Callable[[object, str], None]

    def __init__(self, seed: int = 0, *, threads: Threads = "refuse", latency: float = 0.0) -> None:
        guard()
        super().__init__()
        self.seed = seed
        self.threads = threads
        self._workers = Workers()
        self.network = Network(self, latency=latency)
        self.steps = 0                    # turns of the loop so far: a cheap fingerprint of a run
        self._virtual = 0.0
        self._order = random.Random(seed)
        self._resting: list[asyncio.Future[None]] = []
        # The timers by their moments, those of one moment in the order in which they were set, and the moments as a
        # heap. There may be moments in it at which nothing happens any more.
        self._timers: dict[float, dict[_Timer, None]] = {}
        self._moments: list[float] = []
        # asyncio rounds timers to the clock's resolution; virtual time has none to speak of.
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._virtual

    def _run_once(self) -> None:
        """One turn. This is all that BaseEventLoop asks of a loop, and takes the place of its waiting for files."""
        ready: deque[Any] = self._ready
        if self._workers.started:
            ready.extend(self._workers.finish())
        if len(ready) > 1:
            self._shuffle()
        elif not ready and not self._stopping:
            self._pass()
        self.steps += 1
        moments, until = self._moments, self._virtual + self._clock_resolution
        while moments and moments[0] < until:
            ready.extend(self._timers.pop(heapq.heappop(moments), ()))
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            try:
                handle._context.run(handle._callback, *handle._args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self.call_exception_handler({
                    "message": f"Exception in callback {handle!r}", "exception": error, "handle": handle,
                })  # fmt: skip

    def _pass(self) -> None:
        """Nothing is ready: straight to the next timer, unless somebody waits for just that."""
        moments = self._moments
        while moments and moments[0] not in self._timers:
            heapq.heappop(moments)
        after = moments[0] if moments else math.inf
        if self._resting and after > self._virtual:
            self._rested()
        elif after == math.inf:
            raise Stuck("nothing is ready and no timer is set: what is awaited can never happen")
        elif after > self._virtual:
            self._virtual = after

    async def rest(self) -> None:
        """Return when nothing is ready any more: everything that can happen without time passing has happened."""
        future = self.create_future()
        self._resting.append(future)
        await future

    def _rested(self) -> None:
        waiting, self._resting = self._resting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _shuffle(self) -> None:
        """Reorder the steps of tasks; other callbacks keep their places, which transports and futures rely on."""
        ready: deque[Any] = self._ready
        places = []
        for place, handle in enumerate(ready):
            owner: object = getattr(handle._callback, "__self__", None)
            if owner.__class__ is asyncio.Task or isinstance(owner, asyncio.Task):
                places.append(place)
        draw = self._order.getrandbits
        for last in range(len(places) - 1, 0, -1):
            width = (last + 1).bit_length()
            chosen = draw(width)
            while chosen > last:
                chosen = draw(width)
            one, other = places[last], places[chosen]
            ready[one], ready[other] = ready[other], ready[one]

    def call_soon(  # type: ignore[override]  # as run_in_executor
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        # Each step of a task comes this way: without asyncio's checks where they cannot find anything.
        if self._closed or self._debug:
            return super().call_soon(callback, *args, context=context)
        handle = _Step(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(  # type: ignore[override]  # as run_in_executor
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        if self._closed or self._debug:
            self._check_closed()
            self._check_thread()
            self._check_callback(callback, "call_at")
        timer = _Timer(when, callback, args, self, context)
        among = self._timers.get(when)
        if among is None:
            self._timers[when] = {timer: None}
            heapq.heappush(self._moments, when)
        else:
            among[timer] = None
        return timer

    def _timer_handle_cancelled(self, timer: _Timer) -> None:
        """Called by the timer; it may have gone off."""
        timers, moments = self._timers, self._moments
        among = timers.get(timer._when, {})
        among.pop(timer, None)
        if not among and timers.pop(timer._when, None) is not None and len(moments) > max(_MANY, 2 * len(timers)):
            moments[:] = timers
            heapq.heapify(moments)

    def call_later(  # type: ignore[override]  # as run_in_executor
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._virtual + delay, callback, *args, context=context)

    def close(self) -> None:
        super().close()
        self._timers.clear()
        self._moments.clear()

    async def shutdown_asyncgens(self) -> None:
        # Those that have ended, and only wait for the collector, would get a task each.
        for generator in tuple(self._asyncgens):
            if getattr(generator, "ag_frame", None) is None:
                self._asyncgens.discard(generator)
        await super().shutdown_asyncgens()

    # BaseEventLoop leaves this to the loops of the platforms.

    def _write_to_self(self) -> None:
        return

    # The network is in memory.

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        return await self.network.getaddrinfo(host, port, **options)

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
        return await self.network.getnameinfo(sockaddr, flags)

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        return await self.network.create_connection(protocol_factory, host, port, **options)

    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        return await self.network.create_server(protocol_factory, host, port, **options)

    async def sock_connect(self, sock: Any, address: Any) -> None:
        await self.network.sock_connect(sock, address)

    # What would leave the simulation.

    def run_in_executor(  # type: ignore[override]  # the stubs wish for type variables that 3.11 has not
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        if self.threads != "inline":
            raise refuse(func)
        return call(self, func, args)

    def admit(self, thread: object) -> bool:
        """Whether a thread may start: asked by the guard of `outside`."""
        return self.threads == "inline" and self._workers.admit(thread)

    def call_soon_threadsafe(  # type: ignore[override]  # as above
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        if self._workers.started:
            handle = asyncio.Handle(callback, args, self, context)
            if self._workers.report(handle):
                return handle
        return super().call_soon_threadsafe(callback, *args, context=context)


class VirtualClock(LoopClock):
    """A clock by the time of a loop of this kind, which is asked for without a call."""

    _loop: VirtualLoop

    def __init__(self, start: datetime, loop: VirtualLoop) -> None:
        super().__init__(start, loop)

    def now(self) -> datetime:
        if self._loop._virtual == self._at:
            return self._now
        self._at = at = self._loop._virtual
        self._now = self._start + timedelta(seconds=at - self._zero)
        return self._now


def simulate(
    main: Callable[[], Coroutine[Any, Any, T]], *, seed: int = 0, threads: Threads = "refuse", latency: float = 0.0
) -> T:
    """Run `main` on a loop of its own; what it leaves behind is cancelled, and its connections are cut. The rest is
    `VirtualLoop`'s."""
    loop = VirtualLoop(seed, threads=threads, latency=latency)
    try:
        return loop.run_until_complete(main())
    finally:
        try:
            _cancel_all(loop)
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.network.close()
            loop.run_until_complete(loop.rest())
        finally:
            loop.close()


def _cancel_all(loop: VirtualLoop) -> None:
    left = sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name())
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
