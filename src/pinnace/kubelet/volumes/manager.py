"""Mounts what a pod's volumes ask for, keeps live ones current, and takes everything down again.

    <root>/pods/<uid>/volumes/kubernetes.io~configmap/<name>   and so on, as upstream lays it out
    <root>/pods/<uid>/volume-subpaths/<volume>/<container>/<index>
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pinnace.api import errors
from pinnace.api.core import v1 as core
from pinnace.base.clock import Clock
from pinnace.base.randomness import Randomness
from pinnace.client.client import Client
from pinnace.kubelet.config import KubeletConfig
from pinnace.kubelet.environment import ConfigError, Sources, expand
from pinnace.kubelet.objects import ObjectCache
from pinnace.kubelet.policy import all_containers, amount, every_container
from pinnace.kubelet.tokens import Tokens
from pinnace.kubelet.volumes import atomic, host_path, ownership, payload, subpath
from pinnace.kubelet.volumes.linux import MS_NODEV, MS_NOSUID, Mounter
from pinnace.runtime.cri import Mount

_PLUGIN = {
    "configMap": "kubernetes.io~configmap",
    "secret": "kubernetes.io~secret",
    "downwardAPI": "kubernetes.io~downward-api",
    "projected": "kubernetes.io~projected",
    "emptyDir": "kubernetes.io~empty-dir",
}
_TOKEN_SECONDS = 3600
_PROPAGATION = {"HostToContainer": "hostToContainer", "Bidirectional": "bidirectional"}


class MountFault(Exception):
    """A volume cannot be mounted (now); the message is that of the FailedMount event."""

    def __init__(self, volume: str, why: object) -> None:
        super().__init__(f'MountVolume.SetUp failed for volume "{volume}" : {why}')


class Mounted(msgspec.Struct, frozen=True):
    """Where a pod's volumes lie on the node, and when to look at them again (epoch seconds)."""

    paths: Mapping[str, str]
    refresh_at: float | None = None


class VolumeManager:
    """One for all pods of the node."""

    def __init__(
        self, config: KubeletConfig, client: Client, objects: ObjectCache, tokens: Tokens, mounter: Mounter,
        clock: Clock, randomness: Randomness,
    ) -> None:  # fmt: skip
        self._config = config
        self._client = client
        self._objects = objects
        self._tokens = tokens
        self._mounter = mounter
        self._clock = clock
        self._randomness = randomness

    async def mount(self, pod: core.Pod, sources: Sources) -> Mounted:
        """Make every volume of the pod ready, or current again. Raises MountFault."""
        paths: dict[str, str] = {}
        again: list[float] = []
        for volume in pod.spec.volumes or ():
            try:
                paths[volume.name] = await self._mount_one(pod, volume, sources, again)
            except (ConfigError, errors.StatusError, OSError, TimeoutError) as error:
                raise MountFault(volume.name, error) from error
        return Mounted(paths, min(again, default=None))

    async def _mount_one(self, pod: core.Pod, volume: core.Volume, sources: Sources, again: list[float]) -> str:
        if payload.is_live(volume):
            return await self._mount_live(pod, volume, sources, again)
        if volume.emptyDir is not None:
            return await asyncio.to_thread(self._mount_empty, pod, volume.name, volume.emptyDir)
        if volume.hostPath is not None:
            return host_path.prepare(volume.hostPath.path, volume.hostPath.type or "")
        if volume.persistentVolumeClaim is not None:
            return await self._claim(pod, volume.persistentVolumeClaim)
        raise ConfigError("no volume plugin matched")

    def _path(self, pod: core.Pod, volume: core.Volume) -> Path:
        plugin = next(name for field, name in _PLUGIN.items() if getattr(volume, field) is not None)
        return self._config.pod_directory(pod.metadata.uid or "") / "volumes" / plugin / volume.name

    # Live volumes: their content comes from the API.

    async def _mount_live(self, pod: core.Pod, volume: core.Volume, sources: Sources, again: list[float]) -> str:
        tokens: dict[str, str] = {}
        for source in payload.token_sources(volume):
            token = await self._tokens.get(pod, source.audience or "", source.expirationSeconds or _TOKEN_SECONDS)
            tokens[source.path] = token.text
            again.append(token.refresh_at)
        files = payload.payload(volume, sources, tokens, common_user(pod.spec))
        path = self._path(pod, volume)
        secret = volume.secret is not None or bool(tokens)
        await asyncio.to_thread(self._write, pod, path, files, secret)
        return str(path)

    def _write(self, pod: core.Pod, path: Path, files: Mapping[str, atomic.File], secret: bool) -> None:
        fresh = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
        if fresh:
            path.chmod(0o777)
            if secret:       # never on disk
                self._mounter.mount("tmpfs", str(path), "tmpfs", MS_NOSUID | MS_NODEV, "mode=0777,size=64m")
        security = pod.spec.securityContext
        group = security.fsGroup if security is not None else None
        if fresh and group is not None:
            os.chown(path, -1, group)
            path.chmod(0o2777)
        atomic.write(path, files, now=self._clock.now(), randomness=self._randomness, group=group)

    # emptyDir

    def _mount_empty(self, pod: core.Pod, name: str, source: core.EmptyDirVolumeSource) -> str:
        path = self._config.pod_directory(pod.metadata.uid or "") / "volumes" / _PLUGIN["emptyDir"] / name
        if path.exists():
            return str(path)
        medium = source.medium or ""
        if medium not in ("", "Memory"):
            raise ConfigError(f"storage medium {medium} is not supported by this node")
        fresh = path.with_name(f".{name}.new")
        fresh.mkdir(parents=True, exist_ok=True)
        if medium == "Memory":
            size = int(amount(source.sizeLimit))
            data = f"mode=0777,size={size}" if size else "mode=0777"
            fresh.rename(path)
            self._mounter.mount("tmpfs", str(path), "tmpfs", MS_NOSUID | MS_NODEV, data)
        else:
            fresh.rename(path)
        path.chmod(0o777)
        security = pod.spec.securityContext
        if security is not None and security.fsGroup is not None:
            ownership.set_group(path, security.fsGroup)
        return str(path)

    # persistentVolumeClaim: those that others bound to a path of this node

    async def _claim(self, pod: core.Pod, source: core.PersistentVolumeClaimVolumeSource) -> str:
        namespace = pod.metadata.namespace or ""
        claim = await self._client.get(core.PersistentVolumeClaim, source.claimName, namespace)
        if claim.status.phase != "Bound" or not claim.spec.volumeName:
            raise ConfigError(f'PVC "{source.claimName}" is not bound')
        volume = await self._client.get(core.PersistentVolume, claim.spec.volumeName)
        if volume.spec.hostPath is not None:
            return host_path.prepare(volume.spec.hostPath.path, volume.spec.hostPath.type or "")
        if volume.spec.local is not None:
            if not Path(volume.spec.local.path).exists():
                raise ConfigError(f'path "{volume.spec.local.path}" does not exist')
            return volume.spec.local.path
        raise ConfigError("no volume plugin matched")

    # Teardown

    async def unmount(self, uid: str) -> None:
        """Take down and delete the pod's directory. Raises OSError."""
        await asyncio.to_thread(self._unmount, self._config.pod_directory(uid))
        self._tokens.forget(uid)
        self._objects.release(uid)

    def _unmount(self, directory: Path) -> None:
        for _ in range(3):          # mounts can be stacked
            points = self._mounter.mounted(str(directory))
            for point in points:
                self._mounter.unmount(point)
            if not points:
                break
        # Never delete through a mount that would not go.
        if self._mounter.mounted(str(directory)):
            raise OSError(f"volumes are still mounted below {directory}")
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(directory)

    def known(self) -> list[str]:
        """The uids of pods that have something on this node's disk."""
        pods = self._config.root / "pods"
        return [entry.name for entry in pods.iterdir()] if pods.is_dir() else []

    # What a container mounts

    async def container_mounts(
        self, pod: core.Pod, container: core.Container, paths: Mapping[str, str], env: Mapping[str, str]
    ) -> list[Mount]:
        """Raises ConfigError."""
        return await asyncio.to_thread(self._container_mounts, pod, container, paths, env)

    def _container_mounts(
        self, pod: core.Pod, container: core.Container, paths: Mapping[str, str], env: Mapping[str, str]
    ) -> list[Mount]:
        mounts = []
        volumes = {volume.name: volume for volume in pod.spec.volumes or ()}
        for number, mount in enumerate(container.volumeMounts or ()):
            volume = volumes.get(mount.name)
            if volume is None or mount.name not in paths:
                raise ConfigError(f'cannot find volume "{mount.name}" to mount into container "{container.name}"')
            source = paths[mount.name]
            part = expand(mount.subPathExpr, env) if mount.subPathExpr else mount.subPath
            if part:
                directory = self._config.pod_directory(pod.metadata.uid or "") / "volume-subpaths"
                target = directory / mount.name / container.name / str(number)
                try:
                    subpath.bind(Path(source), part, target, self._mounter)
                except OSError as error:
                    raise ConfigError(f'failed to prepare subPath for volumeMount "{mount.name}" of container '
                                      f'"{container.name}": {error}') from error  # fmt: skip
                source = str(target)
            # What follows the API cannot be written to, whatever the pod says.
            readonly = bool(mount.readOnly) or payload.is_live(volume) or _claim_readonly(volume)
            mounts.append(
                Mount(
                    container_path=_absolute(mount.mountPath),
                    host_path=source,
                    readonly=readonly,
                    propagation=_PROPAGATION.get(mount.mountPropagation or "", "private"),
                    recursive_readonly=readonly and mount.recursiveReadOnly in ("Enabled", "IfPossible"),
                )
            )
        return mounts


def _claim_readonly(volume: core.Volume) -> bool:
    return volume.persistentVolumeClaim is not None and bool(volume.persistentVolumeClaim.readOnly)


def _absolute(path: str) -> str:
    return path if path.startswith("/") else f"/{path}"


def common_user(spec: core.PodSpec) -> int | None:
    """The user that all containers run as, if the pod says so: tokens are then its own."""
    outer = spec.securityContext.runAsUser if spec.securityContext is not None else None
    users = {
        c.securityContext.runAsUser
        if c.securityContext is not None and c.securityContext.runAsUser is not None else outer
        for c in all_containers(spec)
    }  # fmt: skip
    return users.pop() if len(users) == 1 else None


def pod_references(pod: core.Pod) -> list[tuple[type[Any], str]]:
    """Every ConfigMap and Secret that the pod's volumes and environments name."""
    out: list[tuple[type[Any], str]] = []
    for volume in pod.spec.volumes or ():
        out += payload.references(volume)
    for container in every_container(pod.spec):
        out += environment_references(container)
    return list(dict.fromkeys(out))


def environment_references(container: core.Container) -> Sequence[tuple[type[Any], str]]:
    out: list[tuple[type[Any], str]] = []
    for source in container.envFrom or ():
        if source.configMapRef is not None:
            out.append((core.ConfigMap, source.configMapRef.name or ""))
        if source.secretRef is not None:
            out.append((core.Secret, source.secretRef.name or ""))
    for variable in container.env or ():
        if variable.valueFrom is None:
            continue
        if variable.valueFrom.configMapKeyRef is not None:
            out.append((core.ConfigMap, variable.valueFrom.configMapKeyRef.name or ""))
        if variable.valueFrom.secretKeyRef is not None:
            out.append((core.Secret, variable.valueFrom.secretKeyRef.name or ""))
    return out
