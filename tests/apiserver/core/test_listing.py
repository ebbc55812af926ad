"""Lists: pages, revisions, selectors, forms."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from .conftest import CONFIGS, PODS, Api, config, pod


async def fill(api: Api, count: int) -> None:
    for number in range(count):
        labels = {"parity": "even" if number % 2 == 0 else "odd"}
        await api.ask("POST", CONFIGS, config(f"c{number}", metadata={"labels": labels}))


def names(listed: dict[str, Any]) -> list[str]:
    return [item["metadata"]["name"] for item in listed["items"]]


async def test_items_carry_no_type_and_the_list_does(api: Api) -> None:
    await fill(api, 2)
    listed = await api.json("GET", CONFIGS)
    assert (listed["kind"], listed["apiVersion"]) == ("ConfigMapList", "v1")
    assert names(listed) == ["c0", "c1"]
    assert "kind" not in listed["items"][0]
    assert listed["metadata"]["resourceVersion"] == str(api.server.current_revision())


async def test_pages_show_one_moment(api: Api) -> None:
    await fill(api, 5)
    first = await api.json("GET", f"{CONFIGS}?limit=2")
    assert names(first) == ["c0", "c1"]
    assert first["metadata"]["remainingItemCount"] == 3
    await api.ask("DELETE", f"{CONFIGS}/c3")
    await api.ask("POST", CONFIGS, config("c9"))
    second = await api.json("GET", f"{CONFIGS}?limit=2&continue={first['metadata']['continue']}")
    assert names(second) == ["c2", "c3"], "as it was at the first page's moment"
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    third = await api.json("GET", f"{CONFIGS}?limit=2&continue={second['metadata']['continue']}")
    assert names(third) == ["c4"]
    assert "continue" not in third["metadata"]


@pytest.mark.parametrize("changed", [False, True])
async def test_pages_with_a_selector(api: Api, changed: bool) -> None:
    await fill(api, 6)
    first = await api.json("GET", f"{CONFIGS}?limit=2&labelSelector=parity=even")
    assert names(first) == ["c0", "c2"]
    assert "remainingItemCount" not in first["metadata"]
    if changed:
        await api.ask("POST", CONFIGS, config("z"))
    second = await api.json(
        "GET", f"{CONFIGS}?limit=2&labelSelector=parity=even&continue={first['metadata']['continue']}"
    )
    assert names(second) == ["c4"]


async def test_an_expired_token_gives_one_that_goes_on(api: Api) -> None:
    await fill(api, 4)
    first = await api.json("GET", f"{CONFIGS}?limit=2")
    await api.ask("POST", CONFIGS, config("z"))
    await api.server.store.compact(api.server.store.revision)
    response = await api.ask("GET", f"{CONFIGS}?limit=2&continue={first['metadata']['continue']}")
    status = json.loads(response.body)
    assert (status["code"], status["reason"]) == (410, "Expired")
    rest = await api.json("GET", f"{CONFIGS}?continue={status['metadata']['continue']}")
    assert names(rest) == ["c2", "c3", "z"]


async def test_exact_and_not_older(api: Api) -> None:
    await fill(api, 2)
    then = api.server.current_revision()
    await api.ask("POST", CONFIGS, config("new"))
    exact = await api.json("GET", f"{CONFIGS}?resourceVersion={then}&resourceVersionMatch=Exact")
    assert names(exact) == ["c0", "c1"] and exact["metadata"]["resourceVersion"] == str(then)
    newer = await api.json("GET", f"{CONFIGS}?resourceVersion={then}&resourceVersionMatch=NotOlderThan")
    assert names(newer) == ["c0", "c1", "new"]
    assert names(await api.json("GET", f"{CONFIGS}?resourceVersion=0")) == ["c0", "c1", "new"]


async def test_a_revision_to_come_is_waited_for_and_then_refused(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pinnace.apiserver.listing._FRESH_SECONDS", 0.01)
    status = await api.json("GET", f"{CONFIGS}?resourceVersion=999")
    assert (status["code"], status["reason"]) == (504, "Timeout")
    assert status["message"] == "Too large resource version: 999, current: 1"
    assert status["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"


async def test_forged_tokens_stay_in_the_collection(api: Api) -> None:
    raw = json.dumps({"v": "meta.k8s.io/v1", "rv": 1, "start": "../secrets/a"}).encode()
    token = base64.urlsafe_b64encode(raw).decode()
    assert (await api.ask("GET", f"{CONFIGS}?continue={token}")).status == 400


async def test_field_selectors(api: Api) -> None:
    await fill(api, 3)
    assert names(await api.json("GET", f"{CONFIGS}?fieldSelector=metadata.name=c1")) == ["c1"]
    assert names(await api.json("GET", f"{CONFIGS}?fieldSelector=metadata.name!=c1")) == ["c0", "c2"]
    assert names(await api.json("GET", "/api/v1/configmaps?fieldSelector=metadata.namespace=other")) == []


async def test_tables_and_metadata(api: Api) -> None:
    await api.ask("POST", PODS, pod("a"))
    table = await api.json("GET", PODS, accept="application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
    assert table["kind"] == "Table" and table["apiVersion"] == "meta.k8s.io/v1"
    assert [c["name"] for c in table["columnDefinitions"]][:5] == ["Name", "Ready", "Status", "Restarts", "Age"]
    row = table["rows"][0]
    assert row["object"]["kind"] == "PartialObjectMetadata"
    whole = await api.json(
        "GET", f"{PODS}/a?includeObject=Object", accept="application/json;as=Table;v=v1;g=meta.k8s.io"
    )
    assert whole["rows"][0]["object"]["spec"]["containers"][0]["name"] == "c"
    partial = await api.json(
        "GET", PODS, accept="application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
    )
    assert partial["kind"] == "PartialObjectMetadataList"
    assert set(partial["items"][0]) == {"kind", "apiVersion", "metadata"}


async def test_yaml_both_ways(api: Api) -> None:
    body = b"metadata:\n  name: y\ndata:\n  x: 'yes'\n"
    response = await api.ask(
        "POST", CONFIGS, body, content_type="application/yaml", accept="application/yaml"
    )
    assert response.status == 201 and response.headers["content-type"] == "application/yaml"
    assert b"kind: ConfigMap" in response.body
    assert (await api.json("GET", f"{CONFIGS}/y"))["data"] == {"x": "yes"}
