"""What is refused, and how: code, reason, text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import CONFIGS, DEPLOYMENTS, PODS, Api, config, pod

JSON = {"content_type": "application/json"}


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "code", "reason", "text"),
    [
        ("GET", "/api/v1/gizmos", None, {}, 404, "NotFound", "could not find the requested resource"),
        ("GET", "/apis/none.io/v1/gizmos", None, {}, 404, "NotFound", "could not find the requested resource"),
        ("GET", "/nowhere", None, {}, 404, "NotFound", "could not find the requested resource"),
        ("GET", f"{CONFIGS}/no", None, {}, 404, "NotFound", 'configmaps "no" not found'),
        ("GET", f"{DEPLOYMENTS}/no", None, {}, 404, "NotFound", 'deployments.apps "no" not found'),
        ("GET", f"{CONFIGS}/a/status", None, {}, 404, "NotFound", "could not find"),
        ("POST", "/api/v1/configmaps", config(), {}, 405, "MethodNotAllowed", "does not allow this method"),
        ("POST", f"{CONFIGS}/a", config(), {}, 405, "MethodNotAllowed", "does not allow this method"),
        ("PUT", CONFIGS, config(), {}, 405, "MethodNotAllowed", "does not allow this method"),
        ("BREW", CONFIGS, None, {}, 405, "MethodNotAllowed", "does not allow this method"),
        ("POST", CONFIGS, b"{", {}, 400, "BadRequest", "must be of type ConfigMap"),
        ("POST", CONFIGS, b"", {}, 400, "BadRequest", "unexpected end of JSON input"),
        ("POST", CONFIGS, b"[]", {}, 400, "BadRequest", "ConfigMap"),
        ("POST", CONFIGS, b"\xff\xfe", {}, 400, "BadRequest", "ConfigMap"),
        ("POST", CONFIGS, b"a: [", {"content_type": "application/yaml"}, 400, "BadRequest", "yaml"),
        ("POST", CONFIGS, b"x", {"content_type": "text/html"}, 415, "UnsupportedMediaType", "unknown format"),
        ("POST", CONFIGS, pod(), {}, 400, "BadRequest", "Pod"),
        ("POST", CONFIGS, {**config(), "apiVersion": "v2"}, {}, 400, "BadRequest",
         "the API version in the data (v2) does not match the expected API version (v1)"),
        ("POST", CONFIGS, config(data=3), {}, 400, "BadRequest", "cannot be handled as a ConfigMap"),
        ("POST", CONFIGS, config(metadata={"namespace": "other"}), {}, 400, "BadRequest",
         "the namespace of the provided object does not match the namespace sent on the request"),
        ("POST", CONFIGS, config("", metadata={"name": None}), {}, 422, "Invalid",
         "name or generateName is required"),
        ("POST", CONFIGS, config("Bad_Name"), {}, 422, "Invalid", "a lowercase RFC 1123 subdomain"),
        ("POST", f"{CONFIGS}?fieldValidation=Strict", config(dat={}), {}, 400, "BadRequest",
         'strict decoding error: unknown field "dat"'),
        ("POST", f"{CONFIGS}?fieldValidation=Strict", b'{"metadata":{"name":"a"},"data":{},"data":{}}', {}, 400,
         "BadRequest", 'duplicate field "data"'),
        ("POST", f"{CONFIGS}?fieldValidation=Never", config(), {}, 422, "Invalid", "fieldValidation"),
        ("POST", f"{CONFIGS}?dryRun=Some", config(), {}, 422, "Invalid", "dryRun"),
        ("POST", CONFIGS, config(metadata={"resourceVersion": "5"}), {}, 400, "BadRequest",
         "resourceVersion should not be set on objects to be created"),
        ("PUT", f"{CONFIGS}/b", config("a"), {}, 400, "BadRequest",
         "the name of the object (a) does not match the name on the URL (b)"),
        ("PUT", f"{CONFIGS}/a", config("a"), {}, 404, "NotFound", 'configmaps "a" not found'),
        ("PATCH", f"{CONFIGS}/a", {}, JSON, 415, "UnsupportedMediaType", "accepted media types include"),
        ("DELETE", f"{CONFIGS}/a", None, {}, 404, "NotFound", 'configmaps "a" not found'),
        ("DELETE", f"{CONFIGS}/a?propagationPolicy=Later", None, {}, 422, "Invalid", "propagationPolicy"),
        ("DELETE", f"{CONFIGS}/a", {"gracePeriodSeconds": "soon"}, {}, 400, "BadRequest", "wrong type"),
        ("GET", f"{CONFIGS}?limit=many", None, {}, 400, "BadRequest", "invalid syntax"),
        ("GET", f"{CONFIGS}?continue=nonsense", None, {}, 400, "BadRequest", "continue key is not valid"),
        ("GET", f"{CONFIGS}?resourceVersion=x", None, {}, 400, "BadRequest", "invalid syntax"),
        ("GET", f"{CONFIGS}?resourceVersionMatch=Exact", None, {}, 422, "Invalid",
         "unless resourceVersion is provided"),
        ("GET", f"{CONFIGS}?labelSelector=a,,b", None, {}, 400, "BadRequest", "found"),
        ("GET", f"{CONFIGS}?fieldSelector=spec.x%3Dy", None, {}, 400, "BadRequest", ""),
        ("GET", f"{CONFIGS}?fieldSelector=spec.x=y", None, {}, 400, "BadRequest", "field"),
        ("GET", f"{CONFIGS}?watch=1&resourceVersionMatch=Exact&resourceVersion=1", None, {}, 422, "Invalid",
         "forbidden for watch"),
        ("GET", CONFIGS, None, {"accept": "application/vnd.kubernetes.protobuf"}, 406, "NotAcceptable",
         "only the following media types are accepted"),
    ],
)  # fmt: skip
async def test_refused(
    api: Api, method: str, path: str, body: Any, headers: dict[str, str], code: int, reason: str, text: str
) -> None:
    got_code, got_reason, message = await api.refused(method, path, body, **headers)
    assert (got_code, got_reason) == (code, reason), message
    assert text in message


async def test_stale_revision_and_missing_namespace(api: Api) -> None:
    await api.ask("POST", CONFIGS, config("a"))
    first = await api.json("GET", f"{CONFIGS}/a")
    await api.ask("PUT", f"{CONFIGS}/a", {**first, "data": {"x": "1"}})
    code, reason, message = await api.refused("PUT", f"{CONFIGS}/a", {**first, "data": {"x": "2"}})
    assert (code, reason) == (409, "Conflict")
    assert message == (
        'Operation cannot be fulfilled on configmaps "a": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )
    code, reason, _ = await api.refused("POST", CONFIGS, config("a"))
    assert (code, reason) == (409, "AlreadyExists")


async def test_immutable_fields(api: Api) -> None:
    await api.ask("POST", CONFIGS, config("a", immutable=True, data={"x": "1"}))
    got = await api.json("GET", f"{CONFIGS}/a")
    code, reason, message = await api.refused("PUT", f"{CONFIGS}/a", {**got, "data": {"x": "2"}})
    assert (code, reason) == (422, "Invalid") and "field is immutable when `immutable` is set" in message
    got["metadata"]["uid"] = "another"
    code, reason, message = await api.refused("PUT", f"{CONFIGS}/a", got)
    assert (code, reason) == (409, "Conflict") and "UID in precondition: another" in message


async def test_unknown_fields_warn_by_default(api: Api) -> None:
    response = await api.ask("POST", CONFIGS, config("a", dat={"x": "y"}))
    assert response.status == 201
    assert response.headers["warning"] == '299 - "unknown field \\"dat\\""'


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
words = st.sampled_from(["metadata", "name", "spec", "data", "labels", "kind", "apiVersion", "containers", "replicas",
                         "annotations", "finalizers", "ownerReferences", "template", "selector", "status", "$patch"])
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
fuzz = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)


@fuzz
@given(body=trees, kind=st.sampled_from([CONFIGS, PODS, DEPLOYMENTS, "/api/v1/namespaces"]))
async def test_no_body_makes_the_server_fail(api: Api, body: Any, kind: str) -> None:
    assert (await api.ask("POST", kind, body)).status < 500


@fuzz
@given(data=st.binary(max_size=64), media=st.sampled_from(["json", "yaml", "vnd.kubernetes.protobuf"]))
async def test_no_bytes_make_the_server_fail(api: Api, data: bytes, media: str) -> None:
    prefix = b"k8s\x00" if media.startswith("vnd") else b""
    response = await api.ask("POST", PODS, prefix + data, content_type=f"application/{media}")
    assert response.status < 500


@fuzz
@given(patch=trees, media=st.sampled_from(["json-patch", "merge-patch", "strategic-merge-patch"]))
async def test_no_patch_makes_the_server_fail(api: Api, patch: Any, media: str) -> None:
    await api.ask("POST", PODS, pod("web"))
    response = await api.ask("PATCH", f"{PODS}/web", patch, content_type=f"application/{media}+json")
    assert response.status < 500


@fuzz
@given(options=trees)
async def test_no_options_make_the_server_fail(api: Api, options: Any) -> None:
    await api.ask("POST", CONFIGS, config("a"))
    assert (await api.ask("DELETE", f"{CONFIGS}/a", options)).status < 500
