"""API server, controllers and scheduler in one process, sharing memory through the in-process transport."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import TYPE_CHECKING

import msgspec
import uvloop

from pinnace.api.core import v1 as core
from pinnace.apiserver.authentication.tokens import TokenIssuer
from pinnace.apiserver.http import HttpFront, server_context
from pinnace.apiserver.inprocess import ADMIN, InProcessTransport
from pinnace.apiserver.kubelet_proxy import KubeletProxy
from pinnace.apiserver.resources.table import RESOURCES
from pinnace.apiserver.server import ApiServer
from pinnace.base.clock import Clock, SystemClock
from pinnace.base.errors import UserError
from pinnace.base.randomness import Randomness
from pinnace.base.supervisor import Supervisor
from pinnace.client.client import Client
from pinnace.client.https import client_context
from pinnace.client.informer import Informers
from pinnace.client.transport import User
from pinnace.cluster import bootstrap, log, processes
from pinnace.cluster.certificates import (
    Authority,
    KeyPair,
    NodeCertificates,
    load_or_create_authority,
    load_or_create_signing_key,
)
from pinnace.cluster.credentials import Credentials, Identity
from pinnace.cluster.credentials import read as read_credentials
from pinnace.cluster.explaining import explain
from pinnace.cluster.layout import Layout, cgroup_root
from pinnace.cluster.node_processes import NodeProcess
from pinnace.cluster.progress import Progress
from pinnace.cluster.readiness import wait_for_dns, wait_for_leases, wait_for_nodes
from pinnace.cluster.security import secure
from pinnace.cluster.settings import DOMAIN, Settings, signing_duration
from pinnace.controllers.certificates.signer import Signing
from pinnace.controllers.manager import ControllerManager, Options
from pinnace.scheduler.scheduler import Scheduler
from pinnace.store import Store, StoreFailure, open_store

if TYPE_CHECKING:
    # Imported where they are used: a machine may have no containers, a cluster no simulated nodes.
    from pinnace.kubelet.simulated import SimulatedNodes
    from pinnace.network.fabric import Fabric, NodeNetwork

logger = logging.getLogger("pinnace.cluster")

_FIRST_PORT = 6443
_LAST_REQUESTS = 0.4        # seconds that requests under way have at the server's end
_TALKATIVE = 20            # so many simulated nodes tell of every container that starts
_STATUSES = 4              # of simulated pods are written at a time: pods that have still to be bound go first
_ISSUER = "https://kubernetes.default.svc.cluster.local"
_SCHEDULER = User("system:kube-scheduler", groups=("system:authenticated",))
_MANAGER = User("system:kube-controller-manager", groups=("system:authenticated",))


def main(layout: Layout) -> None:
    log.setup(layout.logs / "server.log")
    processes.settle_garbage_collector()
    uvloop.run(_run(layout))


async def _run(layout: Layout) -> None:
    clock, randomness = SystemClock(), Randomness()
    progress = _Steps(layout, clock)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # A terminal that closes is no reason to end. (Ignoring it would be inherited by the nodes.)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, log.note_hangup)
    try:
        plane = ControlPlane(layout, clock, randomness, progress)
        await plane.run(stop)
    except (UserError, StoreFailure, OSError) as error:
        logger.error("the cluster cannot start: %s", error)
        progress.fail(str(error))
        raise SystemExit(1) from error
    except Exception as error:
        progress.fail(f"the server process failed: {error}")
        raise


class _Steps:
    """What is told to whoever waits for the start."""

    def __init__(self, layout: Layout, clock: Clock) -> None:
        self._path = layout.run / "progress.json"
        self._clock = clock
        self._begun = clock.monotonic()
        self._state = Progress()

    def done(self, step: str) -> None:
        self._state.steps[step] = round(self._clock.monotonic() - self._begun, 3)
        self._state.write(self._path)

    def ready(self, server: str) -> None:
        self._state.ready, self._state.server = True, server
        self._state.write(self._path)

    def fail(self, why: str) -> None:
        self._state.error = why
        self._state.write(self._path)


@dataclass(frozen=True, slots=True)
class _Ground:
    """What the API server stands on."""

    settings: Settings
    authority: Authority
    fabric: Fabric | None
    nodes: Sequence[NodeNetwork]

    @property
    def gateway(self) -> str:
        return self.fabric.gateway if self.fabric is not None else ""

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.settings.api_port}"

    def pod_socket(self, family: int, kind: int) -> socket.socket:
        """A socket from which pods can be reached: a node's. Several clusters have the same pod addresses."""
        if not self.nodes:
            raise OSError("simulated pods have no network")
        from pinnace.network import namespaces  # which simulated clusters need not load

        return namespaces.run_in(self.nodes[0].path, socket.socket, family, kind)


class ControlPlane:
    """One cluster's server process from its start to its end."""

    def __init__(self, layout: Layout, clock: Clock, randomness: Randomness, steps: _Steps) -> None:
        self._layout = layout
        self._clock = clock
        self._randomness = randomness
        self._steps = steps
        self._begun = clock.now()

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop`. Nodes and containers go on without it."""
        ground = self._prepare()
        settings = ground.settings
        store = await open_store("memory" if settings.store == "memory" else "sqlite", self._layout.store, self._clock)
        server = self._server(store, ground)
        await server.start()
        front = HttpFront(server)
        try:
            context = self._serving_context(ground)
            for host in ("127.0.0.1", ground.gateway):
                if host:
                    await front.listen(host, settings.api_port, context)
            self._steps.done("API server")
            admin = Client(InProcessTransport(server), agent="pinnace")
            await bootstrap.ensure_access(admin)
            self._steps.done("access")
            fresh, changed = self._hand_over(ground)
            async with Supervisor(self._clock) as parts:
                for node in settings.node_names():
                    process = NodeProcess(self._layout, node, self._clock, renew=node in changed)
                    parts.start(f"node {node}", process.run)
                await bootstrap.ensure(admin, settings, address=ground.gateway, port=settings.api_port)
                self._steps.done("bootstrap objects")
                simulated = self._start_loops(parts, server, ground)
                waiting = asyncio.create_task(self._announce(admin, ground, fresh | changed, simulated))
                try:
                    await stop.wait()
                finally:
                    waiting.cancel()
                    await asyncio.gather(waiting, return_exceptions=True)
        finally:
            # Connections end once their watches do, and nobody may come back for a new one meanwhile.
            with contextlib.suppress(TimeoutError):
                await asyncio.gather(asyncio.wait_for(front.close(), _LAST_REQUESTS), server.close())
            await store.close()

    # ------------------------------------------------------------------------------------------ what it stands on

    def _prepare(self) -> _Ground:
        layout, now = self._layout, self._clock.now()
        settings = self._settled(layout.load())
        authority = load_or_create_authority(layout.pki, "kubernetes", now)
        admin = authority.issue("kubernetes-admin", organizations=["system:masters"], now=now)
        admin.write(layout.pki, "admin")
        fabric: Fabric | None = None
        nodes: list[NodeNetwork] = []
        if settings.nodes:
            from pinnace.network.fabric import Fabric

            fabric = Fabric(
                settings.name,
                settings.node_subnet,
                service_cidrs=(settings.service_cidr,),
                cluster_cidrs=(settings.pod_cidr,),
                egress=settings.egress,
            )
            fabric.create()
            for node in fabric.nodes():
                if node.name not in settings.node_names():
                    fabric.remove_node(node.name)
            nodes = [fabric.add_node(name) for name in settings.node_names()]
            self._steps.done("network")
        return _Ground(settings, authority, fabric, nodes)

    def _settled(self, settings: Settings) -> Settings:
        """What the owner left open is chosen once, and kept."""
        changes: dict[str, object] = {}
        if not _is_free(settings.api_port):
            changes["api_port"] = _free_port()
            if settings.api_port:
                logger.warning("port %d is taken: the API server moves to %d", settings.api_port, changes["api_port"])
        if settings.nodes and not settings.node_subnet:
            from pinnace.network.fabric import free_subnet, networks_in_use

            changes["node_subnet"] = free_subnet(networks_in_use())
        if changes:
            settings = msgspec.structs.replace(settings, **changes)
            self._layout.save(settings)
        return settings

    def _server(self, store: Store, ground: _Ground) -> ApiServer:
        layout, settings = self._layout, ground.settings
        key = load_or_create_signing_key(layout.pki / "sa.key")
        issuer = TokenIssuer(_ISSUER, key, self._clock, self._randomness.fork())
        server = ApiServer(
            store,
            RESOURCES,
            self._clock,
            self._randomness.fork(),
            kubelets=KubeletProxy(self._kubelet_context(ground), ground.pod_socket),
            address=f"{ground.gateway or '127.0.0.1'}:{settings.api_port}",
            service_cidr=settings.service_cidr,
        )
        secure(server, issuer, self._clock, self._randomness)
        return server

    def _serving_context(self, ground: _Ground) -> ssl.SSLContext:
        hosts = [
            "127.0.0.1", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
            f"kubernetes.default.svc.{DOMAIN}", ground.settings.kubernetes_ip,
        ]  # fmt: skip
        if ground.gateway:
            hosts.append(ground.gateway)
        pair = ground.authority.issue("kube-apiserver", hosts=hosts, now=self._clock.now(), server=True, client=False)
        certificate, key = pair.write(self._layout.pki, "apiserver")
        return server_context(str(certificate), str(key), client_ca_text=ground.authority.certificate.decode())

    def _kubelet_context(self, ground: _Ground) -> ssl.SSLContext:
        pair = ground.authority.issue(
            "kube-apiserver-kubelet-client", organizations=["system:masters"], now=self._clock.now()
        )
        paths = pair.write(self._layout.pki, "apiserver-kubelet-client")
        return client_context(ca=ground.authority.certificate, certificate=paths[0], key=paths[1])

    # ------------------------------------------------------------------------------------------------- the nodes

    def _hand_over(self, ground: _Ground) -> tuple[set[str], set[str]]:
        """Give each node its identity and its place. Returns the nodes that have just begun, and those that run with
        a hand-over that does not hold any more; the others keep what they were given."""
        ranges = IPv4Network(ground.settings.pod_cidr).subnets(new_prefix=_node_prefix(ground.settings.pod_cidr))
        fresh, changed = set(), set()
        for network, pod_cidr in zip(ground.nodes, ranges, strict=False):
            path = self._layout.node(network.name).credentials
            old, new = read_credentials(path), self._credentials(ground, network, str(pod_cidr))
            if old is None:
                fresh.add(network.name)
            elif old.place() != new.place():
                changed.add(network.name)
            new.write(path)
        return fresh, changed

    def _credentials(self, ground: _Ground, network: NodeNetwork, pod_cidr: str) -> Credentials:
        settings, authority, now = ground.settings, ground.authority, self._clock.now()
        layout = self._layout.node(network.name)
        kubelet = authority.issue(
            f"system:node:{network.name}", organizations=["system:nodes"], now=now,
            life=signing_duration(settings.cluster_signing_duration),
        )  # fmt: skip
        proxy = authority.issue("system:kube-proxy", organizations=["system:node-proxier"], now=now)
        serving = authority.issue(
            f"system:node:{network.name}", organizations=["system:nodes"], hosts=[network.name, network.ip], now=now,
            server=True, client=False,
        )  # fmt: skip
        return Credentials(
            node=network.name,
            cluster=settings.name,
            server=f"https://{network.gateway}:{settings.api_port}",
            ca=authority.certificate.decode(),
            kubelet=_identity(kubelet),
            proxy=_identity(proxy),
            serving=_identity(serving),
            netns=network.path,
            ip=network.ip,
            pod_cidr=pod_cidr,
            cluster_cidr=settings.pod_cidr,
            service_cidr=settings.service_cidr,
            dns_ip=settings.dns_ip,
            domain=DOMAIN,
            egress=settings.egress,
            runtime_root=str(layout.runtime),
            image_root=str(self._layout.home.images),
            network_root=str(layout.network),
            kubelet_root=str(layout.kubelet),
            log_root=str(layout.path / "pod-logs"),
            cgroup_root=cgroup_root(settings.name, network.name),
        )

    # ------------------------------------------------------------------------------------------------- the loops

    def _start_loops(self, parts: Supervisor, server: ApiServer, ground: _Ground) -> SimulatedNodes | None:
        settings, clock = ground.settings, self._clock
        duration = signing_duration(settings.cluster_signing_duration)

        def client(agent: str, user: User | None) -> Client:
            return Client(InProcessTransport(server), agent=agent, user=user or _MANAGER)

        manager = ControllerManager(
            client,
            clock,
            self._randomness.fork(),
            Options(
                root_ca=ground.authority.certificate.decode(), cluster_cidr=settings.pod_cidr,
                signing=Signing(lambda: ground.authority, self._randomness.fork(), duration),
            ),
        )
        scheduling = client("kube-scheduler", _SCHEDULER)
        informers = Informers(scheduling, clock, self._randomness.fork())
        scheduler = Scheduler(scheduling, informers, clock, self._randomness.fork())
        explain(server, scheduler)
        parts.start("controllers", manager.run)
        parts.start("scheduler's informers", informers.run)
        parts.start("scheduler", scheduler.run)
        if not settings.simulated_nodes:
            return None
        from pinnace.kubelet.simulated import Life, SimulatedKubelets, SimulatedNodes  # which take long to load

        nodes = Client(InProcessTransport(server), agent="simulated-nodes", user=ADMIN)
        names, chance = settings.simulated_names(), self._randomness.fork()
        server.kubelets = kubelets = SimulatedKubelets(server.kubelets)
        # Events of what goes well would be most of what thousands of nodes write.
        life = Life(quiet=len(names) > _TALKATIVE)
        issuer = NodeCertificates(lambda: ground.authority, duration, self._randomness.fork())
        simulated = SimulatedNodes(
            nodes, names, clock=clock, randomness=chance, life=life, kubelets=kubelets, issuer=issuer,
            statuses=_STATUSES,
        )
        parts.start("simulated nodes", simulated.run)
        return simulated

    async def _announce(
        self, client: Client, ground: _Ground, fresh: Collection[str], simulated: SimulatedNodes | None
    ) -> None:
        """Say "ready" once all nodes are, and DNS answers. What the API says of nodes that have just begun may be
        years old: those must have renewed their leases since."""
        names = (*ground.settings.node_names(), *ground.settings.simulated_names())
        await bootstrap.forget_nodes(client, ground.settings)
        if simulated is not None:
            await simulated.registered.wait()
        await wait_for_leases(client, fresh, self._begun)
        await wait_for_nodes(client, names)
        if names:
            self._steps.done("nodes")
        if ground.nodes:
            await wait_for_dns([network.ip for network in ground.nodes], self._clock)
            self._steps.done("DNS")
        await client.get(core.Namespace, "default")
        self._steps.ready(ground.url)


def _identity(pair: KeyPair) -> Identity:
    return Identity(pair.certificate.decode(), pair.key.decode())


def _node_prefix(pod_cidr: str) -> int:
    """A /24 for each node, as the controllers' node IPAM gives; smaller ranges are split into eight."""
    return max(24, min(28, IPv4Network(pod_cidr).prefixlen + 3))


def _free_port() -> int:
    """The first that is free from 6443 on, and if there is none, any."""
    for port in range(_FIRST_PORT, _FIRST_PORT + 100):
        if _is_free(port):
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return port > 0
