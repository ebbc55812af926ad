"""Patches as `kubectl apply` makes them: what is made, applied, gives what was wanted."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pinnace.api.apps import v1 as apps
from pinnace.api.core import v1 as core
from pinnace.api.patch import strategic
from pinnace.api.patch.strategic_diff import three_way, two_way

small = st.sampled_from(["", "x", "y"])
envs = st.lists(
    st.fixed_dictionaries({"name": st.sampled_from("XYZ")}, optional={"value": small}), unique_by=lambda e: e["name"]
)
containers = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from("abcd")},
        optional={"image": small, "env": envs, "args": st.lists(small, max_size=2), "tty": st.booleans()},
    ),
    unique_by=lambda c: c["name"],
    max_size=4,
)
volumes = st.lists(
    st.one_of(
        st.fixed_dictionaries({"name": st.sampled_from("vw"), "emptyDir": st.just({"medium": "Memory"})}),
        st.fixed_dictionaries({"name": st.sampled_from("vw"), "hostPath": st.just({"path": "/x"})}),
    ),
    unique_by=lambda v: v["name"],
)
pods = st.fixed_dictionaries(
    {},
    optional={
        "metadata": st.fixed_dictionaries(
            {}, optional={"finalizers": st.lists(small, unique=True), "labels": st.dictionaries(small, small)}
        ),
        "spec": st.fixed_dictionaries(
            {},
            optional={
                "containers": containers, "volumes": volumes, "nodeName": small,
                "nodeSelector": st.dictionaries(small, small), "tolerations": st.lists(st.just({"key": "k"})),
            },
        ),
    },
)  # fmt: skip


@given(pods, pods)
def test_two_way(old: dict[str, Any], new: dict[str, Any]) -> None:
    patch = two_way(old, new, core.Pod)
    assert strategic.apply(old, patch, core.Pod) == new
    assert two_way(new, new, core.Pod) == {}


@given(pods, pods, pods)
def test_three_way_reaches_a_fixed_point(applied: dict[str, Any], wanted: dict[str, Any], live: dict[str, Any]) -> None:
    patched = strategic.apply(live, three_way(applied, wanted, live, core.Pod), core.Pod)
    again = three_way(wanted, wanted, patched, core.Pod)
    assert again == {}


def test_three_way_keeps_what_others_added() -> None:
    applied = {"spec": {"replicas": 2, "template": {"spec": {"containers": [{"name": "a", "image": "1"}]}}}}
    wanted = {"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "2"}]}}}}
    injected = {"name": "sidecar", "image": "s"}
    pod = {"containers": [{"name": "a", "image": "1", "tty": True}, injected]}
    live = {"spec": {"replicas": 2, "paused": True, "template": {"spec": pod}}}
    patch = three_way(applied, wanted, live, apps.Deployment)
    assert patch == {
        "spec": {
            "replicas": None,
            "template": {"spec": {
                "$setElementOrder/containers": [{"name": "a"}],
                "containers": [{"image": "2", "name": "a"}],
            }},
        }
    }  # fmt: skip
    assert strategic.apply(live, patch, apps.Deployment) == {
        "spec": {"paused": True, "template": {"spec": {"containers": [
            {"name": "a", "image": "2", "tty": True}, injected,
        ]}}}
    }  # fmt: skip


def test_another_strategy_retains_keys() -> None:
    old = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    new = {"spec": {"strategy": {"type": "Recreate"}}}
    patch = two_way(old, new, apps.Deployment)
    assert patch["spec"]["strategy"]["$retainKeys"] == ["type"]
    assert strategic.apply(old, patch, apps.Deployment) == new
