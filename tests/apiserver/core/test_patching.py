"""A patch of a status takes only metadata and status apart; it must make what a patch of the whole would."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pinnace.api import codec, errors
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.apiserver import patching
from pinnace.client.transport import Request

from .conftest import Api

POD = {
    "kind": "Pod", "apiVersion": "v1",
    "metadata": {"name": "a", "namespace": "default", "uid": "u", "labels": {"a": "b"}, "resourceVersion": "7"},
    "spec": {"containers": [{"name": "c", "image": "i"}]},
    "status": {
        "phase": "Pending",
        "conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "False"}],
        "podIPs": [{"ip": "10.0.0.1"}],
    },
}  # fmt: skip
PATCHES: list[dict[str, Any]] = [
    {"status": {"phase": "Running", "conditions": [{"type": "B", "status": "True"}, {"type": "C", "status": "X"}]}},
    {"status": {"conditions": [{"type": "A", "$patch": "delete"}]}},
    {"status": {"$setElementOrder/conditions": [{"type": "B"}, {"type": "A"}], "conditions": [{"type": "B"}]}},
    {"status": {"$setElementOrder/conditions": [{"type": "B"}, {"type": "A"}]}},
    {"status": None},
    {"status": {"podIPs": [], "conditions": None}},
    {"metadata": {"uid": "other", "labels": {"a": None, "c": "d"}}, "status": {"reason": "r"}},
    {"metadata": {"uid": "other"}, "status": {"reason": "r"}},
    {"metadata": {"uid": ""}, "status": {"phase": "Running"}},
    {"metadata": {"uid": 3}, "status": {"phase": "Running"}},
    {"metadata": {"resourceVersion": "7"}, "status": {"phase": "Running"}},
    {"metadata": {}, "status": {"containerStatuses": [{"name": "c", "state": {}, "restartCount": "many"}]}},
    {"status": {"containerStatuses": [{"name": "c", "restartCount": None, "allocatedResources": {"cpu": "0.5"}}]}},
    {"status": {"conditions": [{"status": "True"}]}},
    {"status": {"$patch": "replace", "phase": "Running"}},
    {"metadata": None},
    {"metadata": {"name": "other"}},
    {"kind": "Node"},
    {"status": {"phase": 3}},
    {"status": []},
    {"status": {"unknown": 1}},
    {"other": 1, "status": {"phase": "Running"}},
    {"$patch": "replace", "metadata": {"name": "a", "namespace": "default"}, "status": {"phase": "Running"}},
    {"$retainKeys": ["metadata"], "metadata": {"name": "a"}},
]


@pytest.mark.parametrize("validation", ["Strict", "Warn", "Ignore"])
@pytest.mark.parametrize("media", [patching.STRATEGIC, patching.MERGE])
@pytest.mark.parametrize("patch", PATCHES, ids=str)
async def test_a_part_makes_what_the_whole_makes(api: Api, patch: dict[str, Any], media: str, validation: str) -> None:
    registry = api.server.registry(core.Pod)
    before = codec.from_dict(core.Pod, POD)
    outcomes = []
    for status in (False, True):
        request = Request("PATCH", "", headers={"content-type": media}, body=msgspec.json.encode(patch))
        warnings: list[str] = []
        try:
            change, pinned = patching.change_for(request, registry, validation, warnings, status=status)
            made = change(before)
            outcomes.append((made.metadata, made.status, made.kind, made.apiVersion, pinned, warnings))
        except errors.StatusError as error:
            outcomes.append((error.code, error.message))
    assert outcomes[0] == outcomes[1]
    assert codec.to_dict(before) == codec.to_dict(codec.from_dict(core.Pod, POD)), "the current object is untouched"


async def test_a_patched_status_shares_nothing_with_the_patch_or_the_old_one(api: Api) -> None:
    registry = api.server.registry(core.Pod)
    before = codec.from_dict(core.Pod, POD)
    body = msgspec.json.encode({"status": {"message": "m"}})
    request = Request("PATCH", "", headers={"content-type": patching.STRATEGIC}, body=body)
    change, _ = patching.change_for(request, registry, "Warn", [], status=True)
    made = change(before)
    assert made.status is not before.status and made.metadata is not before.metadata
    assert made.status.conditions is not before.status.conditions
    assert made.metadata.labels is not before.metadata.labels
    assert made.status.conditions[0] is not before.status.conditions[0]


METADATA: list[dict[str, Any]] = [
    {"metadata": {"labels": {"a": None, "c": "d"}}},
    {"metadata": {"finalizers": ["x/y"], "annotations": {"n": "1"}}},
    {"metadata": {"labels": None}},
    {"metadata": {"$deleteFromPrimitiveList/finalizers": ["x/y"]}},
    {"metadata": {"$patch": "replace", "name": "a", "namespace": "default"}},
    {"metadata": {"resourceVersion": "7", "labels": {"c": "d"}}},
    {"metadata": {"name": "other"}},
    {"metadata": None},
    {"kind": "Pod", "metadata": {"uid": "other"}},
    {"kind": "Node", "metadata": {}},
    {"metadata": {"unknown": 1}},
    {"metadata": {"labels": 3}},
    {},
]


@pytest.mark.parametrize("validation", ["Strict", "Warn", "Ignore"])
@pytest.mark.parametrize("media", [patching.STRATEGIC, patching.MERGE])
@pytest.mark.parametrize("patch", METADATA, ids=str)
async def test_a_patch_of_metadata_makes_what_a_patch_of_all_makes(
    api: Api, patch: dict[str, Any], media: str, validation: str
) -> None:
    registry = api.server.registry(core.Pod)
    before = codec.from_dict(core.Pod, POD)
    registry.resource.default(before)
    stored = codec.to_dict(before)
    outcomes: list[Any] = []
    for asked in (patch, {**patch, "spec": {}}):
        request = Request("PATCH", "", headers={"content-type": media}, body=msgspec.json.encode(asked))
        warnings: list[str] = []
        try:
            change, pinned = patching.change_for(request, registry, validation, warnings)
            made = change(before)
            outcomes.append((codec.to_dict(made), pinned, warnings))
            assert made.metadata is not before.metadata and made.spec is not before.spec
        except errors.StatusError as error:
            outcomes.append((error.code, error.message))
    assert outcomes[0] == outcomes[1]
    assert codec.to_dict(before) == stored, "the current object is untouched"


@pytest.mark.parametrize("labels", [None, {"c": "d"}])
@pytest.mark.parametrize("change", [{"annotations": {"n": "1"}, "labels": None}, {"labels": {"c": None}}])
async def test_labels_that_follow_from_the_template_do_so_after_a_patch_of_metadata(
    api: Api, labels: dict[str, str] | None, change: dict[str, Any]
) -> None:
    registry = api.server.registry(core.ReplicationController)
    template = core.PodTemplateSpec(metadata=meta.ObjectMeta(labels={"a": "b"}))
    before = core.ReplicationController(
        metadata=meta.ObjectMeta(name="a", labels=labels), spec=core.ReplicationControllerSpec(template=template)
    )
    body = msgspec.json.encode({"metadata": change})
    request = Request("PATCH", "", headers={"content-type": patching.MERGE}, body=body)
    made, _ = patching.change_for(request, registry, "Warn", [])
    assert made(before).metadata.labels == {"a": "b"}
