"""The scheduler beside a real API server that loses answers: what it believes of the nodes must stay true."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pinnace.api import codec
from pinnace.api.core import v1 as core
from pinnace.api.scheduling import v1 as scheduling
from pinnace.apiserver.inprocess import ADMIN
from pinnace.base.clock import LoopClock
from pinnace.base.randomness import Randomness
from pinnace.client.client import Client
from pinnace.cluster.settings import Settings
from pinnace.store import MemoryStore
from pinnace.testing.cluster import START
from pinnace.testing.control_plane import ControlPlane
from pinnace.testing.faults import Faults
from pinnace.testing.invariants import Invariants
from pinnace.testing.loop import simulate

from .test_cycle import node


def pod(name: str, cpu: str, **spec: Any) -> core.Pod:
    container = {"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}
    tolerations = [{"operator": "Exists"}]
    return codec.from_dict(core.Pod, {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [container], "tolerations": tolerations, **spec},
    })  # fmt: skip


def run(test: Callable[[Client, Faults, Invariants], Awaitable[None]]) -> None:
    """One node of 2 cpus that nobody minds, so nothing ever runs: pods are bound, that is all."""

    async def main() -> None:
        clock = LoopClock(START, asyncio.get_running_loop())
        invariants, faults = Invariants(MemoryStore(clock), clock), Faults(Randomness(1))
        plane = ControlPlane(
            faults.store(invariants), Settings(nodes=0, store="memory"), clock, Randomness(2), wrap=faults.wrap
        )
        faults.attach(plane)
        await plane.start()
        client = Client(plane.transport("user"), agent="user", user=ADMIN)
        try:
            await asyncio.sleep(0.1)      # the default service account is made, without which there are no pods
            await client.create(node("n"))
            await test(client, faults, invariants)
            invariants.check()
        finally:
            await plane.close()

    simulate(main)


def test_a_pod_whose_binding_was_made_unheard_keeps_its_place() -> None:
    async def test(client: Client, faults: Faults, invariants: Invariants) -> None:
        faults.lose_reply(component="kube-scheduler", kind="pods/binding", times=1)
        await client.create(pod("first", "1500m"))
        await asyncio.sleep(5)
        await client.create(pod("second", "1500m"))
        await asyncio.sleep(30)
        first, second = [await client.get(core.Pod, name, "default") for name in ("first", "second")]
        assert (first.spec.nodeName, second.spec.nodeName) == ("n", None)

    run(test)


def test_the_place_is_kept_while_nobody_knows() -> None:
    async def test(client: Client, faults: Faults, invariants: Invariants) -> None:
        faults.lose_reply(component="kube-scheduler", kind="pods/binding", times=1)
        faults.slow(10, component="kube-scheduler", kind="pods", verb="watch", after=1)
        await asyncio.sleep(2)
        await client.create(pod("first", "1500m"))
        await client.create(pod("second", "1500m"))
        await asyncio.sleep(60)

    run(test)


def test_a_binding_that_failed_gives_its_place_back() -> None:
    async def test(client: Client, faults: Faults, invariants: Invariants) -> None:
        faults.too_many_requests(component="kube-scheduler", kind="pods/binding", times=1)
        await client.create(pod("first", "1500m"))
        await asyncio.sleep(10)
        assert (await client.get(core.Pod, "first", "default")).spec.nodeName == "n"

    run(test)


def test_a_late_answer_does_not_drop_the_next_pod_of_that_name() -> None:
    async def test(client: Client, faults: Faults, invariants: Invariants) -> None:
        faults.slow(10, component="kube-scheduler", kind="pods/binding", times=1)
        await client.create(pod("again", "1500m"))
        await asyncio.sleep(1)
        await client.create(pod("filler", "1500m"))
        await asyncio.sleep(1)
        await client.delete(core.Pod, "again", "default", grace_period=0)
        await asyncio.sleep(3)                                # filler has the place now
        await client.create(pod("again", "1500m"))
        await asyncio.sleep(20)
        await client.delete(core.Pod, "filler", "default", grace_period=0)
        await asyncio.sleep(30)
        assert (await client.get(core.Pod, "again", "default")).spec.nodeName == "n"

    run(test)


def test_a_preemption_that_was_cut_short_is_tried_again_soon() -> None:
    async def test(client: Client, faults: Faults, invariants: Invariants) -> None:
        data = {"metadata": {"name": "high"}, "value": 1000}
        await client.create(codec.from_dict(scheduling.PriorityClass, data))
        for name in ("one", "two"):
            await client.create(pod(name, "900m", terminationGracePeriodSeconds=0))
        await asyncio.sleep(5)
        faults.too_many_requests(component="kube-scheduler", verb="delete", kind="pods", times=1)
        await client.create(pod("urgent", "1500m", priorityClassName="high"))
        await asyncio.sleep(20)
        assert (await client.get(core.Pod, "urgent", "default")).spec.nodeName == "n"

    run(test)


def test_what_could_not_be_told_is_told_later() -> None:
    async def test(client: Client, faults: Faults, invariants: Invariants) -> None:
        faults.refuse(component="kube-scheduler", verb="patch", kind="pods/status", times=1)
        await client.create(pod("large", "5"))
        await asyncio.sleep(20)
        conditions = (await client.get(core.Pod, "large", "default")).status.conditions or ()
        assert [c.reason for c in conditions if c.type == "PodScheduled"] == ["Unschedulable"]

    run(test)
