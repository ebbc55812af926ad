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

# Of many nodes only some are looked at once enough fit, as with upstream's percentageOfNodesToScore.
_ALWAYS_ALL = 100
_PERCENT = 5
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
    fixed: float                  # the weighted sum of the scores that stand for themselves
    relative: Sequence[float]     # those that count in comparison with the other nodes only


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
        feasible: list[tuple[NodeInfo, _Verdict]] = []
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
            feasible.append((node, verdict))
            if len(feasible) >= wanted:
                break
        if not feasible:
            return Unschedulable(misfits)
        self._start = (self._start + evaluated) % len(listed)
        best = self._best(pod, local, wide, feasible)
        return Placement(best, evaluated, len(feasible))

    def refusals(self, pod: PodInfo, nodes: Nodes) -> dict[str, Sequence[Misfit]]:
        """What each node has against the pod now; nothing where it would fit. Remembers and moves nothing."""
        local, wide = self._prepared(self._local, pod, nodes), self._prepared(self._global, pod, nodes)
        remembered = self._shapes.get(pod.shape, {})
        found: dict[str, Sequence[Misfit]] = {}
        for node in nodes.all():
            verdict = remembered.get(node.name)
            fresh = verdict is not None and verdict.generation == node.generation
            misfits = verdict.misfits if verdict is not None and fresh else _first_misfits(local, pod, node)
            found[node.name] = misfits or _first_misfits(wide, pod, node)
        return found

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
        pod: PodInfo,
        local: list[tuple[Plugin, Any]],
        wide: list[tuple[Plugin, Any]],
        feasible: list[tuple[NodeInfo, _Verdict]],
    ) -> str:
        if len(feasible) == 1:
            return feasible[0][0].name
        totals = [verdict.fixed for _, verdict in feasible]
        for position, plugin in enumerate(_relative(local)):
            _add(totals, plugin, [verdict.relative[position] for _, verdict in feasible])
        for plugin, state in wide:
            if plugin.weight:
                _add(totals, plugin, [plugin.score(state, pod, node) for node, _ in feasible])
        top = max(totals) - 1e-9
        best = [index for index, total in enumerate(totals) if total >= top]
        chosen = best[self._randomness.below(len(best))] if len(best) > 1 else best[0]
        return feasible[chosen][0].name


def _relative(plugins: list[tuple[Plugin, Any]]) -> list[Plugin]:
    """The plugins whose scores say something only beside those of other nodes."""
    return [plugin for plugin, _ in plugins if plugin.weight and plugin.relative]


def _add(totals: list[float], plugin: Plugin, raw: list[float]) -> None:
    if raw.count(raw[0]) == len(raw):
        return          # all alike: nothing to choose by
    for index, score in enumerate(plugin.normalize(raw)):
        totals[index] += score * plugin.weight


def _judge(local: list[tuple[Plugin, Any]], pod: PodInfo, node: NodeInfo) -> _Verdict:
    misfits = _first_misfits(local, pod, node)
    if misfits:
        return _Verdict(node.generation, misfits, 0.0, ())
    fixed, relative = 0.0, []
    for plugin, state in local:
        if plugin.weight:
            score = plugin.score(state, pod, node)
            if plugin.relative:
                relative.append(score)
            else:
                fixed += score * plugin.weight
    return _Verdict(node.generation, (), fixed, relative)


def _first_misfits(plugins: list[tuple[Plugin, Any]], pod: PodInfo, node: NodeInfo) -> Sequence[Misfit]:
    for plugin, state in plugins:
        found = plugin.filter(state, pod, node)
        if found:
            return found
    return ()


def _enough(nodes: int) -> int:
    if nodes <= _ALWAYS_ALL:
        return nodes
    return max(_ALWAYS_ALL, nodes * _PERCENT // 100)
