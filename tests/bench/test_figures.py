"""The table that the bench prints, and what it keeps in latest.json."""

from __future__ import annotations

import json

import pytest
from bench.figures import Figure, Outcome, Target, number, percentile, report, table

RATE = Target(3000.0, 940.0)
TIME = Target(1.0, 3.7, "3.7-5.5 s")


@pytest.mark.parametrize(
    ("value", "text"),
    [(9600.4, "9,600"), (100.0, "100"), (41.26, "41.3"), (0.258, "0.26"), (0.0, "0.00"), (-12.34, "-12.3")],
)
def test_numbers_keep_three_digits(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("values", "part", "found"),
    [
        ([3.0, 1.0, 2.0], 0.5, 2.0), ([1.0, 2.0], 0.5, 1.0), ([5.0], 0.99, 5.0),
        ([float(n) for n in range(1, 201)], 0.99, 198.0),
    ],
)
def test_percentile_is_one_of_the_values(values: list[float], part: float, found: float) -> None:
    assert percentile(values, part) == found


def test_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        percentile([], 0.5)


@pytest.mark.parametrize(
    ("figure", "met", "ratio"),
    [
        (Figure("creates", 4700.0, "/s", more=True, target=RATE), True, 5.0),
        (Figure("creates", 470.0, "/s", more=True, target=RATE), False, 0.5),
        (Figure("start", 0.925, "s", target=TIME), True, 4.0),
        (Figure("start", 1.85, "s", target=TIME), False, 2.0),
        (Figure("start", 1.85, "s"), None, None),
    ],
)
def test_budget_and_ratio_know_what_is_better(figure: Figure, met: bool | None, ratio: float | None) -> None:
    assert figure.met is met
    assert figure.ratio == (pytest.approx(ratio) if ratio is not None else None)


def outcomes() -> list[Outcome]:
    return [
        Outcome("create", 7.0, "1 1 1", (
            Figure("durable creates", 1612.0, "/s", more=True, target=RATE), Figure("  p50", 9.219, "ms"),
        )),
        Outcome("cold-start", 3.0, "2 1 1", (Figure("cold start", 0.92, "s", target=TIME),)),
        Outcome("get", 1.0, "2 1 1", error="LoadFailed: first line\nrefused"),
    ]  # fmt: skip


def test_table_aligns_all_figures_and_tells_of_failures() -> None:
    assert table(outcomes()).splitlines() == [
        "what             measured    budget  upstream here  ratio  kept",
        "durable creates  1,612 /s  3,000 /s         940 /s  1.71x    NO",
        "  p50             9.22 ms",
        "cold start         0.92 s    1.00 s      3.7-5.5 s  4.02x   yes",
        "get              failed: refused",
    ]


def test_latest_json_keeps_machine_load_and_every_figure() -> None:
    kept = json.loads(report(outcomes(), machine={"cores": 2}))
    assert kept["machine"] == {"cores": 2}
    assert [row["row"] for row in kept["rows"]] == ["create", "cold-start", "get"]
    first = kept["rows"][0]
    assert first["load"] == "1 1 1"
    assert first["figures"] == [
        {
            "what": "durable creates", "value": 1612.0, "unit": "/s", "budget": 3000.0, "upstream": 940.0,
            "ratio": 1.71, "kept": False,
        },
        {"what": "  p50", "value": 9.219, "unit": "ms"},
    ]  # fmt: skip
    assert kept["rows"][2]["error"].startswith("LoadFailed")
