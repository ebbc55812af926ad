"""ImageLocality: prefers nodes that have the pod's images, the more so the larger they are."""

from __future__ import annotations

from typing import Any, ClassVar

from pinnace.scheduler.nodes import NodeInfo
from pinnace.scheduler.plugins.framework import Base
from pinnace.scheduler.podinfo import PodInfo

_LEAST = 23 * 1024 * 1024
_MOST_PER_CONTAINER = 1000 * 1024 * 1024


class ImageLocality(Base):
    name: ClassVar[str] = "ImageLocality"
    weight: ClassVar[int] = 1

    def score(self, state: Any, pod: PodInfo, node: NodeInfo) -> float:
        containers = pod.pod.spec.containers or ()
        if not node.images or not containers:
            return 0.0
        there = 0
        for container in containers:
            there += node.images.get(container.image or "", 0)
        most = _MOST_PER_CONTAINER * len(containers)
        return 100.0 * (min(max(there, _LEAST), most) - _LEAST) / (most - _LEAST)
