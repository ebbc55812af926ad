"""Every reference object survives decoding and encoding, as JSON and as YAML."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from pinnace.api import codec, strict, yaml
from pinnace.api.core import v1 as core
from pinnace.api.kinds import KINDS, SUBRESOURCE_KINDS, by_kind, by_resource, kind_of

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "objects"
MODULES = {"rbac.authorization.k8s.io": "rbac", "internal.apiserver.k8s.io": "apiserverinternal"}
META = "pinnace.api.meta.v1"


def struct_of(stem: str) -> type[Any] | None:
    group_version, _, kind = stem.rpartition(".")
    group, _, version = group_version.rpartition(".")
    for module in (f"pinnace.api.{MODULES.get(group, group.split('.')[0])}.{version}", META):
        try:
            found = getattr(importlib.import_module(module), kind, None)
        except ModuleNotFoundError:
            continue
        if found is not None and (module != META or stem.startswith("core.v1.")):
            return found
    return None


def cases() -> list[Any]:
    if not REFERENCE.exists():
        return [pytest.param("", None, marks=pytest.mark.skip(reason=f"{REFERENCE} is absent"))]
    found = [(path.stem, struct_of(path.stem)) for path in sorted(REFERENCE.glob("*.json"))]
    return [pytest.param(stem, struct, id=stem) for stem, struct in found if struct is not None]


def expected(stem: str, raw: dict[str, Any]) -> dict[str, Any]:
    if stem.startswith("admission.k8s.io"):  # a Status says its kind, wherever it stands
        raw["response"]["status"] = {"kind": "Status", "apiVersion": "v1", **raw["response"]["status"]}
    return raw


@pytest.mark.parametrize(("stem", "struct"), cases())
def test_survives_json_and_yaml(stem: str, struct: type[Any]) -> None:
    data = (REFERENCE / f"{stem}.json").read_bytes()
    raw = json.loads(data)
    assert strict.unknown_fields(struct, raw) == []
    once = codec.decoder(struct).decode(data)
    assert json.loads(codec.encode(once)) == expected(stem, json.loads(data))
    from_yaml = yaml.load((REFERENCE / f"{stem}.yaml").read_bytes())
    assert codec.encode(codec.decoder(struct).decode(json.dumps(from_yaml).encode())) == codec.encode(once)
    assert yaml.load(yaml.dump(raw)) == raw
    assert codec.encode(codec.copy(once)) == codec.encode(once)


@pytest.mark.skipif(not REFERENCE.exists(), reason=f"{REFERENCE} is absent")
def test_every_stable_kind_of_1_36_has_a_reference_object() -> None:
    stems = {path.stem for path in REFERENCE.glob("*.json")}
    names = {f"{kind.group or 'core'}.{kind.version}.{kind.kind}" for kind in KINDS if kind.served}
    # CRDs and APIServices are in modules of their own, which the reference set leaves out.
    assert {name for name in names - stems if "apiextensions" not in name and "apiregistration" not in name} == set()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.api_version}.{kind.kind}")
def test_a_new_object_says_its_kind(kind: Any) -> None:
    empty = kind.type()
    assert (empty.kind, empty.apiVersion) == (kind.kind, kind.api_version)
    assert kind_of(empty) is kind_of(kind.type) is by_kind(kind.group, kind.version, kind.kind)
    assert by_resource(kind.group, kind.version, kind.plural) is kind
    assert codec.decode(kind.type, codec.encode(empty)) == empty


@pytest.mark.parametrize("kind", SUBRESOURCE_KINDS, ids=lambda kind: kind.kind)
def test_kinds_of_subresources_are_known_but_no_resources(kind: Any) -> None:
    assert kind_of(kind.type()) is by_kind(kind.group, kind.version, kind.kind) is kind
    assert kind not in KINDS


def test_what_go_prints_always_is_printed() -> None:
    assert codec.to_dict(core.Pod()) == {
        "kind": "Pod", "apiVersion": "v1", "metadata": {}, "spec": {"containers": []}, "status": {},
    }  # fmt: skip
    status = core.ContainerStatus(name="web")
    assert codec.to_dict(status)["ready"] is False
    assert codec.to_dict(status)["restartCount"] == 0
    assert codec.to_dict(core.PodList())["items"] == []
