"""Starting one container: image, configuration, create, start, postStart (a StartContainer step of the plan)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pinnace.api.core import v1 as core
from pinnace.kubelet import container_spec as specs
from pinnace.kubelet import pod_files
from pinnace.kubelet.config import KubeletConfig
from pinnace.kubelet.environment import ConfigError, Sources, environment
from pinnace.kubelet.hooks import HookFault, Hooks
from pinnace.kubelet.images import ImageFault, ImagePuller
from pinnace.kubelet.objects import ObjectCache
from pinnace.kubelet.volumes.manager import Mounted, VolumeManager, pod_references
from pinnace.runtime.cri import ContainerSpec, ContainerState, Image, Mount, Runtime, RuntimeFault, Sandbox

Tell = Callable[[str, str, str], None]
T = TypeVar("T")

RETRY = 10.0            # seconds until what failed for another reason than the image is tried again


class StartFault(Exception):
    """The container did not start; `reason` and message stand in its waiting state."""

    def __init__(self, reason: str, message: str, *, pull: bool = False, retry: float = RETRY) -> None:
        super().__init__(message)
        self.reason = reason
        self.pull = pull
        self.retry = retry


@dataclass(slots=True)
class Surroundings:
    """What pods are told about the node and its services."""

    services: Callable[[], list[core.Service]]
    allocatable: Callable[[], Mapping[str, Any]]
    node_memory: int


class Starter:
    def __init__(
        self, config: KubeletConfig, runtime: Runtime, images: ImagePuller, volumes: VolumeManager,
        objects: ObjectCache, hooks: Hooks, surroundings: Surroundings,
    ) -> None:  # fmt: skip
        self._config = config
        self._runtime = runtime
        self._images = images
        self._volumes = volumes
        self._objects = objects
        self._hooks = hooks
        self._surroundings = surroundings

    async def sources(self, pod: core.Pod, pod_ips: tuple[str, ...]) -> Sources:
        """Everything that environments and volumes are made from. Raises ConfigError."""
        namespace, uid = pod.metadata.namespace or "", pod.metadata.uid or ""
        maps: dict[str, core.ConfigMap] = {}
        secrets: dict[str, core.Secret] = {}
        for kind, name in pod_references(pod):
            found = await self._objects.get(kind, namespace, name, uid)
            if isinstance(found, core.ConfigMap):
                maps[name] = found
            elif isinstance(found, core.Secret):
                secrets[name] = found
        return Sources(
            pod, maps, secrets, self._surroundings.services(), pod_ips, self._config.host_ips,
            self._surroundings.allocatable(),
        )  # fmt: skip

    async def start(
        self, pod: core.Pod, container: core.Container, attempt: int, sandbox: Sandbox, mounted: Mounted, tell: Tell
    ) -> str:
        """The running container's id. Raises StartFault."""
        try:
            image = await self._images.ensure(pod, container, tell)
        except ImageFault as fault:
            tell("Warning", "Failed", f"Error: {fault.reason}")
            raise StartFault(fault.reason, str(fault), pull=True) from fault
        try:
            spec = await self._spec(pod, container, attempt, sandbox, mounted, image)
        except (ConfigError, OSError) as error:
            tell("Warning", "Failed", f"Error: {error}")
            raise StartFault("CreateContainerConfigError", str(error)) from error
        id = await uncancelled(self._launch(container, sandbox, spec, tell))
        await self._post_start(pod, container, id, sandbox, tell)
        return id

    async def _launch(
        self, container: core.Container, sandbox: Sandbox, spec: ContainerSpec, tell: Tell
    ) -> str:
        for old in await self._runtime.containers(sandbox.id):
            if old.name == container.name and old.state in (ContainerState.CREATED, ContainerState.UNKNOWN):
                await self._runtime.remove(old.id)
        try:
            id = await self._runtime.create(sandbox.id, spec)
        except RuntimeFault as fault:
            tell("Warning", "Failed", f"Error: {fault}")
            raise StartFault("CreateContainerError", str(fault)) from fault
        tell("Normal", "Created", "Container created")
        try:
            await self._runtime.start(id)
        except RuntimeFault as fault:
            tell("Warning", "Failed", f"Error: {fault}")
            raise StartFault("RunContainerError", str(fault), retry=2.0) from fault
        tell("Normal", "Started", "Container started")
        return id

    async def _post_start(
        self, pod: core.Pod, container: core.Container, id: str, sandbox: Sandbox, tell: Tell
    ) -> None:
        lifecycle = container.lifecycle
        if lifecycle is None or lifecycle.postStart is None:
            return
        try:
            await self._hooks.run(lifecycle.postStart, container, id, self.pod_ip(sandbox))
        except HookFault as fault:
            tell("Warning", "FailedPostStartHook", f"PostStartHook failed: {fault}")
            tell("Normal", "Killing", "FailedPostStartHook")
            grace = pod.spec.terminationGracePeriodSeconds
            with contextlib.suppress(RuntimeFault):
                await self._runtime.stop(id, grace=float(30 if grace is None else grace))
            raise StartFault("PostStartHookError", str(fault), retry=0.0) from fault

    def pod_ip(self, sandbox: Sandbox) -> str:
        ips = sandbox.ips or self._config.host_ips
        return ips[0] if ips else "127.0.0.1"

    async def _spec(
        self, pod: core.Pod, container: core.Container, attempt: int, sandbox: Sandbox, mounted: Mounted, image: Image
    ) -> ContainerSpec:
        ips = self._config.host_ips if pod.spec.hostNetwork else sandbox.ips
        env = environment(container, await self.sources(pod, ips))
        mounts = await self._volumes.container_mounts(pod, container, mounted.paths, env)
        taken = {mount.container_path for mount in mounts}
        mounts += await asyncio.to_thread(self._own_mounts, pod, container, attempt, ips, taken)
        return specs.container_spec(
            pod, container, attempt, image=image, env=env, mounts=mounts, config=self._config,
            node_memory=self._surroundings.node_memory, target=await self._target(container, sandbox),
        )  # fmt: skip

    async def _target(self, container: core.Container, sandbox: Sandbox) -> str:
        """The running container whose processes an ephemeral one wants to see. Raises ConfigError."""
        name = container.targetContainerName if isinstance(container, core.EphemeralContainer) else None
        if not name:
            return ""
        for other in await self._runtime.containers(sandbox.id):
            if other.name == name and other.state is ContainerState.RUNNING:
                return other.id
        raise ConfigError(f'unable to find target container "{name}"')

    def _own_mounts(
        self, pod: core.Pod, container: core.Container, attempt: int, ips: tuple[str, ...], taken: set[str]
    ) -> list[Mount]:
        """The termination message's file, and /etc/hosts."""
        directory = self._config.pod_directory(pod.metadata.uid or "")
        message = termination_file(directory, container.name, attempt)
        message.parent.mkdir(parents=True, exist_ok=True)
        message.touch()
        message.chmod(0o666)
        mounts = [Mount(container.terminationMessagePath or "/dev/termination-log", str(message))]
        if "/etc/hosts" not in taken:
            hosts = directory / "etc-hosts"
            host_file = Path("/etc/hosts").read_text() if pod.spec.hostNetwork else ""
            text = pod_files.hosts_file(pod, ips, self._config.cluster_domain, host_file)
            if not hosts.exists() or hosts.read_text() != text:
                hosts.write_text(text)     # in place: running containers have this very file mounted
                hosts.chmod(0o644)
            security = container.securityContext
            readonly = security is not None and bool(security.readOnlyRootFilesystem)
            mounts.append(Mount("/etc/hosts", str(hosts), readonly))
        return mounts


def termination_file(directory: Path, name: str, attempt: int) -> Path:
    return directory / "containers" / name / str(attempt)


async def uncancelled(work: Coroutine[Any, Any, T]) -> T:
    """What must not be cut in half: a cancellation takes effect when it is done."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):
            await task
        raise
