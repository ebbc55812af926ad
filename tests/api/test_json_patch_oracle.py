"""JSON Patch against the package jsonpatch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinnace.api.patch import PatchError, json_patch
from pinnace.api.patch.merge_patch import same

jsonpatch = pytest.importorskip("jsonpatch", reason="the oracle, of the dependency group `test`, is not installed")

values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=10,
)
paths = st.lists(st.sampled_from(["a", "b", "c", "0", "1", "-"]), max_size=3).map(lambda p: "".join(f"/{x}" for x in p))
operations = st.one_of(
    st.builds(lambda p, v: {"op": "add", "path": p, "value": v}, paths, values),
    st.builds(lambda p, v: {"op": "replace", "path": p, "value": v}, paths, values),
    st.builds(lambda p, v: {"op": "test", "path": p, "value": v}, paths, values),
    st.builds(lambda p: {"op": "remove", "path": p}, paths),
    st.builds(lambda o, p, f: {"op": o, "path": p, "from": f}, st.sampled_from(["move", "copy"]), paths, paths),
)


@given(values, st.lists(operations, max_size=4))
def test_json_patch_agrees_with_the_oracle(document: Any, patch: list[dict[str, Any]]) -> None:
    before = copy.deepcopy(document)
    try:
        found = json_patch.apply(document, patch)
    except PatchError:
        assert document == before
        return
    assert document == before
    # Where both apply they agree; the oracle is stricter about tests of what is missing and about whole documents.
    try:
        expected = jsonpatch.apply_patch(document, patch)
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, TypeError, KeyError, AttributeError):
        return
    assert same(found, expected)


@given(values, values)
def test_json_patch_makes_one_document_of_another(old: Any, new: Any) -> None:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return
    operations = list(jsonpatch.make_patch(old, new))
    assert same(json_patch.apply(old, operations), new) or _true_is_one(old, new)


def _true_is_one(old: Any, new: Any) -> bool:
    """The oracle takes true for 1 and makes no operation of it."""
    return "True" in f"{old}{new}" or "False" in f"{old}{new}"
