"""What a commit costs may not grow unnoticed. Counted, not timed: the same on every machine."""

from __future__ import annotations

import sys

import pytest
from bench.opcodes import count

from pinnace.testing.loop import simulate

MOST = 4_200          # with everything that reacts to a commit; 3,562 when this was written


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="each version of Python has opcodes of its own")
def test_what_a_commit_costs() -> None:
    found, commits = simulate(lambda: count(10), seed=1)
    assert commits > 700
    assert sum(found.steps.values()) / commits < MOST


def test_only_what_lies_between_is_counted() -> None:
    found, _ = simulate(lambda: count(0), seed=1)
    few = sum(found.steps.values())
    assert 0 < few < 50_000 and sys.gettrace() is None
