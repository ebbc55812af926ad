"""PriorityClasses."""

from __future__ import annotations

from collections.abc import Iterator

from pinnace.api.fields import FieldError, forbidden, not_supported
from pinnace.api.kinds import kind_of
from pinnace.api.scheduling import v1 as scheduling
from pinnace.apiserver.resource import Resource
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.columns import AGE, NAME, column

HIGHEST = 1_000_000_000
SYSTEM = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}


def default(priority: scheduling.PriorityClass) -> None:
    if priority.preemptionPolicy is None:
        priority.preemptionPolicy = "PreemptLowerPriority"


def validate(priority: scheduling.PriorityClass) -> Iterator[FieldError]:
    name, value = priority.metadata.name or "", priority.value or 0
    if name.startswith("system-"):
        if SYSTEM.get(name) != value:
            yield forbidden(
                "metadata.name",
                "priority class names with 'system-' prefix are reserved for system use only. error: "
                f"{name} is not a known system priority class",
            )
    elif value > HIGHEST:
        yield forbidden(
            "value", f"maximum allowed value of a user defined priority is {HIGHEST}"
        )
    policy = priority.preemptionPolicy
    if policy is not None and policy not in ("PreemptLowerPriority", "Never"):
        yield not_supported("preemptionPolicy", policy, ("Never", "PreemptLowerPriority"))


def validate_update(
    new: scheduling.PriorityClass, old: scheduling.PriorityClass
) -> Iterator[FieldError]:
    if (new.value or 0) != (old.value or 0):
        yield forbidden("value", "may not be changed in an update.")
    yield from rules.immutable("preemptionPolicy", new.preemptionPolicy, old.preemptionPolicy)


PRIORITY_CLASS: Resource[scheduling.PriorityClass] = Resource(
    kind=kind_of(scheduling.PriorityClass),
    default=default,
    validate_create=validate,
    validate_update=validate_update,
    columns=(
        NAME,
        column("Value", lambda p: p.value or 0, "Higher goes first.", type="integer"),
        column("Global-Default", lambda p: bool(p.globalDefault), "For pods that name none.", type="boolean"),
        AGE,
        column("PreemptionPolicy", lambda p: p.preemptionPolicy or "", "May it push others out?"),
    ),
)
RESOURCES = (PRIORITY_CLASS,)
