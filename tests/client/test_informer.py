"""Informers: the protocol's transitions, and what a cache and its handlers see through lost watches."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

import pytest

from pinnace.api import errors
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.base.clock import LoopClock
from pinnace.base.randomness import Randomness
from pinnace.client import informer as module
from pinnace.client.client import Client, ObjectList, WatchEvent
from pinnace.client.informer import (
    Added,
    Apply,
    Batch,
    Deleted,
    Ended,
    Event,
    Failed,
    Informer,
    Informers,
    Listed,
    Listing,
    Replace,
    Step,
    Updated,
    Watching,
    advance,
)
from pinnace.client.transport import Request, Response, WatchLine


def pod(name: str, revision: int, *, uid: str = "", node: str = "") -> core.Pod:
    data = meta.ObjectMeta(name=name, namespace="default", uid=uid or f"uid-{name}", resourceVersion=str(revision))
    return core.Pod(metadata=data, spec=core.PodSpec(nodeName=node or None))


class TestAdvance:
    def test_a_list_starts_the_watch(self) -> None:
        items = [pod("a", 3)]
        assert advance(Listing(), Listed(items, "7")) == Step(Watching("7"), Replace(items, "7"))

    def test_events_move_the_revision(self) -> None:
        events = (WatchEvent("ADDED", pod("a", 8)), WatchEvent("BOOKMARK", pod("", 12)))
        assert advance(Watching("7"), Batch(events)) == Step(Watching("12"), Apply(events, "12"))

    def test_the_end_of_a_watch_loses_nothing(self) -> None:
        assert advance(Watching("7"), Ended()) == Step(Watching("7"))

    @pytest.mark.parametrize(
        "error",
        [errors.Expired("too old"), errors.Gone("gone"), errors.Timeout("Too large resource version: 9, current: 3")],
    )
    def test_lost_history_lists_again_at_once(self, error: Exception) -> None:
        assert advance(Watching("7"), Failed(error)) == Step(Listing())

    @pytest.mark.parametrize("error", [ConnectionError(), errors.ServiceUnavailable(""), errors.TooManyRequests("")])
    def test_other_failures_wait_and_go_on(self, error: Exception) -> None:
        assert advance(Watching("7"), Failed(error)) == Step(Watching("7"), wait=True)
        assert advance(Listing(), Failed(error)) == Step(Listing(), wait=True)


class Script:
    """A transport that answers lists from `items` and watches with what `feed` is given."""

    def __init__(self) -> None:
        self.items: list[core.Pod] = []
        self.revision = 1
        self.watches: list[str] = []
        self.lists = 0
        self.feed: asyncio.Queue[tuple[WatchLine, ...] | Exception | None] = asyncio.Queue()

    async def close(self) -> None: ...

    async def send(self, request: Request) -> Response:
        if "watch" in request.query:
            self.watches.append(request.query["resourceVersion"][0])
            return Response(200, watch=self._lines())
        self.lists += 1
        return Response(200, object=ObjectList(list(self.items), str(self.revision)))

    async def _lines(self) -> AsyncIterator[tuple[WatchLine, ...]]:
        while (item := await self.feed.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    def say(self, *events: tuple[str, core.Pod]) -> None:
        self.feed.put_nowait(tuple(WatchLine(type, obj, b"") for type, obj in events))


@contextlib.asynccontextmanager
async def running(script: Script) -> AsyncIterator[tuple[Informer[core.Pod], list[Event[core.Pod]]]]:
    clock = LoopClock(datetime(2026, 1, 1, tzinfo=UTC), asyncio.get_running_loop())
    informer = Informer(Client(script), core.Pod, clock=clock, randomness=Randomness(1))
    seen: list[Event[core.Pod]] = []
    informer.subscribe(seen.append)
    task = asyncio.create_task(informer.run())
    try:
        async with asyncio.timeout(5):
            await informer.wait_synced()
            yield informer, seen
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def soon(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():   # noqa: ASYNC110  (state that has no event)
            await asyncio.sleep(0)


async def test_a_cache_follows_list_and_watch() -> None:
    script = Script()
    script.items, script.revision = [pod("a", 1)], 5
    async with running(script) as (informer, seen):
        assert seen == [Added(pod("a", 1))]
        assert informer.cache.revision == 5
        script.say(("ADDED", pod("b", 6)), ("MODIFIED", pod("a", 7)))
        await informer.cache.wait_for_revision(7)
        assert seen[1:] == [Added(pod("b", 6)), Updated(pod("a", 7), pod("a", 1))]
        script.say(("DELETED", pod("a", 8)), ("BOOKMARK", pod("", 20)))
        await informer.cache.wait_for_revision(20)
        assert seen[-1] == Deleted(pod("a", 8))
        assert [p.metadata.name for p in informer.cache.list()] == ["b"]
        assert informer.cache.get("default", "a") is None
        assert script.watches == ["5"]


async def test_a_lost_watch_goes_on_where_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHORT_WATCH", 0.0)
    script = Script()
    async with running(script) as (informer, seen):
        script.say(("ADDED", pod("a", 4)))
        script.feed.put_nowait(None)
        await soon(lambda: len(script.watches) == 2)
        script.say(("MODIFIED", pod("a", 9)))
        await informer.cache.wait_for_revision(9)
        assert script.watches == ["1", "4"]
        assert script.lists == 1
        assert seen == [Added(pod("a", 4)), Updated(pod("a", 9), pod("a", 4))]


async def test_expired_history_is_made_up_for_by_a_diff() -> None:
    script = Script()
    script.items = [pod("kept", 1), pod("changed", 1), pod("gone", 1), pod("anew", 1)]
    async with running(script) as (_, seen):
        del seen[:]
        script.items = [pod("kept", 1), pod("changed", 30), pod("anew", 31, uid="other"), pod("new", 32)]
        script.revision = 40
        script.feed.put_nowait(errors.Expired("too old resource version"))
        await soon(lambda: script.lists == 2 and len(seen) >= 5)
        assert seen == [
            Deleted(pod("gone", 1)),
            Updated(pod("changed", 30), pod("changed", 1)),
            Deleted(pod("anew", 1)),
            Added(pod("anew", 31, uid="other")),
            Added(pod("new", 32)),
        ]
        await soon(lambda: script.watches == ["1", "40"])


async def test_a_late_subscriber_hears_of_what_is_there_and_a_bad_one_stops_nobody() -> None:
    script = Script()
    script.items = [pod("a", 1)]
    async with running(script) as (informer, seen):
        late: list[Event[core.Pod]] = []
        end = informer.subscribe(late.append)
        assert late == [Added(pod("a", 1))]
        end()

        def bad(event: Event[core.Pod]) -> None:
            raise RuntimeError(event)

        informer.subscribe(bad)
        script.say(("ADDED", pod("b", 2)))
        await informer.cache.wait_for_revision(2)
        assert len(seen) == 2
        assert len(late) == 1


async def test_indexes_follow_changes() -> None:
    script = Script()
    script.items = [pod("a", 1, node="n1"), pod("b", 1, node="n1")]
    async with running(script) as (informer, _):
        informer.add_index("node", lambda p: [p.spec.nodeName] if p.spec and p.spec.nodeName else [])
        assert [p.metadata.name for p in informer.cache.by_index("node", "n1")] == ["a", "b"]
        script.say(("MODIFIED", pod("a", 2, node="n2")), ("DELETED", pod("b", 3)))
        await informer.cache.wait_for_revision(3)
        assert informer.cache.by_index("node", "n1") == []
        assert [p.metadata.name for p in informer.cache.by_index("node", "n2")] == ["a"]
        assert informer.cache.index_values("node") == ["n2"]


async def test_waiting_for_a_condition_of_the_cache() -> None:
    script = Script()
    script.items = [pod("a", 1)]
    async with running(script) as (informer, _):
        waiting = asyncio.create_task(
            informer.cache.wait_until(lambda: informer.cache.get("default", "a") is None)
        )
        script.say(("ADDED", pod("b", 2)))
        await informer.cache.wait_for_revision(2)
        assert not waiting.done()
        script.say(("DELETED", pod("a", 3)))
        await waiting


async def test_informers_are_shared_by_kind_and_selection() -> None:
    clock = LoopClock(datetime(2026, 1, 1, tzinfo=UTC), asyncio.get_running_loop())
    informers = Informers(Client(Script()), clock, Randomness(1))
    assert informers.of(core.Pod) is informers.of(core.Pod)
    assert informers.of(core.Pod) is not informers.of(core.Pod, field_selector="spec.nodeName=n1")
    task = asyncio.create_task(informers.run())
    async with asyncio.timeout(5):
        await informers.wait_synced()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
