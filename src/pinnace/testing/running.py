"""A loop and the clusters on it, for a test or for several that share them: what the pytest plugin holds.

The plugin is loaded in every run of pytest; this module only once a test wants a cluster.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from typing import Any

from pinnace.testing.cluster import Cluster
from pinnace.testing.driving import Driver, drive
from pinnace.testing.options import Options
from pinnace.testing.report import describe
from pinnace.testing.sync import SyncCluster

_REPORTED = 3             # clusters of a test of which its failure tells
_GONE = 120.0             # seconds of the cluster that a test's namespace has to go


class Running:
    """One loop. `shared`: several tests use it in turn, each in a namespace of its own."""

    def __init__(self, options: Options, seed: int, *, threaded: bool, shared: bool) -> None:
        self.options = options
        self.seed = seed
        self.shared = shared
        self.driver: Driver = drive(
            "real" if options.time == "real" else "virtual", seed, threaded=threaded,
            threads="inline" if options.threads == "inline" else "refuse",
        )  # fmt: skip
        self.main: SyncCluster | None = None
        self._clusters: list[Cluster] = []
        self._stack = AsyncExitStack()
        self._seeds = itertools.count(seed)
        self._names = itertools.count(1)

    def cluster(self) -> SyncCluster:
        """The one cluster that is meant where none is named; started when first asked for."""
        if self.main is None:
            self.main = SyncCluster.over(self.driver.run(self.another({})), self.driver)
        return self.main

    async def another(self, given: Mapping[str, Any]) -> Cluster:
        """One more cluster on the same loop, of the test's options and what is given on top."""
        arguments = {"seed": next(self._seeds)} | self.options.cluster_arguments() | dict(given)
        if arguments["time"] != self.options.time:
            raise ValueError(f"the clusters of one test share its time, which is {self.options.time}")
        cluster = await self._stack.enter_async_context(Cluster(**arguments))
        self._clusters.append(cluster)
        return cluster

    @contextmanager
    def lent(self, test: str) -> Iterator[SyncCluster]:
        """The cluster for one test of that name; a shared one with a fresh namespace, which is gone afterwards."""
        cluster = self.cluster()
        if not self.shared:
            yield cluster
            return
        word = re.sub("[^a-z0-9]+", "-", test.lower()).strip("-")[:40].strip("-") or "test"
        name = f"{word}-{next(self._names)}"
        cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        cluster.wait_for("serviceaccounts", "default", name, condition="create")     # or pods would be refused
        cluster.asynchronous.named.clear()
        cluster.namespace = name
        try:
            yield cluster
        finally:
            cluster.namespace = "default"
            cluster.delete("namespaces", name, ignore_not_found=True, timeout=_GONE)

    def report(self, again: str) -> str:
        """Of the clusters, for a test that failed. Never raises."""
        texts = [f"again: {again}"]
        for cluster in self._clusters[:_REPORTED]:
            try:
                texts.append(self.driver.run(describe(cluster)))
            except Exception as error:
                texts.append(f"seed {cluster.seed}; the cluster could not be asked: {error!r}")
        if len(self._clusters) > _REPORTED:
            texts.append(f"… and {len(self._clusters) - _REPORTED} more clusters")
        return "\n".join(texts)

    def close(self) -> None:
        """End the clusters, and whatever else is left on the loop."""
        try:
            self.driver.run(self._stack.aclose())
        finally:
            self.driver.close()


class Factory:
    """Makes further clusters for a test: `cluster_factory(nodes=3)`, with `await` in a coroutine. They take what
    `Cluster` takes, and end with the test."""

    def __init__(self, running: Running) -> None:
        self.running = running

    def __call__(self, **given: Any) -> SyncCluster:
        driver = self.running.driver
        return SyncCluster.over(driver.run(self.running.another(given)), driver)


class AsyncFactory:
    """The same for coroutines."""

    def __init__(self, running: Running) -> None:
        self._running = running

    async def __call__(self, **given: Any) -> Cluster:
        return await self._running.another(given)


def for_coroutine(value: Any, driver: Driver) -> Any:
    """What a coroutine on the driver's loop is handed for a fixture's value: the asynchronous twin."""
    if isinstance(value, SyncCluster) and value.driver is driver:
        return value.asynchronous
    if isinstance(value, Factory) and value.running.driver is driver:
        return AsyncFactory(value.running)
    return value


def run(driver: Driver, function: Callable[..., Coroutine[Any, Any, Any]], values: Mapping[str, Any]) -> Any:
    """Run a coroutine function with the values of its fixtures."""
    __tracebackhide__ = True
    return driver.run(function(**{name: for_coroutine(value, driver) for name, value in values.items()}))


def begin_generator(
    driver: Driver, function: Callable[..., AsyncGenerator[Any, None]], values: Mapping[str, Any],
    finalizers: Callable[[Callable[[], None]], None],
) -> Any:
    """Run an asynchronous generator to its yield, and leave with `finalizers` what runs it to its end.

    Both halves run in one task, so that task groups and timeouts may span the yield."""
    generator = function(**{name: for_coroutine(value, driver) for name, value in values.items()})
    fixture = _Generator(generator)
    value = driver.run(fixture.begin())
    finalizers(lambda: driver.run(fixture.end()))
    return value


class _Generator:
    def __init__(self, generator: AsyncGenerator[Any, None]) -> None:
        self._generator = generator
        self._over = asyncio.Event()

    async def begin(self) -> Any:
        ready: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._live(ready))
        await asyncio.wait((self._task, ready), return_when=asyncio.FIRST_COMPLETED)
        return ready.result() if ready.done() else self._task.result()

    async def end(self) -> None:
        self._over.set()
        await self._task

    async def _live(self, ready: asyncio.Future[Any]) -> None:
        try:
            ready.set_result(await anext(self._generator))
        except StopAsyncIteration:
            raise RuntimeError("the fixture did not yield") from None
        await self._over.wait()
        try:
            await anext(self._generator)
        except StopAsyncIteration:
            return
        raise RuntimeError("the fixture yielded twice")
