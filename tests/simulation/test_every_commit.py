"""The server dies before, and after, every single write of a short story; it must always come to the same end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator

import pytest

from pinnace.api import codec, errors
from pinnace.api.apps import v1 as apps
from pinnace.api.batch import v1 as batch
from pinnace.apiserver.inprocess import ADMIN
from pinnace.base.clock import LoopClock
from pinnace.base.randomness import Randomness
from pinnace.base.supervisor import Supervisor
from pinnace.client.client import Client
from pinnace.cluster.settings import Settings
from pinnace.kubelet.simulated import SimulatedNodes
from pinnace.store import MemoryStore
from pinnace.testing.cluster import START
from pinnace.testing.control_plane import ControlPlane
from pinnace.testing.faults import Faults
from pinnace.testing.invariants import Invariants
from pinnace.testing.loop import simulate

from .run import wrong
from .workload import template

STRIDE = 29          # in CI; the soak tries them all


def spec(name: str, **more: object) -> dict[str, object]:
    data = {"name": name, "namespace": "default"}
    rest = {"selector": {"matchLabels": {"app": name}}, "template": template(name, "image:1", "100m"), **more}
    return {"metadata": data, "spec": rest}


async def story(client: Client, plane: ControlPlane) -> None:
    """What the user wants, tried until it is done."""

    async def surely(do: Callable[[], Awaitable[object]]) -> None:
        for _ in range(10):
            await plane.up()
            try:
                await do()
            except (errors.AlreadyExists, errors.NotFound):
                return
            except OSError:
                await asyncio.sleep(1)
            else:
                return
        raise AssertionError("the user gives up")

    web = codec.from_dict(apps.Deployment, spec("web", replicas=2))
    db = codec.from_dict(apps.StatefulSet, spec("db", replicas=2, serviceName="db"))
    pods = template("work", "image:1", "100m", restartPolicy="Never")
    data = {"metadata": {"name": "work", "namespace": "default"}, "spec": {"completions": 2, "template": pods}}
    work = codec.from_dict(batch.Job, data)
    for obj in (web, db, work):
        await surely(lambda obj=obj: client.create(obj))   # type: ignore[misc]
    await asyncio.sleep(20)
    image = {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "image:2"}]}}}}
    await surely(lambda: client.patch(apps.Deployment, "web", "default", image, type="strategic"))
    await surely(lambda: client.patch(apps.StatefulSet, "db", "default", {"spec": {"replicas": 1}}))
    await surely(lambda: client.delete(batch.Job, "work", "default", propagation="Foreground"))
    await asyncio.sleep(20)
    await surely(lambda: client.delete(apps.Deployment, "web", "default", propagation="Foreground"))
    await asyncio.sleep(100)


async def die_at(number: int, after: bool) -> int:
    """Play the story, dying at the controllers' write of that number. How many writes met the rule."""
    clock = LoopClock(START, asyncio.get_running_loop())
    invariants, faults = Invariants(MemoryStore(clock), clock), Faults(Randomness(1))
    plane = ControlPlane(
        faults.store(invariants), Settings(nodes=0, store="memory"), clock, Randomness(2), wrap=faults.wrap
    )
    faults.attach(plane)
    await plane.start()
    async with Supervisor(clock) as parts:
        agent = Client(plane.transport("kubelet"), agent="kubelet", user=ADMIN)
        nodes = SimulatedNodes(agent, ["n1", "n2"], clock=clock, randomness=Randomness(3))
        parts.start("simulated nodes", nodes.run)
        await nodes.registered.wait()
        await asyncio.sleep(5)
        crash = faults.crash_after_commit if after else faults.crash_before_commit
        rules = [
            crash(component=component, skip=number, times=1, down=0.5)
            for component in ("kube-controller-manager", "kube-scheduler")
        ]
        await story(Client(plane.transport("user"), agent="user", user=ADMIN), plane)
        faults.stop()
        invariants.check()
        told = list(wrong(invariants))
        assert not told, told
        await invariants.check_rest()
    await plane.close()
    return sum(number - rule.skip for rule in rules)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.getLogger("pinnace").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("pinnace").setLevel(logging.NOTSET)


def _all(stride: int) -> None:
    writes = simulate(lambda: die_at(10_000, False))
    assert writes > 60
    for number in range(0, writes, stride):
        for after in (False, True):
            try:
                simulate(lambda number=number, after=after: die_at(number, after))   # type: ignore[misc]
            except AssertionError as error:
                raise AssertionError(f"died {'after' if after else 'before'} write {number}: {error}") from error


def test_the_server_may_die_at_some_writes() -> None:
    _all(STRIDE)


@pytest.mark.soak
def test_the_server_may_die_at_every_write() -> None:
    _all(1)
