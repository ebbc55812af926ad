"""PodDisruptionBudgets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pinnace.api.fields import FieldError, invalid, not_supported
from pinnace.api.kinds import kind_of
from pinnace.api.policy import v1 as policy
from pinnace.apiserver.resource import Column, Resource
from pinnace.apiserver.resources.columns import AGE, NAME, column
from pinnace.apiserver.resources.selectors import validate_selector
from pinnace.apiserver.resources.strategy import (
    at_most_hundred,
    keep_status,
    non_negative_counts,
    percent,
    reset_status,
    status_part,
)


def validate(budget: policy.PodDisruptionBudget) -> Iterator[FieldError]:
    spec = budget.spec
    if spec.minAvailable is not None and spec.maxUnavailable is not None:
        yield invalid("spec", spec, "minAvailable and maxUnavailable cannot be both set")
    for word in ("minAvailable", "maxUnavailable"):
        value = getattr(spec, word)
        if value is not None:
            yield from percent(f"spec.{word}", value)
            yield from at_most_hundred(f"spec.{word}", value)
    if spec.selector is not None:
        yield from validate_selector(spec.selector, "spec.selector")
    chosen = spec.unhealthyPodEvictionPolicy
    if chosen is not None and chosen not in ("AlwaysAllow", "IfHealthyBudget"):
        yield not_supported("spec.unhealthyPodEvictionPolicy", chosen, ("AlwaysAllow", "IfHealthyBudget"))


def validate_status(
    new: policy.PodDisruptionBudget, _: policy.PodDisruptionBudget
) -> Iterator[FieldError]:
    yield from non_negative_counts(
        new.status, "status", "disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"
    )


def _shown(value: int | str | None) -> str:
    return "N/A" if value is None else str(value)


COLUMNS: tuple[Column[Any], ...] = (
    NAME,
    column("Min Available", lambda b: _shown(b.spec.minAvailable), "Pods that must stay."),
    column("Max Unavailable", lambda b: _shown(b.spec.maxUnavailable), "Pods that may be missing."),
    column(
        "Allowed Disruptions",
        lambda b: b.status.disruptionsAllowed or 0,
        "Pods that may be evicted now.",
        type="integer",
    ),
    AGE,
)
POD_DISRUPTION_BUDGET: Resource[policy.PodDisruptionBudget] = Resource(
    kind=kind_of(policy.PodDisruptionBudget),
    prepare_create=reset_status,
    prepare_update=keep_status,
    validate_create=validate,
    validate_update=lambda new, _: validate(new),
    columns=COLUMNS,
    subresources=(status_part(validate_status),),
    allow_unconditional_update=False,
)
RESOURCES = (POD_DISRUPTION_BUDGET,)
