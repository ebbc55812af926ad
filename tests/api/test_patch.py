"""The three patches: tables from upstream's documents, and properties."""

# ruff: noqa: E501 (tables)
from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinnace.api.apps import v1 as apps
from pinnace.api.core import v1 as core
from pinnace.api.patch import PatchError, TestFailed, json_patch, merge_patch, strategic

values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=10,
)

@pytest.mark.parametrize(
    ("document", "patch", "found"),
    [
        ({"a": 1}, [{"op": "add", "path": "/b", "value": 2}], {"a": 1, "b": 2}),
        ({"a": [1, 2]}, [{"op": "add", "path": "/a/-", "value": 3}], {"a": [1, 2, 3]}),
        ({"a": [1, 2]}, [{"op": "add", "path": "/a/0", "value": 0}], {"a": [0, 1, 2]}),
        ({"a/b": {"~": 1}}, [{"op": "replace", "path": "/a~1b/~0", "value": 2}], {"a/b": {"~": 2}}),
        ({"a": {"b": 1}}, [{"op": "move", "from": "/a/b", "path": "/c"}], {"a": {}, "c": 1}),
        ({"a": [1]}, [{"op": "copy", "from": "/a", "path": "/b"}, {"op": "add", "path": "/b/-", "value": 2}],
         {"a": [1], "b": [1, 2]}),
        ({"a": 1}, [{"op": "test", "path": "/a", "value": 1}, {"op": "remove", "path": "/a"}], {}),
        ({"a": [1, 2]}, [{"op": "remove", "path": "/a/-1"}], {"a": [1]}),
        ({"a": 1}, [{"op": "replace", "path": "", "value": {"b": 1}}], {"b": 1}),
    ],
)  # fmt: skip
def test_json_patch(document: Any, patch: list[dict[str, Any]], found: Any) -> None:
    assert json_patch.apply(document, patch) == found


@pytest.mark.parametrize(
    ("patch", "error"),
    [
        ({"op": "remove", "path": "/x"},
         "error in remove for path: '/x': Unable to remove nonexistent key: x: missing value"),
        ({"op": "remove", "path": "/x/y"}, 'remove operation does not apply: doc is missing path: "/x/y": missing value'),
        ({"op": "add", "path": "/x/y", "value": 1},
         'add operation does not apply: doc is missing path: "/x/y": missing value'),
        ({"op": "replace", "path": "/x", "value": 1},
         "replace operation does not apply: doc is missing key: /x: missing value"),
        ({"op": "add", "path": "/l/9", "value": 1},
         "error in add for path: '/l/9': Unable to access invalid index: 9: invalid index referenced"),
        ({"op": "test", "path": "/a", "value": True}, "testing value /a failed: test failed"),
        ({"op": "copy", "path": "/b", "from": "/x"},
         "copy operation does not apply: doc is missing from path: /x: missing value"),
        ({"op": "frobnicate", "path": "/a"}, "Unexpected kind: frobnicate"),
    ],
)  # fmt: skip
def test_json_patch_errors(patch: dict[str, Any], error: str) -> None:
    with pytest.raises(PatchError, match=f"^{re.escape(error)}$"):
        json_patch.apply({"a": 1, "l": [1]}, [patch])


def test_json_patch_copies_are_bounded() -> None:
    doubling = [{"op": "copy", "from": "", "path": f"/{i % 2}"} for i in range(60)]
    with pytest.raises(PatchError, match="accumulated size increase of copy"):
        json_patch.apply({"a": "x" * 100}, doubling)
    with pytest.raises(TestFailed):
        json_patch.apply({}, [{"op": "test", "path": "/a", "value": 1}])


@pytest.mark.parametrize(  # RFC 7386, appendix A
    ("document", "patch", "found"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a"], ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch(document: Any, patch: Any, found: Any) -> None:
    before = copy.deepcopy(document)
    assert merge_patch.apply(document, patch) == found
    assert document == before


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return value


@given(values.map(without_nulls), values.map(without_nulls))
def test_merge_patch_makes_one_of_another(old: Any, new: Any) -> None:
    assert merge_patch.same(merge_patch.apply(old, merge_patch.diff(old, new)), new)


def containers(*names: str, **extra: Any) -> list[dict[str, Any]]:
    return [{"name": name, "image": name, **extra} for name in names]


def spec(**fields: Any) -> dict[str, Any]:
    return {"spec": fields}


@pytest.mark.parametrize(
    ("live", "patch", "found"),
    [
        # keyed lists merge, new ones come first (as in the docs' example of kubectl patch)
        (spec(containers=containers("a", "b")), spec(containers=[{"name": "b", "image": "new"}]),
         spec(containers=[*containers("a"), {"name": "b", "image": "new"}])),
        (spec(containers=containers("a")), spec(containers=containers("z")), spec(containers=containers("z", "a"))),
        # directives on items and objects
        (spec(containers=containers("a", "b")), spec(containers=[{"name": "a", "$patch": "delete"}]),
         spec(containers=containers("b"))),
        (spec(containers=containers("a", "b")), spec(containers=[{"$patch": "replace"}, *containers("c")]),
         spec(containers=containers("c"))),
        (spec(nodeSelector={"a": "1"}), spec(nodeSelector={"$patch": "replace", "b": "2"}), spec(nodeSelector={"b": "2"})),
        (spec(nodeSelector={"a": "1"}), spec(nodeSelector={"$patch": "delete"}), spec(nodeSelector={})),
        (spec(nodeSelector={"a": "1", "c": "3"}), spec(nodeSelector={"a": None, "b": "2"}),
         spec(nodeSelector={"c": "3", "b": "2"})),
        # what has no key is replaced
        (spec(tolerations=[{"key": "a"}]), spec(tolerations=[{"key": "b"}]), spec(tolerations=[{"key": "b"}])),
        # lists of words that merge
        ({"metadata": {"finalizers": ["a", "b"]}}, {"metadata": {"finalizers": ["c", "a"]}},
         {"metadata": {"finalizers": ["c", "a", "b"]}}),
        ({"metadata": {"finalizers": ["a", "b"]}}, {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}},
         {"metadata": {"finalizers": ["b"]}}),
        ({"metadata": {"finalizers": []}}, {"metadata": {"finalizers": ["a"]}}, {"metadata": {"finalizers": ["a"]}}),
        # order
        (spec(containers=containers("a", "b", "c")), spec(**{"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}]}),
         spec(containers=containers("b", "c", "a"))),
        (spec(containers=containers("a", "b")),
         spec(**{"$setElementOrder/containers": [{"name": "n"}, {"name": "a"}, {"name": "b"}], "containers": containers("n")}),
         spec(containers=containers("n", "a", "b"))),
        ({"metadata": {"finalizers": ["a", "b"]}},
         {"metadata": {"$setElementOrder/finalizers": ["c", "b"], "finalizers": ["c"],
                       "$deleteFromPrimitiveList/finalizers": ["a"]}},
         {"metadata": {"finalizers": ["c", "b"]}}),
        # retained keys: the union's other member goes
        (spec(volumes=[{"name": "v", "emptyDir": {}}]),
         spec(volumes=[{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]),
         spec(volumes=[{"name": "v", "hostPath": {"path": "/x"}}])),
        # null deletes, also what is not there; nulls and directives do not stay in what is new
        (spec(nodeName="n"), spec(nodeName=None, hostname=None), spec()),
        (spec(), spec(securityContext={"runAsUser": 1, "fsGroup": None}, containers=[{"name": "x", "$patch": "delete"}]),
         spec(securityContext={"runAsUser": 1}, containers=[])),
        # nested keys
        (spec(containers=[{"name": "a", "env": [{"name": "X", "value": "1"}], "ports": [{"containerPort": 1}]}]),
         spec(containers=[{"name": "a", "env": [{"name": "Y", "value": "2"}], "ports": [{"containerPort": 1, "name": "p"}]}]),
         spec(containers=[{"name": "a", "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "1"}],
                           "ports": [{"containerPort": 1, "name": "p"}]}])),
    ],
)  # fmt: skip
def test_strategic(live: dict[str, Any], patch: dict[str, Any], found: dict[str, Any]) -> None:
    before = copy.deepcopy((live, patch))
    assert strategic.apply(live, patch, core.Pod) == found
    assert (live, patch) == before


def test_retained_keys_of_a_deployment_strategy() -> None:
    live = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    patch = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}
    assert strategic.apply(live, patch, apps.Deployment) == {"spec": {"strategy": {"type": "Recreate"}}}


@pytest.mark.parametrize(
    ("patch", "error"),
    [
        (spec(containers=[{"image": "x"}]), "map: map[image:x] does not contain declared merge key: name"),
        (spec(nodeSelector={"$patch": "frob"}), "unknown patch type: frob in map: "),
        (spec(volumes=[{"name": "v", "$retainKeys": ["name"], "hostPath": {"path": "/"}}]),
         "invalid patch format of retainKeys"),
        (spec(**{"$setElementOrder/containers": [{"name": "a"}], "containers": containers("b")}), "The order in patch list"),
        ({"metadata": {"$deleteFromPrimitiveList/finalizers": "x"}}, "invalid patch format of primitive list"),
        (spec(containers=[{"$patch": "merge", "name": "a"}]), "merging lists cannot yet be specified in the patch"),
    ],
)  # fmt: skip
def test_strategic_errors(patch: dict[str, Any], error: str) -> None:
    live = {
        "metadata": {"finalizers": ["x"]},
        "spec": {"containers": containers("a"), "nodeSelector": {"a": "b"}, "volumes": [{"name": "v", "emptyDir": {}}]},
    }
    with pytest.raises(PatchError, match=f"^{re.escape(error)}"):
        strategic.apply(live, patch, core.Pod)


names = st.lists(st.sampled_from("abcdef"), unique=True, max_size=5)


@given(names, names)
def test_a_strategic_patch_applied_twice_is_applied_once(live: list[str], patch: list[str]) -> None:
    document = spec(containers=containers(*live))
    change = spec(containers=containers(*patch, tty=True))
    once = strategic.apply(document, change, core.Pod)
    assert strategic.apply(once, change, core.Pod) == once
    assert {c["name"] for c in once["spec"]["containers"]} == {*live, *patch}
    kept = [c["name"] for c in once["spec"]["containers"] if c["name"] in live and c["name"] not in patch]
    assert kept == [name for name in live if name not in patch]


words = st.lists(st.sampled_from("abcdef"), max_size=5)


@given(live=words.map(lambda names: list(dict.fromkeys(names))), changes=words)
def test_short_ways_through_keyed_lists_keep_the_order(live: list[str], changes: list[str]) -> None:
    """What is found to need no putting in order comes out as putting it in order would have it."""
    old = [{"name": name, "image": "old"} for name in live]
    patch = [{"name": name, "image": str(i)} for i, name in enumerate(changes)]
    document = {"spec": {"containers": old}}
    found = strategic.apply(document, {"spec": {"containers": patch}}, core.Pod)["spec"]["containers"]
    images = dict.fromkeys(live, "old") | {name: str(i) for i, name in enumerate(changes)}
    merged = [{"name": name, "image": image} for name, image in images.items()]
    assert found == strategic._in_order(merged, patch, old, "name")
    plain = strategic.apply(document, {"spec": {"containers": patch}}, core.Pod, plain=True)
    assert plain["spec"]["containers"] == found
    assert document == {"spec": {"containers": old}}, "the document is untouched"
