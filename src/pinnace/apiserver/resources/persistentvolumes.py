"""PersistentVolumes: a source that never changes, and the claim it is bound to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pinnace.api.core import v1 as core
from pinnace.api.fields import FieldError, forbidden, invalid, not_supported, required
from pinnace.api.kinds import kind_of
from pinnace.api.quantity import parse_quantity
from pinnace.apiserver.resource import Column, Context, Resource
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.columns import AGE, NAME, UNSET, column
from pinnace.apiserver.resources.persistentvolumeclaims import (
    VOLUME_MODES,
    access_modes,
    storage_class,
    validate_access_modes,
)
from pinnace.apiserver.resources.podspec.defaults import default_azure_disk, default_rbd, default_scale_io
from pinnace.apiserver.resources.podspec.scheduling import validate_node_selector
from pinnace.apiserver.resources.podspec.volumes import host_path, nfs
from pinnace.apiserver.resources.strategy import keep_status, status_part

SOURCES = (
    "hostPath", "gcePersistentDisk", "awsElasticBlockStore", "glusterfs", "flocker", "nfs", "rbd", "quobyte",
    "cephfs", "iscsi", "cinder", "fc", "flexVolume", "azureFile", "vsphereVolume", "photonPersistentDisk",
    "portworxVolume", "azureDisk", "scaleIO", "local", "storageos", "csi",
)  # fmt: skip
RECLAIM = ("Delete", "Recycle", "Retain")


def default(volume: core.PersistentVolume) -> None:
    spec = volume.spec
    if not volume.status.phase:
        volume.status.phase = "Pending"
    if not spec.persistentVolumeReclaimPolicy:
        spec.persistentVolumeReclaimPolicy = "Retain"
    if spec.volumeMode is None:
        spec.volumeMode = "Filesystem"
    if spec.hostPath is not None and spec.hostPath.type is None:
        spec.hostPath.type = ""
    if spec.iscsi is not None and not spec.iscsi.iscsiInterface:
        spec.iscsi.iscsiInterface = "default"
    if spec.rbd is not None:
        default_rbd(spec.rbd)
    if spec.azureDisk is not None:
        default_azure_disk(spec.azureDisk)
    if spec.scaleIO is not None:
        default_scale_io(spec.scaleIO)


def _prepare_create(volume: core.PersistentVolume, context: Context) -> None:
    volume.status = core.PersistentVolumeStatus(phase="Pending")


def validate(volume: core.PersistentVolume) -> Iterator[FieldError]:
    spec = volume.spec
    if not spec.accessModes:
        yield required("spec.accessModes")
    yield from validate_access_modes(spec.accessModes, "spec.accessModes")
    capacity = spec.capacity or {}
    if not capacity:
        yield required("spec.capacity")
    elif "storage" not in capacity or len(capacity) > 1:
        yield not_supported("spec.capacity", capacity, ("storage",))
    for name, quantity in capacity.items():
        if parse_quantity(quantity) <= parse_quantity("0"):
            yield invalid(f"spec.capacity[{name}]", str(quantity), "must be greater than zero")
    policy = spec.persistentVolumeReclaimPolicy
    if policy and policy not in RECLAIM:
        yield not_supported("spec.persistentVolumeReclaimPolicy", policy, RECLAIM)
    if spec.nodeAffinity is not None:
        if spec.nodeAffinity.required is None:
            yield required("spec.nodeAffinity.required", "must specify required node constraints")
        else:
            yield from validate_node_selector(spec.nodeAffinity.required, "spec.nodeAffinity.required")
    yield from _source(spec)
    if spec.hostPath is not None and spec.hostPath.path == "/" and policy == "Recycle":
        yield forbidden("spec.persistentVolumeReclaimPolicy", "may not be 'recycle' for a hostPath mount of '/'")
    if spec.storageClassName:
        yield from rules.dns_subdomain("spec.storageClassName", spec.storageClassName)
    if spec.volumeMode is not None and spec.volumeMode not in VOLUME_MODES:
        yield not_supported("spec.volumeMode", spec.volumeMode, VOLUME_MODES)


def _source(spec: core.PersistentVolumeSpec) -> Iterator[FieldError]:
    found = [word for word in SOURCES if getattr(spec, word) is not None]
    for word in found[1:]:
        yield forbidden(f"spec.{word}", "may not specify more than 1 volume type")
    if not found:
        yield required("spec", "must specify a volume type")
        return
    match found[0]:
        case "hostPath":
            assert spec.hostPath is not None
            yield from host_path(spec.hostPath, "spec.hostPath")
        case "nfs":
            assert spec.nfs is not None
            yield from nfs(spec.nfs, "spec.nfs")
        case "local":
            assert spec.local is not None
            if not spec.local.path:
                yield required("spec.local.path")
            else:
                yield from rules.no_backsteps("spec.local.path", spec.local.path)
            if spec.nodeAffinity is None:
                yield required("spec.nodeAffinity", "Local volume requires node affinity")
        case "csi":
            assert spec.csi is not None
            yield from rules.csi_driver_name("spec.csi.driver", spec.csi.driver)
            if not spec.csi.volumeHandle:
                yield required("spec.csi.volumeHandle")


def validate_update(new: core.PersistentVolume, old: core.PersistentVolume) -> Iterator[FieldError]:
    yield from validate(new)
    changed = any(getattr(new.spec, word) != getattr(old.spec, word) for word in SOURCES if word != "csi")
    if changed or _handle(new.spec.csi) != _handle(old.spec.csi):
        yield forbidden("spec.persistentvolumesource", "spec.persistentvolumesource is immutable after creation")
    yield from rules.immutable("volumeMode", new.spec.volumeMode, old.spec.volumeMode)
    if old.spec.nodeAffinity is not None:
        yield from rules.immutable("nodeAffinity", new.spec.nodeAffinity, old.spec.nodeAffinity)


def _handle(source: core.CSIPersistentVolumeSource | None) -> tuple[str, str] | None:
    """What may not change of a CSI source; its secrets may."""
    return (source.driver, source.volumeHandle) if source is not None else None


def _claim(volume: core.PersistentVolume) -> str:
    reference = volume.spec.claimRef
    return f"{reference.namespace or ''}/{reference.name or ''}" if reference is not None else ""


def _phase(volume: core.PersistentVolume) -> str:
    return "Terminating" if volume.metadata.deletionTimestamp else volume.status.phase or ""


COLUMNS: tuple[Column[Any], ...] = (
    NAME,
    column("Capacity", lambda v: str((v.spec.capacity or {}).get("storage", "0")), "What it holds."),
    column("Access Modes", lambda v: access_modes(v.spec.accessModes), "How it can be mounted."),
    column("Reclaim Policy", lambda v: v.spec.persistentVolumeReclaimPolicy or "", "What happens after the claim."),
    column("Status", _phase, "Available, Bound, Released or Failed."),
    column("Claim", _claim, "The claim it is bound to."),
    column("StorageClass", lambda v: storage_class(v.metadata, v.spec.storageClassName), "Its storage class."),
    column(
        "VolumeAttributesClass", lambda v: v.spec.volumeAttributesClassName or UNSET, "Its attributes class."
    ),
    column("Reason", lambda v: v.status.reason or "", "Why it failed."),
    AGE,
    column("VolumeMode", lambda v: v.spec.volumeMode or UNSET, "Block device or file system.", wide=True),
)
PERSISTENT_VOLUME: Resource[core.PersistentVolume] = Resource(
    kind=kind_of(core.PersistentVolume),
    default=default,
    prepare_create=_prepare_create,
    prepare_update=keep_status,
    validate_create=validate,
    validate_update=validate_update,
    columns=COLUMNS,
    subresources=(status_part(),),
    generation=False,
    returns_deleted=True,
)
RESOURCES = (PERSISTENT_VOLUME,)
