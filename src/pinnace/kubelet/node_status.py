"""The Node object as the kubelet writes it. Pure: what was measured comes in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.kubelet.config import KubeletConfig
from pinnace.kubelet.pod_status import timestamp
from pinnace.runtime.cri import Image

MAX_IMAGES = 50
MAX_IMAGE_NAMES = 5


@dataclass(frozen=True, slots=True)
class Machine:
    """What does not change while we run."""

    architecture: str           # amd64, arm64
    kernel: str
    os_image: str
    machine_id: str
    system_uuid: str
    boot_id: str
    cpus: float
    memory: int                 # bytes
    storage: int                # bytes of the file system that holds pods


@dataclass(frozen=True, slots=True)
class Health:
    """What is looked at again and again."""

    runtime_error: str = ""     # why pods cannot run now; "" if they can
    memory_pressure: bool = False
    disk_pressure: bool = False
    pid_pressure: bool = False


def capacity(config: KubeletConfig, machine: Machine) -> dict[str, Any]:
    cpus = config.cpus if config.cpus is not None else machine.cpus
    memory = config.memory if config.memory is not None else machine.memory
    return {
        "cpu": str(int(cpus)) if cpus == int(cpus) else f"{int(cpus * 1000)}m",
        "memory": f"{memory // 1024}Ki",
        "pods": str(config.max_pods),
        "ephemeral-storage": f"{machine.storage // 1024}Ki",
        "hugepages-1Gi": "0",
        "hugepages-2Mi": "0",
    }


def allocatable(config: KubeletConfig, machine: Machine) -> dict[str, Any]:
    out = capacity(config, machine)
    memory = config.memory if config.memory is not None else machine.memory
    out["memory"] = f"{max(0, memory - config.reserved_memory) // 1024}Ki"
    out["ephemeral-storage"] = str(int(machine.storage * 0.9))
    return out


def node_labels(config: KubeletConfig, machine: Machine) -> dict[str, str]:
    return {
        "beta.kubernetes.io/arch": machine.architecture,
        "beta.kubernetes.io/os": "linux",
        "kubernetes.io/arch": machine.architecture,
        "kubernetes.io/hostname": config.node_name,
        "kubernetes.io/os": "linux",
        **config.labels,
    }


def conditions(old: Sequence[core.NodeCondition], health: Health, now: float) -> list[core.NodeCondition]:
    """Those of the kubelet; others' conditions are kept."""
    before = {c.type: c for c in old}
    out = []

    def put(type: str, status: bool, reason: str, message: str) -> None:
        word = "True" if status else "False"
        known = before.get(type)
        since = known.lastTransitionTime if known is not None and known.status == word else None
        out.append(
            core.NodeCondition(
                type=type, status=word, reason=reason, message=message, lastHeartbeatTime=timestamp(now),
                lastTransitionTime=since or timestamp(now),
            )
        )  # fmt: skip

    if health.memory_pressure:
        put("MemoryPressure", True, "KubeletHasInsufficientMemory", "kubelet has insufficient memory available")
    else:
        put("MemoryPressure", False, "KubeletHasSufficientMemory", "kubelet has sufficient memory available")
    if health.disk_pressure:
        put("DiskPressure", True, "KubeletHasDiskPressure", "kubelet has disk pressure")
    else:
        put("DiskPressure", False, "KubeletHasNoDiskPressure", "kubelet has no disk pressure")
    if health.pid_pressure:
        put("PIDPressure", True, "KubeletHasInsufficientPID", "kubelet has insufficient PID available")
    else:
        put("PIDPressure", False, "KubeletHasSufficientPID", "kubelet has sufficient PID available")
    if health.runtime_error:
        put("Ready", False, "KubeletNotReady", health.runtime_error)
    else:
        put("Ready", True, "KubeletReady", "kubelet is posting ready status")
    ours = {c.type for c in out}
    return [c for c in old if c.type not in ours] + out


def node_status(
    config: KubeletConfig, machine: Machine, runtime_version: str, images: Sequence[Image],
    old: core.NodeStatus, health: Health, now: float,
) -> core.NodeStatus:  # fmt: skip
    return core.NodeStatus(
        addresses=[
            *(core.NodeAddress(type="InternalIP", address=ip) for ip in config.host_ips),
            core.NodeAddress(type="Hostname", address=config.node_name),
        ],
        capacity=capacity(config, machine),
        allocatable=allocatable(config, machine),
        conditions=conditions(old.conditions or (), health, now),
        daemonEndpoints=core.NodeDaemonEndpoints(
            kubeletEndpoint=core.DaemonEndpoint(Port=config.server_port)
        ),
        images=_images(images) or None,
        nodeInfo=core.NodeSystemInfo(
            architecture=machine.architecture,
            bootID=machine.boot_id,
            containerRuntimeVersion=runtime_version,
            kernelVersion=machine.kernel,
            kubeProxyVersion="",
            kubeletVersion=config.declared_version,
            machineID=machine.machine_id,
            operatingSystem="linux",
            osImage=machine.os_image,
            systemUUID=machine.system_uuid,
        ),
        volumesAttached=old.volumesAttached,
        volumesInUse=old.volumesInUse,
    )


def _images(images: Sequence[Image]) -> list[core.ContainerImage]:
    largest = sorted(images, key=lambda image: image.size, reverse=True)[:MAX_IMAGES]
    return [
        core.ContainerImage(names=[*image.digests, *image.tags][:MAX_IMAGE_NAMES], sizeBytes=image.size)
        for image in largest
    ]


def new_node(config: KubeletConfig, machine: Machine, status: core.NodeStatus) -> core.Node:
    """The object with which the node registers."""
    return core.Node(
        metadata=meta.ObjectMeta(
            name=config.node_name,
            labels=node_labels(config, machine),
            annotations={"volumes.kubernetes.io/controller-managed-attach-detach": "true", **config.annotations},
        ),
        spec=core.NodeSpec(
            providerID=config.provider_id or None,
            podCIDR=config.pod_cidr or None,
            podCIDRs=[config.pod_cidr] if config.pod_cidr else None,
            taints=[core.Taint(key=k, value=v or None, effect=e) for k, v, e in config.taints] or None,
        ),
        status=status,
    )


def changed(old: core.NodeStatus, new: core.NodeStatus) -> bool:
    """Whether more than heartbeats differ."""

    def bare(status: core.NodeStatus) -> tuple[Any, ...]:
        return (
            [(c.type, c.status, c.reason, c.message) for c in status.conditions or ()],
            status.capacity, status.allocatable, status.addresses, status.nodeInfo, status.images,
            status.daemonEndpoints,
        )  # fmt: skip

    return bare(old) != bare(new)
