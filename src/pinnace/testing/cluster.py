"""A whole control plane in this process, on the loop that runs the test: simulated time or real.

`Cluster` puts a `ControlPlane` over a store, simulated nodes, and the verbs that a test wants (`verbs`). On a
`VirtualLoop` time is simulated; on any other loop it is real, and `kubeconfig` lets other programs in.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from pinnace.apiserver.inprocess import ADMIN
from pinnace.base.clock import SystemClock
from pinnace.base.randomness import Randomness
from pinnace.base.supervisor import Supervisor
from pinnace.client.client import Client
from pinnace.client.transport import Request, Response
from pinnace.cluster.certificates import NodeCertificates
from pinnace.cluster.settings import SIGNING_DURATION, Settings, signing_duration
from pinnace.controllers.certificates.signer import Signing
from pinnace.kubelet.simulated import LEASES, Life, Lives, SimulatedKubelets, SimulatedNodes
from pinnace.store import Bounds, MemoryStore, Store, open_store
from pinnace.testing import authority
from pinnace.testing.control_plane import ControlPlane
from pinnace.testing.faults import Faults
from pinnace.testing.loop import VirtualClock, VirtualLoop
from pinnace.testing.manifests import resolve
from pinnace.testing.network import Network, serve
from pinnace.testing.prepared import START, fill
from pinnace.testing.verbs import Verbs

if TYPE_CHECKING:
    from pinnace.testing.net.serving import Served  # what HTTP needs, which most tests need not load

__all__ = ["START", "Cluster", "resolve"]

_USER = "user"           # the component that the test itself is
# Longer than a server keeps it: a test asks why after it has let hours pass.
_HISTORY = Bounds(seconds=3600.0, nbytes=64 * 1024 * 1024)
_STARTING = 60.0          # seconds a cluster has to come up
_QUIET = {"virtual": 2.0, "real": 0.5}       # seconds without a write, after which a cluster has settled

Time = Literal["virtual", "real"]
Engine = Literal["memory", "sqlite"]
Stages = Sequence[Mapping[str, Any] | str] | str


class Patient:
    """The test's own way to the server: while it is down, it waits, and asks again for what it only reads."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._plane = control_plane
        self._inner = control_plane.transport(_USER)

    async def send(self, request: Request) -> Response:
        await self._plane.up()
        try:
            return await self._inner.send(request)
        except ConnectionError:
            if request.method != "GET":
                raise
        await self._plane.up()
        return await self._inner.send(request)

    async def close(self) -> None:
        await self._inner.close()


class Cluster(Verbs):
    """A cluster for one test, entered on the loop that it runs on.

    ```python
    async with Cluster(nodes=3, seed=7) as cluster:
        await cluster.apply(Path("web.yaml"))
        await cluster.wait_for("pods", "web-0", condition="Ready", timeout=60)
    ```

    `time` is "virtual" (needs a `VirtualLoop`) or "real" (any other loop). `store` is "memory", or "sqlite" in real
    time: its data lies in a temporary directory, which goes with the cluster. `life` and `stages` say what becomes of
    simulated pods (`pinnace.kubelet.simulated`). `cluster_signing_duration` ("4h") is how long certificates last, those
    of nodes among them. With `faults`, about that share of all requests of the cluster's own
    parts meets one, drawn from the seed; `cluster.faults` takes rules at any time.
    """

    client: Client

    def __init__(
        self, *, nodes: int = 1, seed: int = 0, time: Time = "virtual", store: Engine = "memory",
        life: Life | Lives | None = None, stages: Stages = (), faults: float = 0.0,
        cluster_signing_duration: str = SIGNING_DURATION,
    ) -> None:
        if time not in ("virtual", "real"):
            raise ValueError(f'time must be "virtual" or "real", not {time!r}')
        if store not in ("memory", "sqlite"):
            raise ValueError(f'store must be "memory" or "sqlite", not {store!r}')
        if store == "sqlite" and time == "virtual":
            raise ValueError('the sqlite store writes in a thread, which cannot be simulated: it needs time="real"')
        if nodes < 0:
            raise ValueError(f"a cluster cannot have {nodes} nodes")
        self.time: Time = time
        self.seed = seed
        self._engine = store
        self._life = life
        self._stages = stages
        self._rate = faults
        self._signing_duration = signing_duration(cluster_signing_duration)
        self._settings = Settings(nodes=0, simulated_nodes=nodes, store=store)
        self._stack = AsyncExitStack()
        self._directory: Path | None = None
        self._kubeconfig: Path | None = None
        self._served: dict[str, Served] = {}

    async def __aenter__(self) -> Cluster:
        self._loop = asyncio.get_running_loop()
        virtual = isinstance(self._loop, VirtualLoop)
        if virtual != (self.time == "virtual"):
            raise RuntimeError(
                'simulated time needs a VirtualLoop (see pinnace.testing.simulate), or say time="real"'
                if not virtual else 'time="real" cannot pass on a VirtualLoop: use an ordinary loop'
            )  # fmt: skip
        self._begun = self._loop.time()
        try:
            await self._start(Randomness(self.seed))
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _start(self, randomness: Randomness) -> None:
        clock = VirtualClock(START, self._loop) if isinstance(self._loop, VirtualLoop) else SystemClock()
        given = None
        if self._engine == "memory":
            self.store: Store = MemoryStore(clock, _HISTORY)
            given = fill(self.store, self._settings, clock.now())
        else:
            self.store = await open_store(self._engine, self._directory_of_data(), clock)
        self._stack.push_async_callback(self.store.close)
        kubelets = SimulatedKubelets()
        # Keys that real programs trust are secret; those of simulated time are a part of the run.
        chance = Randomness(zlib.crc32(b"certificates %d" % self.seed) if self.time == "virtual" else None)
        self._authority = authority.simulated if self.time == "virtual" else authority.real(clock)
        signing = Signing(self._authority, chance.fork(), self._signing_duration)
        issuer = NodeCertificates(self._authority, self._signing_duration, chance.fork())
        self.faults = Faults(randomness.fork())
        self.control_plane = ControlPlane(
            self.faults.store(self.store), self._settings, clock, randomness, kubelets=kubelets, wrap=self.faults.wrap,
            given=given, signing=signing,
        )
        self._stack.push_async_callback(self.control_plane.close)
        await self.control_plane.start()
        user = Client(Patient(self.control_plane), agent="pinnace-testing", user=ADMIN)
        unit = "virtual seconds" if self.time == "virtual" else "seconds"
        super().__init__(user, clock, seed=self.seed, unit=unit)
        parts = await self._stack.enter_async_context(Supervisor(clock))
        names = self._settings.simulated_names()
        admin = Client(self.control_plane.transport("kubelet"), agent="simulated-nodes", user=ADMIN)
        self.nodes = SimulatedNodes(
            admin, names, clock=clock, randomness=randomness.fork(), life=self._life, stages=self._stages,
            kubelets=kubelets, issuer=issuer,
        )
        parts.start("simulated nodes", self.nodes.run)
        async with asyncio.timeout(_STARTING):
            await self.nodes.registered.wait()
        self.faults.attach(self.control_plane, self.nodes)
        if self._rate:
            self.faults.draw(rate=self._rate, spare=_USER)

    def _directory_of_data(self) -> Path:
        """Empty and private, gone with the cluster; a memory store needs none."""
        if self._engine == "memory":
            return Path()
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="pinnace-"))
            self._stack.callback(shutil.rmtree, self._directory, ignore_errors=True)
        return self._directory

    # ------------------------------------------------------------------------------------------------------- time

    @property
    def elapsed(self) -> float:
        """Seconds of the cluster's time since it was started."""
        return round(self._loop.time() - self._begun, 6)      # sums of timers, not their last bits

    async def advance(self, *, hours: float = 0, minutes: float = 0, seconds: float = 0) -> None:
        """Let so much time pass, with everything that happens in it. Simulated time only."""
        if not isinstance(self._loop, VirtualLoop):
            raise RuntimeError("real time cannot be advanced: wait_for what should happen, or sleep")
        await asyncio.sleep(hours * 3600 + minutes * 60 + seconds)
        await self._loop.rest()

    async def settle(self, *, quiet: float | None = None, limit: float = 600.0) -> None:
        """Run until the controllers and the scheduler rest and nothing was written for `quiet` seconds (heartbeats
        aside; 2 virtual seconds, or 0.5 real ones). Raises TimeoutError after `limit` seconds."""
        pause = _QUIET[self.time] if quiet is None else quiet
        try:
            async with asyncio.timeout(limit):
                while True:
                    before = await self._latest()
                    await asyncio.sleep(pause)
                    if isinstance(self._loop, VirtualLoop):
                        await self._loop.rest()
                    if self.control_plane.idle and await self._latest() == before:
                        return
        except TimeoutError:
            raise TimeoutError(f"not settled within {limit:g} {self._unit} (seed {self.seed})") from None

    async def _latest(self) -> int:
        """The newest revision that is no heartbeat's."""
        page = await self.store.list("")
        return max((e.modified for e in page.entries if f"/{LEASES}/" not in e.key), default=0)

    # ------------------------------------------------------------------------------------ other clients and programs

    @property
    def network(self) -> Network:
        """The network of the loop, in memory. Simulated time only."""
        if not isinstance(self._loop, VirtualLoop):
            raise RuntimeError("real time has the machine's own network: clients find the server by the kubeconfig")
        return self._loop.network

    async def serve(self, name: str = "kubernetes.default.svc") -> Served:
        """The API server's own HTTPS front on the loop's network, for clients that run on this loop: `url`,
        `kubeconfig()`, `config()`, `service_account(…)`. It ends with the cluster. Simulated time only; clusters of
        one loop need different names."""
        self.network  # noqa: B018  # or it says why not
        if name not in self._served:
            served = await serve(self.control_plane, self._loop, name=name, aliases=(), wrap=self.faults.wrap)
            self._stack.push_async_callback(served.close)
            self._served[name] = served
        return self._served[name]

    @property
    def kubeconfig(self) -> Path:
        """A kubeconfig for kubectl, helm and every client library, as an administrator: an HTTPS endpoint on
        127.0.0.1, opened when this is first asked for. It answers while the cluster's loop runs. Real time only."""
        if self.time == "virtual":
            raise RuntimeError(
                'other programs cannot wait in simulated time: a kubeconfig needs time="real". Clients that run on '
                "the test's own loop reach a simulated cluster by its network: see Cluster.serve"
            )
        if self._kubeconfig is None:
            from pinnace.testing.endpoint import Endpoint  # aiohttp's server side, which most tests need not load

            endpoint = Endpoint(self.control_plane, self._authority(), self.clock, self.faults.wrap)
            self._stack.push_async_callback(endpoint.close)
            self._kubeconfig = endpoint.open()
        return self._kubeconfig
