"""Dynamic resource allocation (resource.k8s.io): classes, claims, their templates, and what drivers offer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pinnace.api.fields import FieldError, duplicate, forbidden, invalid, not_supported, required, too_many
from pinnace.api.kinds import kind_of
from pinnace.api.resource import v1 as resource
from pinnace.apiserver.resource import Column, Resource
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.columns import AGE, NAME, column
from pinnace.apiserver.resources.strategy import keep_status, reset_status, status_part

MODES = ("All", "ExactCount")


def _default_spec(spec: resource.ResourceClaimSpec) -> None:
    for request in spec.devices.requests or ():
        for part in (request.exactly, *(request.firstAvailable or ())):
            if part is None:
                continue
            if not part.allocationMode:
                part.allocationMode = "ExactCount"
            if part.allocationMode == "ExactCount" and not part.count:
                part.count = 1
            for toleration in part.tolerations or ():
                if not toleration.operator:
                    toleration.operator = "Equal"


def default_claim(claim: resource.ResourceClaim) -> None:
    _default_spec(claim.spec)


def default_template(template: resource.ResourceClaimTemplate) -> None:
    _default_spec(template.spec.spec)


def _validate_spec(spec: resource.ResourceClaimSpec, path: str) -> Iterator[FieldError]:
    requests = spec.devices.requests or []
    if len(requests) > 32:
        yield too_many(f"{path}.devices.requests", len(requests), 32)
    names: set[str] = set()
    for i, request in enumerate(requests):
        here = f"{path}.devices.requests[{i}]"
        if not request.name:
            yield required(f"{here}.name")
        else:
            yield from rules.dns_label(f"{here}.name", request.name)
        if request.name in names:
            yield duplicate(here, request.name)
        names.add(request.name)
        if request.exactly is None and not request.firstAvailable:
            yield required(here, "exactly one of `exactly` or `firstAvailable` is required")
        elif request.exactly is not None and request.firstAvailable:
            yield invalid(
                here, None, "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set"
            )
        elif request.exactly is not None:
            yield from _exact(request.exactly, f"{here}.exactly")
        for j, part in enumerate(request.firstAvailable or ()):
            yield from _exact(part, f"{here}.firstAvailable[{j}]")


def _exact(part: resource.ExactDeviceRequest | resource.DeviceSubRequest, path: str) -> Iterator[FieldError]:
    if not part.deviceClassName:
        yield required(f"{path}.deviceClassName")
    else:
        yield from rules.dns_subdomain(f"{path}.deviceClassName", part.deviceClassName)
    if part.allocationMode == "All":
        if part.count:
            yield invalid(f"{path}.count", part.count, "must not be specified when allocationMode is 'All'")
    elif part.allocationMode == "ExactCount":
        if (part.count or 0) <= 0:
            yield invalid(f"{path}.count", part.count or 0, "must be greater than zero")
    else:
        yield not_supported(f"{path}.allocationMode", part.allocationMode, MODES)


def validate_claim(claim: resource.ResourceClaim) -> Iterator[FieldError]:
    yield from _validate_spec(claim.spec, "spec")


def update_claim(new: resource.ResourceClaim, old: resource.ResourceClaim) -> Iterator[FieldError]:
    yield from rules.immutable("spec", new.spec, old.spec)


def validate_claim_status(
    new: resource.ResourceClaim, old: resource.ResourceClaim
) -> Iterator[FieldError]:
    consumers = new.status.reservedFor or []
    if len(consumers) > 256:
        yield too_many("status.reservedFor", len(consumers), 256)
    if consumers and new.status.allocation is None:
        yield forbidden("status.reservedFor", "may not be specified when `allocated` is not set")
    if old.status.allocation is not None and new.status.allocation is not None:
        yield from rules.immutable("status.allocation", new.status.allocation, old.status.allocation)


def validate_template(template: resource.ResourceClaimTemplate) -> Iterator[FieldError]:
    yield from _validate_spec(template.spec.spec, "spec.spec")


def update_template(
    new: resource.ResourceClaimTemplate, old: resource.ResourceClaimTemplate
) -> Iterator[FieldError]:
    yield from rules.immutable("spec", new.spec, old.spec)


def validate_slice(piece: resource.ResourceSlice) -> Iterator[FieldError]:
    spec = piece.spec
    yield from rules.csi_driver_name("spec.driver", spec.driver)
    if not spec.pool.name:
        yield required("spec.pool.name")
    if spec.pool.resourceSliceCount <= 0:
        yield invalid("spec.pool.resourceSliceCount", spec.pool.resourceSliceCount, "must be greater than zero")
    yield from rules.non_negative("spec.pool.generation", spec.pool.generation)
    places = [
        word for word in ("nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection") if getattr(spec, word)
    ]
    text = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
    if not places and not spec.sharedCounters:
        yield required("spec", text)
    elif len(places) > 1:
        yield invalid("spec", None, f"{text}, but multiple fields are set")
    names: set[str] = set()
    for i, device in enumerate(spec.devices or ()):
        yield from rules.dns_label(f"spec.devices[{i}].name", device.name)
        if device.name in names:
            yield duplicate(f"spec.devices[{i}].name", device.name)
        names.add(device.name)


def update_slice(new: resource.ResourceSlice, old: resource.ResourceSlice) -> Iterator[FieldError]:
    yield from validate_slice(new)
    yield from rules.immutable("spec.nodeName", new.spec.nodeName, old.spec.nodeName)
    yield from rules.immutable("spec.driver", new.spec.driver, old.spec.driver)
    yield from rules.immutable("spec.pool.name", new.spec.pool.name, old.spec.pool.name)


def claim_state(claim: resource.ResourceClaim) -> str:
    words = []
    if claim.metadata.deletionTimestamp:
        words.append("deleted")
    if claim.status.allocation is None:
        words.append("pending")
    else:
        words.append("allocated")
        if claim.status.reservedFor:
            words.append("reserved")
    return ",".join(words)


CLAIM_COLUMNS: tuple[Column[Any], ...] = (NAME, column("State", claim_state, "What became of it."), AGE)
SLICE_COLUMNS: tuple[Column[Any], ...] = (
    NAME,
    column("Node", lambda s: s.spec.nodeName or "<unset>", "Where the devices are."),
    column("Driver", lambda s: s.spec.driver, "Whose they are."),
    column("Pool", lambda s: s.spec.pool.name, "The pool they belong to."),
    AGE,
)
DEVICE_CLASS: Resource[resource.DeviceClass] = Resource(
    kind=kind_of(resource.DeviceClass), columns=(NAME, AGE)
)
RESOURCE_CLAIM: Resource[resource.ResourceClaim] = Resource(
    kind=kind_of(resource.ResourceClaim),
    default=default_claim,
    prepare_create=reset_status,
    prepare_update=keep_status,
    validate_create=validate_claim,
    validate_update=update_claim,
    columns=CLAIM_COLUMNS,
    subresources=(status_part(validate_claim_status),),
    generation=False,
)
RESOURCE_CLAIM_TEMPLATE: Resource[resource.ResourceClaimTemplate] = Resource(
    kind=kind_of(resource.ResourceClaimTemplate),
    default=default_template,
    validate_create=validate_template,
    validate_update=update_template,
    columns=(NAME, AGE),
    generation=False,
)
RESOURCE_SLICE: Resource[resource.ResourceSlice] = Resource(
    kind=kind_of(resource.ResourceSlice),
    validate_create=validate_slice,
    validate_update=update_slice,
    columns=SLICE_COLUMNS,
    fields={
        "spec.nodeName": lambda s: s.spec.nodeName or "",
        "spec.driver": lambda s: s.spec.driver,
    },
)
RESOURCES = (DEVICE_CLASS, RESOURCE_CLAIM, RESOURCE_CLAIM_TEMPLATE, RESOURCE_SLICE)
