"""Watches: where they begin, what selectors make of events, bookmarks, and how they end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pinnace.api.core import v1 as core
from pinnace.api.errors import Expired
from pinnace.api.meta import v1 as meta
from pinnace.apiserver import cache, watching
from pinnace.base.clock import ManualClock

from .conftest import CONFIGS, PODS, Api, config, pod


class Seen:
    """Reads a watch event by event."""

    def __init__(self, stream: AsyncIterator[Any]) -> None:
        self._stream = stream
        self._waiting: list[dict[str, Any]] = []

    async def next(self) -> dict[str, Any]:
        while not self._waiting:
            batch = await asyncio.wait_for(anext(self._stream), 2)
            self._waiting += [json.loads(line.line) for line in batch]
        return self._waiting.pop(0)

    async def brief(self) -> tuple[str, str]:
        event = await self.next()
        return event["type"], event["object"]["metadata"].get("name", "")

    async def quiet(self) -> bool:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return not self._waiting

    async def close(self) -> None:
        await self._stream.aclose()      # type: ignore[attr-defined]


async def watch(api: Api, path: str, query: str = "") -> Seen:
    response = await api.ask("GET", f"{path}?watch=true&{query}".rstrip("&"))
    assert response.watch is not None, response.body
    return Seen(response.watch)


async def test_from_now_with_what_is_there(api: Api) -> None:
    await api.ask("POST", CONFIGS, config("a"))
    seen = await watch(api, CONFIGS)
    assert await seen.brief() == ("ADDED", "a")
    await api.ask("POST", CONFIGS, config("b"))
    await api.ask("PATCH", f"{CONFIGS}/b", {"data": {"x": "y"}}, content_type="application/merge-patch+json")
    await api.ask("DELETE", f"{CONFIGS}/b")
    assert [await seen.brief() for _ in range(3)] == [("ADDED", "b"), ("MODIFIED", "b"), ("DELETED", "b")]
    await seen.close()


async def test_resumes_from_a_revision_and_carries_the_deletions_revision(api: Api) -> None:
    first = await api.json("POST", CONFIGS, config("a"))
    revision = first["metadata"]["resourceVersion"]
    await api.ask("DELETE", f"{CONFIGS}/a")
    seen = await watch(api, CONFIGS, f"resourceVersion={revision}")
    event = await seen.next()
    assert event["type"] == "DELETED"
    assert int(event["object"]["metadata"]["resourceVersion"]) > int(revision)
    assert (event["object"]["kind"], event["object"]["apiVersion"]) == ("ConfigMap", "v1")
    await seen.close()


async def test_objects_move_in_and_out_of_a_selector(api: Api) -> None:
    seen = await watch(api, CONFIGS, "labelSelector=a%3Db".replace("%3D", "="))
    merge = {"content_type": "application/merge-patch+json"}
    await api.ask("POST", CONFIGS, config("x"))
    await api.ask("PATCH", f"{CONFIGS}/x", {"metadata": {"labels": {"a": "b"}}}, **merge)
    await api.ask("PATCH", f"{CONFIGS}/x", {"data": {"k": "v"}}, **merge)
    patched = await api.json("PATCH", f"{CONFIGS}/x", {"metadata": {"labels": {"a": "c"}}}, **merge)
    events = [await seen.next() for _ in range(3)]
    assert [event["type"] for event in events] == ["ADDED", "MODIFIED", "DELETED"]
    left = events[2]["object"]["metadata"]
    assert left["labels"] == {"a": "b"}, "the last state that was selected"
    assert left["resourceVersion"] == patched["metadata"]["resourceVersion"]
    await seen.close()


async def test_pods_of_one_node_by_index(api: Api) -> None:
    seen = await watch(api, "/api/v1/pods", "fieldSelector=spec.nodeName=n1")
    await api.ask("POST", PODS, pod("other"))
    await api.ask("POST", PODS, pod("mine"))
    binding = {"metadata": {"name": "mine"}, "target": {"kind": "Node", "name": "n1"}}
    assert (await api.ask("POST", f"{PODS}/mine/binding", binding)).status == 201
    assert await seen.brief() == ("ADDED", "mine")
    listed = await api.json("GET", "/api/v1/pods?fieldSelector=spec.nodeName=n1")
    assert [item["metadata"]["name"] for item in listed["items"]] == ["mine"]
    await seen.close()


async def test_initial_events_end_with_a_bookmark(api: Api) -> None:
    await api.ask("POST", CONFIGS, config("a"))
    seen = await watch(
        api, CONFIGS, "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    )
    assert await seen.brief() == ("ADDED", "a")
    mark = await seen.next()
    assert mark["type"] == "BOOKMARK"
    assert mark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert mark["object"]["metadata"]["resourceVersion"] == str(api.server.current_revision())
    await seen.close()


async def test_bookmarks_come_by_themselves(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_BOOKMARK_SECONDS", 0.01)
    seen = await watch(api, CONFIGS, "allowWatchBookmarks=true")
    await api.ask("POST", PODS, pod())          # another kind moves the revision on
    event = await seen.next()
    while event["object"]["metadata"]["resourceVersion"] != str(api.server.current_revision()):
        event = await seen.next()
    assert event["type"] == "BOOKMARK"
    await seen.close()


async def test_too_old_is_said_in_the_stream(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_FEWEST_EVENTS", 2)
    monkeypatch.setattr(cache, "_MOST_EVENTS", 2)
    monkeypatch.setattr(cache, "_LOOK", 1)
    for name in "abcd":
        await api.ask("POST", CONFIGS, config(name))
    seen = await watch(api, CONFIGS, "resourceVersion=1")
    event = await seen.next()
    assert event["type"] == "ERROR"
    assert (event["object"]["code"], event["object"]["reason"]) == (410, "Expired")
    with pytest.raises(StopAsyncIteration):
        await seen.next()
    with pytest.raises(Expired):
        async for _ in api.client.watch(core.ConfigMap, resource_version="1"):
            pass


async def test_the_time_is_up(api: Api) -> None:
    seen = await watch(api, CONFIGS, "timeoutSeconds=1")
    with pytest.raises(StopAsyncIteration):
        await seen.next()
    registry = api.server.registry(core.ConfigMap)
    assert registry.cache.watchers == 0


async def test_a_watcher_that_does_not_read_is_cut(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_MOST_WAITING", 3)
    seen = await watch(api, CONFIGS)
    reading = asyncio.create_task(seen.next())
    await asyncio.sleep(0)
    registry = api.server.registry(core.ConfigMap)
    for number in range(8):
        made = core.ConfigMap(metadata=meta.ObjectMeta(name=f"c{number}", namespace="default"))
        value = registry.cache.form.value(made)
        await api.server.store.commit(registry.cache.key("default", f"c{number}"), value)
    await reading
    with pytest.raises(StopAsyncIteration):
        for _ in range(8):
            await seen.next()


async def test_all_watchers_get_the_same_line(api: Api) -> None:
    streams = [(await api.ask("GET", f"{CONFIGS}?watch=1")).watch for _ in range(3)]
    firsts = [asyncio.ensure_future(anext(stream)) for stream in streams if stream is not None]
    await asyncio.sleep(0)
    await api.ask("POST", CONFIGS, config("a"))
    lines = [(await first)[0] for first in firsts]
    assert lines[0] is lines[1] is lines[2]
    for stream in streams:
        await stream.aclose()      # type: ignore[union-attr]


async def test_tables_are_watched_too(api: Api) -> None:
    response = await api.ask(
        "GET", f"{PODS}?watch=1", accept="application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
    )
    seen = Seen(response.watch)      # type: ignore[arg-type]
    await api.ask("POST", PODS, pod("a"))
    await api.ask("POST", PODS, pod("b"))
    first, second = await seen.next(), await seen.next()
    assert first["object"]["kind"] == "Table"
    assert first["object"]["rows"][0]["cells"][:3] == ["a", "0/1", "Pending"]
    assert first["object"]["columnDefinitions"][0]["name"] == "Name"
    assert second["object"]["columnDefinitions"] is None
    await seen.close()


async def test_what_watches_can_resume_from_goes_with_time_but_the_newest_stays(api: Api) -> None:
    clock, server = api.server.clock, api.server
    assert isinstance(clock, ManualClock)

    async def write(number: int) -> int:
        for i in range(number):
            await api.client.patch(core.ConfigMap, "a", "default", {"data": {"a": f"{clock.monotonic()} {i}"}})
        return server.current_revision()

    quiet = await api.client.create(core.Secret(metadata=meta.ObjectMeta(name="s", namespace="default")))
    await api.client.create(core.ConfigMap(metadata=meta.ObjectMeta(name="a", namespace="default")))
    first = await write(200)
    clock.advance(200)
    second = await write(200)
    found = server.registry(core.ConfigMap).cache
    assert len(found.since(first)) == 200, "five minutes are kept"
    clock.advance(200)
    await write(300)
    with pytest.raises(Expired):
        found.since(20)
    assert len(found.since(second)) == 300
    clock.advance(1000)
    newest = await write(300)
    assert len(found.since(newest - 100)) == 100
    assert found.since(newest - 100)[0].revision == newest - 99
    with pytest.raises(Expired):
        found.since(second)
    assert server.registry(core.Secret).cache.since(int(quiet.metadata.resourceVersion or 0)) == []
