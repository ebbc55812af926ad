"""Every block of code in docs/simulated-clients.md runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

_PAGE = Path(__file__).parents[2] / "docs" / "simulated-clients.md"
_BLOCKS = re.findall(r"^```python\n(.*?)^```", _PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("block", _BLOCKS)
def test_the_documentation_runs(block: str) -> None:
    exec(compile(block, str(_PAGE), "exec"), {"__name__": "documentation"})


def test_there_is_documentation() -> None:
    assert _BLOCKS
