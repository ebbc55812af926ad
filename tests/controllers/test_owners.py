"""Whom a change of an owned object wakes."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.client.informer import Added, Deleted, Event, Updated
from pinnace.controllers.owners import Owned, claim
from pinnace.controllers.plan import Ref
from pinnace.controllers.selectors import selects


def pod(owner: str = "", *, kind: str = "Job", group: str = "batch", phase: str = "Running", app: str = "") -> core.Pod:
    reference = meta.OwnerReference(apiVersion=f"{group}/v1", kind=kind, name=owner, uid=owner, controller=True)
    return core.Pod(
        metadata=meta.ObjectMeta(
            name="p", namespace="default", resourceVersion="7", labels={"app": app} if app else None,
            ownerReferences=[reference] if owner else None,
        ),
        status=core.PodStatus(phase=phase),
    )  # fmt: skip


def woken(event: Event[core.Pod]) -> list[str]:
    """By name, under a watch for which a pod's phase is all that counts, and finished pods are not missed."""
    watch = Owned(
        cast("Any", None), "Job", "batch",
        adopters=lambda pod: (("default", "adopter"),) if pod.metadata.labels else (),
        same=lambda old, new: bool(old.status.phase == new.status.phase),
        without=lambda pod: bool(pod.status.phase == "Succeeded"),
    )  # fmt: skip
    found: list[str] = []

    def wake(ref: Ref, revision: str | None) -> None:
        namespace, name = ref
        assert namespace == "default" and revision == "7"
        found.append(name)

    watch.handler(wake)(event)
    return found


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (Added(pod("a")), ["a"]),
        (Added(pod("a", kind="ReplicaSet", group="apps")), []),
        (Added(pod("a", group="example.com")), []),
        (Updated(pod("a"), pod("a")), []),
        (Updated(pod("a", phase="Succeeded"), pod("a")), ["a"]),
        (Updated(pod("b"), pod("a")), ["b", "a"]),
        (Updated(pod("", app="x"), pod("a", app="x")), ["adopter", "a"]),
        (Updated(pod("a", app="x"), pod("", app="x")), ["a"]),
        (Added(pod("", app="x")), ["adopter"]),
        (Updated(pod("", app="x", phase="Failed"), pod("", app="x")), []),
        (Updated(pod("", app="y"), pod("", app="x")), ["adopter"]),
        (Deleted(pod("a")), ["a"]),
        (Deleted(pod("a", phase="Succeeded")), []),
        (Deleted(pod("", app="x")), []),
    ],
)
def test_who_is_woken(event: Event[core.Pod], expected: list[str]) -> None:
    assert woken(event) == expected


def test_a_selector_with_expressions_and_one_without_select_alike() -> None:
    plain = meta.LabelSelector(matchLabels={"app": "x"})
    wordy = msgspec.structs.replace(
        plain, matchExpressions=[meta.LabelSelectorRequirement(key="app", operator="Exists")]
    )
    for labels in ({"app": "x"}, {"app": "x", "more": "y"}, {"app": "y"}, {}):
        for selector in (plain, wordy):
            found = core.Pod(metadata=meta.ObjectMeta(name="p", namespace="default", labels=labels))
            adopted = claim(pod(), selector, [found]).patches
            assert selects(selector, labels) == bool(adopted) == (labels.get("app") == "x")
    assert selects(meta.LabelSelector(), None) and claim(pod(), meta.LabelSelector(), [pod()]).patches
    assert not selects(None, {"app": "x"}) and not claim(pod(), None, [pod(app="x")]).patches
