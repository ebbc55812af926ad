"""ResourceQuotas and LimitRanges: what a namespace may use, and what its containers get by default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pinnace.api.core import v1 as core
from pinnace.api.fields import FieldError, duplicate, forbidden, invalid, required
from pinnace.api.kinds import kind_of
from pinnace.api.quantity import parse_quantity
from pinnace.apiserver.resource import Column, Resource
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.columns import AGE, NAME, column
from pinnace.apiserver.resources.podspec.quantities import (
    QUOTA_RESOURCES,
    overcommits,
    validate_container_resource_name,
    validate_quantity,
    validate_resource_name,
)
from pinnace.apiserver.resources.strategy import keep_status, reset_status, status_part

Amounts = Mapping[str, str | int | float] | None
SCOPES = frozenset(
    (
        "Terminating", "NotTerminating", "BestEffort", "NotBestEffort", "PriorityClass",
        "CrossNamespacePodAffinity", "VolumeAttributesClass",
    )
)  # fmt: skip
_POD_SCOPES = frozenset(("Terminating", "NotTerminating", "BestEffort", "NotBestEffort", "PriorityClass",
                         "CrossNamespacePodAffinity"))  # fmt: skip
_POD_RESOURCES = frozenset(
    (
        "pods", "cpu", "memory", "ephemeral-storage", "requests.cpu", "requests.memory",
        "requests.ephemeral-storage", "limits.cpu", "limits.memory", "limits.ephemeral-storage",
    )
)  # fmt: skip
_CONFLICTS = (("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating"))
_EXISTS_ONLY = _POD_SCOPES - {"PriorityClass"}


def validate_quota(quota: core.ResourceQuota) -> Iterator[FieldError]:
    spec = quota.spec
    yield from _amounts(spec.hard, "spec.hard")
    hard = sorted(spec.hard or ())
    scopes = spec.scopes or []
    for scope in scopes:
        if scope not in SCOPES:
            yield invalid("spec.scopes", scopes, "unsupported scope")
        yield from _scope_fits(scope, hard, "spec.scopes", scopes)
    yield from _conflicting(scopes, "spec.scopes", scopes)
    if spec.scopeSelector is None:
        return
    path, found = "spec.scopeSelector.matchExpressions", []
    for requirement in spec.scopeSelector.matchExpressions or ():
        found.append(requirement.scopeName)
        if requirement.scopeName not in SCOPES:
            yield invalid(f"{path}.scopeName", requirement.scopeName, "unsupported scope")
        yield from _scope_fits(requirement.scopeName, hard, path, spec.scopeSelector)
        yield from _requirement(requirement, path)
    yield from _conflicting(found, path, spec.scopes or [])


def _amounts(amounts: Amounts, path: str) -> Iterator[FieldError]:
    for name, quantity in (amounts or {}).items():
        here = f"{path}[{name}]"
        yield from validate_resource_name(name, here)
        known = name in QUOTA_RESOURCES or name.startswith(("hugepages-", "requests.hugepages-"))
        if "/" not in name and not known:
            yield invalid(here, name, "must be a standard resource for quota")
        yield from validate_quantity(name, quantity, here)


def _scope_fits(scope: str, hard: list[str], path: str, shown: Any) -> Iterator[FieldError]:
    for name in hard:
        if scope in _POD_SCOPES and name in QUOTA_RESOURCES:
            fits = name == "pods" if scope == "BestEffort" else name in _POD_RESOURCES
            if not fits:
                yield invalid(path, shown, "unsupported scope applied to resource")


def _conflicting(scopes: list[str], path: str, shown: Any) -> Iterator[FieldError]:
    for first, second in _CONFLICTS:
        if first in scopes and second in scopes:
            yield invalid(path, shown, "conflicting scopes")


def _requirement(
    requirement: core.ScopedResourceSelectorRequirement, path: str
) -> Iterator[FieldError]:
    operator, values = requirement.operator, requirement.values or []
    if requirement.scopeName in _EXISTS_ONLY and operator != "Exists":
        yield invalid(
            f"{path}.operator",
            operator,
            "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, "
            "ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or "
            "ResourceQuotaScopeCrossNamespacePodAffinity",
        )
    match operator:
        case "In" | "NotIn":
            if not values:
                yield required(
                    f"{path}.values", "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"
                )
        case "Exists" | "DoesNotExist":
            if values:
                yield invalid(
                    f"{path}.values",
                    values,
                    "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
                )
        case other:
            yield invalid(f"{path}.operator", other, "not a valid selector operator")


def update_quota(new: core.ResourceQuota, old: core.ResourceQuota) -> Iterator[FieldError]:
    yield from validate_quota(new)
    if sorted(new.spec.scopes or ()) != sorted(old.spec.scopes or ()):
        yield invalid("spec.scopes", new.spec.scopes, "field is immutable")


def validate_quota_status(new: core.ResourceQuota, _: core.ResourceQuota) -> Iterator[FieldError]:
    yield from _amounts(new.status.hard, "status.hard")
    yield from _amounts(new.status.used, "status.used")


def _usage(quota: core.ResourceQuota, *, limits: bool) -> str:
    hard, used = quota.status.hard or {}, quota.status.used or {}
    return ", ".join(
        f"{name}: {used.get(name, '0')}/{hard[name]}"
        for name in sorted(hard)
        if name.startswith("limits") == limits
    )


def default_range(limits: core.LimitRange) -> None:
    for item in limits.spec.limits:
        if item.type != "Container":
            continue
        item.default = dict(item.default or {})
        item.defaultRequest = dict(item.defaultRequest or {})
        for name, quantity in (item.max or {}).items():
            item.default.setdefault(name, quantity)
        for name, quantity in item.default.items():
            item.defaultRequest.setdefault(name, quantity)
        for name, quantity in (item.min or {}).items():
            item.defaultRequest.setdefault(name, quantity)


def validate_range(limits: core.LimitRange) -> Iterator[FieldError]:
    types: set[str] = set()
    for i, item in enumerate(limits.spec.limits):
        path = f"spec.limits[{i}]"
        bad = rules.qualified_name(f"{path}.type", item.type)
        yield from bad
        if not bad and "/" not in item.type and item.type not in ("Pod", "Container", "PersistentVolumeClaim"):
            yield invalid(f"{path}.type", item.type, "must be a standard limit type or fully qualified")
        if item.type in types:
            yield duplicate(f"{path}.type", item.type)
        types.add(item.type)
        yield from _range_names(item, path)
        if item.type == "PersistentVolumeClaim" and "storage" not in {*(item.min or ()), *(item.max or ())}:
            yield required(
                f"{path}.limits", "either minimum or maximum storage value is required, but neither was provided"
            )
        for name in dict.fromkeys(
            (*(item.max or ()), *(item.min or ()), *(item.default or ()), *(item.defaultRequest or ()),
             *(item.maxLimitRequestRatio or ()))
        ):  # fmt: skip
            yield from _range_values(item, name, path)


def _range_names(item: core.LimitRangeItem, path: str) -> Iterator[FieldError]:
    check = validate_container_resource_name if item.type in ("Pod", "Container") else validate_resource_name
    for word in ("max", "min", "default", "defaultRequest", "maxLimitRequestRatio"):
        amounts = getattr(item, word) or {}
        if item.type == "Pod" and word in ("default", "defaultRequest"):
            if amounts:
                yield forbidden(f"{path}.{word}", "may not be specified when `type` is 'Pod'")
            continue
        for name in amounts:
            yield from check(name, f"{path}.{word}[{name}]")


def _range_values(item: core.LimitRangeItem, name: str, path: str) -> Iterator[FieldError]:
    low, high = (item.min or {}).get(name), (item.max or {}).get(name)
    limit, request = (item.default or {}).get(name), (item.defaultRequest or {}).get(name)
    ratio = (item.maxLimitRequestRatio or {}).get(name)
    for small, large, word, shown, text in (
        (low, high, "min", low, "min value {} is greater than max value {}"),
        (low, request, "defaultRequest", request, "min value {} is greater than default request value {}"),
        (request, high, "defaultRequest", request, "default request value {} is greater than max value {}"),
        (request, limit, "defaultRequest", request, "default request value {} is greater than default limit value {}"),
        (low, limit, "default", low, "min value {} is greater than default value {}"),
        (limit, high, "default", high, "default value {} is greater than max value {}"),
    ):
        if small is not None and large is not None and parse_quantity(small) > parse_quantity(large):
            yield invalid(f"{path}.{word}[{name}]", shown, text.format(small, large))
    if ratio is not None and parse_quantity(ratio) < parse_quantity("1"):
        yield invalid(f"{path}.maxLimitRequestRatio[{name}]", ratio, f"ratio {ratio} is less than 1")
    if ratio is not None and low is not None and high is not None:
        most = float(parse_quantity(high)) / (float(parse_quantity(low)) or 1.0)
        if float(parse_quantity(ratio)) > most:
            yield invalid(
                f"{path}.maxLimitRequestRatio[{name}]", ratio, f"ratio {ratio} is greater than max/min = {most:f}"
            )
    if overcommits(name) or limit is None or request is None:
        return
    if parse_quantity(limit) != parse_quantity(request):
        yield invalid(
            f"{path}.defaultRequest[{name}]",
            request,
            f"default value {limit} must equal to defaultRequest value {request} in {name}",
        )


QUOTA_COLUMNS: tuple[Column[Any], ...] = (
    NAME,
    column("Request", lambda q: _usage(q, limits=False), "What is used, of what is allowed."),
    column("Limit", lambda q: _usage(q, limits=True), "The same, of limits."),
    AGE,
)
RESOURCE_QUOTA: Resource[core.ResourceQuota] = Resource(
    kind=kind_of(core.ResourceQuota),
    prepare_create=reset_status,
    prepare_update=keep_status,
    validate_create=validate_quota,
    validate_update=update_quota,
    columns=QUOTA_COLUMNS,
    subresources=(status_part(validate_quota_status),),
    generation=False,
    returns_deleted=True,
)


def _created(limits: core.LimitRange) -> str:
    return limits.metadata.creationTimestamp or ""


LIMIT_RANGE: Resource[core.LimitRange] = Resource(
    kind=kind_of(core.LimitRange),
    default=default_range,
    validate_create=validate_range,
    validate_update=lambda new, _: validate_range(new),
    columns=(NAME, column("Created At", _created, "When it was made.")),
    generation=False,
)
RESOURCES = (RESOURCE_QUOTA, LIMIT_RANGE)
