"""The runner: when it asks, what it waits for, how it performs, and what becomes of refusals."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pinnace.api import errors
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.base.clock import LoopClock
from pinnace.base.randomness import Randomness
from pinnace.client.client import Client
from pinnace.client.events import EventRecorder
from pinnace.client.informer import Event, Informers
from pinnace.client.transport import TIMER, Request, Response, WatchLine
from pinnace.controllers.owners import Owned, candidates, controller_reference, index_by_controller
from pinnace.controllers.plan import Create, Delete, Emit, Plan, Ref
from pinnace.controllers.runner import Runner

from .fake import FakeServer


class SlowServer(FakeServer):
    """Watches lag behind by `lag` seconds."""

    lag = 0.0

    async def _watch(self, kind: Any, since: str) -> AsyncIterator[tuple[WatchLine, ...]]:
        async for batch in super()._watch(kind, since):
            await asyncio.sleep(self.lag)
            yield batch


@dataclass(frozen=True)
class Seen:
    map: core.ConfigMap
    secrets: tuple[core.Secret, ...]


class Copies:
    """Keeps as many secrets as a config map's `count` says."""

    name = "copies"

    def __init__(self, informers: Informers) -> None:
        self.primary = informers.of(core.ConfigMap)
        self._secrets = informers.of(core.Secret)
        index_by_controller(self._secrets)
        self.watches = (Owned(self._secrets, "ConfigMap", ""),)
        self.decisions: list[int] = []
        self.again: timedelta | None = None
        self.more = 0
        self.final = False

    def observe(self, ref: Ref) -> Seen | None:
        found = self.primary.cache.get(*ref)
        return Seen(found, tuple(candidates(self._secrets, found))) if found is not None else None

    def decide(self, seen: Seen, now: datetime) -> Plan:
        self.decisions.append(len(seen.secrets))
        wanted = int((seen.map.data or {})["count"]) + self.more
        data = meta.ObjectMeta(
            generateName="copy-", namespace="default", ownerReferences=[controller_reference(seen.map)]
        )
        secret = core.Secret(metadata=data)
        made = Create(
            secret, Emit("Normal", "Made", "made {name}"), Emit("Warning", "NotMade", "not made: {error}")
        )
        gone = [
            Delete(core.Secret, "default", s.metadata.name or "", s.metadata.uid or "") for s in seen.secrets[wanted:]
        ]
        return Plan((*gone, *[made] * (wanted - len(seen.secrets))), again=self.again, final=self.final)


class Bench:
    def __init__(self) -> None:
        clock = LoopClock(datetime(2026, 1, 1, tzinfo=UTC), asyncio.get_running_loop())
        self.server = SlowServer(clock)
        self.client = Client(self.server)
        self.informers = Informers(self.client, clock, Randomness(1))
        self.copies = Copies(self.informers)
        self.recorder = EventRecorder(self.client, "copies", clock=clock, randomness=Randomness(2))
        self.runner = Runner(self.copies, self.client, self.recorder, clock=clock)
        self.sent: list[Request] = []
        send = self.server.send

        async def spy(request: Request) -> Response:
            self.sent.append(request)
            return await send(request)

        self.server.send = spy   # type: ignore[method-assign]

    async def want(self, count: int) -> core.ConfigMap:
        data = meta.ObjectMeta(name="m", namespace="default")
        return await self.client.create(core.ConfigMap(metadata=data, data={"count": str(count)}))

    def posts(self) -> list[Request]:
        return [r for r in self.sent if r.method == "POST" and r.path.endswith("/secrets")]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():   # noqa: ASYNC110  (state that has no event)
                await asyncio.sleep(0.001)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    tasks = [
        asyncio.create_task(part.run()) for part in (bench.informers, bench.recorder, bench.runner)
    ]
    await bench.until(lambda: bench.runner.idle)
    try:
        yield bench
    finally:
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def test_nothing_is_decided_before_the_caches_show_the_last_writes(bench: Bench) -> None:
    bench.server.lag = 0.02
    await bench.want(5)
    await bench.until(lambda: bench.copies.decisions[-1:] == [5] and bench.runner.idle)
    await asyncio.sleep(0.05)
    assert len(bench.server.objects["secrets"]) == 5
    assert set(bench.copies.decisions) == {0, 5}


async def test_after_a_final_plan_only_what_others_do_is_decided_about(bench: Bench) -> None:
    bench.copies.final = True
    bench.server.lag = 0.02
    await bench.want(3)
    await bench.until(lambda: len(bench.copies.primary.cache) == 1 and bench.runner.idle)
    assert bench.copies.decisions == [0] and len(bench.server.objects["secrets"]) == 3
    secret = next(iter(bench.server.objects["secrets"].values()))["metadata"]["name"]
    await bench.client.delete(core.Secret, secret, "default")
    await bench.until(lambda: bench.copies.decisions == [0, 2] and bench.runner.idle)
    assert len(bench.server.objects["secrets"]) == 3


@pytest.mark.parametrize("count", [1, 40])
async def test_what_changes_while_a_final_plan_is_carried_out_is_decided_about(bench: Bench, count: int) -> None:
    """Also when so many of its own writes have woken it that no other revision is remembered."""
    send, posts, go_on = bench.server.send, itertools.count(1), asyncio.Event()

    async def slow(request: Request) -> Response:
        if request.method == "POST" and request.path.endswith("/secrets") and next(posts) == count:
            await go_on.wait()         # the last one
        return await send(request)

    bench.server.send = slow   # type: ignore[method-assign]
    bench.copies.final = True
    await bench.want(count)
    await bench.until(lambda: bench.copies.decisions == [0])
    await bench.until(lambda: len(bench.copies._secrets.cache) == count - 1)
    await bench.client.patch(core.ConfigMap, "m", "default", {"data": {"count": str(count + 1)}})
    await bench.until(lambda: (bench.copies.primary.cache.list()[0].data or {})["count"] == str(count + 1))
    go_on.set()
    await bench.until(lambda: bench.copies.decisions == [0, count] and bench.runner.idle)
    assert len(bench.server.objects["secrets"]) == count + 1


async def test_an_alarm_that_goes_off_while_a_final_plan_is_carried_out_is_heard(bench: Bench) -> None:
    send = bench.server.send

    async def slow(request: Request) -> Response:
        if request.method == "POST" and request.path.endswith("/secrets"):
            await asyncio.sleep(0.6)
        return await send(request)

    bench.server.send = slow   # type: ignore[method-assign]
    bench.copies.final = True
    bench.copies.again = timedelta(seconds=0.4)
    await bench.want(0)
    await bench.until(lambda: len(bench.copies.decisions) == 1)
    bench.copies.again = None
    await bench.client.patch(core.ConfigMap, "m", "default", {"data": {"count": "1"}})
    await bench.until(lambda: bench.copies.decisions == [0, 0, 1])


async def test_deletions_are_waited_for_too(bench: Bench) -> None:
    made = await bench.want(4)
    await bench.until(lambda: bench.copies.decisions[-1:] == [4] and bench.runner.idle)
    bench.server.lag = 0.02
    await bench.client.patch(core.ConfigMap, "m", "default", {"data": {"count": "1"}})
    await bench.until(lambda: bench.copies.decisions[-1:] == [1] and bench.runner.idle)
    deletions = [r for r in bench.sent if r.method == "DELETE"]
    assert len(deletions) == 3
    assert made.metadata.resourceVersion is not None


async def test_what_was_made_though_the_answer_was_lost_is_not_made_again(bench: Bench) -> None:
    bench.server.lag = 0.05         # longer than the first retries wait
    send, losing = bench.server.send, [3]

    async def lossy(request: Request) -> Response:
        response = await send(request)
        if request.method == "POST" and request.path.endswith("/secrets") and losing[0]:
            losing[0] -= 1
            raise ConnectionResetError("connection reset by peer")
        return response

    bench.server.send = lossy   # type: ignore[method-assign]
    await bench.want(4)
    await bench.until(lambda: bench.copies.decisions[-1:] == [4] and bench.runner.idle)
    await asyncio.sleep(0.1)
    assert len(bench.posts()) == len(bench.server.objects["secrets"]) == 4
    assert not any(request.method == "DELETE" for request in bench.sent)


async def test_a_deletion_that_lost_a_race_is_tried_again(bench: Bench) -> None:
    await bench.want(2)
    await bench.until(lambda: bench.copies.decisions[-1:] == [2] and bench.runner.idle)
    bench.server.refuse["DELETE", "secrets"] = errors.Conflict.of("secrets", "", "copy-1")
    await bench.client.patch(core.ConfigMap, "m", "default", {"data": {"count": "1"}})
    await bench.until(lambda: any(request.method == "DELETE" for request in bench.sent))
    bench.server.refuse.clear()
    await bench.until(lambda: len(bench.server.objects["secrets"]) == 1)


async def test_writes_say_what_they_react_to(bench: Bench) -> None:
    made = await bench.want(1)
    await bench.until(lambda: len(bench.posts()) == 1)
    assert bench.posts()[0].because == (int(made.metadata.resourceVersion or 0),)
    assert bench.posts()[0].about == "ConfigMap/default/m"


async def test_what_is_tried_again_has_the_same_reasons(bench: Bench) -> None:
    bench.server.refuse["POST", "secrets"] = errors.Forbidden("no")
    made = await bench.want(1)
    await bench.until(lambda: len(bench.posts()) >= 3)
    assert {post.because for post in bench.posts()} == {(int(made.metadata.resourceVersion or 0),)}


async def test_a_timer_is_a_reason_beside_what_had_set_it(bench: Bench) -> None:
    bench.copies.again = timedelta(seconds=0.05)
    made = await bench.want(0)
    await bench.until(lambda: len(bench.copies.decisions) == 1)
    bench.copies.more = 1        # what only time can bring, for there is no event
    await bench.until(lambda: bool(bench.posts()))
    assert bench.posts()[0].because == (TIMER, int(made.metadata.resourceVersion or 0))


async def test_refused_creations_start_slowly_and_are_told(bench: Bench) -> None:
    bench.server.refuse["POST", "secrets"] = errors.Forbidden("no")
    await bench.want(50)
    await bench.until(lambda: len(bench.copies.decisions) >= 3)
    assert len(bench.posts()) <= len(bench.copies.decisions)
    bench.server.refuse.clear()
    await bench.until(lambda: len(bench.server.objects.get("secrets", {})) == 50)
    await bench.until(lambda: bench.recorder.idle)
    messages = {e["reason"]: e["message"] for e in bench.server.objects["events"].values()}
    assert messages["NotMade"] == "not made: no"
    assert messages["Made"].startswith(("made copy-", "(combined from similar events): made copy-"))


async def test_a_namespace_that_goes_is_left_alone(bench: Bench) -> None:
    cause = errors.StatusCause("NamespaceTerminating", "it is going")
    bench.server.refuse["POST", "secrets"] = errors.Forbidden("no", errors.StatusDetails(causes=(cause,)))
    await bench.want(3)
    await bench.until(lambda: bool(bench.posts()))
    await bench.until(lambda: bench.runner.idle)
    await asyncio.sleep(0.05)
    assert len(bench.posts()) == 1
    assert "events" not in bench.server.objects


async def test_again_asks_again_without_a_change(bench: Bench) -> None:
    bench.copies.again = timedelta(seconds=0.02)
    await bench.want(0)
    await bench.until(lambda: len(bench.copies.decisions) >= 3)


async def test_a_pause_gathers_what_comes_in_a_burst(bench: Bench) -> None:
    bench.runner._pause = 0.1
    await bench.want(0)
    await bench.until(lambda: len(bench.copies.decisions) == 1)
    for count in (1, 2, 3):
        await bench.client.patch(core.ConfigMap, "m", "default", {"data": {"count": str(count)}})
        await asyncio.sleep(0.005)
    assert len(bench.copies.decisions) == 1
    await bench.until(lambda: len(bench.server.objects.get("secrets", {})) == 3)
    assert len(bench.copies.decisions) == 2


async def test_a_decision_that_raises_does_not_stop_the_others(bench: Bench) -> None:
    data = meta.ObjectMeta(name="broken", namespace="default")
    await bench.client.create(core.ConfigMap(metadata=data, data={"count": "many"}))
    await bench.want(2)
    await bench.until(lambda: len(bench.server.objects.get("secrets", {})) == 2)


async def test_an_object_that_is_gone_is_not_decided_about(bench: Bench) -> None:
    await bench.want(0)
    await bench.until(lambda: bench.runner.idle and bool(bench.copies.decisions))
    before = len(bench.copies.decisions)
    await bench.client.delete(core.ConfigMap, "m", "default")
    await bench.until(lambda: bench.copies.primary.cache.get("default", "m") is None and bench.runner.idle)
    assert len(bench.copies.decisions) == before


class Selective(Copies):
    """Of no interest: config maps that say so."""

    def __init__(self, informers: Informers) -> None:
        super().__init__(informers)
        self.asked = 0

    def concerns(self, event: Event[core.ConfigMap]) -> bool:
        self.asked += 1
        return event.new is not None and "skip" not in (event.new.data or {})


async def test_what_is_none_of_a_controllers_business_does_not_wake_it(bench: Bench) -> None:
    controller = Selective(bench.informers)
    runner = Runner(controller, bench.client, bench.recorder, clock=bench.runner._clock)
    task = asyncio.create_task(runner.run())
    try:
        await bench.until(lambda: runner.idle)
        data = meta.ObjectMeta(name="m", namespace="default")
        made = await bench.client.create(core.ConfigMap(metadata=data, data={"count": "0", "skip": ""}))
        await bench.until(lambda: controller.asked == 1)
        await asyncio.sleep(0)
        assert runner.idle and controller.decisions == []
        await bench.client.update(core.ConfigMap(metadata=made.metadata, data={"count": "0"}))
        await bench.until(lambda: controller.decisions == [0])
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
