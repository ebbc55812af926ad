"""A bad value in a message: Go's form, whatever it is made of."""

from __future__ import annotations

from typing import Any

import pytest

from pinnace.api.core import v1 as core
from pinnace.api.fields import render


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (7, "7"),
        ('a"b', '"a\\"b"'),
        (None, "null"),
        ({"a": 1}, '{"a":1}'),
        (core.KeyToPath(key="k", path="p"), '{"key":"k","path":"p"}'),
        ([core.KeyToPath(key="k", path="p")], '[{"key":"k","path":"p"}]'),
        ({"a": core.KeyToPath(key="k", path="p")}, '{"a":{"key":"k","path":"p"}}'),
    ],
)
def test_render(value: Any, text: str) -> None:
    assert render(value) == text
