"""API server, controllers and scheduler of one cluster in this process, over a store that outlives them.

What `cluster.control_plane` does for a server process, without files, sockets and certificates. The server side can
be killed and started again over the same store; nodes and users, who hold `transport`, live through that.

A `_Life` is one start of the server side, up to its end. Everything that reaches its server or its store goes through
the life, and finds nothing there any more from the instant of the kill: requests under way and watches are reset,
nothing more is written. What remains to be done then, cancelling tasks, frees memory and changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from pinnace.apiserver.authentication.tokens import TokenIssuer
from pinnace.apiserver.cache import Entry
from pinnace.apiserver.inprocess import ADMIN
from pinnace.apiserver.kubelet_proxy import Kubelets
from pinnace.apiserver.resources.table import RESOURCES
from pinnace.apiserver.server import ApiServer
from pinnace.base.clock import Clock
from pinnace.base.keys import new_key, private_pem
from pinnace.base.randomness import Randomness
from pinnace.base.supervisor import Supervisor
from pinnace.client.client import Client
from pinnace.client.informer import Informers
from pinnace.client.transport import DirectWatch, Request, Response, Tell, Transport, User, WatchLine
from pinnace.cluster import bootstrap
from pinnace.cluster.explaining import explain
from pinnace.cluster.security import secure
from pinnace.cluster.settings import Settings
from pinnace.controllers.certificates.signer import Signing
from pinnace.controllers.manager import ControllerManager, Options
from pinnace.scheduler.scheduler import Scheduler
from pinnace.store.over import StoreOver
from pinnace.store.store import Change, Store, StoreFailure
from pinnace.testing import garbage

log = logging.getLogger("pinnace.testing")

_ISSUER = "https://kubernetes.default.svc.cluster.local"
_MANAGER = User("system:kube-controller-manager", groups=("system:authenticated",))
_SCHEDULER = User("system:kube-scheduler", groups=("system:authenticated",))
_STARTING = 60.0          # seconds of the cluster's clock that the caches have to fill
_RESET = "the API server died: connection reset by peer"
_KEYS: list[bytes] = []   # the signing key is drawn once a process: it signs nothing that is compared

Wrap = Callable[[Transport, str], Transport]   # what lies between a component and the server, by the component's name


def plainly(transport: Transport, component: str) -> Transport:
    """Nothing lies between."""
    return transport


@dataclass(eq=False, slots=True)
class _Under:
    """Something under way in a task that ends with the life."""

    task: asyncio.Task[object]
    cut: bool = False


class _Life:
    """One start of the server side. `store` and `wire` are the only ways to its store and its server."""

    def __init__(self, store: Store) -> None:
        self.dead = False
        self.store = _Handle(store)
        self.server: ApiServer | None = None
        self.stack = AsyncExitStack()
        self.started = asyncio.Event()          # `start` is over, well or not
        self._under_way: dict[_Under, None] = {}
        self._watches: dict[asyncio.Future[None], None] = {}

    @contextmanager
    def under_way(self, begun: bool = False) -> Iterator[None]:
        """What the block awaits is interrupted by the end of this life, as ConnectionResetError. `begun`: that may be
        over already, with what is now to be awaited."""
        if self.dead and not begun:
            raise ConnectionResetError(_RESET)
        task = asyncio.current_task()
        assert task is not None
        before, under = task.cancelling(), _Under(task)
        self._under_way[under] = None
        if self.dead:
            under.cut = True
            task.cancel()
        try:
            yield
        except asyncio.CancelledError:
            if under.cut and task.uncancel() <= before:
                raise ConnectionResetError(_RESET) from None
            raise
        except BaseException:
            if under.cut:
                task.uncancel()
            raise
        else:
            if under.cut:      # done in the very instant of the kill: the answer did not get out
                task.uncancel()
                raise ConnectionResetError(_RESET)
        finally:
            self._under_way.pop(under, None)

    def kill(self) -> None:
        """From here on nothing is read, written or answered. Also from within one of its own requests, whose next
        await is its last."""
        self.dead = True
        self.store.cut()
        for under in self._under_way:
            under.cut = True
            under.task.cancel()
        for watch in tuple(self._watches):
            if not watch.done():
                watch.set_exception(ConnectionResetError(_RESET))
                watch.exception()       # a watcher that went away does not make it "never retrieved"

    def until_death(self, over: asyncio.Future[None]) -> asyncio.Future[None]:
        """Done when `over` is, as it is; or reset, when this life ends before."""
        ours: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watches[ours] = None

        def ended(over: asyncio.Future[None]) -> None:
            self._watches.pop(ours, None)
            if ours.done() or over.cancelled():
                return
            error = over.exception()
            if error is not None:
                ours.set_exception(error)
                ours.exception()
            else:
                ours.set_result(None)

        over.add_done_callback(ended)
        return ours


class _Handle(StoreOver):
    """A life's own hold on the store: when the life is over, its server cannot write or read any more, and is told
    of nothing."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._ends: list[Callable[[], None]] = []
        self.commit = store.commit      # type: ignore[method-assign]  # each write takes this way

    def subscribe(self, tell: Callable[[Change], None], *, after: int) -> Callable[[], None]:
        end = super().subscribe(tell, after=after)
        self._ends.append(end)
        return end

    def cut(self) -> None:
        if self.inner is not _NOTHING:
            self.inner = _NOTHING
            del self.commit             # goes to `inner` again
        for end in self._ends:
            end()

    async def close(self) -> None:
        """The store outlives the server."""


class _Nothing:
    def __getattr__(self, name: str) -> NoReturn:
        raise StoreFailure("the server is dead")


_NOTHING = cast(Store, _Nothing())


class _Wire:
    """The way to one life's server."""

    def __init__(self, life: _Life, server: ApiServer) -> None:
        self._life = life
        self._server = server

    async def send(self, request: Request) -> Response:
        life = self._life
        if life.dead:
            raise ConnectionResetError(_RESET)
        if request.user is None and request.peer_certificate is None:
            request.user = ADMIN
        answer = self._server.begin(request, encoded=False)
        if isinstance(answer, Response):
            response = answer
            if life.dead:      # done in the very instant of the kill: the answer did not get out
                raise ConnectionResetError(_RESET)
        else:
            with life.under_way(begun=True):
                response = await answer
        if response.watch is not None and isinstance(response.watch, DirectWatch):
            response.watch = _Followed(life, response.watch)
        return response

    async def close(self) -> None:
        return None


class _Followed(DirectWatch):
    """A watch on a server that may die: it then ends with a reset, whatever the server still had for it."""

    def __init__(self, life: _Life, inner: DirectWatch) -> None:
        self._life = life
        self._inner = inner

    def __aiter__(self) -> _Followed:
        return self

    async def __anext__(self) -> tuple[WatchLine, ...]:
        try:
            batch = None if self._life.dead else await anext(self._inner)
        except StopAsyncIteration:
            if not self._life.dead:
                raise
            batch = None
        if batch is None or self._life.dead:
            raise ConnectionResetError(_RESET)
        return batch

    def subscribe(self, tell: Tell) -> asyncio.Future[None]:
        return self._life.until_death(self._inner.subscribe(tell))

    def redirect(self, tell: Tell) -> None:
        self._inner.redirect(tell)

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Door:
    """A transport that leads to whichever server is there now, and refuses while there is none."""

    def __init__(self) -> None:
        self.wire: _Wire | None = None

    def send(self, request: Request) -> Coroutine[Any, Any, Response]:
        if self.wire is None:
            raise ConnectionRefusedError("the API server is down")
        return self.wire.send(request)

    async def close(self) -> None:
        return None


class ControlPlane:
    """`start`, perhaps `crash` or `kill` and `start` again, `close`. The store stays the caller's.

    `wrap` is asked for what lies between each component ("kube-controller-manager", "kube-scheduler", and whoever
    calls `transport`) and the server: for faults. `given` is what the store has been filled with (see `prepared`),
    `signing` what requests for certificates are signed with. A later start over the same store begins with what the
    earlier ones had acknowledged, and nothing else.
    """

    def __init__(
        self, store: Store, settings: Settings, clock: Clock, randomness: Randomness, *,
        kubelets: Kubelets | None = None, wrap: Wrap = plainly, given: Mapping[str, Entry] | None = None,
        signing: Signing | None = None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._randomness = randomness
        self._kubelets = kubelets
        self._wrap = wrap
        self._given = given
        self._signing = signing
        self._door = _Door()
        # Told of each server when it is there, and of none (None) when it is not any more.
        self.followers: list[Callable[[ApiServer | None], None]] = []
        self._life: _Life | None = None
        self._burial: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self.crashes = 0
        self.manager: ControllerManager | None = None
        self.scheduler: Scheduler | None = None

    @property
    def server(self) -> ApiServer | None:
        """None while it is down."""
        return self._life.server if self._life is not None and self._door.wire is not None else None

    @property
    def idle(self) -> bool:
        """Controllers and scheduler have nothing to do now."""
        return self.manager is not None and self.scheduler is not None and self.manager.idle and self.scheduler.idle

    def transport(self, component: str) -> Transport:
        """A way to the server for somebody outside of it, that outlives a crash."""
        return self._wrap(self._door, component)

    async def start(self) -> None:
        """Return when the objects every cluster has are there and the controllers' caches are filled.

        Raises ConnectionResetError if it is killed meanwhile, and TimeoutError if the caches do not fill."""
        if self._burial is not None and self._burial is not asyncio.current_task():
            await self._buried()
        if self._life is not None:
            raise RuntimeError("the control plane runs already")
        life = self._life = _Life(self._store)
        try:
            with life.under_way():
                await self._start(life)
        except BaseException:
            if not life.dead:           # nobody else will clear it away
                life.started.set()
                self.kill()
                await self._buried()
            raise
        finally:
            life.started.set()

    async def _start(self, life: _Life) -> None:
        if not _KEYS:
            _KEYS.append(private_pem(new_key(Randomness())))
        garbage.calm()
        life.stack.callback(garbage.resume)
        clock, randomness = self._clock, self._randomness
        server = ApiServer(
            life.store, RESOURCES, clock, randomness.fork(), service_cidr=self._settings.service_cidr,
            kubelets=self._kubelets,
        )
        secure(server, TokenIssuer(_ISSUER, _KEYS[0], clock, randomness.fork()), clock, randomness)
        life.stack.push_async_callback(server.close)
        given, self._given = self._given, None
        await server.start(given)
        life.server, wire = server, _Wire(life, server)
        if given is None:
            own = Client(wire, agent="pinnace", user=ADMIN)
            await bootstrap.ensure_access(own)
            await bootstrap.ensure(own, self._settings, address="", port=0)
        self._door.wire = wire
        for follow in self.followers:
            follow(server)
        await self._start_loops(life, wire, server)

    async def _start_loops(self, life: _Life, wire: _Wire, server: ApiServer) -> None:
        clock, randomness = self._clock, self._randomness

        def client(agent: str, user: User | None) -> Client:
            component = agent.partition("/")[0]
            return Client(self._wrap(wire, component), agent=agent, user=user or _MANAGER)

        options = Options(cluster_cidr=self._settings.pod_cidr, signing=self._signing)
        manager = self.manager = ControllerManager(client, clock, randomness.fork(), options)
        scheduling = client("kube-scheduler", _SCHEDULER)
        informers = Informers(scheduling, clock, randomness.fork())
        scheduler = self.scheduler = Scheduler(scheduling, informers, clock, randomness.fork())
        explain(server, scheduler)
        parts = await life.stack.enter_async_context(Supervisor(clock))
        parts.start("controllers", manager.run)
        parts.start("scheduler's informers", informers.run)
        parts.start("scheduler", scheduler.run)
        async with asyncio.timeout(_STARTING):
            await manager.ready.wait()

    def kill(self, *, restart_after: float | None = None) -> None:
        """End the server and its loops in this very instant, wherever they stand; callable from within a request.

        Callers of requests under way get ConnectionResetError, watches are reset, and nobody of the dead server
        writes anything more. With `restart_after` it starts again after so many seconds (and, killed while
        starting, again). Nothing happens while it is down already."""
        life = self._life
        if life is None:
            return
        self.crashes += 1
        if self._door.wire is not None:
            for follow in self.followers:
                follow(None)
        self._life = self._door.wire = self.manager = self.scheduler = None
        life.kill()
        again = None if self._closing.is_set() else restart_after
        self._burial = asyncio.create_task(self._bury(life, self._burial, again), name="control plane's end")

    async def _bury(self, life: _Life, earlier: asyncio.Task[None] | None, restart_after: float | None) -> None:
        """Take away what is left of a dead life; then perhaps begin the next."""
        await life.started.wait()
        await life.stack.aclose()
        if earlier is not None:
            await asyncio.gather(earlier, return_exceptions=True)
        if restart_after is None:
            return
        try:
            async with asyncio.timeout(restart_after):
                await self._closing.wait()
                return
        except TimeoutError:
            pass
        if self._life is None:
            try:
                await self.start()
            except ConnectionResetError:
                log.info("the control plane was killed while it started")

    async def _buried(self) -> None:
        while (burial := self._burial) is not None:
            await asyncio.gather(burial, return_exceptions=True)
            if self._burial is burial:
                self._burial = None

    async def crash(self, *, restart_after: float | None = None) -> None:
        """`kill`, and return when nothing of it is left in memory (and, with `restart_after`, when it is up again)."""
        self.kill(restart_after=restart_after)
        await self._buried()

    async def up(self) -> None:
        """Return once a restart that is under way is done; at once if there is none."""
        await self._buried()

    async def close(self) -> None:
        """End it for good. Nothing of it is left: no task, no watch."""
        self._closing.set()
        self.kill()
        await self._buried()
