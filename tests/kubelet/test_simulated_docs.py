"""Every block of code in docs/simulated-nodes.md runs, and its table is complete."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from pinnace.kubelet.simulated import Life
from pinnace.kubelet.simulated.life import ANNOTATIONS, PREFIX
from pinnace.kubelet.simulated.stages import PROVIDED
from pinnace.kubelet.simulated.templates import FUNCTIONS

_PAGE = Path(__file__).parents[2] / "docs" / "simulated-nodes.md"
_TEXT = _PAGE.read_text()
_BLOCKS = re.findall(r"^```python\n(.*?)^```", _TEXT, re.DOTALL | re.MULTILINE)


def test_the_documentation_runs() -> None:
    names: dict[str, object] = {"__name__": "documentation"}
    assert len(_BLOCKS) == 6
    for block in _BLOCKS:       # each builds on the ones before
        exec(compile(block, str(_PAGE), "exec"), names)


def test_the_table_has_all_fields_and_annotations() -> None:
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| (?:`([\w-]+)`)? ?\|", _TEXT, re.MULTILINE)
    assert [name for name, _ in rows] == [f.name for f in fields(Life)]
    written = {PREFIX + annotation: name for name, annotation in rows if annotation}
    assert written == {annotation: name for annotation, (name, _) in ANNOTATIONS.items()}


def test_the_functions_that_are_named_exist() -> None:
    words = re.search(r"Templates: (.*?)Anything else", _TEXT, re.DOTALL)
    assert words is not None
    named = set(re.findall(r"`(\w+)`", words[1])) - {
        "if", "with", "range", "else", "define", "template", "break", "continue"
    }
    assert named <= {*FUNCTIONS, *PROVIDED}
