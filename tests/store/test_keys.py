"""Keys in order, whenever somebody asks."""

from __future__ import annotations

import random

import pytest

from pinnace.store.keys import SortedKeys


@pytest.mark.parametrize("between", [1, 5, 40, 400])
def test_whatever_comes_and_goes_between_two_looks(between: int) -> None:
    draw = random.Random(between)
    keys = SortedKeys(["b", "a"])
    there = {"a", "b"}
    for _ in range(3000 // between):
        for _ in range(between):
            key = str(draw.randrange(300))
            if key in there:
                there.remove(key)
                keys.remove(key)
            else:
                there.add(key)
                keys.new[key] = None
        assert keys.sorted() == sorted(there)
