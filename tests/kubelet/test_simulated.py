"""Nodes that do not exist, over a fake API in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pinnace.base.clock import LoopClock, ManualClock
from pinnace.base.randomness import Randomness
from pinnace.client.transport import Request, Response
from pinnace.kubelet.simulated import EXIT_CODE, RUN_SECONDS, Life, SimulatedNode, SimulatedNodes
from pinnace.kubelet.simulated.heartbeats import Heartbeats
from pinnace.kubelet.simulated.machines import Machine

from .fakes import FakeApi, make_pod
from .virtual import simulate


@contextlib.asynccontextmanager
async def nodes(clock: LoopClock, count: int) -> AsyncIterator[FakeApi]:
    api = FakeApi()
    names = [f"node-{n}" for n in range(1, count + 1)]
    simulated = SimulatedNodes(api.client(), names, clock=clock, randomness=Randomness(1))
    task = asyncio.create_task(simulated.run())
    await simulated.registered.wait()
    try:
        yield api
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_nodes_register_and_renew_their_leases() -> None:
    async def test(clock: LoopClock) -> None:
        async with nodes(clock, 50) as api:
            ready = [
                o for (path, _, _), o in api.objects.items() if path == "/api/v1/nodes"
                and any(c["type"] == "Ready" and c["status"] == "True" for c in o["status"]["conditions"])
            ]  # fmt: skip
            assert len(ready) == 50
            await asyncio.sleep(12)
            leases = {n: o for (path, _, n), o in api.objects.items() if path.endswith("/leases")}
            before = {n: o["spec"]["renewTime"] for n, o in leases.items()}
            assert len(before) == 50
            await asyncio.sleep(12)
            assert all(
                api.objects["/apis/coordination.k8s.io/v1/leases", "kube-node-lease", n]["spec"]["renewTime"] > t
                for n, t in before.items()
            )

    simulate(test)


@pytest.mark.parametrize(("count", "seconds"), [(1, 0), (200, 10), (5000, 100)])
def test_statuses_are_due_close_together(count: int, seconds: float) -> None:
    """A cluster with many nodes has times of rest, too."""
    hearts = Heartbeats(
        FakeApi().client(), ManualClock(), every=10.0, status_every=300.0, parallel=1, own_status=lambda _: True
    )
    machines = [Machine(f"node-{n}", SimulatedNode(), "10.0.0.1") for n in range(count)]
    hearts.join(machines)
    due = [(machine.report_at - ManualClock().now()).total_seconds() for machine in machines]
    assert min(due) == pytest.approx(300, abs=0.01) and max(due) - min(due) <= seconds


def test_pods_run_and_are_deleted() -> None:
    async def test(clock: LoopClock) -> None:
        async with nodes(clock, 2) as api:
            for n in range(20):
                api.add_pod(make_pod(f"web-{n}", nodeName=f"node-{n % 2 + 1}"))
            await asyncio.sleep(0.5)
            pods = [api.pod(f"web-{n}") for n in range(20)]
            assert all(pod is not None and pod.status.phase == "Running" for pod in pods)
            assert len({pod.status.podIP for pod in pods if pod is not None}) == 20
            assert all((pod.status.containerStatuses or [])[0].ready for pod in pods if pod is not None)
            api.delete_pod("web-3", 30)
            await asyncio.sleep(0.2)
            assert api.pod("web-3") is None

    simulate(test)


def test_so_many_statuses_are_written_at_a_time_and_all_in_the_end() -> None:
    class Slow(FakeApi):
        now = most = 0

        async def send(self, request: Request) -> Response:
            if request.method != "PATCH" or "/pods/" not in request.path:
                return await super().send(request)
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(1)
            self.now -= 1
            return await super().send(request)

    async def test(clock: LoopClock) -> None:
        api = Slow()
        simulated = SimulatedNodes(api.client(), ["node-1"], clock=clock, randomness=Randomness(1), statuses=3)
        task = asyncio.create_task(simulated.run())
        await simulated.registered.wait()
        for n in range(20):
            api.add_pod(make_pod(f"web-{n}", nodeName="node-1"))
        await asyncio.sleep(60)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert api.most == 3
        pods = [api.pod(f"web-{n}") for n in range(20)]
        assert all(pod is not None and pod.status.phase == "Running" for pod in pods)

    simulate(test)


def test_a_status_whose_answer_was_lost_does_not_stay() -> None:
    """Seed 10447 of the simulation: a container is started again while the server is down, which has taken its end."""

    class Deaf(FakeApi):
        down = False

        def put(self, *words: Any, **more: Any) -> Any:
            watchers, self._watchers = self._watchers, [] if self.down else self._watchers
            try:
                return super().put(*words, **more)
            finally:
                self._watchers = watchers

        async def send(self, request: Request) -> Response:
            answer = await super().send(request)
            if self.down and "/pods/" in request.path:
                self.away = True
                raise ConnectionResetError("connection reset by peer")
            return answer

    async def test(clock: LoopClock) -> None:
        api = Deaf()
        life = Life(start=1.0)
        simulated = SimulatedNodes(api.client(), ["node-1"], clock=clock, randomness=Randomness(1), life=life)
        task = asyncio.create_task(simulated.run())
        await simulated.registered.wait()
        api.add_pod(make_pod(nodeName="node-1"))
        await asyncio.sleep(5)
        simulated.lose("node-1")
        await asyncio.sleep(2)
        api.down = True
        simulated.restore("node-1")
        await asyncio.sleep(0.5)
        pod = api.pod()
        assert pod is not None and not (pod.status.containerStatuses or [])[0].ready and api.away
        await asyncio.sleep(2)
        api.away, api.down = False, False
        await asyncio.sleep(10)
        pod = api.pod()
        assert pod is not None and (pod.status.containerStatuses or [])[0].ready
        assert {c.type: c.status for c in pod.status.conditions or ()}["Ready"] == "True"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    simulate(test)


@pytest.mark.parametrize(("annotations", "after", "phase"), [
    ({}, 2.0, "Succeeded"),
    ({RUN_SECONDS: "7"}, 7.0, "Succeeded"),
    ({RUN_SECONDS: "1", EXIT_CODE: "3"}, 1.0, "Failed"),
])  # fmt: skip
def test_pods_that_end_by_themselves(annotations: dict[str, str], after: float, phase: str) -> None:
    async def test(clock: LoopClock) -> None:
        async with nodes(clock, 1) as api:
            pod = make_pod(restartPolicy="Never")
            pod.metadata.annotations = annotations
            api.add_pod(pod)
            await asyncio.sleep(after)
            running = api.pod()
            assert running is not None and running.status.phase == "Running"
            await asyncio.sleep(0.3)
            ended = api.pod()
            assert ended is not None and ended.status.phase == phase

    simulate(test)
