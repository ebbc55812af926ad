"""Every block of code in the pages on testing runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

_DOCS = Path(__file__).parents[2] / "docs"
_PAGES = ("testing.md", "simulated-clients.md")
_BLOCKS = [
    pytest.param(page, block, id=f"{page}-{number}")
    for page in _PAGES
    for number, block in enumerate(
        re.findall(r"^```python\n(.*?)^```", (_DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    )
]


@pytest.mark.parametrize(("page", "block"), _BLOCKS)
def test_the_documentation_runs(page: str, block: str) -> None:
    exec(compile(block, str(_DOCS / page), "exec"), {"__name__": "documentation"})


@pytest.mark.parametrize("page", _PAGES)
def test_there_is_documentation(page: str) -> None:
    assert any(found.values[0] == page for found in _BLOCKS)
