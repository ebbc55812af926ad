"""Figures: /stats/summary (upstream's JSON) and /metrics/resource (Prometheus' text)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pinnace.kubelet.pod_status import timestamp
from pinnace.runtime.cri import ContainerState, ContainerStats, RuntimeFault

if TYPE_CHECKING:
    from pinnace.kubelet.kubelet import Kubelet


async def collect(kubelet: Kubelet) -> dict[str, list[ContainerStats]]:
    """Of running containers, by pod uid."""
    found: dict[str, list[ContainerStats]] = {}
    for container in await kubelet.runtime.containers():
        uid = kubelet.services.owners.get(container.sandbox_id)
        if container.state is not ContainerState.RUNNING or uid is None:
            continue
        try:
            found.setdefault(uid, []).append(await kubelet.runtime.stats(container.id))
        except RuntimeFault:
            continue        # it ended in this moment
    return found


def _usage(stats: list[ContainerStats]) -> dict[str, Any]:
    when = timestamp(max(s.timestamp for s in stats))
    return {
        "cpu": {"time": when, "usageCoreNanoSeconds": sum(s.cpu_nanoseconds for s in stats)},
        "memory": {
            "time": when,
            "usageBytes": sum(s.memory_usage for s in stats),
            "workingSetBytes": sum(s.memory_working_set for s in stats),
            "rssBytes": sum(s.memory_rss for s in stats),
        },
    }


async def summary(kubelet: Kubelet) -> dict[str, Any]:
    found = await collect(kubelet)
    pods = []
    for uid, stats in found.items():
        worker = kubelet.workers.get(uid)
        if worker is None:
            continue
        meta = worker.pod.metadata
        pods.append({
            "podRef": {"name": meta.name, "namespace": meta.namespace, "uid": uid},
            "startTime": worker.pod.status.startTime,
            "containers": [
                {"name": s.name, **_usage([s]), "rootfs": {"time": timestamp(s.timestamp), "usedBytes": s.rootfs_bytes}}
                for s in stats
            ],
            **_usage(stats),
            "process_stats": {"process_count": sum(s.pids for s in stats)},
        })  # fmt: skip
    everything = [s for stats in found.values() for s in stats]
    node: dict[str, Any] = {"nodeName": kubelet.config.node_name}
    if everything:
        node |= _usage(everything)
    return {"node": node, "pods": pods}


async def resource_metrics(kubelet: Kubelet) -> str:
    """What a metrics server scrapes."""
    found = await collect(kubelet)
    cpu, memory = [], []
    pod_cpu, pod_memory = [], []
    for uid, stats in found.items():
        worker = kubelet.workers.get(uid)
        if worker is None:
            continue
        meta = worker.pod.metadata
        who = f'namespace="{meta.namespace}",pod="{meta.name}"'
        for s in stats:
            label = f'{{container="{s.name}",{who}}}'
            cpu.append(f"container_cpu_usage_seconds_total{label} {s.cpu_nanoseconds / 1e9} {int(s.timestamp * 1000)}")
            memory.append(f"container_memory_working_set_bytes{label} {s.memory_working_set} {int(s.timestamp * 1000)}")
        when = int(max(s.timestamp for s in stats) * 1000)
        pod_cpu.append(f"pod_cpu_usage_seconds_total{{{who}}} {sum(s.cpu_nanoseconds for s in stats) / 1e9} {when}")
        pod_memory.append(f"pod_memory_working_set_bytes{{{who}}} {sum(s.memory_working_set for s in stats)} {when}")
    families = (
        ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the container", cpu),
        ("container_memory_working_set_bytes", "gauge", "Current working set of the container in bytes", memory),
        ("pod_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the pod", pod_cpu),
        ("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes", pod_memory),
    )
    lines = []
    for name, kind, text, values in families:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *values]
    return "\n".join(lines) + "\n"
