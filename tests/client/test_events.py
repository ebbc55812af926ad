"""The correlator's decisions, and what the recorder sends."""

from __future__ import annotations

import asyncio
import contextlib
import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.base.clock import LoopClock
from pinnace.base.randomness import Randomness
from pinnace.client.client import Client
from pinnace.client.events import _QUEUE, Correlator, EventRecorder
from pinnace.client.transport import Request, Response

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def event(message: str, *, name: str = "web", uid: str = "1") -> core.Event:
    return core.Event(
        metadata=meta.ObjectMeta(name=f"{name}.{message}", namespace="default"),
        involvedObject=core.ObjectReference(kind="Pod", name=name, uid=uid),
        source=core.EventSource(component="kubelet"),
        type="Normal",
        reason="Pulled",
        message=message,
        count=1,
        firstTimestamp="first",
        lastTimestamp="last",
    )


def test_the_same_event_raises_the_count_of_the_first() -> None:
    correlator = Correlator()
    first = correlator.correlate(event("done"), NOW)
    again = correlator.correlate(msgspec.structs.replace(event("done"), metadata=meta.ObjectMeta(name="x")), NOW)
    assert first is not None and not first.repeated
    assert again is not None and again.repeated
    assert again.event.count == 2
    assert again.known.name == "web.done"


def test_many_alike_are_combined() -> None:
    correlator = Correlator()
    sent = [correlator.correlate(event(str(number)), NOW) for number in range(12)]
    messages = [send.event.message for send in sent if send is not None]
    assert messages[:9] == [str(number) for number in range(9)]
    assert messages[9:] == [f"(combined from similar events): {number}" for number in (9, 10, 11)]
    assert [send.repeated for send in sent if send is not None][9:] == [False, True, True]


def test_a_chatterer_is_held_back_and_others_are_not() -> None:
    correlator = Correlator()
    sent = [correlator.correlate(event("same"), NOW) for _ in range(30)]
    assert sum(send is not None for send in sent) == 25
    assert correlator.correlate(event("same", name="other", uid="2"), NOW) is not None
    assert correlator.correlate(event("same"), NOW + timedelta(seconds=301)) is not None
    assert correlator.correlate(event("same"), NOW + timedelta(seconds=301)) is None


def test_the_containers_of_a_pod_share_what_it_may_say() -> None:
    correlator = Correlator()
    sent = []
    for number in range(30):
        said = event("same")
        said.involvedObject.fieldPath = f"spec.containers{{c{number % 2}}}"
        sent.append(correlator.correlate(said, NOW))
    assert [send.event.count for send in sent if send is not None] == [n // 2 + 1 for n in range(25)]


def test_what_was_told_of_longest_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pinnace.client.events._REMEMBERED", 4)
    correlator = Correlator()
    told = [("a", "1"), ("b", "1"), ("b", "2"), ("a", "1"), ("c", "1"), ("d", "1"), ("b", "1"), ("a", "1")]
    sent = [correlator.correlate(event(message, name=name, uid=name), NOW) for name, message in told]
    assert [send.repeated for send in sent if send is not None] == [
        False, False, False, True, False, False, False, True,     # with d's, both of b's were one too many
    ]  # fmt: skip


class Recording:
    def __init__(self) -> None:
        self.requests: list[Request] = []

    async def send(self, request: Request) -> Response:
        self.requests.append(request)
        return Response(200, body=request.text() if request.method == "POST" else b'{"metadata":{}}')

    async def close(self) -> None: ...


async def test_the_recorder_sends_upstreams_shape() -> None:
    transport = Recording()
    clock = LoopClock(NOW, asyncio.get_running_loop())
    recorder = EventRecorder(Client(transport), "kubelet", "node-1", clock=clock, randomness=Randomness(1))
    pod = core.Pod(metadata=meta.ObjectMeta(name="web", namespace="blue", uid="u1", resourceVersion="7"))
    task = asyncio.create_task(recorder.run())
    recorder.event(pod, "Warning", "BackOff", "Back-off", field_path="spec.containers{web}", because=(7,))
    recorder.event(pod, "Warning", "BackOff", "Back-off", field_path="spec.containers{web}")
    async with asyncio.timeout(5):
        while not recorder.idle:   # noqa: ASYNC110  (state that has no event)
            await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    create, patch = transport.requests
    sent = json.loads(create.text())
    assert create.path == "/api/v1/namespaces/blue/events"
    assert create.because == (7,)
    assert sent["involvedObject"] == {
        "apiVersion": "v1", "kind": "Pod", "name": "web", "namespace": "blue", "uid": "u1",
        "resourceVersion": "7", "fieldPath": "spec.containers{web}",
    }  # fmt: skip
    assert sent["source"] == {"component": "kubelet", "host": "node-1"}
    assert (sent["reportingComponent"], sent["reportingInstance"]) == ("kubelet", "node-1")
    assert (sent["count"], sent["firstTimestamp"]) == (1, "2026-01-01T00:00:00Z")
    assert patch.method == "PATCH"
    assert patch.path.endswith(sent["metadata"]["name"])
    assert json.loads(patch.text())["count"] == 2


async def test_a_full_queue_drops_and_never_blocks(caplog: pytest.LogCaptureFixture) -> None:
    clock = LoopClock(NOW, asyncio.get_running_loop())
    recorder = EventRecorder(Client(Recording()), "kubelet", clock=clock, randomness=Randomness(1))
    for number in range(_QUEUE + 10):
        node = core.Node(metadata=meta.ObjectMeta(name=f"n{number}"))
        recorder.event(node, "Normal", "Starting", "x")
    assert not recorder.idle
    assert recorder._unsent == _QUEUE
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 4 and " 8 dropped" in told[-1]      # at 1, 2, 4 and 8 of 10


async def test_events_about_several_objects_are_sent_side_by_side_and_in_order() -> None:
    class Slow(Recording):
        under_way = most = 0

        async def send(self, request: Request) -> Response:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            await asyncio.sleep(0.002)
            self.under_way -= 1
            return await super().send(request)

    transport = Slow()
    clock = LoopClock(NOW, asyncio.get_running_loop())
    recorder = EventRecorder(Client(transport), "default-scheduler", clock=clock, randomness=Randomness(1))
    for reason in ("Pulled", "Created", "Started"):
        for number in range(50):
            pod = core.Pod(metadata=meta.ObjectMeta(name=f"p{number}", namespace="blue", uid=f"u{number}"))
            recorder.event(pod, "Normal", reason, "x")
    sending = asyncio.create_task(recorder.run())
    await asyncio.sleep(0.3)      # one after the other they would need that much for sleeping alone
    assert recorder.idle
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    sent = [json.loads(request.text()) for request in transport.requests]
    assert len(sent) == 150 and 2 <= transport.most <= 16
    for number in range(50):
        about = [e["reason"] for e in sent if e["involvedObject"]["name"] == f"p{number}"]
        assert about == ["Pulled", "Created", "Started"]


async def test_nothing_is_lost_of_what_waits_when_the_recorder_is_stopped_and_run_again() -> None:
    class Stuck(Recording):
        stuck = True

        async def send(self, request: Request) -> Response:
            if self.stuck:
                await asyncio.get_running_loop().create_future()
            return await super().send(request)

    transport = Stuck()
    clock = LoopClock(NOW, asyncio.get_running_loop())
    recorder = EventRecorder(Client(transport), "kubelet", clock=clock, randomness=Randomness(1))

    def tell(reason: str) -> None:
        for number in range(20):
            pod = core.Pod(metadata=meta.ObjectMeta(name=f"p{number}", namespace="blue", uid=f"u{number}"))
            recorder.event(pod, "Normal", reason, "x")

    sending = asyncio.create_task(recorder.run())
    for reason in ("Pulled", "Created", "Started"):
        tell(reason)
        for _ in range(40):
            await asyncio.sleep(0)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    tell("Killing")
    transport.stuck = False
    sending = asyncio.create_task(recorder.run())
    async with asyncio.timeout(5):
        while not recorder.idle:   # noqa: ASYNC110  (state that has no event)
            await asyncio.sleep(0)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    sent = [json.loads(request.text()) for request in transport.requests]
    for number in range(20):      # those that were under way, one of each of 16 objects, went with the connection
        about = [e["reason"] for e in sent if e["involvedObject"]["name"] == f"p{number}"]
        assert about == ["Pulled", "Created", "Started", "Killing"][number < 16 :]
