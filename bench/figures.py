"""What a row of the bench finds, the budget it is held against, and how both are printed and kept."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """The budget, and what upstream 1.36 did on such a machine: its best figure, and the words for it."""

    budget: float
    upstream: float
    upstream_text: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value. `more` is true where more is better (rates), false where less is (times, sizes)."""

    what: str
    value: float
    unit: str
    more: bool = False
    target: Target | None = None

    @property
    def met(self) -> bool | None:
        """Whether the budget is kept; None if there is none."""
        if self.target is None:
            return None
        return self.value >= self.target.budget if self.more else self.value <= self.target.budget

    @property
    def ratio(self) -> float | None:
        """How many times better than upstream; below 1 it is worse. None where there is nothing to compare."""
        if self.target is None or not self.target.upstream or not self.value:
            return None
        return self.value / self.target.upstream if self.more else self.target.upstream / self.value


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one row: its figures, or why there are none."""

    row: str
    seconds: float
    load: str                              # of the machine before the row: 1, 5 and 15 minutes
    figures: tuple[Figure, ...] = ()
    error: str = ""


_HEAD = ("what", "measured", "budget", "upstream here", "ratio", "kept")


def table(outcomes: Iterable[Outcome]) -> str:
    """All outcomes as lines of text, columns aligned."""
    lines: list[tuple[str, ...]] = [_HEAD]
    for outcome in outcomes:
        lines.extend(_cells(figure) for figure in outcome.figures)
        if outcome.error:
            lines.append((outcome.row, f"failed: {outcome.error.splitlines()[-1]}"))
    widths = [max(len(line[column]) for line in lines if len(line) == len(_HEAD)) for column in range(len(_HEAD))]
    return "\n".join(_aligned(line, widths) for line in lines)


def report(outcomes: Sequence[Outcome], *, machine: dict[str, object]) -> bytes:
    """bench/latest.json."""
    rows = [
        {
            "row": outcome.row, "seconds": round(outcome.seconds, 1), "load": outcome.load, "error": outcome.error,
            "figures": [_record(figure) for figure in outcome.figures],
        }
        for outcome in outcomes
    ]  # fmt: skip
    return json.dumps({"machine": machine, "rows": rows}, indent=1, ensure_ascii=False).encode() + b"\n"


def number(value: float) -> str:
    """Three digits that count, thousands apart: `9,600`, `41.3`, `0.26`."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that at least `part` (0 to 1) of all do not exceed."""
    if not values:
        raise ValueError("nothing was measured")
    ordered = sorted(values)
    return ordered[max(0, -(-int(part * 1000) * len(ordered) // 1000) - 1)]


def _cells(figure: Figure) -> tuple[str, ...]:
    target, ratio = figure.target, figure.ratio
    return (
        figure.what,
        f"{number(figure.value)} {figure.unit}",
        f"{number(target.budget)} {figure.unit}" if target else "",
        (target.upstream_text or f"{number(target.upstream)} {figure.unit}") if target else "",
        f"{number(ratio)}x" if ratio is not None else "",
        {True: "yes", False: "NO", None: ""}[figure.met],
    )


def _aligned(line: tuple[str, ...], widths: Sequence[int]) -> str:
    first, *rest = line
    if len(line) != len(_HEAD):
        return "  ".join((first.ljust(widths[0]), *rest))
    cells = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
    return "  ".join((first.ljust(widths[0]), *cells)).rstrip()


def _record(figure: Figure) -> dict[str, object]:
    record: dict[str, object] = {"what": figure.what, "value": round(figure.value, 4), "unit": figure.unit}
    if figure.target is not None:
        record |= {
            "budget": figure.target.budget, "upstream": figure.target.upstream,
            "ratio": round(figure.ratio, 2) if figure.ratio is not None else None, "kept": figure.met,
        }  # fmt: skip
    return record
