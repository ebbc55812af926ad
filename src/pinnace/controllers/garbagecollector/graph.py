"""Who depends on whom, over all kinds: a graph of identities, fed by watches, without the objects themselves.

Pure: `observe` and `forget` take in one change and say which objects must be looked at; `judge` says what is to
become of one. Source: upstream's pkg/controller/garbagecollector and
https://kubernetes.io/docs/concepts/architecture/garbage-collection/.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple

import msgspec

from pinnace.api.meta import v1 as meta

ORPHAN = "orphan"
FOREGROUND = "foregroundDeletion"


class Identity(msgspec.Struct, frozen=True, gc=False):
    """Where to find an object; `namespace` is empty for cluster-scoped ones."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str


class Owner(msgspec.Struct, frozen=True, gc=False):
    """An owner reference, as far as collection goes."""

    api_version: str
    kind: str
    name: str
    uid: str
    blocks: bool


class Node(msgspec.Struct, eq=False):
    """An object. `virtual`: known only from a reference to it; whether it exists must be asked."""

    identity: Identity
    owners: tuple[Owner, ...] = ()
    dependents: dict[str, Node] = msgspec.field(default_factory=dict)
    virtual: bool = False
    deleting: bool = False
    foreground: bool = False    # being deleted, and waits for its dependents to go first
    orphaning: bool = False     # being deleted, and lets its dependents go first


class Work(NamedTuple):
    """An object to look at: `orphan` asks to release its dependents, else whether it should go."""

    uid: str
    orphan: bool = False


def owners_of(data: meta.ObjectMeta) -> tuple[Owner, ...]:
    if not data.ownerReferences:
        return ()
    return tuple([
        Owner(owner.apiVersion, owner.kind, owner.name, owner.uid, bool(owner.blockOwnerDeletion))
        for owner in data.ownerReferences
    ])


class Graph:
    """All objects by uid. One writer: the collector."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}

    def observe(self, identity: Identity, data: meta.ObjectMeta) -> list[Work]:
        """An object was seen as it is now."""
        work: list[Work] = []
        node = self.nodes.get(identity.uid)
        if node is None:
            node = self.nodes[identity.uid] = Node(identity)
        elif node.virtual and node.identity != identity:
            # A reference named it wrongly: those that did must be judged anew.
            work += [Work(uid) for uid in node.dependents]
        node.identity, node.virtual = identity, False
        work += self._own(node, owners_of(data))
        finalizers = data.finalizers or ()
        gone = data.deletionTimestamp is not None
        foreground = gone and FOREGROUND in finalizers
        orphaning = gone and ORPHAN in finalizers
        if orphaning and not node.orphaning:
            work.append(Work(identity.uid, orphan=True))
        if foreground and not node.foreground:
            work += [Work(uid) for uid in node.dependents]
            work.append(Work(identity.uid))
        if gone and not node.deleting:
            work += [Work(owner.uid) for owner in node.owners if self._waits(owner.uid)]
        node.deleting, node.foreground, node.orphaning = gone, foreground, orphaning
        return work

    def forget(self, uid: str) -> list[Work]:
        """An object is gone: its dependents may have to go too, and an owner may have waited for it."""
        node = self.nodes.pop(uid, None)
        if node is None:
            return []
        work = [Work(dependent) for dependent in node.dependents]
        for owner in node.owners:
            work += self._unlink(owner.uid, uid)
        if node.dependents:
            # References to it remain: they are found dangling when looked at.
            self.nodes[uid] = Node(node.identity, dependents=node.dependents, virtual=True)
        return work

    def _own(self, node: Node, owners: tuple[Owner, ...]) -> list[Work]:
        if owners == node.owners:
            return []
        work: list[Work] = []
        if not node.owners:
            node.owners = owners
            for owner in owners:
                work += self._link(owner, node)
            return work
        before, after = {o.uid: o for o in node.owners}, {o.uid: o for o in owners}
        node.owners = owners
        uid = node.identity.uid
        for owner in after.values():
            if owner.uid not in before:
                work += self._link(owner, node)
            elif before[owner.uid].blocks and not owner.blocks and self._waits(owner.uid):
                work.append(Work(owner.uid))
        for gone in before:
            if gone not in after:
                work += self._unlink(gone, uid)
        work.append(Work(uid))
        return work

    def _link(self, owner: Owner, node: Node) -> list[Work]:
        known = self.nodes.get(owner.uid)
        if known is None:
            # The namespace is a guess (a cluster-scoped owner has none); the collector asks by kind.
            identity = Identity(owner.api_version, owner.kind, node.identity.namespace, owner.name, owner.uid)
            known = self.nodes[owner.uid] = Node(identity, virtual=True)
        known.dependents[node.identity.uid] = node
        if known.virtual or known.foreground or not _agrees(owner, known.identity, node.identity.namespace):
            return [Work(node.identity.uid)]
        return []

    def _unlink(self, owner: str, uid: str) -> list[Work]:
        known = self.nodes.get(owner)
        if known is None:
            return []
        known.dependents.pop(uid, None)
        if known.virtual and not known.dependents:
            del self.nodes[owner]
            return []
        return [Work(owner)] if known.foreground else []

    def _waits(self, uid: str) -> bool:
        node = self.nodes.get(uid)
        return node is not None and node.foreground

    def standing(self, owner: Owner, namespace: str) -> Standing | None:
        """How a reference from an object of that namespace stands; None if the graph cannot tell."""
        node = self.nodes.get(owner.uid)
        if node is None or node.virtual:
            return None
        if not _agrees(owner, node.identity, namespace):
            return None
        return Standing.WAITING if node.foreground else Standing.SOLID


def _agrees(owner: Owner, identity: Identity, namespace: str) -> bool:
    """Whether a reference, made from a namespace, names that object."""
    return (
        owner.kind == identity.kind
        and owner.name == identity.name
        and identity.namespace in ("", namespace)
        and (
            owner.api_version == identity.api_version
            or owner.api_version.rpartition("/")[0] == identity.api_version.rpartition("/")[0]
        )
    )


class Standing(Enum):
    """How an owner reference stands."""

    SOLID = "solid"        # the owner is there
    WAITING = "waiting"    # the owner is being deleted and waits for its dependents
    DANGLING = "dangling"  # there is no such owner


class Verdict(Enum):
    """What is to become of an object."""

    KEEP = "keep"
    UNLINK = "unlink"                  # some owner is there: drop the references that are not
    DELETE = "delete"                  # under the policy that its own finalizers ask for
    DELETE_FOREGROUND = "foreground"   # an owner waits for it, and it has dependents of its own


class Judgement(msgspec.Struct, frozen=True):
    verdict: Verdict
    unlink: tuple[str, ...] = ()      # uids of owners whose references are dropped
    unblock: bool = False             # a circle of waiting: let it not block its dependents' deletion


def judge(
    owners: Sequence[tuple[Owner, Standing]], dependents: Iterable[Node]
) -> Judgement:
    """What to do with an object, given how its owner references stand."""
    if not owners:
        return Judgement(Verdict.KEEP)
    standings = {standing for _, standing in owners}
    if Standing.SOLID in standings:
        drop = tuple(owner.uid for owner, standing in owners if standing is not Standing.SOLID)
        return Judgement(Verdict.UNLINK, drop) if drop else Judgement(Verdict.KEEP)
    nodes = list(dependents)
    if Standing.WAITING in standings and nodes:
        return Judgement(Verdict.DELETE_FOREGROUND, unblock=any(node.foreground for node in nodes))
    return Judgement(Verdict.DELETE)


def blocking(node: Node) -> list[Node]:
    """The dependents that an owner under foreground deletion waits for."""
    uid = node.identity.uid
    return [
        dependent
        for dependent in node.dependents.values()
        if any(owner.uid == uid and owner.blocks for owner in dependent.owners)
    ]


def policy(finalizers: Sequence[str]) -> str:
    """The propagation policy that an object's finalizers ask for."""
    if ORPHAN in finalizers:
        return "Orphan"
    return "Foreground" if FOREGROUND in finalizers else "Background"
