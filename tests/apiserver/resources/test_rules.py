"""The quick look at a value finds good what the whole rule finds good, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from pinnace.api import names
from pinnace.api.fields import FieldError
from pinnace.apiserver.resources import rules

_LENGTHS = (0, 1, 2, 3, 5, 8, 61, 62, 63, 64, 65, 252, 253, 254, 255)


@pytest.mark.parametrize(
    ("quick", "whole"),
    [(rules.dns_subdomain, names.dns_subdomain), (rules.dns_label, names.dns_label),
     (rules.label_value, names.label_value), (rules.qualified_name, names.qualified_name)],
)  # fmt: skip
def test_a_quick_look_says_what_the_rule_says(
    quick: Callable[[str, str], Sequence[FieldError]], whole: rules.NameRule
) -> None:
    draw = random.Random(1)
    for number in range(6000):
        length = draw.choice(_LENGTHS) if number % 4 == 0 else draw.randrange(9)
        strange = draw.choice((0.0, 0.05, 0.4))
        value = "".join([draw.choice("b0-._A/\n") if draw.random() < strange else "a" for _ in range(length)])
        assert [finding.detail for finding in quick("", value)] == list(whole(value)), value
