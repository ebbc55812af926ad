"""PodTopologySpread: pods of a group evenly over zones, hosts or whatever a label names.

Pods without constraints of their own that belong to a controller are spread over hosts as a preference, as upstream's
built-in default constraints do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pinnace.api import labels
from pinnace.api.core import v1 as core
from pinnace.api.placement import matches_node, tolerated
from pinnace.scheduler.nodes import NodeInfo, Nodes
from pinnace.scheduler.plugins.framework import Base, Misfit, lowest_is_best
from pinnace.scheduler.podinfo import PodInfo

_UNEVEN = (Misfit("node(s) didn't match pod topology spread constraints", preemptible=True),)
_UNLABELLED = (Misfit("node(s) didn't match pod topology spread constraints (missing required label)"),)


@dataclass(slots=True)
class _Constraint:
    key: str
    skew: int
    hard: bool
    itself: bool                                   # the pod counts towards its own constraint
    minimum_domains: int
    counts: Counter[str] = field(default_factory=Counter)      # matching pods by the key's value
    domains: set[str] = field(default_factory=set)

    @property
    def least(self) -> int:
        if len(self.domains) < self.minimum_domains:
            return 0
        return min((self.counts[domain] for domain in self.domains), default=0)


class PodTopologySpread(Base):
    name: ClassVar[str] = "PodTopologySpread"
    local: ClassVar[bool] = False
    weight: ClassVar[int] = 2
    relative: ClassVar[bool] = True

    def prepare(self, pod: PodInfo, nodes: Nodes) -> Any:
        given = pod.pod.spec.topologySpreadConstraints
        return [_count(pod, constraint, nodes) for constraint in given] if given else None

    def filter(self, state: list[_Constraint], pod: PodInfo, node: NodeInfo) -> Sequence[Misfit]:
        for constraint in state:
            if not constraint.hard:
                continue
            value = node.labels.get(constraint.key)
            if value is None:
                return _UNLABELLED
            after = constraint.counts[value] + (1 if constraint.itself else 0)
            if after - constraint.least > constraint.skew:
                return _UNEVEN
        return ()

    def score(self, state: list[_Constraint], pod: PodInfo, node: NodeInfo) -> float:
        total = 0.0
        for constraint in state:
            value = node.labels.get(constraint.key)
            if not constraint.hard and value is not None:
                total += constraint.counts[value] / max(1, constraint.skew)
        return total

    def normalize(self, scores: list[float]) -> list[float]:
        return lowest_is_best(scores)


class DefaultSpread(Base):
    """Pods of one controller, without constraints of their own, rather on nodes that have few of them."""

    name: ClassVar[str] = "PodTopologySpread"
    weight: ClassVar[int] = 2
    relative: ClassVar[bool] = True

    def prepare(self, pod: PodInfo, nodes: Nodes) -> Any:
        if pod.pod.spec.topologySpreadConstraints or not nodes.has_pods_of(pod.owner):
            return None
        return pod.owner

    def score(self, state: str, pod: PodInfo, node: NodeInfo) -> float:
        return float(node.owners.get(state, 0))

    def normalize(self, scores: list[float]) -> list[float]:
        return lowest_is_best(scores)


def _count(pod: PodInfo, given: core.TopologySpreadConstraint, nodes: Nodes) -> _Constraint:
    own = pod.pod.metadata.labels or {}
    matches = _selector(given, own)
    constraint = _Constraint(
        key=given.topologyKey,
        skew=given.maxSkew,
        hard=given.whenUnsatisfiable == "DoNotSchedule",
        itself=matches(own),
        minimum_domains=given.minDomains or 1,
    )
    for node in nodes:
        value = node.labels.get(constraint.key)
        if value is None or not _eligible(pod.pod, given, node):
            continue
        constraint.domains.add(value)
        for other in node.pods.values():
            about = other.pod.metadata
            if about.namespace == pod.key[0] and not about.deletionTimestamp and matches(about.labels or {}):
                constraint.counts[value] += 1
    return constraint


def _selector(given: core.TopologySpreadConstraint, own: dict[str, str]) -> Callable[[dict[str, str]], bool]:
    if given.labelSelector is None:
        return lambda _: False
    selector = labels.selector_of(given.labelSelector)
    same = {key: own[key] for key in given.matchLabelKeys or () if key in own}
    return lambda found: selector.matches(found) and all(found.get(key) == value for key, value in same.items())


def _eligible(pod: core.Pod, given: core.TopologySpreadConstraint, node: NodeInfo) -> bool:
    if (given.nodeAffinityPolicy or "Honor") == "Honor" and not matches_node(pod.spec, node.node):
        return False
    if given.nodeTaintsPolicy == "Honor":
        return all(
            taint.effect == "PreferNoSchedule" or tolerated(pod.spec, taint)
            for taint in node.node.spec.taints or ()
        )
    return True

