"""IntOrString: a number, or a percentage of another."""

from __future__ import annotations

import math
import re

_PERCENT = re.compile(r"([0-9]+)%")


def percent(value: str) -> int:
    """`25%` -> 25. Raises ValueError."""
    match = _PERCENT.fullmatch(value)
    if match is None:
        raise ValueError("invalid value for IntOrString: invalid type: string is not a percentage")
    return int(match[1])


def scaled(value: int | str, total: int, *, round_up: bool) -> int:
    """The number that a value stands for, of `total`. Raises ValueError."""
    if isinstance(value, int):
        return value
    part = percent(value) * total / 100
    return math.ceil(part) if round_up else math.floor(part)
