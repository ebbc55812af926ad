"""What keeps a node usable: health on the lease's tick, log rotation, unused images, eviction under pressure."""

from __future__ import annotations

import asyncio
import gzip
import logging
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pinnace.api.core import v1 as core
from pinnace.base.clock import Clock
from pinnace.kubelet import machine
from pinnace.kubelet.config import KubeletConfig, Network
from pinnace.kubelet.node_status import Health
from pinnace.kubelet.policy import pod_request, qos_class
from pinnace.runtime.cri import ContainerState, NotFound, RuntimeFault

if TYPE_CHECKING:
    from pinnace.kubelet.kubelet import Kubelet

log = logging.getLogger("pinnace.kubelet.housekeeping")

TICK = 10.0
IMAGE_TICK = 300.0
MEMORY_AVAILABLE = 100 * 2**20       # upstream's hard eviction thresholds
NODEFS_AVAILABLE = 0.10
PIDS_AVAILABLE = 0.05


async def health(config: KubeletConfig, network: Network) -> Health:
    """The node's health now."""
    why = await network.check()
    disk = await asyncio.to_thread(machine.free_share, config.root)
    unready = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:"
    return Health(
        runtime_error=unready + why if why else "",
        memory_pressure=machine.available_memory() < MEMORY_AVAILABLE,
        disk_pressure=disk < NODEFS_AVAILABLE,
        pid_pressure=machine.free_pids_share() < PIDS_AVAILABLE,
    )  # fmt: skip


def eviction_order(pods: Iterable[core.Pod], usage: Mapping[str, int]) -> list[core.Pod]:
    """Who goes first when memory runs out: who uses more than asked for, then low priority, then the largest excess."""

    def rank(pod: core.Pod) -> tuple[bool, int, float]:
        used = usage.get(pod.metadata.uid or "", 0)
        excess = used - pod_request(pod.spec, "memory")
        return (excess <= 0, pod.spec.priority or 0, -excess)

    return sorted((p for p in pods if (p.spec.priority or 0) < 2_000_000_000), key=rank)


def rotate(path: Path, keep: int) -> None:
    """Make room for a new log: `<path>.<n>` are the older ones, all but the newest compressed, `keep` files in all."""
    older = sorted(path.parent.glob(f"{path.name}.*"), key=lambda p: p.stat().st_mtime)
    for plain in older:
        if plain.suffix != ".gz":
            with plain.open("rb") as source, gzip.open(f"{plain}.gz", "wb") as target:
                shutil.copyfileobj(source, target)
            plain.unlink()
    older = sorted(path.parent.glob(f"{path.name}.*"), key=lambda p: p.stat().st_mtime)
    for excess in older[: max(0, len(older) - (keep - 2))]:
        excess.unlink()
    path.rename(path.with_name(f"{path.name}.{int(path.stat().st_mtime * 1000)}"))


class Housekeeper:
    def __init__(self, kubelet: Kubelet, clock: Clock) -> None:
        self._kubelet = kubelet
        self._clock = clock
        self._images_at = 0.0

    async def run(self) -> None:
        """Until cancelled."""
        self._images_at = self._clock.monotonic()
        while True:
            await self._clock.sleep(TICK)
            try:
                await self.rotate_logs()
                if machine.available_memory() < MEMORY_AVAILABLE:
                    await self.evict_for_memory()
                if self._clock.monotonic() - self._images_at >= IMAGE_TICK:
                    self._images_at = self._clock.monotonic()
                    await self.collect_images()
            except (RuntimeFault, OSError) as error:
                log.warning("housekeeping: %s", error)

    async def rotate_logs(self) -> None:
        """Logs of running containers that have grown too large start over."""
        config, runtime = self._kubelet.config, self._kubelet.runtime
        for container in await runtime.containers():
            path = Path(container.log_path)
            if container.state is not ContainerState.RUNNING or not path.is_file():
                continue
            if path.stat().st_size > config.log_max_bytes:
                await asyncio.to_thread(rotate, path, config.log_max_files)
                try:
                    await runtime.reopen_log(container.id)
                except NotFound:
                    log.debug("container %s ended while its log was rotated", container.id)

    async def evict_for_memory(self) -> None:
        """End one pod; the next tick sees whether that was enough."""
        usage: dict[str, int] = {}
        workers = self._kubelet.workers
        runtime, owners = self._kubelet.runtime, self._kubelet.services.owners
        for container in await runtime.containers():
            if container.state is ContainerState.RUNNING and (uid := owners.get(container.sandbox_id)):
                try:
                    usage[uid] = usage.get(uid, 0) + (await runtime.stats(container.id)).memory_working_set
                except RuntimeFault as fault:
                    log.debug("figures of container %s: %s", container.id, fault)
        order = eviction_order([workers[uid].pod for uid in usage if uid in workers], usage)
        if order:
            pod = order[0]
            message = (
                f"The node was low on resource: memory. Threshold quantity: {MEMORY_AVAILABLE // 2**20}Mi, "
                f"available: {machine.available_memory() // 1024}Ki. "
            )
            log.warning("evicting pod %s/%s (%s)", pod.metadata.namespace, pod.metadata.name, qos_class(pod.spec))
            self._kubelet.recorder.event(pod, "Warning", "Evicted", message)
            workers[pod.metadata.uid or ""].evict("Evicted", message)

    async def collect_images(self) -> None:
        """When the disk gets full, images that no container uses go, the largest first."""
        config, runtime = self._kubelet.config, self._kubelet.runtime
        used_share = 1.0 - await asyncio.to_thread(machine.free_share, config.root)
        if used_share < config.image_gc_high:
            return
        containers = await runtime.containers()
        in_use = {c.image_id for c in containers} | {c.image for c in containers}
        unused = [i for i in await runtime.images.images() if not i.pinned and not in_use & {i.id, *i.tags, *i.digests}]
        for image in sorted(unused, key=lambda i: -i.size):
            if 1.0 - await asyncio.to_thread(machine.free_share, config.root) <= config.image_gc_low:
                return
            log.info("removing image %s", image.id)
            await runtime.images.remove(image.id)
