"""Validation of resource names and of requests against limits, for containers and for whole pods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pinnace.api.core import v1 as core
from pinnace.api.fields import FieldError, duplicate, forbidden, invalid, not_supported, required
from pinnace.api.quantity import parse_quantity
from pinnace.apiserver.resources import rules

CONTAINER_RESOURCES = frozenset(("cpu", "memory", "ephemeral-storage"))
QUOTA_RESOURCES = frozenset(
    (
        "cpu", "memory", "ephemeral-storage", "requests.cpu", "requests.memory", "requests.storage",
        "requests.ephemeral-storage", "limits.cpu", "limits.memory", "limits.ephemeral-storage", "pods",
        "resourcequotas", "services", "replicationcontrollers", "secrets", "persistentvolumeclaims", "configmaps",
        "services.nodeports", "services.loadbalancers",
    )
)  # fmt: skip
STANDARD_RESOURCES = QUOTA_RESOURCES | {"storage"}
# Counted in whole pieces: everything that is not measured in cpu time or bytes.
_INTEGER = frozenset(
    (
        "pods", "resourcequotas", "services", "replicationcontrollers", "secrets", "persistentvolumeclaims",
        "configmaps", "services.nodeports", "services.loadbalancers",
    )
)  # fmt: skip
NEGATIVE = "must be greater than or equal to 0"
WHOLE = "must be an integer"


def validate_requirements(
    requirements: core.ResourceRequirements, claims: Sequence[str], path: str, *, pod: bool = False
) -> Iterator[FieldError]:
    limits = requirements.limits or {}
    requests = requirements.requests or {}
    huge = False
    for name, quantity in limits.items():
        here = f"{path}.limits[{name}]"
        yield from _name(name, here, pod)
        yield from validate_quantity(name, quantity, here)
        huge = huge or name.startswith("hugepages-")
    for name, quantity in requests.items():
        here = f"{path}.requests[{name}]"
        yield from _name(name, here, pod)
        yield from validate_quantity(name, quantity, here)
        limit = limits.get(name)
        if limit is not None:
            if quantity != limit:
                asked, most = parse_quantity(quantity), parse_quantity(limit)
                if asked != most and not overcommits(name):
                    yield invalid(f"{path}.requests", str(quantity), f"must be equal to {name} limit of {limit}")
                elif asked > most:
                    yield invalid(
                        f"{path}.requests", str(quantity), f"must be less than or equal to {name} limit of {limit}"
                    )
        elif not overcommits(name):
            yield required(f"{path}.limits", "Limit must be set for non overcommitable resources")
        huge = huge or name.startswith("hugepages-")
    if huge and not ({"cpu", "memory"} & (limits.keys() | requests.keys())):
        yield forbidden(path, "HugePages require cpu or memory")
    if requirements.claims:
        yield from _claims(requirements.claims, claims, f"{path}.claims")


def _claims(wanted: Sequence[core.ResourceClaim], known: Sequence[str], path: str) -> Iterator[FieldError]:
    seen: set[str] = set()
    for i, claim in enumerate(wanted):
        here = f"{path}[{i}]"
        if not claim.name:
            yield required(here)
            continue
        key = f"{claim.name}/{claim.request}" if claim.request else claim.name
        if key in seen or claim.name in seen:
            yield duplicate(here, key)
        seen.add(key)
        if claim.name not in known:
            detail = "must be one of the names in pod.spec.resourceClaims"
            detail += ": " + ", ".join(sorted(known)) if known else " which is empty"
            yield FieldError("FieldValueNotFound", here, claim.name, detail)


def overcommits(name: str) -> bool:
    """Whether a request may be smaller than the limit: native resources except huge pages."""
    return ("/" not in name or "kubernetes.io/" in name) and not name.startswith("hugepages-")


def _name(name: str, path: str, pod: bool) -> Iterator[FieldError]:
    if name in CONTAINER_RESOURCES and not (pod and name == "ephemeral-storage"):
        return
    if name.startswith("hugepages-"):
        return
    if pod:
        bad = list(validate_resource_name(name, path))
        yield from bad
        if not bad:
            yield not_supported(path, name, ("cpu", "hugepages-", "memory"))
        return
    yield from validate_container_resource_name(name, path)


def validate_container_resource_name(name: str, path: str) -> Iterator[FieldError]:
    yield from validate_resource_name(name, path)
    if "/" not in name:
        if name not in CONTAINER_RESOURCES and not name.startswith("hugepages-"):
            yield invalid(path, name, "must be a standard resource for containers")
    elif "kubernetes.io/" not in name and name.startswith("requests."):
        yield invalid(path, name, "doesn't follow extended resource name standard")


def validate_resource_name(name: str, path: str) -> Iterator[FieldError]:
    bad = rules.qualified_name(path, name)
    if bad:
        yield from bad
    elif "/" not in name and name not in STANDARD_RESOURCES and not _huge(name):
        yield invalid(path, name, "must be a standard resource type or fully qualified")


def _huge(name: str) -> bool:
    return name.startswith(("hugepages-", "requests.hugepages-"))


def validate_quantity(name: str, quantity: str | int | float, path: str) -> Iterator[FieldError]:
    value = parse_quantity(quantity)
    if value < ZERO:
        yield invalid(path, str(quantity), NEGATIVE)
    if (name in _INTEGER or ("/" in name and "kubernetes.io/" not in name)) and value.milli % 1000:
        yield invalid(path, str(quantity), WHOLE)


ZERO = parse_quantity("0")
