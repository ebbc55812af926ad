"""Watchers in the server's own process, that take events in the commit itself; and informers on top of that."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pinnace.api import errors
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.apiserver import cache, watching
from pinnace.apiserver.inprocess import InProcessTransport
from pinnace.apiserver.server import ApiServer
from pinnace.base.clock import SystemClock
from pinnace.base.randomness import Randomness
from pinnace.client.client import Client
from pinnace.client.informer import Deleted, Event, Informer
from pinnace.client.transport import DirectWatch, Request, Response, Tell

from .conftest import CONFIGS, PODS, Api, config, pod

MERGE = {"content_type": "application/merge-patch+json"}


async def subscribe(api: Api, query: str = "", path: str = CONFIGS) -> tuple[list[Any], asyncio.Future[None], Any]:
    response = await api.ask("GET", f"{path}?watch=true&{query}".rstrip("&"))
    assert isinstance(response.watch, DirectWatch)
    seen: list[Any] = []
    return seen, response.watch.subscribe(into(seen)), response.watch


def into(seen: list[Any]) -> Tell:
    def tell(type: str, obj: Any, revision: int) -> None:
        assert obj.metadata.resourceVersion == str(revision)
        seen.append((type, obj))

    return tell


def brief(seen: list[Any]) -> list[tuple[str, str]]:
    return [(type, obj.metadata.name) for type, obj in seen]


async def test_each_event_in_its_commit_in_order(api: Api) -> None:
    await api.ask("POST", CONFIGS, config("a"))
    seen, over, stream = await subscribe(api)
    assert brief(seen) == [("ADDED", "a")]
    await api.ask("POST", CONFIGS, config("b"))
    await api.ask("PATCH", f"{CONFIGS}/b", {"data": {"x": "y"}}, **MERGE)
    await api.ask("DELETE", f"{CONFIGS}/b")
    assert brief(seen[1:]) == [("ADDED", "b"), ("MODIFIED", "b"), ("DELETED", "b")]
    revisions = [int(obj.metadata.resourceVersion) for _, obj in seen]
    assert revisions == sorted(set(revisions)), "of a deletion its own"
    cached = api.server.registry(core.ConfigMap).get("default", "a")
    assert seen[0][1] is cached, "the server's own object, shared"
    assert not over.done()
    await stream.aclose()
    await api.ask("POST", CONFIGS, config("c"))
    assert len(seen) == 4
    assert not api.server.watches
    assert api.server.registry(core.ConfigMap).cache.watchers == 0


async def test_selectors_past_events_and_the_mark(api: Api) -> None:
    first = await api.json("POST", CONFIGS, config("x"))
    await api.ask("PATCH", f"{CONFIGS}/x", {"metadata": {"labels": {"a": "b"}}}, **MERGE)
    revision = first["metadata"]["resourceVersion"]
    seen, _, stream = await subscribe(api, f"labelSelector=a&resourceVersion={revision}")
    assert brief(seen) == [("ADDED", "x")]
    await api.ask("PATCH", f"{CONFIGS}/x", {"metadata": {"labels": {"a": None}}}, **MERGE)
    assert brief(seen[1:]) == [("DELETED", "x")]
    assert seen[1][1].metadata.labels == {"a": "b"}
    await stream.aclose()
    query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    seen, _, stream = await subscribe(api, query)
    assert [type for type, _ in seen] == ["ADDED", "BOOKMARK"]
    assert seen[1][1].metadata.annotations == {watching.INITIAL_EVENTS_END: "true"}
    await stream.aclose()


async def test_redirected_nothing_is_lost_and_nothing_told_twice(api: Api) -> None:
    first, _, stream = await subscribe(api)
    second: list[Any] = []
    await api.ask("POST", CONFIGS, config("a"))
    stream.redirect(into(second))
    await api.ask("POST", CONFIGS, config("b"))
    assert (brief(first), brief(second)) == ([("ADDED", "a")], [("ADDED", "b")])
    await stream.aclose()
    stream.redirect(into(first))
    await api.ask("POST", CONFIGS, config("c"))
    assert len(first) == len(second) == 1


async def test_the_server_ends_it(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    _, over, stream = await subscribe(api, "timeoutSeconds=1")
    await asyncio.sleep(0)
    await api.server.close()
    await asyncio.wait_for(over, 1)
    await stream.aclose()


async def test_too_old_and_refilled(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_FEWEST_EVENTS", 2)
    monkeypatch.setattr(cache, "_MOST_EVENTS", 2)
    monkeypatch.setattr(cache, "_LOOK", 1)
    for name in "abcd":
        await api.ask("POST", CONFIGS, config(name))
    seen, over, stream = await subscribe(api, "resourceVersion=1")
    with pytest.raises(errors.Expired):
        await over
    await stream.aclose()
    assert not seen
    with pytest.raises(errors.Expired):
        async for _ in api.client.watch(core.ConfigMap, resource_version="1", directly=into(seen)):
            pass


async def test_a_subscriber_that_fails_loses_its_watch_alone(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    response = await api.ask("GET", f"{CONFIGS}?watch=true")
    assert isinstance(response.watch, DirectWatch)

    def bad(type: str, obj: object, revision: int) -> None:
        raise RuntimeError(type)

    over = response.watch.subscribe(bad)
    seen, _, stream = await subscribe(api)
    assert (await api.ask("POST", CONFIGS, config("a"))).status == 201
    with pytest.raises(errors.InternalError):
        await over
    await api.ask("POST", CONFIGS, config("b"))
    assert brief(seen) == [("ADDED", "a"), ("ADDED", "b")]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    await stream.aclose()
    await response.watch.aclose()


async def test_what_the_caller_does_to_its_object_afterwards_changes_nothing(api: Api) -> None:
    seen, _, stream = await subscribe(api)
    mine = core.ConfigMap(
        metadata=meta.ObjectMeta(name="mine", namespace="default", labels={"a": "b"}), data={"k": "v"}
    )
    made = await api.client.create(mine)
    assert mine.metadata.uid is None, "what the server fills in, it fills into its own"
    mine.data = {"k": "other"}
    mine.metadata.labels["a"] = "other"      # type: ignore[index]
    cached = api.server.registry(core.ConfigMap).get("default", "mine")
    assert (cached.data, cached.metadata.labels) == ({"k": "v"}, {"a": "b"})
    again = core.ConfigMap(metadata=made.metadata, data={"k": "2"})
    updated = await api.client.update(again)
    assert made.metadata.resourceVersion != updated.metadata.resourceVersion
    assert updated.metadata is not made.metadata
    again.data["k"] = "3"                    # type: ignore[index]
    assert [obj.data for _, obj in seen] == [{"k": "v"}, {"k": "2"}]
    await stream.aclose()


async def test_bookmarks_are_for_who_does_not_know(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_BOOKMARK_SECONDS", 0.01)
    revision = api.server.current_revision()
    query = f"watch=true&allowWatchBookmarks=true&resourceVersion={revision}"
    responses = [await api.ask("GET", f"{CONFIGS}?{query}") for _ in range(2)]
    other = await api.ask("GET", f"{PODS}?watch=true&resourceVersion={revision}")
    waiting = [asyncio.ensure_future(anext(response.watch)) for response in (*responses, other)]  # type: ignore[arg-type]
    await asyncio.sleep(0.1)
    assert not any(task.done() for task in waiting), "they know where the server stands"
    await api.ask("POST", "/api/v1/namespaces", {"metadata": {"name": "new"}})
    (first,), (second,) = await asyncio.wait_for(asyncio.gather(*waiting[:2]), 2)
    assert first is second, "one for all"
    assert (first.type, first.object.metadata.resourceVersion) == ("BOOKMARK", str(api.server.current_revision()))
    await asyncio.sleep(0.05)
    assert not waiting[2].done(), "nobody asked"
    await api.server.close()
    await asyncio.gather(waiting[2], return_exceptions=True)
    for response in responses:
        await response.watch.aclose()        # type: ignore[union-attr]
    assert api.server.bookmarks._timer is None


class Door:
    """Leads to one server after the other."""

    def __init__(self, server: ApiServer) -> None:
        self.server: ApiServer | None = server

    async def send(self, request: Request) -> Response:
        if self.server is None:
            raise ConnectionRefusedError
        return await InProcessTransport(self.server).send(request)

    async def close(self) -> None: ...


@contextlib.asynccontextmanager
async def informer(door: Door) -> AsyncIterator[tuple[Informer[core.ConfigMap], list[Event[core.ConfigMap]]]]:
    found = Informer(Client(door), core.ConfigMap, clock=SystemClock(), randomness=Randomness(1))
    seen: list[Event[core.ConfigMap]] = []
    found.subscribe(seen.append)
    task = asyncio.create_task(found.run())
    try:
        await asyncio.wait_for(found.wait_synced(), 2)
        await asyncio.sleep(0.01)
        yield found, seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_informer_shows_a_write_when_it_returns(api: Api) -> None:
    async with informer(Door(api.server)) as (found, seen):
        made = await api.client.create(core.ConfigMap(metadata=meta.ObjectMeta(name="a", namespace="default")))
        assert found.cache.get("default", "a") is made
        assert found.cache.revision == int(made.metadata.resourceVersion or 0)
        await api.client.delete(core.ConfigMap, "a", "default")
        assert isinstance(seen[-1], Deleted) and not len(found.cache)
    assert not api.server.watches


async def test_an_informer_of_a_quiet_kind_outlives_a_restart_and_a_compaction(api: Api) -> None:
    """It has had neither events nor bookmarks for long; what it knows is compacted; and nothing is missed."""
    await api.ask("POST", CONFIGS, config("kept"))
    await api.ask("POST", CONFIGS, config("gone"))
    door = Door(api.server)
    async with informer(door) as (found, seen):
        for number in range(20):
            await api.ask("POST", PODS, pod(f"p{number}"))
        store = api.server.store
        await store.compact(store.revision)
        door.server = None
        await api.server.close()
        second = ApiServer(store, api.server.resources, api.server.clock, Randomness(3))
        await second.start()
        await Client(InProcessTransport(second)).delete(core.ConfigMap, "gone", "default")
        door.server = second
        async with asyncio.timeout(5):
            await found.cache.wait_until(lambda: found.cache.get("default", "gone") is None)
        assert [event.old.metadata.name for event in seen if isinstance(event, Deleted)] == ["gone"]
        await asyncio.sleep(0.3)
        await Client(InProcessTransport(second)).create(
            core.ConfigMap(metadata=meta.ObjectMeta(name="new", namespace="default"))
        )
        async with asyncio.timeout(5):
            await found.cache.wait_until(lambda: found.cache.get("default", "new") is not None)
        await second.close()


async def test_a_transport_that_is_not_direct_goes_on_giving_batches(api: Api) -> None:
    class Far:
        async def send(self, request: Request) -> Response:
            response = await InProcessTransport(api.server).send(request)
            if response.watch is not None:
                response.watch = self._lines(response.watch)
            return response

        async def _lines(self, watch: Any) -> AsyncIterator[Any]:
            async for batch in watch:
                yield batch

        async def close(self) -> None: ...

    await api.ask("POST", CONFIGS, config("a"))
    direct: list[Any] = []
    async with contextlib.aclosing(Client(Far()).watch(core.ConfigMap, directly=into(direct))) as batches:
        batch = await anext(batches)
    assert [event.object.metadata.name for event in batch] == ["a"] and not direct
