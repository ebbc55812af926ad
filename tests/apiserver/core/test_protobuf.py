"""Protobuf bodies against upstream's sample objects, and through the front door."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pinnace.api.kinds import KINDS, Kind
from pinnace.apiserver import protobuf

from .conftest import CONFIGS, Api

SAMPLES = Path(__file__).parents[4] / "shared/reference/objects"
# Their raw parameters are protobuf in the samples, which no client sends.
RAW = {"DeviceClass", "ResourceClaim", "ResourceClaimTemplate"}
SERVED = [
    kind
    for kind in KINDS
    if kind.served
    and kind.kind not in RAW
    and (SAMPLES / f"{kind.group or 'core'}.{kind.version}.{kind.kind}.pb").exists()
]


def without_nothing(value: Any) -> Any:
    """Empty strings and nulls are nothing in either encoding."""
    if isinstance(value, dict):
        return {key: without_nothing(inner) for key, inner in value.items() if inner not in ("", None)}
    if isinstance(value, list):
        return [without_nothing(inner) for inner in value]
    return value


@pytest.mark.skipif(not SERVED, reason="../shared/reference is absent")
@pytest.mark.parametrize("kind", SERVED, ids=lambda kind: f"{kind.api_version}.{kind.kind}")
def test_samples_decode_to_their_json(kind: Kind) -> None:
    stem = SAMPLES / f"{kind.group or 'core'}.{kind.version}.{kind.kind}"
    found = protobuf.envelope(stem.with_name(stem.name + ".pb").read_bytes())
    assert (found.api_version, found.kind) == (kind.api_version, kind.kind)
    expected = json.loads(stem.with_name(stem.name + ".json").read_text())
    del expected["kind"], expected["apiVersion"]
    assert without_nothing(protobuf.decode(kind.type, found.raw)) == without_nothing(expected)


# What `kubectl create configmap a --from-literal=a=b` sends.
CREATE = bytes.fromhex(
    "6b3873000a0f0a0276311209436f6e6669674d6170121b0a110a016112001a0022002a003200380042001206"
    "0a01611201621a002200"
)


async def test_kubectl_create_configmap(api: Api) -> None:
    response = await api.ask("POST", CONFIGS, CREATE, content_type=protobuf.MEDIA)
    assert response.status == 201, response.body
    assert json.loads(response.body)["data"] == {"a": "b"}


@pytest.mark.parametrize("data", [b"", b"k8s", b"k8s\x00\xff", b"k8s\x00\x12\xff\xff\xff\xff\x0f", b"k8s\x00\x0b"])
def test_broken_envelopes_are_value_errors(data: bytes) -> None:
    with pytest.raises(ValueError):      # any text will do
        protobuf.envelope(data)
