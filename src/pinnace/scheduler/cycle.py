"""The scheduling cycle: a pod and the picture of the nodes in, a node or the reasons against each out. Pure, but
for what it remembers to be quick."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pinnace.base.randomness import Randomness
from pinnace.scheduler.nodes import NodeInfo, Nodes
from pinnace.scheduler.plugins.framework import Misfit, Plugin
from pinnace.scheduler.podinfo import PodInfo

# Of many nodes only some are looked at once enough fit (upstream: numFeasibleNodesToFind).
_ALWAYS_ALL = 100
_LEAST_PERCENT = 5
_MOST_SHAPES = 256


@dataclass(frozen=True, slots=True)
class Placement:
    node: str
    evaluated: int
    feasible: int


@dataclass(frozen=True, slots=True)
class Unschedulable:
    """No node takes the pod. `misfits` says why, by node."""

    misfits: dict[str, Sequence[Misfit]]

    @property
    def message(self) -> str:
        """`0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`"""
        return describe(len(self.misfits), self.misfits.values())


def describe(nodes: int, misfits: Any) -> str:
    """The reasons, counted and sorted, as upstream's FitError prints them."""
    if not nodes:
        return "no nodes available to schedule pods"
    counts = Counter(misfit.reason for found in misfits for misfit in found)
    listed = ", ".join(sorted(f"{count} {reason}" for reason, count in counts.items()))
    return f"0/{nodes} nodes are available: {listed}."


@dataclass(slots=True)
class _Verdict:
    """What the local plugins said of a node, for one generation of it."""

    generation: int
    misfits: Sequence[Misfit]
    scores: Sequence[float]


class Cycle:
    """Finds a node for one pod at a time."""

    def __init__(self, plugins: Sequence[Plugin], randomness: Randomness) -> None:
        self._local = tuple(plugin for plugin in plugins if plugin.local)
        self._global = tuple(plugin for plugin in plugins if not plugin.local)
        self._randomness = randomness
        self._start = 0
        self._shapes: OrderedDict[bytes, dict[str, _Verdict]] = OrderedDict()

    def schedule(self, pod: PodInfo, nodes: Nodes) -> Placement | Unschedulable:
        """The best node for the pod."""
        listed = nodes.all()
        local = self._prepared(self._local, pod, nodes)
        wide = self._prepared(self._global, pod, nodes)
        remembered = self._remembered(pod)
        wanted = _enough(len(listed))
        feasible: list[tuple[NodeInfo, Sequence[float], list[float]]] = []
        misfits: dict[str, Sequence[Misfit]] = {}
        evaluated = 0
        for position in range(len(listed)):
            node = listed[(self._start + position) % len(listed)]
            evaluated += 1
            verdict = remembered.get(node.name)
            if verdict is None or verdict.generation != node.generation:
                verdict = remembered[node.name] = _judge(local, pod, node)
            found: Sequence[Misfit] = verdict.misfits
            if not found:
                found = _first_misfits(wide, pod, node)
            if found:
                misfits[node.name] = found
                continue
            feasible.append((node, verdict.scores, [p.score(s, pod, node) for p, s in wide if p.weight]))
            if len(feasible) >= wanted:
                break
        if not feasible:
            return Unschedulable(misfits)
        self._start = (self._start + evaluated) % len(listed)
        best = self._best(local, wide, feasible)
        return Placement(best, evaluated, len(feasible))

    def fits(self, pod: PodInfo, node: NodeInfo, nodes: Nodes) -> bool:
        """Whether the pod fits one node as it is given (for preemption's what-ifs)."""
        for plugin, state in (*self._prepared(self._local, pod, nodes), *self._prepared(self._global, pod, nodes)):
            if plugin.filter(state, pod, node):
                return False
        return True

    def _prepared(self, plugins: Sequence[Plugin], pod: PodInfo, nodes: Nodes) -> list[tuple[Plugin, Any]]:
        states = ((plugin, plugin.prepare(pod, nodes)) for plugin in plugins)
        return [(plugin, state) for plugin, state in states if state is not None]

    def _remembered(self, pod: PodInfo) -> dict[str, _Verdict]:
        found = self._shapes.pop(pod.shape, None)
        if found is None:
            found = {}
            if len(self._shapes) >= _MOST_SHAPES:
                self._shapes.popitem(last=False)
        self._shapes[pod.shape] = found
        return found

    def _best(
        self,
        local: list[tuple[Plugin, Any]],
        wide: list[tuple[Plugin, Any]],
        feasible: list[tuple[NodeInfo, Sequence[float], list[float]]],
    ) -> str:
        if len(feasible) == 1:
            return feasible[0][0].name
        totals = [0.0] * len(feasible)
        for column, plugins in ((1, local), (2, wide)):
            scoring = [plugin for plugin, _ in plugins if plugin.weight]
            for position, plugin in enumerate(scoring):
                raw = [entry[column][position] for entry in feasible]  # type: ignore[index]  # columns 1 and 2 hold scores
                for index, score in enumerate(plugin.normalize(raw)):
                    totals[index] += score * plugin.weight
        top = max(totals)
        best = [index for index, total in enumerate(totals) if total >= top - 1e-9]
        chosen = best[self._randomness.below(len(best))] if len(best) > 1 else best[0]
        return feasible[chosen][0].name


def _judge(local: list[tuple[Plugin, Any]], pod: PodInfo, node: NodeInfo) -> _Verdict:
    misfits = _first_misfits(local, pod, node)
    scores = () if misfits else tuple(p.score(s, pod, node) for p, s in local if p.weight)
    return _Verdict(node.generation, misfits, scores)


def _first_misfits(plugins: list[tuple[Plugin, Any]], pod: PodInfo, node: NodeInfo) -> Sequence[Misfit]:
    for plugin, state in plugins:
        found = plugin.filter(state, pod, node)
        if found:
            return found
    return ()


def _enough(nodes: int) -> int:
    if nodes <= _ALWAYS_ALL:
        return nodes
    percent = max(_LEAST_PERCENT, 50 - nodes // 125)
    return max(_ALWAYS_ALL, nodes * percent // 100)
