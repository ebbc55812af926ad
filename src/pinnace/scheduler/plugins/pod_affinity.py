"""InterPodAffinity: near to some pods, away from others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from pinnace.api import labels
from pinnace.api.core import v1 as core
from pinnace.scheduler.nodes import NodeInfo, Nodes
from pinnace.scheduler.plugins.framework import Base, Misfit
from pinnace.scheduler.podinfo import PodInfo

_FAR = (Misfit("node(s) didn't match pod affinity rules"),)
_NEAR = (Misfit("node(s) didn't match pod anti-affinity rules", preemptible=True),)
_UNWANTED = (Misfit("node(s) didn't satisfy existing pods anti-affinity rules", preemptible=True),)

Domain = tuple[str, str]      # (topology key, value)


class _State(msgspec.Struct):
    needed: list[tuple[str, set[str]]] = msgspec.field(default_factory=list)    # topology key, its values with a match
    first: bool = False         # no pod matches yet, but the pod itself would: it may start the group
    avoided: set[Domain] = msgspec.field(default_factory=set)
    forbidden: set[Domain] = msgspec.field(default_factory=set)
    wanted: Counter[Domain] = msgspec.field(default_factory=Counter)


class InterPodAffinity(Base):
    name: ClassVar[str] = "InterPodAffinity"
    local: ClassVar[bool] = False
    weight: ClassVar[int] = 2
    relative: ClassVar[bool] = True

    def prepare(self, pod: PodInfo, nodes: Nodes) -> Any:
        affinity = pod.pod.spec.affinity
        concerned = affinity is not None and (affinity.podAffinity is not None or affinity.podAntiAffinity is not None)
        forbidden: set[Domain] = set()
        for node, other in nodes.with_anti_affinity():
            for term in other.anti_affinity:
                if term_matches(term, other.pod, pod.pod):
                    _add_domain(forbidden, term, node)
        if not concerned and not forbidden:
            return None
        state = _State(forbidden=forbidden)
        if concerned:
            _collect(state, pod, nodes)
        return state

    def filter(self, state: _State, pod: PodInfo, node: NodeInfo) -> Sequence[Misfit]:
        labelled = node.labels
        if not state.first:
            for key, values in state.needed:
                if labelled.get(key) not in values:
                    return _FAR
        elif any(key not in labelled for key, _ in state.needed):
            return _FAR
        if any(labelled.get(key) == value for key, value in state.avoided):
            return _NEAR
        if any(labelled.get(key) == value for key, value in state.forbidden):
            return _UNWANTED
        return ()

    def score(self, state: _State, pod: PodInfo, node: NodeInfo) -> float:
        labelled = node.labels
        return float(sum(weight for (key, value), weight in state.wanted.items() if labelled.get(key) == value))

    def normalize(self, scores: list[float]) -> list[float]:
        low, high = min(scores, default=0.0), max(scores, default=0.0)
        return [100.0 * (score - low) / (high - low) for score in scores] if high > low else [0.0] * len(scores)


def term_matches(term: core.PodAffinityTerm, owner: core.Pod, other: core.Pod) -> bool:
    """Whether `other` is among the pods that a term of `owner` means."""
    namespaces = set(term.namespaces or ())
    if not namespaces and term.namespaceSelector is None:
        namespaces = {owner.metadata.namespace or ""}
    # A namespace selector that is there but empty means all namespaces.
    everywhere = term.namespaceSelector is not None and not (
        term.namespaceSelector.matchLabels or term.namespaceSelector.matchExpressions
    )
    if not everywhere and (other.metadata.namespace or "") not in namespaces:
        return False
    if term.labelSelector is None:
        return False
    return labels.selector_of(term.labelSelector).matches(other.metadata.labels or {})


def _collect(state: _State, pod: PodInfo, nodes: Nodes) -> None:
    affinity = pod.pod.spec.affinity
    near = affinity.podAffinity if affinity is not None else None
    away = affinity.podAntiAffinity if affinity is not None else None
    state.needed = [(term.topologyKey, set()) for term in pod.affinity]
    soft = [
        (weighted.podAffinityTerm, sign * weighted.weight)
        for group, sign in ((near, 1), (away, -1))
        for weighted in (group.preferredDuringSchedulingIgnoredDuringExecution if group is not None else None) or ()
    ]
    for node in nodes:
        for other in node.pods.values():
            if other.pod.metadata.deletionTimestamp:
                continue
            for (key, values), term in zip(state.needed, pod.affinity, strict=True):
                if key in node.labels and term_matches(term, pod.pod, other.pod):
                    values.add(node.labels[key])
            for term in pod.anti_affinity:
                if term_matches(term, pod.pod, other.pod):
                    _add_domain(state.avoided, term, node)
            for term, weight in soft:
                if term.topologyKey in node.labels and term_matches(term, pod.pod, other.pod):
                    state.wanted[term.topologyKey, node.labels[term.topologyKey]] += weight
    state.first = (
        bool(state.needed)
        and not any(values for _, values in state.needed)
        and all(term_matches(term, pod.pod, pod.pod) for term in pod.affinity)
    )


def _add_domain(domains: set[Domain], term: core.PodAffinityTerm, node: NodeInfo) -> None:
    value = node.labels.get(term.topologyKey)
    if value is not None:
        domains.add((term.topologyKey, value))


