"""Has the image of a container ready: pull policy, bounded pulls, credentials, and the events about them."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pinnace.api.core import v1 as core
from pinnace.base.clock import Clock
from pinnace.kubelet.objects import ObjectCache
from pinnace.runtime.cri import Image, ImagePullFault, ImageService

Tell = Callable[[str, str, str], None]
"""(Normal or Warning, reason, message) about the container."""


class ImageFault(Exception):
    """The image is not there; `reason` is the container's waiting reason."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def policy(container: core.Container) -> str:
    """As the API server defaults it: Always for `latest`."""
    if container.imagePullPolicy:
        return container.imagePullPolicy
    name = (container.image or "").rpartition("/")[2]
    tagged = ":" in name or "@" in name
    return "Always" if not tagged or name.endswith(":latest") else "IfNotPresent"


def registry_of(image: str) -> str:
    head, slash, _ = image.partition("/")
    return head if slash and ("." in head or ":" in head or head == "localhost") else "docker.io"


def credentials(image: str, secrets: Sequence[core.Secret]) -> list[Mapping[str, str]]:
    """Logins of the pod's pull secrets that fit the image's registry, the best fit first."""
    found: list[tuple[int, Mapping[str, str]]] = []
    registry = registry_of(image)
    for secret in secrets:
        for server, entry in _docker_config(secret).items():
            bare = server.removeprefix("https://").removeprefix("http://").rstrip("/")
            host = bare.partition("/")[0]
            if host in ("index.docker.io", "registry-1.docker.io"):
                host, bare = "docker.io", "docker.io"
            matches = host == registry or (
                host.startswith("*.") and registry.endswith(host[1:]) and registry.count(".") == host.count(".")
            )
            if matches and isinstance(entry, dict):
                login = _login(entry)
                if login:
                    found.append((len(bare) if f"{image}/".startswith(bare) else 0, login))
    found.sort(key=lambda pair: -pair[0])
    return [login for _, login in found]


def _docker_config(secret: core.Secret) -> Mapping[str, Any]:
    data = secret.data or {}
    try:
        if ".dockerconfigjson" in data:
            auths = json.loads(base64.b64decode(data[".dockerconfigjson"])).get("auths") or {}
        elif ".dockercfg" in data:
            auths = json.loads(base64.b64decode(data[".dockercfg"]))
        else:
            return {}
    except (ValueError, AttributeError, binascii.Error):
        return {}
    return auths if isinstance(auths, dict) else {}


def _login(entry: Mapping[str, Any]) -> Mapping[str, str]:
    if entry.get("username"):
        return {"username": str(entry["username"]), "password": str(entry.get("password") or "")}
    try:
        user, _, password = base64.b64decode(str(entry.get("auth") or "")).decode().partition(":")
    except (ValueError, binascii.Error):
        return {}
    return {"username": user, "password": password} if user else {}


class ImagePuller:
    """Pulls for all pods of the node, a few at a time."""

    def __init__(self, images: ImageService, objects: ObjectCache, clock: Clock, parallel: int) -> None:
        self._images = images
        self._objects = objects
        self._clock = clock
        self._slots = asyncio.Semaphore(parallel)

    async def ensure(self, pod: core.Pod, container: core.Container, tell: Tell) -> Image:
        """The image, pulled if its policy says so. Raises ImageFault."""
        name = container.image or ""
        wanted = policy(container)
        present = await self._images.status(name)
        if present is not None and wanted != "Always":
            words = "already present on machine and can be accessed by the pod"
            tell("Normal", "Pulled", f'Container image "{name}" {words}')
            return present
        if wanted == "Never":
            message = f'Container image "{name}" is not present with pull policy of Never'
            tell("Warning", "ErrImageNeverPull", message)
            raise ImageFault("ErrImageNeverPull", message)
        return await self._pull(pod, name, tell)

    async def _pull(self, pod: core.Pod, name: str, tell: Tell) -> Image:
        asked = self._clock.monotonic()
        logins: list[Mapping[str, str] | None] = [*await self._logins(pod, name)] or [None]
        async with self._slots:
            started = self._clock.monotonic()
            tell("Normal", "Pulling", f'Pulling image "{name}"')
            fault: ImagePullFault | None = None
            for login in logins:
                try:
                    image = await self._images.pull(name, auth=login)
                    break
                except ImagePullFault as error:
                    fault = error
            else:
                assert fault is not None
                if fault.reason == "InvalidImageName":
                    tell("Warning", "InspectFailed", str(fault))
                else:
                    tell("Warning", "Failed", f'Failed to pull image "{name}": {fault}')
                raise ImageFault(fault.reason, str(fault)) from fault
        now = self._clock.monotonic()
        tell(
            "Normal", "Pulled",
            f'Successfully pulled image "{name}" in {now - started:.3f}s ({now - asked:.3f}s including waiting). '
            f"Image size: {image.size} bytes.",
        )  # fmt: skip
        return image

    async def _logins(self, pod: core.Pod, name: str) -> list[Mapping[str, str]]:
        secrets = []
        for reference in pod.spec.imagePullSecrets or ():
            if reference.name:
                secret = await self._objects.get(
                    core.Secret, pod.metadata.namespace or "", reference.name, pod.metadata.uid or ""
                )
                if secret is not None:
                    secrets.append(secret)
        return credentials(name, secrets)
