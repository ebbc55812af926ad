"""Faults: each looks to its victim as the real thing does, meets whom it was meant for, and can be ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from pinnace.api import errors
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.apiserver.inprocess import ADMIN
from pinnace.base.clock import LoopClock
from pinnace.base.randomness import Randomness
from pinnace.client.client import Client
from pinnace.client.transport import Request
from pinnace.cluster.settings import Settings
from pinnace.store import MemoryStore
from pinnace.testing.cluster import START
from pinnace.testing.control_plane import ControlPlane
from pinnace.testing.faults import Faults
from pinnace.testing.loop import simulate


@dataclass
class Bench:
    faults: Faults
    plane: ControlPlane
    store: MemoryStore
    client: Client

    async def make(self, name: str = "a") -> core.ConfigMap:
        data = meta.ObjectMeta(name=name, namespace="default")
        return await self.client.create(core.ConfigMap(metadata=data, data={"k": "v"}))

    async def there(self, name: str = "a") -> bool:
        return await self.store.get(f"/registry/configmaps/default/{name}") is not None


def run(test: Callable[[Bench], Awaitable[None]], *, seed: int = 0) -> None:
    async def main() -> None:
        clock, loop = LoopClock(START, asyncio.get_running_loop()), asyncio.get_running_loop()
        before = asyncio.all_tasks(loop)
        store, faults = MemoryStore(clock), Faults(Randomness(seed))
        plane = ControlPlane(
            faults.store(store), Settings(nodes=0, store="memory"), clock, Randomness(2), wrap=faults.wrap
        )
        faults.attach(plane)
        await plane.start()
        try:
            await test(Bench(faults, plane, store, Client(plane.transport("user"), agent="user", user=ADMIN)))
        finally:
            await plane.close()
        assert asyncio.all_tasks(loop) == before      # a crash, too, leaves no task behind

    simulate(main, seed=seed)


def test_a_conflict_reads_as_upstreams() -> None:
    async def test(bench: Bench) -> None:
        made = await bench.make()
        bench.faults.conflict(kind="cm", name="a", times=1)
        with pytest.raises(errors.Conflict) as caught:
            await bench.client.update(made)
        assert caught.value.message == (
            'Operation cannot be fulfilled on configmaps "a": the object has been modified; '
            "please apply your changes to the latest version and try again"
        )
        assert caught.value.details is not None and caught.value.details.kind == "configmaps"
        await bench.client.update(made)
        assert [(done.fault, done.verb) for done in bench.faults.log] == [("conflict", "update")]

    run(test)


def test_a_lost_reply_comes_after_the_write() -> None:
    async def test(bench: Bench) -> None:
        bench.faults.lose_reply(verb="create", kind="configmaps", component="user")
        with pytest.raises(ConnectionResetError):
            await bench.make()
        assert await bench.there()
        assert (await bench.client.get(core.ConfigMap, "a", "default")).data == {"k": "v"}

    run(test)


def test_a_refused_connection_comes_before_it() -> None:
    async def test(bench: Bench) -> None:
        bench.faults.refuse(component="user", times=1)
        with pytest.raises(ConnectionRefusedError):
            await bench.make()
        assert not await bench.there()

    run(test)


def test_too_many_requests_say_when_to_come_again() -> None:
    async def test(bench: Bench) -> None:
        bench.faults.too_many_requests(retry_after=7, component="user", times=1)
        with pytest.raises(errors.TooManyRequests, match=r"^Too many requests, please try again later\.$") as caught:
            await bench.make()
        assert caught.value.details is not None and caught.value.details.retryAfterSeconds == 7
        bench.faults.too_many_requests(retry_after=7, component="user", times=1)
        response = await bench.client.transport.send(Request("GET", "/api/v1/pods", user=ADMIN))
        assert (response.status, response.headers["retry-after"]) == (429, "7")

    run(test)


def test_a_slow_reply_takes_virtual_time() -> None:
    async def test(bench: Bench) -> None:
        loop = asyncio.get_running_loop()
        bench.faults.slow(30, component="user", verb="create")
        began = loop.time()
        await bench.make()
        assert loop.time() - began == pytest.approx(30)

    run(test)


def test_history_is_gone_for_a_watch_and_for_the_rest_of_a_list() -> None:
    async def test(bench: Bench) -> None:
        for name in "ab":
            await bench.make(name)
        bench.faults.gone(component="user")
        first = await bench.client.list(core.ConfigMap, "default", limit=1)
        with pytest.raises(errors.Expired, match="continue parameter is too old") as caught:
            await bench.client.list(core.ConfigMap, "default", limit=1, continue_=first.continue_)
        assert caught.value.status_code == 410
        with pytest.raises(errors.Expired, match=rf"too old resource version: {first.resourceVersion} \("):
            async for _ in bench.client.watch(core.ConfigMap, resource_version=first.resourceVersion):
                pass

    run(test)


@pytest.mark.parametrize("clean", [True, False])
def test_a_watch_is_cut_at_its_next_event(clean: bool) -> None:
    async def test(bench: Bench) -> None:
        seen: list[str] = []
        now = (await bench.client.list(core.ConfigMap)).resourceVersion

        async def follow() -> None:
            async for batch in bench.client.watch(core.ConfigMap, "default", resource_version=now):
                seen.extend(event.object.metadata.name or "" for event in batch)

        following = asyncio.create_task(follow())
        await asyncio.sleep(1)
        await bench.make("a")
        await asyncio.sleep(1)
        bench.faults.cut_watch(component="user", kind="configmaps", clean=clean)
        await bench.make("b")
        if clean:
            await following
        else:
            with pytest.raises(ConnectionResetError):
                await following
        assert seen == ["a"]

    run(test)


@pytest.mark.parametrize("after", [False, True])
def test_the_server_dies_at_a_commit_and_comes_back(after: bool) -> None:
    async def test(bench: Bench) -> None:
        await bench.make("before")
        rule = bench.faults.crash_after_commit if after else bench.faults.crash_before_commit
        rule(kind="configmaps", component="user", down=5, times=1)
        with pytest.raises(ConnectionResetError):
            await bench.make()
        assert bench.plane.server is None
        with pytest.raises(ConnectionRefusedError):
            await bench.make("meanwhile")
        await bench.plane.up()
        assert bench.plane.server is not None and bench.plane.crashes == 1
        assert (await bench.client.get(core.ConfigMap, "before", "default")).data == {"k": "v"}
        assert await bench.there() is after

    run(test)


def test_who_waits_for_a_dying_server_is_reset() -> None:
    async def test(bench: Bench) -> None:
        async def follow() -> None:
            async for _ in bench.client.watch(core.ConfigMap):
                pass

        watching = asyncio.create_task(follow())
        bench.faults.slow(0.0)                              # nothing, but requests take their way through the rules
        await asyncio.sleep(1)
        bench.plane.kill()
        with pytest.raises(ConnectionResetError):
            await watching

    run(test)


def test_a_dead_server_writes_nothing_more() -> None:
    async def test(bench: Bench) -> None:
        for number in range(5):
            await bench.make(f"m{number}")
        await bench.client.create(core.Namespace(metadata=meta.ObjectMeta(name="busy")))   # controllers have work now
        revision = bench.store.revision
        bench.plane.kill()
        await bench.plane.up()
        await asyncio.sleep(60)
        assert bench.store.revision == revision

    run(test)


@pytest.mark.parametrize("turns", [0, 1, 3, 10, 40, 150])
def test_it_may_be_killed_while_it_starts(turns: int) -> None:
    async def main() -> None:
        clock, loop = LoopClock(START, asyncio.get_running_loop()), asyncio.get_running_loop()
        before = asyncio.all_tasks(loop)
        plane = ControlPlane(MemoryStore(clock), Settings(nodes=0, store="memory"), clock, Randomness(2))
        starting = asyncio.create_task(plane.start())
        for _ in range(turns):
            await asyncio.sleep(0)
        running = plane.idle
        plane.kill(restart_after=1.0)
        if turns and not running and not starting.done():
            with pytest.raises(ConnectionResetError):
                await starting
        await starting if not starting.done() else None
        await plane.up()
        assert plane.server is not None
        await plane.close()
        assert asyncio.all_tasks(loop) == before

    simulate(main)


def test_a_killed_restart_is_tried_again() -> None:
    async def test(bench: Bench) -> None:
        bench.plane.kill(restart_after=2.0)
        await asyncio.sleep(2.0)
        bench.plane.kill(restart_after=2.0)
        await bench.plane.up()
        assert bench.plane.server is not None
        bench.plane.kill(restart_after=1000.0)              # closing does not wait for that

    run(test)


def test_filters_and_counts() -> None:
    async def test(bench: Bench) -> None:
        made = await bench.make()
        faults = bench.faults
        faults.conflict(kind="secrets")
        faults.conflict(name="other")
        faults.conflict(namespace="kube-system")
        faults.conflict(component="kube-scheduler")
        faults.conflict(verb="patch")
        faults.conflict(kind="configmaps/status")
        faults.conflict(after=1e9)
        faults.conflict(until=0.0)
        faults.conflict(times=0)
        faults.conflict(probability=0.0)
        made = await bench.client.update(made)
        faults.conflict(kind="configmap", namespace="default", component="user", verb="update", times=2)
        for _ in range(2):
            with pytest.raises(errors.Conflict):
                await bench.client.update(made)
        await bench.client.update(made)
        assert faults.counts == {"conflict": 2}
        faults.conflict(verb="update", kind="cm", skip=2, times=1)
        made = await bench.client.get(core.ConfigMap, "a", "default")
        for refused in (False, False, True, False):
            if refused:
                with pytest.raises(errors.Conflict):
                    await bench.client.update(made)
            else:
                await bench.client.update(made)
        faults.conflict()
        faults.stop()
        await bench.client.update(made)

    run(test)


def test_the_seed_decides() -> None:
    def log(seed: int) -> list[str]:
        told: list[str] = []

        async def test(bench: Bench) -> None:
            bench.faults.refuse(component="user", probability=0.3)
            for number in range(40):
                try:
                    await bench.make(f"m{number}")
                except ConnectionRefusedError:
                    told.append(f"m{number}")

        run(test, seed=seed)
        return told

    assert log(1) == log(1) != log(2)
    assert 4 < len(log(1)) < 24


@dataclass
class Machines:
    names: tuple[str, ...] = ("n1", "n2")
    told: list[tuple[Any, ...]] = field(default_factory=list)

    def lose(self, name: str) -> None:
        self.told.append(("lose", name))

    def restore(self, name: str) -> None:
        self.told.append(("restore", name))

    def partition(self, name: str) -> None:
        self.told.append(("partition", name))

    def heal(self, name: str) -> None:
        self.told.append(("heal", name))

    def drift(self, name: str, seconds: float) -> None:
        self.told.append(("drift", name, seconds))


def test_nodes_are_lost_cut_off_and_late() -> None:
    async def main() -> None:
        faults, machines = Faults(Randomness(1)), Machines()
        faults.attach(nodes=machines)
        faults.lose_node("n1", at=10, down=5)
        faults.partition("n2", at=12, down=100)
        faults.drift(-3.0, "n1", at=20)
        await asyncio.sleep(11)
        assert machines.told == [("lose", "n1")]
        await asyncio.sleep(5)
        assert machines.told[1:] == [("partition", "n2"), ("restore", "n1")]
        await asyncio.sleep(5)
        faults.stop()
        assert machines.told[3:] == [("drift", "n1", -3.0), ("heal", "n2"), ("drift", "n1", 0.0)]
        await asyncio.sleep(200)
        assert len(machines.told) == 6
        assert faults.counts == {"lose_node": 1, "partition": 1, "drift": 1}

    simulate(main)
