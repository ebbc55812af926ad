"""What stands in configMap, secret, downwardAPI and projected volumes. Pure: objects and tokens come in."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from pinnace.api.core import v1 as core
from pinnace.kubelet.environment import ConfigError, Sources, field_value, resource_value
from pinnace.kubelet.policy import all_containers
from pinnace.kubelet.volumes.atomic import File

DEFAULT_MODE = 0o644


def token_sources(volume: core.Volume) -> list[core.ServiceAccountTokenProjection]:
    if volume.projected is None:
        return []
    return [s.serviceAccountToken for s in volume.projected.sources or () if s.serviceAccountToken is not None]


def is_live(volume: core.Volume) -> bool:
    """Whether the volume's content follows the API."""
    return any(
        source is not None for source in (volume.configMap, volume.secret, volume.downwardAPI, volume.projected)
    )


def references(volume: core.Volume) -> list[tuple[type[Any], str]]:
    """The ConfigMaps and Secrets that a volume shows."""
    out: list[tuple[type[Any], str]] = []
    if volume.configMap is not None:
        out.append((core.ConfigMap, volume.configMap.name or ""))
    if volume.secret is not None:
        out.append((core.Secret, volume.secret.secretName or ""))
    for source in (volume.projected.sources or ()) if volume.projected is not None else ():
        if source.configMap is not None:
            out.append((core.ConfigMap, source.configMap.name or ""))
        if source.secret is not None:
            out.append((core.Secret, source.secret.name or ""))
    return out


def payload(
    volume: core.Volume, sources: Sources, tokens: Mapping[str, str], owner: int | None = None
) -> dict[str, File]:
    """The files of a volume, by path. `tokens` by the path at which each stands. Raises ConfigError."""
    if volume.configMap is not None:
        mode = volume.configMap.defaultMode if volume.configMap.defaultMode is not None else DEFAULT_MODE
        source = volume.configMap
        return _config_map(source.name or "", source.items, source.optional, mode, sources)
    if volume.secret is not None:
        mode = volume.secret.defaultMode if volume.secret.defaultMode is not None else DEFAULT_MODE
        secret = volume.secret
        return _secret(secret.secretName or "", secret.items, secret.optional, mode, sources)
    if volume.downwardAPI is not None:
        mode = volume.downwardAPI.defaultMode if volume.downwardAPI.defaultMode is not None else DEFAULT_MODE
        return _downward(volume.downwardAPI.items or (), mode, sources)
    if volume.projected is not None:
        return _projected(volume.projected, sources, tokens, owner)
    return {}


def _projected(
    volume: core.ProjectedVolumeSource, sources: Sources, tokens: Mapping[str, str], owner: int | None
) -> dict[str, File]:
    mode = volume.defaultMode if volume.defaultMode is not None else DEFAULT_MODE
    files: dict[str, File] = {}
    security = sources.pod.spec.securityContext
    private = owner is not None or (security is not None and security.fsGroup is not None)
    for source in volume.sources or ():
        if source.configMap is not None:
            part = source.configMap
            files.update(_config_map(part.name or "", part.items, part.optional, mode, sources))
        elif source.secret is not None:
            secret = source.secret
            files.update(_secret(secret.name or "", secret.items, secret.optional, mode, sources))
        elif source.downwardAPI is not None:
            files.update(_downward(source.downwardAPI.items or (), mode, sources))
        elif source.serviceAccountToken is not None:
            path = source.serviceAccountToken.path
            files[path] = File(tokens[path].encode(), 0o600 if private else mode, owner)
        else:
            raise ConfigError("this kind of projected source is not supported by this node")
    return files


def _config_map(
    name: str, items: Sequence[core.KeyToPath] | None, optional: bool | None, mode: int, sources: Sources
) -> dict[str, File]:
    found = sources.config_maps.get(name)
    if found is None:
        if optional:
            return {}
        raise ConfigError(f'configmap "{name}" not found')
    data = {key: value.encode() for key, value in (found.data or {}).items()}
    data |= {key: base64.b64decode(value) for key, value in (found.binaryData or {}).items()}
    return _pick(data, items, optional, mode, "configmap")


def _secret(
    name: str, items: Sequence[core.KeyToPath] | None, optional: bool | None, mode: int, sources: Sources
) -> dict[str, File]:
    found = sources.secrets.get(name)
    if found is None:
        if optional:
            return {}
        raise ConfigError(f'secret "{name}" not found')
    data = {key: base64.b64decode(value) for key, value in (found.data or {}).items()}
    return _pick(data, items, optional, mode, "secret")


def _pick(
    data: Mapping[str, bytes], items: Sequence[core.KeyToPath] | None, optional: bool | None, mode: int, what: str
) -> dict[str, File]:
    if not items:
        return {key: File(value, mode) for key, value in sorted(data.items())}
    files = {}
    for item in items:
        if item.key not in data:
            if optional:
                continue
            noun = "config" if what == "configmap" else "secret"
            raise ConfigError(f"{what} references non-existent {noun} key: {item.key}")
        files[item.path] = File(data[item.key], item.mode if item.mode is not None else mode)
    return files


def _downward(items: Sequence[core.DownwardAPIVolumeFile], mode: int, sources: Sources) -> dict[str, File]:
    files = {}
    for item in items:
        text = ""
        if item.fieldRef is not None:
            text = field_value(item.fieldRef.fieldPath, sources)
        elif item.resourceFieldRef is not None:
            ref = item.resourceFieldRef
            container = next((c for c in all_containers(sources.pod.spec) if c.name == ref.containerName), None)
            if container is None:
                raise ConfigError(f"container {ref.containerName} not found")
            text = resource_value(ref, container, sources)
        files[item.path] = File(text.encode(), item.mode if item.mode is not None else mode)
    return files
