"""Whether a pod that was bound to this node can run here: the node's own last word. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pinnace.api.core import v1 as core
from pinnace.api.placement import matches_node, tolerated
from pinnace.kubelet.policy import all_containers, amount, pod_request

SAFE_SYSCTLS = frozenset((
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
))  # fmt: skip

Refusal = tuple[str, str]
"""(status.reason, status.message)"""


def admit(
    pod: core.Pod, node: core.Node | None, others: Iterable[core.Pod], allocatable: Mapping[str, Any]
) -> Refusal | None:
    """None if the pod may run. `others` are the pods that already do."""
    running = list(others)
    for check in (_operating_system(pod), _sysctls(pod), _resources(pod, running, allocatable)):
        if check is not None:
            return check
    if node is None:
        return None
    return _affinity(pod, node) or _ports(pod, running) or _taints(pod, node)


def _operating_system(pod: core.Pod) -> Refusal | None:
    if pod.spec.os is not None and pod.spec.os.name not in ("", "linux"):
        return "PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"
    return None


def _sysctls(pod: core.Pod) -> Refusal | None:
    """Only what the kernel keeps for each namespace by itself, and of that what cannot hurt the neighbours."""
    security = pod.spec.securityContext
    for sysctl in (security.sysctls or ()) if security is not None else ():
        name = sysctl.name.replace("/", ".")
        if name not in SAFE_SYSCTLS:
            return "SysctlForbidden", f'forbidden sysctl: "{name}" not allowlisted'
        if pod.spec.hostNetwork and name.startswith("net."):
            return "SysctlForbidden", f'forbidden sysctl: "{name}" not allowed with host net enabled'
        if pod.spec.hostIPC and name.startswith("kernel."):
            return "SysctlForbidden", f'forbidden sysctl: "{name}" not allowed with host ipc enabled'
    return None


def _resources(pod: core.Pod, others: list[core.Pod], allocatable: Mapping[str, Any]) -> Refusal | None:
    most = amount(allocatable.get("pods"))
    if most and len(others) + 1 > most:
        counts = f"requested: 1, used: {len(others)}, capacity: {most:.0f}"
        return "OutOfpods", f"Node didn't have enough resource: pods, {counts}"
    names = {"cpu", "memory", "ephemeral-storage"}
    for container in all_containers(pod.spec):
        names |= set(container.resources.requests or ()) | set(container.resources.limits or ())
    for name in sorted(names):
        wanted = pod_request(pod.spec, name)
        if not wanted:
            continue
        if name not in allocatable and name not in ("cpu", "memory", "ephemeral-storage"):
            continue       # extended resources that this node does not count
        capacity = amount(allocatable.get(name))
        used = sum(pod_request(other.spec, name) for other in others)
        # Quantities are exact in units of a thousandth; floats of them are not quite.
        if wanted + used > capacity + 1e-6:
            unit = 1000 if name == "cpu" else 1
            return (
                f"OutOf{name}",
                f"Node didn't have enough resource: {name}, requested: {round(wanted * unit)}, "
                f"used: {round(used * unit)}, capacity: {round(capacity * unit)}",
            )
    return None


def _affinity(pod: core.Pod, node: core.Node) -> Refusal | None:
    if matches_node(pod.spec, node):
        return None
    return "NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"


def _ports(pod: core.Pod, others: list[core.Pod]) -> Refusal | None:
    taken = {port for other in others for port in _host_ports(other)}
    for ip, protocol, number in _host_ports(pod):
        for other_ip, other_protocol, other_number in taken:
            same = (protocol, number) == (other_protocol, other_number)
            if same and (ip == other_ip or "0.0.0.0" in (ip, other_ip)):
                words = "node(s) didn't have free ports for the requested pod ports"
                return "NodePorts", f"Predicate NodePorts failed: {words}"
    return None


def _host_ports(pod: core.Pod) -> list[tuple[str, str, int]]:
    return [
        (p.hostIP or "0.0.0.0", p.protocol or "TCP", p.hostPort)
        for c in all_containers(pod.spec) for p in c.ports or () if p.hostPort
    ]  # fmt: skip


def _taints(pod: core.Pod, node: core.Node) -> Refusal | None:
    for taint in node.spec.taints or ():
        if taint.effect == "NoExecute" and not tolerated(pod.spec, taint):
            return "TaintToleration", (
                f"Predicate TaintToleration failed: node(s) had untolerated taint {{{taint.key}: {taint.value or ''}}}"
            )
    return None
