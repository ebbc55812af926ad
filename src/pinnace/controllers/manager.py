"""The controller manager: a table of all controllers, each under its own identity, run side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from pinnace.base.clock import Clock
from pinnace.base.randomness import Randomness
from pinnace.base.supervisor import Supervisor
from pinnace.client.client import Client
from pinnace.client.events import EventRecorder
from pinnace.client.informer import Informers
from pinnace.client.transport import User
from pinnace.controllers.certificates.approver import CsrApprover
from pinnace.controllers.certificates.cleaner import CsrCleaner
from pinnace.controllers.certificates.signer import CsrSigner, Signing
from pinnace.controllers.cluster_dns import ClusterDnsController
from pinnace.controllers.clusterrole_aggregation import ClusterRoleAggregationController
from pinnace.controllers.cronjob import CronJobController
from pinnace.controllers.daemonset import DaemonSetController
from pinnace.controllers.deployment import DeploymentController
from pinnace.controllers.dispatch import Dispatch
from pinnace.controllers.disruption import DisruptionController
from pinnace.controllers.endpoints import EndpointsController, EndpointSliceController
from pinnace.controllers.garbagecollector import GarbageCollector
from pinnace.controllers.job import JobController
from pinnace.controllers.namespace import NamespaceController
from pinnace.controllers.node_ipam import NodeIpamController
from pinnace.controllers.node_lifecycle import GRACE, NodeLifecycleController
from pinnace.controllers.plan import Controller
from pinnace.controllers.podgc import THRESHOLD, PodGarbageCollector
from pinnace.controllers.replicaset import ReplicaSetController, ReplicationControllerController
from pinnace.controllers.root_ca import RootCAPublisher
from pinnace.controllers.runner import Runner
from pinnace.controllers.serviceaccount import ServiceAccountController
from pinnace.controllers.statefulset import StatefulSetController
from pinnace.controllers.taint_eviction import TaintEvictionController
from pinnace.controllers.ttl_after_finished import TtlAfterFinishedController

MANAGER = "kube-controller-manager"
_GROUPS = ("system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated")


@dataclass(frozen=True)
class Options:
    """What the cluster decides for its controllers.

    `root_ca`: PEM text for kube-root-ca.crt (empty: not published). `cluster_cidr`: the pods' addresses, of which
    each node gets a /`node_cidr_mask` (empty: nodes bring their own). `cluster_dns`: nodes answer for kube-dns.
    `signing`: what requests for certificates are signed with (None: they are not). `disabled`: names of controllers
    that are not run.
    """

    root_ca: str = ""
    cluster_cidr: str = ""
    node_cidr_mask: int = 24
    cluster_dns: bool = True
    node_monitor_grace: float = GRACE
    terminated_pods: int = THRESHOLD
    signing: Signing | None = None
    disabled: frozenset[str] = field(default_factory=frozenset)


class Loop(Protocol):
    """A running controller: one under the runner, or a loop of its own."""

    @property
    def name(self) -> str: ...

    @property
    def idle(self) -> bool: ...

    async def run(self) -> None: ...


class Parts:
    """What a controller is made of; handed to the makers in the table."""

    def __init__(
        self,
        informers: Informers,
        client: Client,
        recorder: EventRecorder,
        clock: Clock,
        options: Options,
        dispatch: Dispatch,
    ) -> None:
        self.informers = informers
        self.client = client
        self.recorder = recorder
        self.clock = clock
        self.options = options
        self.dispatch = dispatch

    def runner(self, controller: Controller[Any]) -> Loop:
        return Runner(controller, self.client, self.recorder, clock=self.clock, dispatch=self.dispatch)


Maker = Callable[[Parts], Loop | None]


def _plain(make: Callable[[Informers], Controller[Any]]) -> Maker:
    return lambda parts: parts.runner(make(parts.informers))


def _timed(make: Callable[[Informers, Clock], Controller[Any]]) -> Maker:
    return lambda parts: parts.runner(make(parts.informers, parts.clock))


def _root_ca(parts: Parts) -> Loop | None:
    ca = parts.options.root_ca
    return parts.runner(RootCAPublisher(parts.informers, ca)) if ca else None


def _ipam(parts: Parts) -> Loop | None:
    options = parts.options
    if not options.cluster_cidr:
        return None
    return parts.runner(NodeIpamController(parts.informers, options.cluster_cidr, options.node_cidr_mask))


def _node_lifecycle(parts: Parts) -> Loop:
    grace = parts.options.node_monitor_grace
    return parts.runner(NodeLifecycleController(parts.informers, parts.clock, grace))


def _pod_gc(parts: Parts) -> Loop:
    return parts.runner(PodGarbageCollector(parts.informers, parts.clock, parts.options.terminated_pods))


def _cluster_dns(parts: Parts) -> Loop | None:
    return parts.runner(ClusterDnsController(parts.informers)) if parts.options.cluster_dns else None


def _csr_signing(parts: Parts) -> Loop | None:
    signing = parts.options.signing
    return parts.runner(CsrSigner(parts.informers, signing)) if signing is not None else None


@dataclass(frozen=True, slots=True)
class Entry:
    """A controller: its name, the service account (in kube-system) that it acts as, and how to make it.

    `component` is the source that its events name.
    """

    name: str
    account: str
    make: Maker
    component: str = ""


TABLE: tuple[Entry, ...] = (
    Entry("namespace", "namespace-controller", lambda p: NamespaceController(p.informers, p.client, p.clock)),
    Entry("serviceaccount", "service-account-controller", _plain(ServiceAccountController)),
    Entry("root-ca-certificate-publisher", "root-ca-cert-publisher", _root_ca),
    Entry("clusterrole-aggregation", "clusterrole-aggregation-controller",
          _plain(ClusterRoleAggregationController)),
    Entry("deployment", "deployment-controller", _plain(DeploymentController)),
    Entry("replicaset", "replicaset-controller", _plain(ReplicaSetController)),
    Entry("replicationcontroller", "replication-controller", _plain(ReplicationControllerController)),
    Entry("statefulset", "statefulset-controller", _plain(StatefulSetController)),
    Entry("daemonset", "daemon-set-controller", _plain(DaemonSetController), "daemonset-controller"),
    Entry("disruption", "disruption-controller", _plain(DisruptionController), "controllermanager"),
    Entry("job", "job-controller", _plain(JobController)),
    Entry("cronjob", "cronjob-controller", _plain(CronJobController)),
    Entry("ttl-after-finished", "ttl-after-finished-controller", _plain(TtlAfterFinishedController)),
    Entry("endpoints", "endpoint-controller", _plain(EndpointsController)),
    Entry("endpointslice", "endpointslice-controller", _plain(EndpointSliceController),
          "endpoint-slice-controller"),
    Entry("cluster-dns", "endpointslice-controller", _cluster_dns, "cluster-dns-controller"),
    Entry("nodeipam", "node-controller", _ipam, "cidrAllocator"),
    Entry("node-lifecycle", "node-controller", _node_lifecycle),
    Entry("taint-eviction", "node-controller", _timed(TaintEvictionController), "taint-eviction-controller"),
    Entry("podgc", "pod-garbage-collector", _pod_gc),
    Entry("garbagecollector", "generic-garbage-collector",
          lambda p: GarbageCollector(p.informers, p.client, p.recorder, p.clock)),
    Entry("csrapproving", "certificate-controller", lambda p: CsrApprover(p.informers, p.client, p.clock)),
    Entry("csrsigning", "certificate-controller", _csr_signing),
    Entry("csrcleaner", "certificate-controller", _plain(CsrCleaner)),
)  # fmt: skip


class ControllerManager:
    """Runs all controllers.

    `client_factory(agent, user)` gives a client that acts as a component under an identity; without a user it is
    the manager's own (system:kube-controller-manager), which the shared informers use. `ready` is set once all
    caches are filled.
    """

    def __init__(
        self,
        client_factory: Callable[[str, User | None], Client],
        clock: Clock,
        randomness: Randomness,
        options: Options | None = None,
    ) -> None:
        options = options or Options()
        self.ready = asyncio.Event()
        self.informers = Informers(client_factory(MANAGER, None), clock, randomness.fork())
        self.loops: list[Loop] = []
        self._clock = clock
        self._recorders: dict[str, EventRecorder] = {}
        dispatch = Dispatch()
        for entry in TABLE:
            if entry.name in options.disabled:
                continue
            client = client_factory(f"{MANAGER}/{entry.account}", service_account(entry.account))
            recorder = EventRecorder(
                client, entry.component or entry.account, clock=clock, randomness=randomness.fork()
            )
            loop = entry.make(Parts(self.informers, client, recorder, clock, options, dispatch))
            if loop is not None:
                self.loops.append(loop)
                self._recorders[entry.name] = recorder

    @property
    def idle(self) -> bool:
        """Nothing is left to do now: all queues are empty and all events sent. Timers do not count."""
        return (
            self.ready.is_set()
            and all(loop.idle for loop in self.loops)
            and all(recorder.idle for recorder in self._recorders.values())
        )

    async def run(self) -> None:
        """Run until cancelled; a controller that dies is started again."""
        try:
            async with Supervisor(self._clock, together=True) as supervisor:
                supervisor.start("informers", self.informers.run)
                for name, recorder in self._recorders.items():
                    supervisor.start(f"events of {name}", recorder.run)
                for loop in self.loops:
                    supervisor.start(loop.name, loop.run)
                await self.informers.wait_synced()
                self.ready.set()
                await asyncio.get_running_loop().create_future()
        finally:
            self.ready.clear()


def service_account(name: str) -> User:
    """The identity of a controller."""
    return User(f"system:serviceaccount:kube-system:{name}", groups=_GROUPS)
