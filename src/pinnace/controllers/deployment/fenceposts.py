"""How far a rolling update may go beyond and below the wanted number of pods."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from pinnace.api.apps import v1 as apps


def replicas_of(obj: Any) -> int:
    """The wanted number of pods of a deployment or replica set; unset means one."""
    value = obj.spec.replicas
    return 1 if value is None else int(value)


def is_rolling(deployment: apps.Deployment) -> bool:
    strategy = deployment.spec.strategy if deployment.spec is not None else None
    return strategy is None or strategy.type in (None, "", "RollingUpdate")


def scaled(value: int | str | None, total: int, *, up: bool) -> int:
    """A number, or a percentage of `total`, rounded up or down."""
    if value is None:
        return 0
    if isinstance(value, int):
        return value
    text = value.strip()
    if not text.endswith("%"):
        return int(text)
    # Whole numbers keep 30% of 10 at 3.
    product = int(text[:-1]) * total
    return math.ceil(product / 100) if up else product // 100


def _resolved(deployment: apps.Deployment) -> tuple[int, int]:
    strategy, wanted = deployment.spec.strategy, replicas_of(deployment)
    if strategy.type not in (None, "", "RollingUpdate"):
        return 0, 0
    if strategy.rollingUpdate is None:
        return _bounds("25%", "25%", wanted)
    return _bounds(strategy.rollingUpdate.maxSurge, strategy.rollingUpdate.maxUnavailable, wanted)


@lru_cache(maxsize=1024)
def _bounds(surge: int | str | None, unavailable: int | str | None, wanted: int) -> tuple[int, int]:
    more, fewer = scaled(surge, wanted, up=True), scaled(unavailable, wanted, up=False)
    if more == 0 and fewer == 0:
        fewer = 1   # validation forbids zero for both; percentages may still round to it
    return more, min(fewer, wanted)


def max_surge(deployment: apps.Deployment) -> int:
    return _resolved(deployment)[0]


def max_unavailable(deployment: apps.Deployment) -> int:
    return _resolved(deployment)[1]
