"""The pure parts by table: paths, Accept headers, deletion plans, options; the cache's and the feed's edges."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from pinnace.api import errors
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.apiserver import deletion
from pinnace.apiserver.negotiation import Format, negotiate
from pinnace.apiserver.options import DeleteOptions, delete_options
from pinnace.apiserver.paths import Target, parse, verb_of

from .conftest import CONFIGS, Api, config

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/api/v1/pods", Target("", "v1", "pods")),
        ("/api/v1/pods/", Target("", "v1", "pods")),
        ("/api/v1/namespaces", Target("", "v1", "namespaces")),
        ("/api/v1/namespaces/x", Target("", "v1", "namespaces", name="x")),
        ("/api/v1/namespaces/x/status", Target("", "v1", "namespaces", name="x", subresource="status")),
        ("/api/v1/namespaces/x/finalize", Target("", "v1", "namespaces", name="x", subresource="finalize")),
        ("/api/v1/namespaces/x/pods/p/log", Target("", "v1", "pods", "x", "p", "log")),
        ("/apis/apps/v1/namespaces/x/deployments/d", Target("apps", "v1", "deployments", "x", "d")),
        ("/api/v1/nodes/n/proxy/a/b/", Target("", "v1", "nodes", name="n", subresource="proxy", rest="a/b/")),
        ("/api/v1/watch/namespaces/x/pods", Target("", "v1", "pods", "x", watch=True)),
        ("/api/v1/namespaces/x/pods/p/log/more", None),
        ("/api/v1/namespaces//pods", None),
        ("/api/v1", None),
        ("/apis/apps/v1", None),
        ("/healthz/etcd", None),
        ("", None),
    ],
)
def test_paths(path: str, target: Target | None) -> None:
    assert parse(path) == target


@pytest.mark.parametrize(
    ("method", "name", "watching", "verb"),
    [("GET", "", False, "list"), ("GET", "", True, "watch"), ("GET", "x", True, "get"), ("POST", "", False, "create"),
     ("PUT", "x", False, "update"), ("PATCH", "x", False, "patch"), ("DELETE", "x", False, "delete"),
     ("DELETE", "", False, "deletecollection"), ("TRACE", "", False, "")],
)  # fmt: skip
def test_verbs(method: str, name: str, watching: bool, verb: str) -> None:
    assert verb_of(method, Target("", "v1", "pods", name=name), watching) == verb


@pytest.mark.parametrize(
    ("accept", "format"),
    [
        ("", Format()),
        ("*/*", Format()),
        ("application/yaml", Format("application/yaml")),
        ("application/vnd.kubernetes.protobuf,application/json", Format()),
        ("application/json;q=0.5,application/yaml", Format("application/yaml")),
        ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Format("application/json", "Table")),
        ("application/json;as=Table;v=v9;g=meta.k8s.io,application/json", Format()),
        ("application/json;as=PartialObjectMetadata;v=v1beta1;g=meta.k8s.io",
         Format("application/json", "PartialObjectMetadata", "v1beta1")),
    ],
)  # fmt: skip
def test_accept(accept: str, format: Format) -> None:
    assert negotiate(accept) == format


@pytest.mark.parametrize(
    ("finalizers", "options", "expected"),
    [
        ([], DeleteOptions(), ()),
        (["x/y"], DeleteOptions(policy="Foreground"), ("x/y", "foregroundDeletion")),
        (["orphan"], DeleteOptions(), ("orphan",)),
        (["orphan", "x/y"], DeleteOptions(policy="Background"), ("x/y",)),
        (["foregroundDeletion"], DeleteOptions(policy="Orphan"), ("orphan",)),
        ([], DeleteOptions(orphan=True), ("orphan",)),
        (["orphan"], DeleteOptions(orphan=False), ()),
    ],
)
def test_finalizers(finalizers: list[str], options: DeleteOptions, expected: tuple[str, ...]) -> None:
    assert deletion.finalizers_after(meta.ObjectMeta(finalizers=finalizers), options) == expected


def test_plans() -> None:
    fresh = meta.ObjectMeta(name="a")
    assert deletion.plan(fresh, DeleteOptions(), None, False, NOW).gone
    assert not deletion.plan(fresh, DeleteOptions(), None, True, NOW).gone
    graceful = deletion.plan(fresh, DeleteOptions(), 30, False, NOW)
    assert (graceful.gone, graceful.seconds, graceful.timestamp) == (False, 30, "2026-01-01T00:00:30Z")
    running = meta.ObjectMeta(deletionTimestamp="2026-01-01T00:00:30Z", deletionGracePeriodSeconds=30)
    shorter = deletion.plan(running, DeleteOptions(grace=10), 10, False, NOW)
    assert (shorter.seconds, shorter.timestamp, shorter.begins) == (10, "2026-01-01T00:00:10Z", False)
    assert deletion.plan(running, DeleteOptions(grace=0), 0, False, NOW).gone
    assert deletion.plan(running, DeleteOptions(), 30, False, NOW).seconds == 30


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        ({"propagationPolicy": "Orphan", "orphanDependents": True}, errors.Invalid),
        ({"dryRun": ["Some"]}, errors.Invalid),
        ({"kind": "Pod"}, errors.BadRequest),
        ([], errors.BadRequest),
        ({"preconditions": {"uid": 3}}, errors.BadRequest),
    ],
)
def test_bad_delete_options(body: Any, refusal: type[errors.StatusError]) -> None:
    with pytest.raises(refusal):
        delete_options({}, body)


async def test_a_new_server_finds_what_the_old_one_wrote(api: Api) -> None:
    from pinnace.apiserver.server import ApiServer

    old = await api.json("POST", CONFIGS, config("a"))
    second = ApiServer(api.server.store, api.server.resources, api.server.clock, api.server.randomness)
    await second.start()
    assert second.registry(core.ConfigMap).get("default", "a").metadata.uid == old["metadata"]["uid"]
    await api.ask("POST", CONFIGS, config("b"))
    await second.feed.fresh()
    assert second.registry(core.ConfigMap).get("default", "b").metadata.name == "b", "and follows its writes"
    await second.close()


async def test_one_broken_value_stops_nothing(api: Api) -> None:
    key = api.server.registry(core.ConfigMap).cache.key("default", "broken")
    await api.server.store.commit(key, b"{not json")
    await api.ask("POST", CONFIGS, config("a"))
    assert [item["metadata"]["name"] for item in (await api.json("GET", CONFIGS))["items"]] == ["a"]


async def test_events_expire(api: Api) -> None:
    for name in ("old", "new"):
        if name == "new":
            api.server.clock.advance(3000)      # type: ignore[attr-defined]
        event = core.Event(
            metadata=meta.ObjectMeta(name=name, namespace="default"),
            involvedObject=core.ObjectReference(kind="Pod", name="a", namespace="default"),
        )
        await api.client.create(event)
    api.server.clock.advance(700)      # type: ignore[attr-defined]
    assert await api.server.expiry.sweep() == 1
    await api.server.feed.fresh()
    assert [event.metadata.name for event in (await api.client.list(core.Event)).items] == ["new"]
    api.server.clock.advance(3000)     # type: ignore[attr-defined]
    api.server.expiry.start()          # as after the caches were filled anew: what they say of themselves counts
    assert await api.server.expiry.sweep() == 1
