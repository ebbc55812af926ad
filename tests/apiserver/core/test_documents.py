"""Discovery against upstream's, OpenAPI against upstream's, health, version, metrics."""

from __future__ import annotations

import json
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pinnace.apiserver import discovery, openapi
from pinnace.apiserver.resources.table import RESOURCES

from .conftest import Api

REFERENCE = Path(__file__).parents[4] / "shared/reference"
absent = pytest.mark.skipif(not REFERENCE.exists(), reason="../shared/reference is absent")
GROUP_VERSIONS = sorted({(row.kind.group, row.kind.version) for row in RESOURCES})


@absent
@pytest.mark.parametrize(("group", "version"), GROUP_VERSIONS)
def test_resources_are_upstreams(group: str, version: str) -> None:
    name = f"apis__{group}__{version}.json" if group else f"api__{version}.json"
    path = REFERENCE / "discovery" / name
    if not path.exists():
        pytest.skip(f"upstream's {name} is absent")
    theirs = {row["name"]: row for row in json.loads(path.read_text())["resources"]}
    ours = {row["name"]: row for row in discovery.resource_list(RESOURCES, group, version)["resources"]}
    for what, row in ours.items():
        assert what in theirs, f"upstream has no {what}"
        for field in ("kind", "namespaced", "singularName", "shortNames", "categories", "verbs", "group", "version"):
            assert row.get(field) == theirs[what].get(field), (what, field)


@absent
def test_subresources_that_are_still_missing_are_known() -> None:
    missing = set()
    for group, version in GROUP_VERSIONS:
        name = f"apis__{group}__{version}.json" if group else f"api__{version}.json"
        path = REFERENCE / "discovery" / name
        if path.exists():
            theirs = {row["name"] for row in json.loads(path.read_text())["resources"]}
            missing |= theirs - {row["name"] for row in discovery.resource_list(RESOURCES, group, version)["resources"]}
    assert not {word for word in missing if "openshift" not in word} - KNOWN_MISSING


KNOWN_MISSING: set[str] = set()


@cache
def upstream_openapi(name: str) -> Any:
    with tarfile.open(REFERENCE / "openapi.tar.xz") as archive:
        for member in archive:
            if member.name.removeprefix("./") == name:
                file = archive.extractfile(member)
                assert file is not None
                return json.load(file)
    return None


@absent
@pytest.mark.parametrize(("name", "file"), [("api/v1", "api__v1"), ("apis/apps/v1", "apis__apps__v1")])
def test_schemas_are_upstreams(name: str, file: str) -> None:
    theirs = upstream_openapi(f"{file}_openapi.json")["components"]["schemas"]
    ours = openapi.v3(RESOURCES, name)["components"]["schemas"]
    compared = 0
    for type_name, schema in ours.items():
        expected = theirs.get(type_name)
        if expected is None or "properties" not in expected:
            continue
        assert set(schema["properties"]) == set(expected["properties"]), type_name
        for field, value in schema["properties"].items():
            other = expected["properties"][field]
            for word in ("type", "format", "x-kubernetes-patch-merge-key", "x-kubernetes-patch-strategy",
                         "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type"):  # fmt: skip
                assert value.get(word) == other.get(word), (type_name, field, word)
            assert value.get("allOf", [None])[0] == other.get("allOf", [None])[0], (type_name, field)
        compared += 1
    assert compared > 30


async def test_aggregated_discovery_and_its_etag(api: Api) -> None:
    accept = (
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,"
        "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"
    )
    response = await api.ask("GET", "/apis", accept=accept)
    found = json.loads(response.body)
    assert (found["kind"], found["apiVersion"]) == ("APIGroupDiscoveryList", "apidiscovery.k8s.io/v2")
    assert response.headers["content-type"] == (
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    )
    again = await api.ask("GET", "/apis", accept=accept, if_none_match=response.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    assert (await api.json("GET", "/apis", accept="application/json"))["kind"] == "APIGroupList"


async def test_openapi_index_leads_to_documents(api: Api) -> None:
    index = await api.json("GET", "/openapi/v3")
    url = index["paths"]["apis/apps/v1"]["serverRelativeURL"]
    document = await api.json("GET", url)
    operation = document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"]
    assert operation["x-kubernetes-group-version-kind"] == {"group": "apps", "version": "v1", "kind": "Deployment"}
    assert "fieldValidation" in {parameter["name"] for parameter in operation["parameters"]}
    v2 = await api.json("GET", "/openapi/v2")
    assert v2["swagger"] == "2.0" and "io.k8s.api.core.v1.Pod" in v2["definitions"]


async def test_health_version_metrics(api: Api) -> None:
    for path in ("/healthz", "/livez", "/readyz", "/readyz/etcd"):
        response = await api.ask("GET", path)
        assert (response.status, response.body) == (200, b"ok"), path
    assert b"[+]etcd ok" in (await api.ask("GET", "/readyz?verbose")).body

    async def broken() -> None:
        raise RuntimeError("no disk")

    api.server.documents.checks["disk"] = broken
    response = await api.ask("GET", "/readyz")
    assert response.status == 500 and b"[-]disk failed: no disk" in response.body
    assert (await api.ask("GET", "/readyz?exclude=disk")).status == 200
    version = await api.json("GET", "/version")
    assert (version["major"], version["minor"]) == ("1", "36")
    metrics = (await api.ask("GET", "/metrics")).body.decode()
    assert 'apiserver_request_total{group="",version="v1",resource="namespaces"' in metrics
    assert "/apis/apps/v1" in (await api.json("GET", "/"))["paths"]
