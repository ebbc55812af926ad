"""The shape of a plugin.

`prepare` looks at the pod once a cycle and says whether the plugin has anything to say about it; `filter` and
`score` are then asked for each node. All are pure. A plugin that is `local` decides by the pod and the one node
alone: what it prepares holds for all pods of one shape, what it says is remembered until the node changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import msgspec

from pinnace.scheduler.nodes import NodeInfo, Nodes
from pinnace.scheduler.podinfo import PodInfo


class Misfit(msgspec.Struct, frozen=True, gc=False):
    """Why a pod cannot go to a node. `preemptible`: it could, if other pods left."""

    reason: str
    preemptible: bool = False


class Plugin(Protocol):
    name: ClassVar[str]
    local: ClassVar[bool]
    weight: ClassVar[int]          # 0: the plugin does not score
    relative: ClassVar[bool]       # its scores mean something only beside those of other nodes: see `normalize`

    def prepare(self, pod: PodInfo, nodes: Nodes) -> Any:
        """What `filter` and `score` need of the pod and the whole; None if the plugin has nothing to say."""
        ...

    def filter(self, state: Any, pod: PodInfo, node: NodeInfo) -> Sequence[Misfit]:
        """Nothing if the pod fits."""
        ...

    def score(self, state: Any, pod: PodInfo, node: NodeInfo) -> float:
        """The more the better; brought to 0..100 over all nodes if `normalized`."""
        ...

    def normalize(self, scores: list[float]) -> list[float]:
        """Bring the scores of all nodes to 0..100."""
        ...


EVERY_POD = True      # the state of a plugin that has something to say about each, and prepares nothing


class Base:
    """What most plugins leave as it is."""

    local: ClassVar[bool] = True
    weight: ClassVar[int] = 0
    relative: ClassVar[bool] = False

    def prepare(self, pod: PodInfo, nodes: Nodes) -> Any:
        return EVERY_POD

    def filter(self, state: Any, pod: PodInfo, node: NodeInfo) -> Sequence[Misfit]:
        return ()

    def score(self, state: Any, pod: PodInfo, node: NodeInfo) -> float:
        return 0.0

    def normalize(self, scores: list[float]) -> list[float]:
        return scores


def selective(plugin: Plugin) -> bool:
    """Whether the plugin has nothing to say about some pods."""
    return getattr(type(plugin), "prepare", None) is not Base.prepare


def filters(plugin: Plugin) -> bool:
    """Whether the plugin may have something against a node."""
    return getattr(type(plugin), "filter", None) is not Base.filter


def highest_is_best(scores: list[float]) -> list[float]:
    """Scale so that the highest becomes 100."""
    top = max(scores, default=0.0)
    return [score * 100.0 / top for score in scores] if top > 0 else scores


def lowest_is_best(scores: list[float]) -> list[float]:
    """Scale and turn round, so that the lowest becomes 100."""
    top = max(scores, default=0.0)
    return [100.0 - score * 100.0 / top for score in scores] if top > 0 else [100.0] * len(scores)
