"""The scheduling cycle: a pod and the picture of the nodes in, a node or the reasons against each out. Pure, but
for what it remembers to be quick."""

from __future__ import annotations

import itertools
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from pinnace.base.randomness import Randomness
from pinnace.scheduler.nodes import NodeInfo, Nodes
from pinnace.scheduler.plugins.framework import EVERY_POD, Misfit, Plugin, filters, selective
from pinnace.scheduler.podinfo import PodInfo

# Of many nodes only some are looked at once enough fit, as with upstream's percentageOfNodesToScore.
_ALWAYS_ALL = 100
_PERCENT = 5
_MOST_SHAPES = 256


class Placement(msgspec.Struct, frozen=True, gc=False):
    node: str
    evaluated: int
    feasible: int


class Unschedulable(msgspec.Struct, frozen=True, gc=False):
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


class _Prepared(NamedTuple):
    """The plugins that have something to say about a pod, each with what it has made of it."""

    filters: list[tuple[Plugin, Any]]
    scorers: list[tuple[Plugin, Any]]
    relative: list[Plugin]            # those of the scorers whose scores are compared


class _Group:
    """Plugins that are asked together, in their order."""

    def __init__(self, plugins: Sequence[Plugin]) -> None:
        self._plugins = [(plugin, selective(plugin), filters(plugin)) for plugin in plugins]
        self._plain = self._with({})

    def prepared(self, pod: PodInfo, nodes: Nodes) -> _Prepared:
        states: dict[Plugin, Any] = {}
        for plugin, choosy, _ in self._plugins:
            if choosy:
                state = plugin.prepare(pod, nodes)
                if state is not None:
                    states[plugin] = state
        return self._with(states) if states else self._plain

    def _with(self, states: Mapping[Plugin, Any]) -> _Prepared:
        prepared = _Prepared([], [], [])
        for plugin, choosy, filtering in self._plugins:
            if choosy and plugin not in states:
                continue
            entry = plugin, states[plugin] if choosy else EVERY_POD
            if filtering:
                prepared.filters.append(entry)
            if plugin.weight:
                prepared.scorers.append(entry)
                if plugin.relative:
                    prepared.relative.append(plugin)
        return prepared


# Pods that local plugins judge alike: their own shape, and the controller whose other pods they are spread from.
_Shape = tuple[bytes, str]


class _Verdict(msgspec.Struct, gc=False):
    """What the local plugins said of a node, for one generation of it."""

    node: NodeInfo
    generation: int
    misfits: Sequence[Misfit]
    fixed: float                  # the weighted sum of the scores that stand for themselves
    relative: Sequence[float]     # those that count in comparison with the other nodes only


class _Alike(NamedTuple):
    """What is remembered for pods of one shape: what the local plugins made of it, and what they said of nodes."""

    prepared: _Prepared
    verdicts: dict[str, _Verdict]


class Cycle:
    """Finds a node for one pod at a time."""

    def __init__(self, plugins: Sequence[Plugin], randomness: Randomness) -> None:
        self._local = _Group([plugin for plugin in plugins if plugin.local])
        self._global = _Group([plugin for plugin in plugins if not plugin.local])
        self._randomness = randomness
        self._start = 0
        self._shapes: OrderedDict[_Shape, _Alike] = OrderedDict()

    def schedule(self, pod: PodInfo, nodes: Nodes) -> Placement | Unschedulable:
        """The best node for the pod."""
        listed = nodes.all()
        local, remembered = self._remembered(pod, nodes)
        wide = self._global.prepared(pod, nodes)
        wanted, first = _enough(len(listed)), self._start
        stretches = (first, first + wanted), (first + wanted, len(listed)), (0, first)
        feasible: list[_Verdict] = []
        misfits: dict[str, Sequence[Misfit]] = {}
        for node in itertools.chain.from_iterable(listed[begin:end] for begin, end in stretches):
            verdict = remembered.get(node.name)
            if verdict is None or verdict.generation != node.generation:
                verdict = remembered[node.name] = _judge(local, pod, node)
            found = verdict.misfits or (wide.filters and _first_misfits(wide, pod, node))
            if found:
                misfits[node.name] = found
                continue
            feasible.append(verdict)
            wanted -= 1
            if not wanted:
                break
        if not feasible:
            return Unschedulable(misfits)
        evaluated = len(feasible) + len(misfits)
        self._start = (first + evaluated) % len(listed)
        best = self._best(pod, local, wide, feasible)
        return Placement(best, evaluated, len(feasible))

    def refusals(self, pod: PodInfo, nodes: Nodes) -> dict[str, Sequence[Misfit]]:
        """What each node has against the pod now; nothing where it would fit. Remembers and moves nothing."""
        local, wide = self._local.prepared(pod, nodes), self._global.prepared(pod, nodes)
        alike = self._shapes.get(_shape(pod, nodes))
        remembered = alike.verdicts if alike is not None else {}
        found: dict[str, Sequence[Misfit]] = {}
        for node in nodes.all():
            verdict = remembered.get(node.name)
            fresh = verdict is not None and verdict.generation == node.generation
            misfits = verdict.misfits if verdict is not None and fresh else _first_misfits(local, pod, node)
            found[node.name] = misfits or _first_misfits(wide, pod, node)
        return found

    def fits(self, pod: PodInfo, node: NodeInfo, nodes: Nodes) -> bool:
        """Whether the pod fits one node as it is given (for preemption's what-ifs)."""
        return not any(_first_misfits(group.prepared(pod, nodes), pod, node) for group in (self._local, self._global))

    def _remembered(self, pod: PodInfo, nodes: Nodes) -> _Alike:
        shape = _shape(pod, nodes)
        found = self._shapes.get(shape)
        if found is None:
            if len(self._shapes) >= _MOST_SHAPES:
                self._shapes.popitem(last=False)
            found = self._shapes[shape] = _Alike(self._local.prepared(pod, nodes), {})
        else:
            self._shapes.move_to_end(shape)
        return found

    def _best(
        self,
        pod: PodInfo,
        local: _Prepared,
        wide: _Prepared,
        feasible: list[_Verdict],
    ) -> str:
        if len(feasible) == 1:
            return feasible[0].node.name
        totals = [verdict.fixed for verdict in feasible]
        for position, plugin in enumerate(local.relative):
            _add(totals, plugin, [verdict.relative[position] for verdict in feasible])
        for plugin, state in wide.scorers:
            _add(totals, plugin, [plugin.score(state, pod, verdict.node) for verdict in feasible])
        top = max(totals) - 1e-9
        best = [index for index, total in enumerate(totals) if total >= top]
        chosen = best[self._randomness.below(len(best))] if len(best) > 1 else best[0]
        return feasible[chosen].node.name


def _shape(pod: PodInfo, nodes: Nodes) -> _Shape:
    return pod.shape, pod.owner if nodes.has_pods_of(pod.owner) else ""


def _add(totals: list[float], plugin: Plugin, raw: list[float]) -> None:
    if raw.count(raw[0]) == len(raw):
        return          # all alike: nothing to choose by
    for index, score in enumerate(plugin.normalize(raw)):
        totals[index] += score * plugin.weight


def _judge(local: _Prepared, pod: PodInfo, node: NodeInfo) -> _Verdict:
    misfits = _first_misfits(local, pod, node)
    if misfits:
        return _Verdict(node, node.generation, misfits, 0.0, ())
    fixed, relative = 0.0, []
    for plugin, state in local.scorers:
        score = plugin.score(state, pod, node)
        if plugin.relative:
            relative.append(score)
        else:
            fixed += score * plugin.weight
    return _Verdict(node, node.generation, (), fixed, relative)


def _first_misfits(prepared: _Prepared, pod: PodInfo, node: NodeInfo) -> Sequence[Misfit]:
    for plugin, state in prepared.filters:
        found = plugin.filter(state, pod, node)
        if found:
            return found
    return ()


def _enough(nodes: int) -> int:
    if nodes <= _ALWAYS_ALL:
        return nodes
    return max(_ALWAYS_ALL, nodes * _PERCENT // 100)
