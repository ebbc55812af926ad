"""PersistentVolumeClaims: requests for storage, all but fixed once made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pinnace.api import codec
from pinnace.api.core import v1 as core
from pinnace.api.fields import FieldError, forbidden, invalid, not_supported, required
from pinnace.api.kinds import kind_of
from pinnace.api.quantity import parse_quantity
from pinnace.apiserver.resource import Column, Resource
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.columns import AGE, NAME, UNSET, column
from pinnace.apiserver.resources.podspec.defaults import default_claim_spec
from pinnace.apiserver.resources.podspec.quantities import validate_quantity
from pinnace.apiserver.resources.selectors import validate_selector
from pinnace.apiserver.resources.strategy import keep_status, status_part

ACCESS_MODES = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
VOLUME_MODES = ("Block", "Filesystem")
BETA_CLASS = "volume.beta.kubernetes.io/storage-class"
IMMUTABLE = (
    "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
)
_SHORT = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}


def default(claim: core.PersistentVolumeClaim) -> None:
    default_claim_spec(claim.spec)
    if not claim.status.phase:
        claim.status.phase = "Pending"


def _prepare_create(claim: core.PersistentVolumeClaim, _: Any) -> None:
    claim.status = core.PersistentVolumeClaimStatus(phase="Pending")
    spec = claim.spec
    # dataSource and dataSourceRef say the same thing where they can.
    if spec.dataSource is not None and spec.dataSourceRef is None:
        source = spec.dataSource
        spec.dataSourceRef = core.TypedObjectReference(
            apiGroup=source.apiGroup, kind=source.kind, name=source.name
        )
    elif spec.dataSource is None and spec.dataSourceRef is not None and not spec.dataSourceRef.namespace:
        reference = spec.dataSourceRef
        spec.dataSource = core.TypedLocalObjectReference(
            apiGroup=reference.apiGroup, kind=reference.kind, name=reference.name
        )


def validate(claim: core.PersistentVolumeClaim) -> Iterator[FieldError]:
    yield from validate_claim_spec(claim.spec, "spec")


def validate_claim_spec(spec: core.PersistentVolumeClaimSpec, path: str) -> Iterator[FieldError]:
    if not spec.accessModes:
        yield required(f"{path}.accessModes", "at least 1 access mode is required")
    if spec.selector is not None:
        yield from validate_selector(spec.selector, f"{path}.selector")
    yield from validate_access_modes(spec.accessModes, f"{path}.accessModes")
    storage = (spec.resources.requests or {}).get("storage")
    if storage is None:
        yield required(f"{path}.resources[storage]")
    elif parse_quantity(storage) <= parse_quantity("0"):
        yield invalid(f"{path}.resources[storage]", str(storage), "must be greater than zero")
    else:
        yield from validate_quantity("storage", storage, f"{path}.resources[storage]")
    if spec.storageClassName:
        yield from rules.dns_subdomain(f"{path}.storageClassName", spec.storageClassName)
    if spec.volumeMode is not None and spec.volumeMode not in VOLUME_MODES:
        yield not_supported(f"{path}.volumeMode", spec.volumeMode, VOLUME_MODES)
    if spec.dataSource is not None:
        if not spec.dataSource.name:
            yield required(f"{path}.dataSource.name")
        if not spec.dataSource.kind:
            yield required(f"{path}.dataSource.kind")
        if not spec.dataSource.apiGroup and spec.dataSource.kind != "PersistentVolumeClaim":
            yield invalid(f"{path}.dataSource", spec.dataSource.kind, "")
    if spec.volumeAttributesClassName:
        yield from rules.dns_subdomain(f"{path}.volumeAttributesClassName", spec.volumeAttributesClassName)


def validate_access_modes(modes: list[str] | None, path: str) -> Iterator[FieldError]:
    for mode in modes or ():
        if mode not in ACCESS_MODES:
            yield not_supported(path, mode, ACCESS_MODES)
    if "ReadWriteOncePod" in (modes or ()) and len(set(modes or ())) > 1:
        yield forbidden(path, "may not use ReadWriteOncePod with other access modes")


def validate_update(
    new: core.PersistentVolumeClaim, old: core.PersistentVolumeClaim
) -> Iterator[FieldError]:
    yield from validate(new)
    before, after = codec.copy(old.spec), codec.copy(new.spec)
    if not before.volumeName:
        before.volumeName = after.volumeName
    # A class may be given later to a claim that had none.
    if before.storageClassName is None and after.storageClassName is not None:
        after.storageClassName = None
    old_size = (before.resources.requests or {}).get("storage", "0")
    new_size = (after.resources.requests or {}).get("storage", "0")
    if new.status.phase == "Bound":
        if after.resources.requests is not None:
            after.resources.requests["storage"] = old_size
        if after.volumeAttributesClassName is not None:
            after.volumeAttributesClassName = before.volumeAttributesClassName
    if after != before:
        yield forbidden("spec", IMMUTABLE)
    if parse_quantity(new_size) < parse_quantity(old_size):
        held = (old.status.capacity or {}).get("storage", "0")
        if parse_quantity(new_size) <= parse_quantity(held):
            yield forbidden(
                "spec.resources.requests.storage", "field can not be less than status.capacity"
            )
    if old.spec.volumeAttributesClassName is not None:
        if new.spec.volumeAttributesClassName is None:
            yield forbidden("spec.volumeAttributesClassName", "update from non-nil value to nil is forbidden")
        elif not new.spec.volumeAttributesClassName:
            yield forbidden(
                "spec.volumeAttributesClassName", "update from non-nil value to an empty string is forbidden"
            )


def access_modes(modes: list[str] | None) -> str:
    """`RWO,ROX`, in upstream's order, each once."""
    return ",".join(short for mode, short in _SHORT.items() if mode in (modes or ()))


def storage_class(metadata: Any, name: str | None) -> str:
    return (metadata.annotations or {}).get(BETA_CLASS) or name or ""


def _phase(claim: core.PersistentVolumeClaim) -> str:
    return "Terminating" if claim.metadata.deletionTimestamp else claim.status.phase or ""


COLUMNS: tuple[Column[Any], ...] = (
    NAME,
    column("Status", _phase, "Whether the claim has its volume."),
    column("Volume", lambda c: c.spec.volumeName or "", "The volume that is bound to it."),
    column(
        "Capacity",
        lambda c: str((c.status.capacity or {}).get("storage", "0")) if c.spec.volumeName else "",
        "What the volume holds.",
    ),
    column(
        "Access Modes",
        lambda c: access_modes(c.status.accessModes) if c.spec.volumeName else "",
        "How the volume can be mounted.",
    ),
    column("StorageClass", lambda c: storage_class(c.metadata, c.spec.storageClassName), "Its storage class."),
    column(
        "VolumeAttributesClass", lambda c: c.spec.volumeAttributesClassName or UNSET, "Its attributes class."
    ),
    AGE,
    column("VolumeMode", lambda c: c.spec.volumeMode or UNSET, "Block device or file system.", wide=True),
)

PERSISTENT_VOLUME_CLAIM: Resource[core.PersistentVolumeClaim] = Resource(
    kind=kind_of(core.PersistentVolumeClaim),
    default=default,
    prepare_create=_prepare_create,
    prepare_update=keep_status,
    validate_create=validate,
    validate_update=validate_update,
    columns=COLUMNS,
    subresources=(status_part(),),
)
RESOURCES = (PERSISTENT_VOLUME_CLAIM,)
