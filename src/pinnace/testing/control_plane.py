"""API server, controllers and scheduler of one cluster in this process, over a store that outlives them.

What `cluster.control_plane` does for a server process, without files, sockets and certificates. The server side can
be crashed and started again over the same store; nodes and users, who hold `transport`, live through that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack

from cryptography.hazmat.primitives.asymmetric import ec

from pinnace.apiserver.authentication.tokens import TokenIssuer
from pinnace.apiserver.cache import Entry
from pinnace.apiserver.inprocess import ADMIN, InProcessTransport
from pinnace.apiserver.kubelet_proxy import Kubelets
from pinnace.apiserver.resources.table import RESOURCES
from pinnace.apiserver.server import ApiServer
from pinnace.base.clock import Clock
from pinnace.base.randomness import Randomness
from pinnace.base.supervisor import Supervisor
from pinnace.client.client import Client
from pinnace.client.informer import Informers
from pinnace.client.transport import Request, Response, Transport, User
from pinnace.cluster import bootstrap
from pinnace.cluster.certificates import private_pem
from pinnace.cluster.security import secure
from pinnace.cluster.settings import Settings
from pinnace.controllers.manager import ControllerManager, Options
from pinnace.scheduler.scheduler import Scheduler
from pinnace.store.memory import MemoryStore
from pinnace.store.store import Store
from pinnace.testing import garbage
from pinnace.testing.prepared import prepared

_ISSUER = "https://kubernetes.default.svc.cluster.local"
_MANAGER = User("system:kube-controller-manager", groups=("system:authenticated",))
_SCHEDULER = User("system:kube-scheduler", groups=("system:authenticated",))
_STARTING = 60.0          # seconds of the cluster's clock that the caches have to fill
_KEYS: list[bytes] = []   # the signing key is drawn once a process: it signs nothing that is compared

Wrap = Callable[[Transport, str], Transport]   # what lies between a component and the server, by the component's name


def plainly(transport: Transport, component: str) -> Transport:
    """Nothing lies between."""
    return transport


class _Door:
    """A transport that leads to whichever server is there now, and refuses while there is none."""

    def __init__(self) -> None:
        self.server: ApiServer | None = None

    async def send(self, request: Request) -> Response:
        if self.server is None:
            raise ConnectionRefusedError("the API server is down")
        return await InProcessTransport(self.server).send(request)

    async def close(self) -> None:
        return None


class ControlPlane:
    """`start`, perhaps `crash` and `start` again, `close`. The store stays the caller's.

    `wrap` is asked for what lies between each component ("kube-controller-manager", "kube-scheduler", and whoever
    calls `transport`) and the server: for faults. Raises TimeoutError if the caches do not fill.
    """

    def __init__(
        self, store: Store, settings: Settings, clock: Clock, randomness: Randomness, *,
        kubelets: Kubelets | None = None, wrap: Wrap = plainly,
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._randomness = randomness
        self._kubelets = kubelets
        self._wrap = wrap
        self._door = _Door()
        self._stack = AsyncExitStack()
        self.manager: ControllerManager | None = None
        self.scheduler: Scheduler | None = None

    @property
    def server(self) -> ApiServer | None:
        """None while it is down."""
        return self._door.server

    @property
    def idle(self) -> bool:
        """Controllers and scheduler have nothing to do now."""
        return self.manager is not None and self.scheduler is not None and self.manager.idle and self.scheduler.idle

    def transport(self, component: str) -> Transport:
        """A way to the server for somebody outside of it, that outlives a crash."""
        return self._wrap(self._door, component)

    async def start(self) -> None:
        """Return when the objects every cluster has are there and the controllers' caches are filled."""
        if not _KEYS:
            _KEYS.append(private_pem(ec.generate_private_key(ec.SECP256R1())))
        garbage.calm()
        self._stack.callback(garbage.resume)
        clock, randomness = self._clock, self._randomness
        server = ApiServer(
            self._store, RESOURCES, clock, randomness.fork(), service_cidr=self._settings.service_cidr,
            kubelets=self._kubelets,
        )
        secure(server, TokenIssuer(_ISSUER, _KEYS[0], clock, randomness.fork()), clock, randomness)
        await self._fill(server)
        self._door.server = server
        await self._start_loops(server)

    async def _fill(self, server: ApiServer) -> None:
        """Start the server; an empty store begins with what each cluster has, and another gets what it lacks."""
        fresh = isinstance(self._store, MemoryStore) and not self._store.revision
        decoded: Mapping[str, Entry] = {}
        if isinstance(self._store, MemoryStore) and fresh:
            ready = prepared(self._settings, self._clock.now())
            self._store.adopt(ready.snapshot)
            decoded = ready.decoded
        await server.start(decoded)
        self._stack.push_async_callback(server.close)
        if not fresh:
            own = Client(InProcessTransport(server), agent="pinnace", user=ADMIN)
            await bootstrap.ensure_access(own)
            await bootstrap.ensure(own, self._settings, address="", port=0)

    async def _start_loops(self, server: ApiServer) -> None:
        clock, randomness = self._clock, self._randomness

        def client(agent: str, user: User | None) -> Client:
            component = agent.partition("/")[0]
            return Client(self._wrap(InProcessTransport(server), component), agent=agent, user=user or _MANAGER)

        options = Options(cluster_cidr=self._settings.pod_cidr)
        self.manager = ControllerManager(client, clock, randomness.fork(), options)
        scheduling = client("kube-scheduler", _SCHEDULER)
        informers = Informers(scheduling, clock, randomness.fork())
        self.scheduler = Scheduler(scheduling, informers, clock, randomness.fork())
        parts = await self._stack.enter_async_context(Supervisor(clock))
        parts.start("controllers", self.manager.run)
        parts.start("scheduler's informers", informers.run)
        parts.start("scheduler", self.scheduler.run)
        async with asyncio.timeout(_STARTING):
            await self.manager.ready.wait()

    async def crash(self) -> None:
        """End the server and its loops where they stand; what they had not committed is lost."""
        self._door.server = None
        self.manager = self.scheduler = None
        await self._stack.aclose()

    async def close(self) -> None:
        await self.crash()
