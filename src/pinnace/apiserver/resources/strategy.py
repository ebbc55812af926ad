"""What most kinds share of upstream's strategies: status belongs to the status path, the rest to the main one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from operator import attrgetter
from typing import Any

from pinnace.api import names
from pinnace.api.fields import FieldError, invalid
from pinnace.apiserver.resource import Context, Subresource
from pinnace.apiserver.resources import rules

CREATE_ONLY = ("create",)


def reset_status(thing: Any, _: Context) -> None:
    """A new object's status comes from whoever looks after it, never from whoever creates it."""
    thing.status = type(thing)().status


def keep_status(new: Any, old: Any, _: Context) -> None:
    new.status = old.status


def keep_spec(new: Any, old: Any, _: Context) -> None:
    new.spec = old.spec


def status_part(
    validate: Callable[[Any, Any], Iterable[FieldError]] | None = None,
    prepare: Callable[[Any, Any, Context], None] = keep_spec,
) -> Subresource[Any]:
    # What keeps the spec has nothing for the generation to count.
    return Subresource("status", prepare=prepare, validate=validate, generation=prepare is not keep_spec)


def non_negative_counts(part: Any, path: str, *words: str) -> Iterator[FieldError]:
    """`words`: at least two."""
    counts = _values(*words)(part)
    if min(filter(None, counts), default=0) >= 0:
        return
    for word, count in zip(words, counts, strict=True):
        if count is not None and count < 0:
            yield from rules.non_negative(f"{path}.{word}", count)


def not_above_replicas(status: Any, *words: str) -> Iterator[FieldError]:
    """`words`, at least two: counts of some of a workload's pods."""
    replicas = status.replicas or 0
    for word, count in zip(words, _values(*words)(status), strict=True):
        if (count or 0) > replicas:
            yield invalid(f"status.{word}", count, "cannot be greater than status.replicas")


@cache
def _values(*words: str) -> Callable[[Any], tuple[Any, ...]]:
    return attrgetter(*words)


def percent(path: str, value: int | str) -> Iterator[FieldError]:
    """A count or a percentage, as budgets and rolling updates take it."""
    if isinstance(value, str):
        yield from (invalid(path, value, message) for message in names.percent(value))
    else:
        yield from rules.non_negative(path, value)


def at_most_hundred(path: str, value: int | str) -> Iterator[FieldError]:
    if isinstance(value, str) and value.endswith("%") and value[:-1].isdigit() and int(value[:-1]) > 100:
        yield invalid(path, value, "must not be greater than 100%")


def percent_of(value: int | str | None) -> int:
    """The number in `25%` or 25: only whether it is zero matters to its callers."""
    if isinstance(value, str):
        digits = value.removesuffix("%")
        return int(digits) if digits.isdigit() else 0
    return value or 0
