"""What clusters of one process share at their start, and that nothing of a cluster stays behind."""

from __future__ import annotations

import asyncio
import gc
import json
from datetime import timedelta
from typing import Any

from pinnace.api import codec
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.apiserver.inprocess import ADMIN, InProcessTransport
from pinnace.apiserver.resources.table import RESOURCES
from pinnace.apiserver.server import ApiServer
from pinnace.base.clock import ManualClock
from pinnace.base.randomness import Randomness
from pinnace.client.client import Client
from pinnace.cluster import bootstrap
from pinnace.cluster.settings import Settings
from pinnace.store.memory import MemoryStore
from pinnace.testing import prepared as module
from pinnace.testing.cluster import Cluster
from pinnace.testing.loop import simulate
from pinnace.testing.prepared import START, prepared

SETTINGS = Settings(nodes=0, simulated_nodes=0, store="memory")


def _without_identity(value: bytes) -> Any:
    found = json.loads(value)
    for name in ("uid", "creationTimestamp"):
        found["metadata"].pop(name)
    return found


async def test_it_is_what_the_bootstrap_makes() -> None:
    clock = ManualClock(START)
    store = MemoryStore(clock)
    server = ApiServer(store, RESOURCES, clock, Randomness(5), service_cidr=SETTINGS.service_cidr)
    await server.start()
    client = Client(InProcessTransport(server), agent="pinnace", user=ADMIN)
    await bootstrap.ensure_access(client)
    await bootstrap.ensure(client, SETTINGS, address="", port=0)
    made = {entry.key: _without_identity(entry.value) for entry in (await store.list("")).entries}
    other = MemoryStore(clock)
    other.begin(prepared(SETTINGS, START).beginning)
    found = {entry.key: _without_identity(entry.value) for entry in (await other.list("")).entries}
    aggregated = [key for key, obj in made.items() if "aggregationRule" in obj]
    for key in aggregated:
        assert found[key].pop("rules"), "their controller has nothing left to do"
        found[key]["metadata"].pop("generation", None)
        made[key]["metadata"].pop("generation", None)
    assert len(aggregated) == 3
    assert found == made
    await server.close()


async def test_the_caches_take_over_what_is_decoded() -> None:
    store = MemoryStore(ManualClock(START))
    ready = prepared(SETTINGS, START)
    store.begin(ready.beginning)
    server = ApiServer(store, RESOURCES, ManualClock(START), Randomness(1))
    await server.start(ready.decoded)
    entry = server.registry(core.Namespace).entry("", "default")
    assert entry is ready.decoded[entry.key]
    client = Client(InProcessTransport(server))
    before = codec.encode(entry.object)
    await client.patch(core.Namespace, "default", "", {"metadata": {"labels": {"a": "b"}}})
    assert server.registry(core.Namespace).get("", "default").metadata.labels["a"] == "b"
    assert codec.encode(entry.object) == before, "another cluster may hold it"
    await server.close()


def test_at_another_time_it_says_that_time() -> None:
    later = START + timedelta(days=400)
    values = [value for _, value, _ in prepared(SETTINGS, later).beginning.commits if value is not None]
    assert all(b'"creationTimestamp":"2027-02-05T00:00:00Z"' in value for value in values)
    assert not any(b"2026-01-01" in value for value in values)


def _uids(seed: int) -> list[tuple[str, bytes]]:
    async def run() -> list[tuple[str, bytes]]:
        async with Cluster(nodes=1, seed=seed) as cluster:
            await cluster.settle()
            return [(entry.key, entry.value) for entry in (await cluster.store.list("")).entries]

    return simulate(run, seed=seed)


def test_the_first_cluster_of_a_process_runs_like_any_other() -> None:
    module._prepared.clear()
    first = _uids(3)
    assert first == _uids(3) != _uids(4)


def test_memory_is_given_back() -> None:
    async def use(number: int) -> None:
        async with Cluster(nodes=1, seed=number) as cluster:
            await cluster.client.create(core.ConfigMap(metadata=meta.ObjectMeta(name="x", namespace="default")))
            await cluster.advance(minutes=1)

    def objects() -> int:
        gc.collect()
        return len(gc.get_objects())

    for number in range(3):
        simulate(lambda number=number: use(number), seed=number)      # type: ignore[misc]  # a plain default
    before = objects()
    for number in range(50):
        simulate(lambda number=number: use(number), seed=number)      # type: ignore[misc]  # a plain default
    # A cluster is some 100,000 objects.
    assert objects() - before < 5_000


def test_side_by_side_they_share_no_write() -> None:
    async def both() -> None:
        async with Cluster(nodes=1, seed=1) as one, Cluster(nodes=1, seed=2) as other:
            await one.client.patch(core.Namespace, "default", "", {"metadata": {"labels": {"mine": "yes"}}})
            await one.client.delete(core.Service, "kube-dns", "kube-system")
            theirs = await other.get("ns", "default")
            assert "mine" not in (theirs.metadata.labels or {})
            assert await other.get("svc", "kube-dns", "kube-system")

    simulate(both)


def test_the_collector_of_cycles_is_as_it_was() -> None:
    before = gc.get_threshold()

    async def run() -> None:
        async with Cluster(nodes=1):
            assert gc.get_threshold() != before
        await asyncio.sleep(0)

    simulate(run)
    assert gc.get_threshold() == before


