"""Bodies to objects: what Go makes of nulls, empties and quantities; errors; strict fields; bounds."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from pinnace.api import codec, strict
from pinnace.api.apiextensions import v1 as apiextensions
from pinnace.api.apps import v1 as apps
from pinnace.api.core import v1 as core
from pinnace.api.errors import BadRequest


def through(kind: type[Any], body: Any) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = codec.to_dict(codec.decode(kind, data))
    assert found == codec.to_dict(codec.from_dict(kind, json.loads(data)))
    found.pop("kind")
    found.pop("apiVersion")
    return found


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ({"containers": None}, {"containers": []}),
        ({"containers": [None]}, {"containers": [{"name": "", "resources": {}}]}),
        ({"nodeSelector": {}, "volumes": [], "containers": []}, {"containers": []}),
        ({"nodeSelector": {"a": None}, "containers": None}, {"nodeSelector": {"a": ""}, "containers": []}),
        ({"nodeName": None}, {"containers": []}),
        ({"overhead": {"cpu": None}, "containers": None}, {"containers": [], "overhead": {"cpu": "0"}}),
        ({"volumes": [{"name": "x", "emptyDir": {}}]}, {"containers": [], "volumes": [{"name": "x", "emptyDir": {}}]}),
        ({"overhead": {"cpu": "1000m", "memory": 1024, "x": 0.5}},
         {"containers": [], "overhead": {"cpu": "1", "memory": "1024", "x": "500m"}}),
        ({"containers": [{"name": "a", "resources": {"limits": {"memory": "1024Mi"}, "requests": {}}}]},
         {"containers": [{"name": "a", "resources": {"limits": {"memory": "1Gi"}}}]}),
    ],
)  # fmt: skip
def test_go_reads_it_so(spec: dict[str, Any], found: dict[str, Any]) -> None:
    assert through(core.Pod, {"metadata": None, "spec": spec})["spec"] == found


@pytest.mark.parametrize(
    ("kind", "body", "error"),
    [
        (apps.Deployment, {"spec": {"replicas": "3"}},
         "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"),
        (core.Pod, {"spec": {"containers": [{"env": [{"name": "A", "value": 1}]}]}},
         "json: cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value of type string"),
        (core.Pod, {"metadata": {"labels": {"a": True}}},
         "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string"),
        (core.Pod, {"spec": {"containers": "x"}},
         "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container"),
        (core.Pod, {"spec": []}, "json: cannot unmarshal array into Go struct field Pod.spec of type v1.PodSpec"),
        (core.Pod, [], "json: cannot unmarshal array into Go value of type v1.Pod"),
        (core.Pod, {"spec": {"overhead": {"cpu": "much"}}},
         "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"),
    ],
)  # fmt: skip
def test_errors(kind: type[Any], body: Any, error: str) -> None:
    with pytest.raises(BadRequest, match=f"^{re.escape(error)}$"):
        codec.decode(kind, json.dumps(body).encode())
    with pytest.raises(BadRequest, match=f"^{re.escape(error)}$"):
        codec.from_dict(kind, body)


@pytest.mark.parametrize("data", [b"", b"{", b'{"spec":', b"\xff", b'{"metadata":' + b'{"a":' * 50_000, b"[" * 50_000])
def test_broken_bodies_are_bad_requests(data: bytes) -> None:
    with pytest.raises(BadRequest):
        codec.decode(core.Pod, data)


def test_copies_share_nothing() -> None:
    pod = core.Pod(spec=core.PodSpec(containers=[core.Container(name="a")]))
    other = codec.copy(pod)
    other.spec.containers[0].name = "b"
    assert pod.spec.containers[0].name == "a"


def test_unions_of_a_schema() -> None:
    schema = {"type": "object", "items": {"type": "string"}, "additionalProperties": False,
              "x-kubernetes-preserve-unknown-fields": True, "$ref": "#", "not": {"type": "string"}}  # fmt: skip
    found = codec.from_dict(apiextensions.JSONSchemaProps, schema)
    assert codec.to_dict(found) == schema
    many = {"items": [{"type": "string"}], "additionalProperties": {"type": "integer"}}
    assert codec.to_dict(codec.from_dict(apiextensions.JSONSchemaProps, many)) == many


def test_unknown_fields() -> None:
    body = {
        "extra": 1,
        "metadata": {"labels": {"any": "key"}, "lable": 1},
        "spec": {"foo": {"bar": 1}, "containers": [{"name": "a"}, {"imagee": "x", "ports": [{"port": 1}]}],
                 "overhead": {"cpu": 1}, "nodeName": None},
    }  # fmt: skip
    findings = strict.unknown_fields(core.Pod, body)
    assert findings == [
        'unknown field "extra"',
        'unknown field "metadata.lable"',
        'unknown field "spec.foo"',
        'unknown field "spec.containers[1].imagee"',
        'unknown field "spec.containers[1].ports[0].port"',
    ]
    assert strict.strict_error(findings[:2]) == (
        'strict decoding error: unknown field "extra", unknown field "metadata.lable"'
    )


def test_unknown_fields_in_unions_maps_and_foreign_json() -> None:
    schema = {"properties": {"a": {"typ": 1}}, "items": [{"x": 1}], "default": {"free": 1}}
    assert strict.unknown_fields(apiextensions.JSONSchemaProps, schema) == [
        'unknown field "properties.a.typ"', 'unknown field "items[0].x"',
    ]  # fmt: skip
    assert strict.unknown_fields(apps.ControllerRevision, {"data": {"anything": 1}}) == []
    assert len(strict.unknown_fields(core.Pod, {str(i): i for i in range(1000)})) == strict.LIMIT


def test_duplicate_fields() -> None:
    body = b'{"spec":{"replicas":1,"replicas":2,"l":[{"a":1,"a":1}]},"spec":{}}'
    assert strict.duplicate_fields(body) == [
        'duplicate field "spec.replicas"', 'duplicate field "spec.l[0].a"', 'duplicate field "spec"',
    ]  # fmt: skip


def test_whole_numbers_stay_whole() -> None:
    bounds = codec.decode(apiextensions.JSONSchemaProps, b'{"maximum":10,"minimum":0.5}')
    assert codec.encode(bounds) == b'{"maximum":10,"minimum":0.5}'


@pytest.mark.parametrize(
    ("kind", "body", "field"),
    [
        (apps.Deployment, {"spec": {"replicas": 2**31}}, "DeploymentSpec.spec.replicas of type int32"),
        (apps.Deployment, {"spec": {"replicas": -(2**31) - 1}}, "DeploymentSpec.spec.replicas of type int32"),
        (apps.Deployment, {"spec": {"replicas": 2**70}}, "DeploymentSpec.spec.replicas of type int32"),
        (core.Pod, {"spec": {"activeDeadlineSeconds": 2**63}}, "PodSpec.spec.activeDeadlineSeconds of type int64"),
    ],
)
def test_numbers_wider_than_the_field_are_refused(kind: type[Any], body: Any, field: str) -> None:
    wanted = f"json: cannot unmarshal number into Go struct field {field}"
    with pytest.raises(BadRequest) as fresh:
        codec.decode(kind, json.dumps(body).encode())
    with pytest.raises(BadRequest) as patched:
        codec.from_dict(kind, body)
    assert fresh.value.message == patched.value.message == wanted


def test_the_widest_numbers_that_fit() -> None:
    assert codec.from_dict(apps.Deployment, {"spec": {"replicas": 2**31 - 1}}).spec.replicas == 2**31 - 1
    assert codec.from_dict(core.PodSpec, {"activeDeadlineSeconds": 2**63 - 1}).activeDeadlineSeconds == 2**63 - 1


@pytest.mark.parametrize("space", ["", " ", "\n", "\t", "\r"])
def test_empties_are_found_however_they_are_written(space: str) -> None:
    container = '{"resources":{"limits":{"cpu":".5"}}}'
    text = '{"metadata":{"labels":{%s},"finalizers":[%s]},"spec":{"containers":[' + container + "]}}"
    pod = codec.decode(core.Pod, (text % (space, space)).encode())
    assert (pod.metadata.labels, pod.metadata.finalizers) == (None, None)
    assert pod.spec.containers[0].resources.limits == {"cpu": "500m"}
    kept = codec.decode(core.Pod, (text % ('"a":"b"', '"c"')).encode())
    assert (kept.metadata.labels, kept.metadata.finalizers) == ({"a": "b"}, ["c"])
    assert kept.spec.containers[0].resources.limits == {"cpu": "500m"}


@pytest.mark.parametrize(
    "spec",
    [
        {"nodeSelector": {}},
        {"tolerations": []},
        {"containers": [{"name": "a", "args": []}]},
        {"containers": [{"name": "a", "resources": {}, "image": '":{}'}]},
        {"containers": [{"name": "a", "image": 'nodeSelector":{}'}]},
        {"containers": [{"name": "a", "image": "x", "env": [{"name": 'a\\', "value": "{}"}]}]},
        {"nodeSelector": {'a\\': "[]"}, "hostAliases": [{"ip": "1", "hostnames": []}]},
        {"overhead": {"cpu": "0.5"}},
        {"containers": [{"name": "a", "resources": {}}, {"name": "b", "resources": {"requests": {"cpu": "1000m"}}}]},
        {"volumes": [{"name": "x", "emptyDir": {"sizeLimit": "1024Mi"}}]},
    ],
    ids=str,
)
def test_what_our_encoder_wrote_comes_out_settled(spec: dict[str, Any]) -> None:
    data = codec.encode({"spec": spec})
    found = codec.decode(core.Pod, data, compact=True)
    assert found == codec.from_dict(core.Pod, {"spec": spec})
    assert b":[]" not in codec.encode(found.spec).replace(b'"containers":[]', b"")


def test_a_name_may_be_written_with_escapes() -> None:
    found = codec.decode(core.Pod, rb'{"spec":{"\u006eodeSelector":{},"\u006fverhead":{"cpu":"1000m"}}}')
    assert found.spec.nodeSelector is None and found.spec.overhead == {"cpu": "1"}
