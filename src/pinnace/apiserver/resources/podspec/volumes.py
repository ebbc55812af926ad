"""Validation of volumes: one source each, and the rules of the sources that a cluster of ours can mount."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any

from pinnace.api.core import v1 as core
from pinnace.api.fields import FieldError, duplicate, forbidden, invalid, not_supported, required
from pinnace.api.quantity import parse_quantity
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.podspec.environment import (
    VOLUME_FIELDS,
    validate_field_ref,
    validate_resource_ref,
)

SOURCES = (
    "emptyDir", "hostPath", "gitRepo", "gcePersistentDisk", "awsElasticBlockStore", "secret", "nfs", "iscsi",
    "glusterfs", "flocker", "persistentVolumeClaim", "rbd", "cinder", "cephfs", "quobyte", "downwardAPI", "fc",
    "flexVolume", "configMap", "azureFile", "vsphereVolume", "photonPersistentDisk", "portworxVolume", "azureDisk",
    "storageos", "projected", "scaleIO", "csi", "ephemeral", "image",
)  # fmt: skip
_HOST_PATH_TYPES = (
    "", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket",
)  # fmt: skip
_PROJECTIONS = (
    "secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate",
)  # fmt: skip
_sources_of = attrgetter(*SOURCES)
_projections_of = attrgetter(*_PROJECTIONS)
_MODE = "must be a number between 0 and 0777 (octal), both inclusive"


def validate_volumes(volumes: Sequence[core.Volume], pod_name: str, path: str) -> Iterator[FieldError]:
    names: set[str] = set()
    for i, volume in enumerate(volumes):
        here = f"{path}[{i}]"
        found = list(_sources(volume, here))
        if pod_name and volume.ephemeral is not None and volume.name:
            claim = f"{pod_name}-{volume.name}"
            found += [
                invalid(f"{here}.name", volume.name, f'PVC name "{claim}": {bad.detail}')
                for bad in rules.dns_subdomain("", claim)
            ]
        if not volume.name:
            found.append(required(f"{here}.name"))
        else:
            found += rules.dns_label(f"{here}.name", volume.name)
        if volume.name in names:
            found.append(duplicate(f"{here}.name", volume.name))
        names.add(volume.name)
        yield from found


def _sources(volume: core.Volume, path: str) -> Iterator[FieldError]:
    found = False
    for word, source in zip(SOURCES, _sources_of(volume), strict=True):
        if source is None:
            continue
        here = f"{path}.{word}"
        if found:
            yield forbidden(here, "may not specify more than 1 volume type")
            continue
        found = True
        validate = _VALIDATORS.get(word)
        if validate is not None:
            yield from validate(source, here)
    if not found:
        yield required(path, "must specify a volume type")


def _empty_dir(source: core.EmptyDirVolumeSource, path: str) -> Iterator[FieldError]:
    if source.sizeLimit is not None and parse_quantity(source.sizeLimit) < parse_quantity("0"):
        yield forbidden(f"{path}.sizeLimit", "SizeLimit field must be a valid resource quantity")


def host_path(source: core.HostPathVolumeSource, path: str) -> Iterator[FieldError]:
    if not source.path:
        yield required(f"{path}.path")
        return
    yield from rules.no_backsteps(f"{path}.path", source.path)
    if source.type is not None and source.type not in _HOST_PATH_TYPES:
        yield not_supported(f"{path}.type", source.type, _HOST_PATH_TYPES)


def _secret(source: core.SecretVolumeSource, path: str) -> Iterator[FieldError]:
    if not source.secretName:
        yield required(f"{path}.secretName")
    yield from _default_mode(source.defaultMode, path)
    yield from _items(source.items, path)


def _config_map(source: core.ConfigMapVolumeSource, path: str) -> Iterator[FieldError]:
    if not source.name:
        yield required(f"{path}.name")
    yield from _default_mode(source.defaultMode, path)
    yield from _items(source.items, path)


def _default_mode(mode: int | None, path: str) -> Iterator[FieldError]:
    if mode is not None and not 0 <= mode <= 0o777:
        yield invalid(f"{path}.defaultMode", mode, _MODE)


def _items(items: list[core.KeyToPath] | None, path: str) -> Iterator[FieldError]:
    for i, item in enumerate(items or ()):
        here = f"{path}.items[{i}]"
        if not item.key:
            yield required(f"{here}.key")
        yield from rules.local_non_reserved_path(f"{here}.path", item.path or "")
        if not item.path:
            yield required(f"{here}.path")
        if item.mode is not None and not 0 <= item.mode <= 0o777:
            yield invalid(f"{here}.mode", item.mode, _MODE)


def _claim(source: core.PersistentVolumeClaimVolumeSource, path: str) -> Iterator[FieldError]:
    if not source.claimName:
        yield required(f"{path}.claimName")


def nfs(source: core.NFSVolumeSource, path: str) -> Iterator[FieldError]:
    if not source.server:
        yield required(f"{path}.server")
    if not source.path:
        yield required(f"{path}.path")
    elif not source.path.startswith("/"):
        yield invalid(f"{path}.path", source.path, "must be an absolute path")


def _downward(source: core.DownwardAPIVolumeSource, path: str) -> Iterator[FieldError]:
    yield from _default_mode(source.defaultMode, path)
    for file in source.items or ():
        yield from _downward_file(file, path)


def _downward_file(file: core.DownwardAPIVolumeFile, path: str) -> Iterator[FieldError]:
    if not file.path:
        yield required(f"{path}.path")
    yield from rules.local_non_reserved_path(f"{path}.path", file.path or "")
    if file.fieldRef is not None:
        yield from validate_field_ref(file.fieldRef, VOLUME_FIELDS, f"{path}.fieldRef")
        if file.resourceFieldRef is not None:
            yield invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously")
    elif file.resourceFieldRef is not None:
        yield from validate_resource_ref(file.resourceFieldRef, f"{path}.resourceFieldRef", volume=True)
    else:
        yield required(path, "one of fieldRef and resourceFieldRef is required")
    if file.mode is not None and not 0 <= file.mode <= 0o777:
        yield invalid(f"{path}.mode", file.mode, _MODE)


def _projected(volume: core.ProjectedVolumeSource, path: str) -> Iterator[FieldError]:
    yield from _default_mode(volume.defaultMode, path)
    paths: set[str] = set()
    for i, source in enumerate(volume.sources or ()):
        here = f"{path}.sources[{i}]"
        found = False
        for word, part in zip(_PROJECTIONS, _projections_of(source), strict=True):
            if part is None:
                continue
            where = f"{here}.{word}"
            if found:
                yield forbidden(where, "may not specify more than 1 volume type")
                continue
            found = True
            yield from _projection(word, part, where, paths)
        if not found:
            yield required(here, "must specify one of: secret, configMap, downwardAPI, serviceAccountToken")


def _projection(word: str, part: Any, path: str, paths: set[str]) -> Iterator[FieldError]:
    placed: list[str] = []
    match word:
        case "secret" | "configMap":
            if not part.name:
                yield required(f"{path}.name")
            yield from _items(part.items, path)
            placed = [item.path for item in part.items or () if item.path]
        case "downwardAPI":
            for file in part.items or ():
                yield from _downward_file(file, path)
            placed = [file.path for file in part.items or () if file.path]
        case "serviceAccountToken":
            seconds = part.expirationSeconds
            if seconds is not None and seconds < 600:
                yield invalid(
                    f"{path}.expirationSeconds", seconds, "may not specify a duration less than 10 minutes"
                )
            if seconds is not None and seconds > 1 << 32:
                yield invalid(
                    f"{path}.expirationSeconds", seconds, "may not specify a duration larger than 2^32 seconds"
                )
            if not part.path:
                yield required(f"{path}.path")
            else:
                yield from rules.local_non_reserved_path(f"{path}.path", part.path)
                placed = [part.path]
        case _:
            if getattr(part, "path", None):
                placed = [part.path]
    for place in placed:
        if place in paths:
            yield invalid(path, place, "conflicting duplicate paths")
        paths.add(place)


def _csi(source: core.CSIVolumeSource, path: str) -> Iterator[FieldError]:
    yield from rules.csi_driver_name(f"{path}.driver", source.driver)
    reference = source.nodePublishSecretRef
    if reference is not None and not reference.name:
        yield required(f"{path}.nodePublishSecretRef.name")


def _ephemeral(source: core.EphemeralVolumeSource, path: str) -> Iterator[FieldError]:
    if source.volumeClaimTemplate is None:
        yield required(f"{path}.volumeClaimTemplate")
        return
    from pinnace.apiserver.resources.persistentvolumeclaims import validate_claim_spec

    if source.volumeClaimTemplate.spec is not None:
        yield from validate_claim_spec(source.volumeClaimTemplate.spec, f"{path}.volumeClaimTemplate.spec")


def _image(source: core.ImageVolumeSource, path: str) -> Iterator[FieldError]:
    if source.reference and source.reference != source.reference.strip():
        yield invalid(f"{path}.reference", source.reference, "must not have leading or trailing whitespace")
    if source.pullPolicy not in ("Always", "IfNotPresent", "Never"):
        yield not_supported(f"{path}.pullPolicy", source.pullPolicy, ("Always", "IfNotPresent", "Never"))


_VALIDATORS: dict[str, Any] = {
    "emptyDir": _empty_dir,
    "hostPath": host_path,
    "secret": _secret,
    "configMap": _config_map,
    "persistentVolumeClaim": _claim,
    "nfs": nfs,
    "downwardAPI": _downward,
    "projected": _projected,
    "csi": _csi,
    "ephemeral": _ephemeral,
    "image": _image,
}
