"""The collector's graph: what a change makes worth looking at, and what is concluded."""

from __future__ import annotations

import msgspec
import pytest

from pinnace.api.meta import v1 as meta
from pinnace.controllers.garbagecollector.graph import (
    Graph,
    Identity,
    Judgement,
    Node,
    Owner,
    Standing,
    Verdict,
    Work,
    blocking,
    judge,
    policy,
)

DEPLOYMENT = Identity("apps/v1", "Deployment", "default", "web", "d")
SET = Identity("apps/v1", "ReplicaSet", "default", "web-1", "rs")
POD = Identity("v1", "Pod", "default", "web-1-x", "p")


def owned_by(*owners: Identity, finalizers: tuple[str, ...] = (), deleted: bool = False) -> meta.ObjectMeta:
    return meta.ObjectMeta(
        ownerReferences=[
            meta.OwnerReference(
                apiVersion=o.api_version, kind=o.kind, name=o.name, uid=o.uid, blockOwnerDeletion=True
            )
            for o in owners
        ],
        finalizers=list(finalizers),
        deletionTimestamp="now" if deleted else None,
    )


def family() -> Graph:
    graph = Graph()
    graph.observe(DEPLOYMENT, owned_by())
    graph.observe(SET, owned_by(DEPLOYMENT))
    graph.observe(POD, owned_by(SET))
    return graph


def owner(of: Identity) -> Owner:
    return Owner(of.api_version, of.kind, of.name, of.uid, True)


def test_nothing_is_to_be_done_for_a_family_in_order() -> None:
    graph = Graph()
    assert graph.observe(DEPLOYMENT, owned_by()) == []
    assert graph.observe(SET, owned_by(DEPLOYMENT)) == []
    assert graph.standing(owner(DEPLOYMENT), "default") is Standing.SOLID


def test_an_owner_that_is_gone_draws_attention_to_its_dependents() -> None:
    graph = family()
    assert graph.forget("d") == [Work("rs")]
    assert graph.standing(owner(DEPLOYMENT), "default") is None
    assert graph.forget("rs") == [Work("p")]
    assert "d" not in graph.nodes


def test_an_owner_never_seen_is_asked_for() -> None:
    graph = Graph()
    assert graph.observe(POD, owned_by(SET)) == [Work("p")]
    assert graph.nodes["rs"].virtual
    assert graph.observe(SET, owned_by()) == []
    assert graph.standing(owner(SET), "default") is Standing.SOLID


def test_a_reference_into_another_namespace_does_not_stand() -> None:
    graph = family()
    assert graph.standing(owner(SET), "other") is None
    stranger = msgspec.structs.replace(POD, namespace="other", uid="p2")
    assert graph.observe(stranger, owned_by(SET)) == [Work("p2")]


def test_foreground_deletion_wakes_the_dependents_and_then_the_owner() -> None:
    graph = family()
    work = graph.observe(SET, owned_by(DEPLOYMENT, finalizers=("foregroundDeletion",), deleted=True))
    assert work == [Work("p"), Work("rs")]
    assert graph.standing(owner(SET), "default") is Standing.WAITING
    assert [node.identity for node in blocking(graph.nodes["rs"])] == [POD]
    assert graph.forget("p") == [Work("rs")]
    assert blocking(graph.nodes["rs"]) == []


def test_orphaning_is_asked_for_once() -> None:
    graph = family()
    data = owned_by(finalizers=("orphan",), deleted=True)
    assert graph.observe(DEPLOYMENT, data) == [Work("d", orphan=True)]
    assert graph.observe(DEPLOYMENT, data) == []


def test_an_owner_taken_off_is_told() -> None:
    graph = family()
    graph.observe(SET, owned_by(DEPLOYMENT, finalizers=("foregroundDeletion",), deleted=True))
    assert Work("rs") in graph.observe(POD, owned_by())


O1, O2 = owner(DEPLOYMENT), owner(SET)


@pytest.mark.parametrize(
    ("owners", "dependents", "expected"),
    [
        ([], 0, Judgement(Verdict.KEEP)),
        ([(O1, Standing.SOLID)], 0, Judgement(Verdict.KEEP)),
        ([(O1, Standing.SOLID), (O2, Standing.DANGLING)], 0, Judgement(Verdict.UNLINK, ("rs",))),
        ([(O1, Standing.DANGLING)], 3, Judgement(Verdict.DELETE)),
        ([(O1, Standing.WAITING)], 0, Judgement(Verdict.DELETE)),
        ([(O1, Standing.WAITING)], 2, Judgement(Verdict.DELETE_FOREGROUND)),
        ([(O1, Standing.SOLID), (O2, Standing.WAITING)], 2, Judgement(Verdict.UNLINK, ("rs",))),
    ],
)
def test_judgements(owners: list[tuple[Owner, Standing]], dependents: int, expected: Judgement) -> None:
    assert judge(owners, [Node(POD) for _ in range(dependents)]) == expected


def test_a_circle_is_broken() -> None:
    waiting = Node(POD, foreground=True)
    assert judge([(O1, Standing.WAITING)], [waiting]) == Judgement(Verdict.DELETE_FOREGROUND, unblock=True)


@pytest.mark.parametrize(
    ("finalizers", "expected"),
    [(["orphan"], "Orphan"), (["foregroundDeletion"], "Foreground"), (["other"], "Background")],
)
def test_finalizers_ask_for_a_policy(finalizers: list[str], expected: str) -> None:
    assert policy(finalizers) == expected
