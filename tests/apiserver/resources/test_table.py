"""The table against upstream's own discovery, and every reference object through every function of its row."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest

from pinnace.api import codec
from pinnace.api.errors import BadRequest
from pinnace.apiserver.resource import Context, Resource
from pinnace.apiserver.resources.table import RESOURCES
from pinnace.client.transport import User

REFERENCE = Path(__file__).resolve().parents[4] / "shared" / "reference"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONTEXT = Context(User("someone"), NOW)

needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="no reference data here")


def discovered() -> dict[tuple[str, str, str], dict[str, object]]:
    """(group, version, name) of every resource that 1.36 serves by default: the stable versions."""
    found = {}
    for path in (REFERENCE / "discovery").glob("api*__*.json"):
        document = json.loads(path.read_text())
        if "resources" not in document:
            continue
        group, _, version = document["groupVersion"].rpartition("/")
        if not version.removeprefix("v").isdigit():
            continue
        for resource in document["resources"]:
            found[group, version, resource["name"]] = resource
    return found


@needs_reference
def test_every_resource_of_upstream_is_served_with_its_verbs_and_names() -> None:
    ours = {}
    for row in RESOURCES:
        kind = row.kind
        ours[kind.group, kind.version, kind.plural] = (
            set(row.verbs), kind.kind, kind.singular, kind.namespaced, kind.short_names, kind.categories,
        )  # fmt: skip
    for (group, version, name), resource in discovered().items():
        if "/" in name:
            continue
        wanted = (
            set(resource["verbs"]), resource["kind"], resource["singularName"], resource["namespaced"],
            tuple(resource.get("shortNames", ())), tuple(resource.get("categories", ())),
        )  # fmt: skip
        assert ours.get((group, version, name)) == wanted, name


@needs_reference
def test_nothing_else_is_served() -> None:
    known = {key for key in discovered() if "/" not in key[2]}
    assert {(row.kind.group, row.kind.version, row.kind.plural) for row in RESOURCES} == known


@needs_reference
def test_subresources_are_those_of_upstream() -> None:
    ours = {}
    for row in RESOURCES:
        for part in row.subresources:
            name = part.kind.kind if part.kind is not None else row.kind.kind
            ours[row.kind.group, row.kind.version, f"{row.kind.plural}/{part.name}"] = (set(part.verbs), name)
        if row.scale is not None:
            key = (row.kind.group, row.kind.version, f"{row.kind.plural}/scale")
            ours[key] = ({"get", "patch", "update"}, "Scale")
    wanted = {
        key: (set(resource["verbs"]), resource["kind"]) for key, resource in discovered().items() if "/" in key[2]
    }
    assert ours == wanted


@needs_reference
@pytest.mark.parametrize("row", RESOURCES, ids=lambda row: row.kind.resource)
def test_a_full_object_passes_through_every_function(row: Resource[object]) -> None:
    kind = row.kind
    path = REFERENCE / "objects" / f"{kind.group or 'core'}.{kind.version}.{kind.kind}.json"
    if not path.exists():
        pytest.skip(f"no reference object of {kind.kind}")
    thing = codec.decode(kind.type, path.read_bytes())
    row.default(thing)
    once = codec.encode(thing)
    row.default(thing)
    assert codec.encode(thing) == once, "defaulting twice is defaulting once"
    if hasattr(thing, "status"):
        bare, full = kind.type(), codec.copy(thing)
        full.status = kind.type().status
        row.default(bare)
        row.default(full)
        assert bare.status == full.status, "what a status lacks does not depend on the rest"
    list(row.validate_create(thing))
    list(row.validate_update(codec.copy(thing), thing))
    list(row.warnings(thing, None))
    row.prepare_create(codec.copy(thing), CONTEXT)
    row.prepare_update(codec.copy(thing), thing, CONTEXT)
    row.prepare_delete(codec.copy(thing), CONTEXT)
    assert codec.encode(thing) == once, "what is stored is not touched"
    for column in row.columns:
        cell = column.cell(thing, NOW)
        assert cell is None or isinstance(cell, str | int | bool), column.name
        assert column.description
    for value in row.fields.values():
        assert isinstance(value(thing), str)
    for part in row.subresources:
        if part.prepare is not None:
            changed = codec.copy(thing)
            part.prepare(changed, thing, CONTEXT)
            list(part.validate(changed, thing) if part.validate is not None else ())
    if row.to_stored is not None and row.from_stored is not None:
        codec.encode(row.from_stored(row.to_stored(thing)))


def test_an_empty_object_of_every_kind_is_defaulted_checked_and_shown() -> None:
    for row in RESOURCES:
        thing = row.kind.type()
        row.default(thing)
        list(row.validate_create(thing))
        for column in row.columns:
            column.cell(thing, NOW)


def bent(value: Any, random: Random) -> Any:
    """A copy with parts left out, emptied or made wrong, of the right JSON types."""
    if isinstance(value, list):
        return [bent(item, random) for item in value if random.random() > 0.2]
    if not isinstance(value, dict):
        dice = random.random()
        if isinstance(value, str) and dice < 0.06:
            return random.choice(["", "Ä", "A b", "..", "1", "-x", "a/b/c", "%", "9" * 70])
        if isinstance(value, int) and not isinstance(value, bool) and dice < 0.03:
            return random.choice([-1, 0, 1, 70000, 2**40])
        return value
    kept = ((key, inner) for key, inner in value.items() if random.random() > 0.15)
    return {
        key: type(inner)() if isinstance(inner, dict | list) and random.random() < 0.04 else bent(inner, random)
        for key, inner in kept
    }


@needs_reference
@pytest.mark.parametrize("row", RESOURCES, ids=lambda row: row.kind.resource)
def test_bent_objects_are_refused_in_words_and_never_raise(row: Resource[Any]) -> None:
    kind, random = row.kind, Random(7)
    path = REFERENCE / "objects" / f"{kind.group or 'core'}.{kind.version}.{kind.kind}.json"
    if not path.exists():
        pytest.skip(f"no reference object of {kind.kind}")
    whole = json.loads(path.read_bytes())
    for _ in range(20):
        try:
            new, old = (codec.from_dict(kind.type, bent(whole, random)) for _ in range(2))
            row.default(new)
            row.default(old)
            found = [str(error) for error in (*row.validate_create(new), *row.validate_update(new, old))]
        except BadRequest:
            continue        # Go's decoder refuses it, some of it (what is no base64) only a row sees
        assert all(": " in text for text in found)
        list(row.warnings(new, old))
        for column in row.columns:
            if column.type != "date" and not column.name.endswith(("Age", "Seen", "Schedule", "Duration", "Restarts")):
                column.cell(new, NOW)
        for part in row.subresources:
            changed = codec.copy(new)
            if part.prepare is not None:
                part.prepare(changed, old, CONTEXT)
            if part.validate is not None:
                assert all(str(error) for error in part.validate(changed, old))
