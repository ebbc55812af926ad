"""The same cluster for tests that are plain functions: every verb without `await`.

Each method here is one line that runs the asynchronous one; a test compares their signatures, so that the two cannot
drift apart. In simulated time the loop runs during a call only, and time stands still between two. In real time a
thread turns the loop, and the cluster lives on while the test is busy.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Coroutine, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pinnace.api.core import v1 as core
from pinnace.client.client import PatchType, WatchEvent
from pinnace.cluster.settings import SIGNING_DURATION
from pinnace.kubelet.simulated import Life, Lives, SimulatedNodes
from pinnace.testing.cluster import Cluster, Engine, Stages, Time
from pinnace.testing.driving import Driver, drive
from pinnace.testing.faults import Faults
from pinnace.testing.manifests import Manifest
from pinnace.testing.network import Network
from pinnace.testing.story import Story
from pinnace.testing.verbs import Kindly, Verbs

if TYPE_CHECKING:
    from pinnace.testing.net.serving import Served

__all__ = ["SyncCluster", "SyncVerbs"]

T = TypeVar("T")
Propagation = Literal["", "Orphan", "Background", "Foreground"]


class SyncVerbs:
    """See `verbs.Verbs`, of which each method says what it does."""

    def __init__(self, verbs: Verbs, driver: Driver) -> None:
        self._verbs = verbs
        self.driver = driver

    @property
    def seed(self) -> int:
        return self._verbs.seed

    @property
    def namespace(self) -> str:
        """Where verbs look and write unless told otherwise."""
        return self._verbs.namespace

    @namespace.setter
    def namespace(self, name: str) -> None:
        self._verbs.namespace = name

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run any coroutine on the cluster's loop."""
        __tracebackhide__ = True      # of pytest's reports
        return self.driver.run(coroutine)

    def as_user(self, name: str, *groups: str) -> SyncVerbs:
        return SyncVerbs(self._verbs.as_user(name, *groups), self.driver)

    def now(self) -> datetime:
        return self._verbs.now()

    def apply(self, *manifests: Manifest, namespace: str | None = None) -> builtins.list[Any]:
        return self.run(self._verbs.apply(*manifests, namespace=namespace))

    def create(self, *manifests: Manifest, namespace: str | None = None) -> builtins.list[Any]:
        return self.run(self._verbs.create(*manifests, namespace=namespace))

    def update(self, obj: Any) -> Any:
        return self.run(self._verbs.update(obj))

    def patch(
        self, kind: Kindly, name: str, patch: Any, namespace: str | None = None, *, type: PatchType = "strategic",
        subresource: str = "",
    ) -> Any:
        return self.run(self._verbs.patch(kind, name, patch, namespace, type=type, subresource=subresource))

    def scale(self, what: Any, name: str = "", namespace: str | None = None, *, replicas: int) -> Any:
        return self.run(self._verbs.scale(what, name, namespace, replicas=replicas))

    def delete(
        self, what: Any, name: str = "", namespace: str | None = None, *, wait: bool = True,
        ignore_not_found: bool = False, grace_period: int | None = None, propagation: Propagation = "Background",
        timeout: float = 60.0,
    ) -> None:
        return self.run(self._verbs.delete(
            what, name, namespace, wait=wait, ignore_not_found=ignore_not_found, grace_period=grace_period,
            propagation=propagation, timeout=timeout,
        ))  # fmt: skip

    def get(self, kind: Any, name: str = "", namespace: str | None = None) -> Any:
        return self.run(self._verbs.get(kind, name, namespace))

    def list(
        self, kind: Kindly, namespace: str | None = None, *, label_selector: str = "", field_selector: str = ""
    ) -> list[Any]:
        return self.run(
            self._verbs.list(kind, namespace, label_selector=label_selector, field_selector=field_selector)
        )

    def watch(
        self, kind: Kindly, namespace: str | None = None, *, label_selector: str = "", field_selector: str = ""
    ) -> Iterator[WatchEvent[Any]]:
        events = self._verbs.watch(
            kind, namespace, label_selector=label_selector, field_selector=field_selector
        )

        async def following() -> WatchEvent[Any] | None:
            return await anext(events, None)

        try:
            while (event := self.run(following())) is not None:
                yield event
        finally:
            self.run(events.aclose())

    def wait_for(
        self, kind: Any, name: str = "", namespace: str | None = None, *, condition: str | Callable[[Any], bool],
        timeout: float = 60.0,
    ) -> Any:
        return self.run(self._verbs.wait_for(kind, name, namespace, condition=condition, timeout=timeout))

    def rollout_status(
        self, what: Any, name: str = "", namespace: str | None = None, *, timeout: float = 600.0
    ) -> Any:
        return self.run(self._verbs.rollout_status(what, name, namespace, timeout=timeout))

    def logs(
        self, pod: Any, namespace: str | None = None, *, container: str = "", previous: bool = False,
        tail: int | None = None, timestamps: bool = False,
    ) -> str:
        return self.run(self._verbs.logs(
            pod, namespace, container=container, previous=previous, tail=tail, timestamps=timestamps
        ))  # fmt: skip

    def events(
        self, what: Any = None, name: str = "", namespace: str | None = None
    ) -> builtins.list[core.Event]:
        return self.run(self._verbs.events(what, name, namespace))

    def why(self, what: Any, name: str = "", namespace: str | None = None) -> Story:
        return self.run(self._verbs.why(what, name, namespace))

    def exec(self, pod: Any, command: Sequence[str], namespace: str | None = None, *, container: str = "") -> str:
        return self.run(self._verbs.exec(pod, command, namespace, container=container))


class SyncCluster(SyncVerbs):
    """A cluster for a test that is a plain function; see `cluster.Cluster` for what it takes.

    ```python
    with SyncCluster(nodes=3, seed=7) as cluster:
        cluster.apply(Path("web.yaml"))
        cluster.advance(hours=1)
    ```
    """

    def __init__(
        self, *, nodes: int = 1, seed: int = 0, time: Time = "virtual", store: Engine = "memory",
        life: Life | Lives | None = None, stages: Stages = (), faults: float = 0.0,
        cluster_signing_duration: str = SIGNING_DURATION,
    ) -> None:
        self.asynchronous = Cluster(
            nodes=nodes, seed=seed, time=time, store=store, life=life, stages=stages, faults=faults,
            cluster_signing_duration=cluster_signing_duration,
        )

    @classmethod
    def over(cls, cluster: Cluster, driver: Driver) -> SyncCluster:
        """Of a cluster that runs already, whose loop somebody drives."""
        self = cls.__new__(cls)
        self.asynchronous = cluster
        SyncVerbs.__init__(self, cluster, driver)
        return self

    def __enter__(self) -> SyncCluster:
        cluster = self.asynchronous
        driver = drive(cluster.time, cluster.seed, threaded=True)
        try:
            driver.run(cluster.__aenter__())
        except BaseException:
            driver.close()
            raise
        SyncVerbs.__init__(self, cluster, driver)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.driver.run(self.asynchronous.__aexit__(kind, error, trace))
        finally:
            self.driver.close()

    @property
    def time(self) -> Time:
        return self.asynchronous.time

    @property
    def faults(self) -> Faults:
        return self.asynchronous.faults

    @property
    def nodes(self) -> SimulatedNodes:
        return self.asynchronous.nodes

    @property
    def elapsed(self) -> float:
        return self.asynchronous.elapsed

    @property
    def network(self) -> Network:
        return self.asynchronous.network

    def serve(self, name: str = "kubernetes.default.svc") -> Served:
        return self.run(self.asynchronous.serve(name))

    @property
    def kubeconfig(self) -> Path:
        async def opened() -> Path:
            return self.asynchronous.kubeconfig

        return self.run(opened())

    def advance(self, *, hours: float = 0, minutes: float = 0, seconds: float = 0) -> None:
        return self.run(self.asynchronous.advance(hours=hours, minutes=minutes, seconds=seconds))

    def settle(self, *, quiet: float | None = None, limit: float = 600.0) -> None:
        return self.run(self.asynchronous.settle(quiet=quiet, limit=limit))
