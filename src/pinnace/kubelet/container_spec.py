"""From the API's words to the runtime's: sandbox and container specifications. Pure.

The worker hands in what had to be looked up (the image, the environment, the mounts); what cannot be run is
refused here with `ConfigError` in upstream's words.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from pinnace.api import codec
from pinnace.api.core import v1 as core
from pinnace.kubelet import pod_files
from pinnace.kubelet.config import KubeletConfig
from pinnace.kubelet.environment import ConfigError, expanded
from pinnace.kubelet.policy import (
    all_containers,
    is_sidecar,
    limit,
    pod_limit,
    pod_request,
    qos_class,
    request,
)
from pinnace.network.ipam import HostPort
from pinnace.runtime.cri import (
    ContainerSpec,
    Image,
    Mount,
    PodIdentity,
    Resources,
    SandboxSpec,
    SecurityContext,
)

PERIOD = 100_000              # microseconds; the default of CFS
MIN_SHARES, MAX_SHARES = 2, 262_144
MIN_QUOTA = 1_000

LABEL_NAME = "io.kubernetes.pod.name"
LABEL_NAMESPACE = "io.kubernetes.pod.namespace"
LABEL_UID = "io.kubernetes.pod.uid"
LABEL_CONTAINER = "io.kubernetes.container.name"
HASH = "io.kubernetes.container.hash"


def pod_labels(pod: core.Pod) -> dict[str, str]:
    meta = pod.metadata
    return {
        LABEL_NAME: meta.name or "", LABEL_NAMESPACE: meta.namespace or "", LABEL_UID: meta.uid or "",
    }  # fmt: skip


def container_hash(container: core.Container) -> str:
    """Changes when the container must be replaced: its name or image, the parts of a pod that may be edited."""
    return hashlib.sha256(f"{container.name}\0{container.image}".encode()).hexdigest()[:8]


# ---------------------------------------------------------------------------------------------------- cgroups


def shares(cores: float) -> int:
    """Relative cpu weight of a request, 1024 a core."""
    return max(MIN_SHARES, min(MAX_SHARES, int(cores * 1024)))


def quota(cores: float) -> int | None:
    """Microseconds a period that a limit allows; None: no limit."""
    return max(MIN_QUOTA, int(cores * PERIOD)) if cores > 0 else None


def cgroup_parent(pod: core.Pod, root: str) -> str:
    match pod.status.qosClass or qos_class(pod.spec):
        case "Guaranteed":
            return f"{root}/kubepods/pod{pod.metadata.uid}"
        case other:
            return f"{root}/kubepods/{other.lower()}/pod{pod.metadata.uid}"


def pod_resources(spec: core.PodSpec, pids_limit: int | None) -> Resources:
    memory = pod_limit(spec, "memory")
    return Resources(
        cpu_shares=shares(pod_request(spec, "cpu")),
        cpu_quota=quota(pod_limit(spec, "cpu")),
        cpu_period=PERIOD,
        memory_limit=int(memory) or None,
        pids_limit=pids_limit,
    )


def oom_score_adj(pod: core.Pod, container: core.Container, node_memory: int) -> int:
    """Who the kernel kills first when memory runs out: by QoS class, and by the share of memory asked for."""
    if (pod.spec.priority or 0) >= 2_000_000_000:
        return -997
    match pod.status.qosClass or qos_class(pod.spec):
        case "Guaranteed":
            return -997
        case "BestEffort":
            return 1000
    wanted = request(container, "memory")
    score = 1000 - int(1000 * wanted / node_memory) if node_memory else 999
    if is_sidecar(container):
        least = min((request(c, "memory") for c in pod.spec.containers), default=0.0)
        if least > wanted and node_memory:
            score = 1000 - int(1000 * least / node_memory)
    return max(3, min(999, score))


def container_resources(pod: core.Pod, container: core.Container, node_memory: int) -> Resources:
    return Resources(
        cpu_shares=shares(request(container, "cpu")),
        cpu_quota=quota(limit(container, "cpu")),
        cpu_period=PERIOD,
        memory_limit=int(limit(container, "memory")) or None,
        oom_score_adj=oom_score_adj(pod, container, node_memory),
    )


# ---------------------------------------------------------------------------------------------------- sandbox


def identity(pod: core.Pod, attempt: int) -> PodIdentity:
    meta = pod.metadata
    return PodIdentity(meta.name or "", meta.namespace or "", meta.uid or "", attempt)


def host_ports(pod: core.Pod) -> tuple[HostPort, ...]:
    if pod.spec.hostNetwork:
        return ()
    return tuple(
        HostPort(
            protocol=p.protocol or "TCP", host_port=p.hostPort, container_port=p.containerPort, host_ip=p.hostIP or ""
        )
        for c in all_containers(pod.spec) for p in c.ports or () if p.hostPort
    )  # fmt: skip


def sandbox_spec(
    pod: core.Pod, attempt: int, config: KubeletConfig, host: pod_files.Resolver, handler: str = ""
) -> SandboxSpec:
    """Raises ConfigError."""
    meta, spec = pod.metadata, pod.spec
    name, _ = pod_files.hostname(pod, config.cluster_domain, config.node_name)
    if len(name) > 64:
        raise ConfigError(
            f"Failed to construct FQDN from Pod hostname and cluster domain, FQDN {name} is too long "
            f"(64 characters is the max, {len(name)} characters requested)"
        )
    dns = pod_files.resolver(
        pod, cluster_dns=config.cluster_dns, cluster_domain=config.cluster_domain, host=host
    )
    security = spec.securityContext or core.PodSecurityContext()
    return SandboxSpec(
        identity=identity(pod, attempt),
        hostname=name,
        log_directory=str(config.log_directory(meta.namespace or "", meta.name or "", meta.uid or "")),
        labels={**(meta.labels or {}), **pod_labels(pod)},
        annotations=dict(meta.annotations or {}),
        cgroup_parent=cgroup_parent(pod, config.cgroup_root),
        dns_servers=dns.servers,
        dns_searches=dns.searches,
        dns_options=dns.options,
        host_network=bool(spec.hostNetwork),
        host_pid=bool(spec.hostPID),
        host_ipc=bool(spec.hostIPC),
        share_process_namespace=bool(spec.shareProcessNamespace),
        sysctls={s.name: s.value for s in security.sysctls or ()},
        resources=pod_resources(spec, config.pids_limit),
        runtime_handler=handler,
    )


# -------------------------------------------------------------------------------------------------- container


def _user_of(image: Image) -> tuple[int | None, str]:
    """The image's user: (number, "") or (None, name)."""
    user = image.user.partition(":")[0]
    if not user:
        return 0, ""
    return (int(user), "") if user.isdigit() else (None, user)


def check_non_root(pod: core.Pod, container: core.Container, image: Image) -> None:
    """Raises ConfigError where runAsNonRoot forbids what would run."""
    pod_security = pod.spec.securityContext or core.PodSecurityContext()
    security = container.securityContext or core.SecurityContext()
    non_root = security.runAsNonRoot if security.runAsNonRoot is not None else pod_security.runAsNonRoot
    if not non_root:
        return
    who = f'pod: "{pod.metadata.name}_{pod.metadata.namespace}({pod.metadata.uid})", container: {container.name}'
    user = security.runAsUser if security.runAsUser is not None else pod_security.runAsUser
    if user is not None:
        if user == 0:
            raise ConfigError(f"container's runAsUser breaks non-root policy ({who})")
        return
    uid, name = _user_of(image)
    if uid == 0:
        raise ConfigError(f"container has runAsNonRoot and image will run as root ({who})")
    if name:
        raise ConfigError(
            f"container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is "
            f"non-root ({who})"
        )


def security_context(pod: core.Pod, container: core.Container, seccomp_root: Path) -> SecurityContext:
    """The container's wishes over the pod's."""
    outer = pod.spec.securityContext or core.PodSecurityContext()
    inner = container.securityContext or core.SecurityContext()
    capabilities = inner.capabilities or core.Capabilities()
    privileged = bool(inner.privileged)
    profile = inner.seccompProfile or outer.seccompProfile
    seccomp = "Unconfined"
    if profile is not None and not privileged:
        if profile.type == "Localhost":
            seccomp = str(seccomp_root / (profile.localhostProfile or ""))
        else:
            seccomp = profile.type
    groups = [*(outer.supplementalGroups or ())]
    escalation = inner.allowPrivilegeEscalation
    return SecurityContext(
        privileged=privileged,
        run_as_user=inner.runAsUser if inner.runAsUser is not None else outer.runAsUser,
        run_as_group=inner.runAsGroup if inner.runAsGroup is not None else outer.runAsGroup,
        supplemental_groups=tuple(groups),
        fs_group=outer.fsGroup,
        readonly_rootfs=bool(inner.readOnlyRootFilesystem),
        allow_privilege_escalation=True if escalation is None else escalation,
        add_capabilities=tuple(capabilities.add or ()),
        drop_capabilities=tuple(capabilities.drop or ()),
        seccomp=seccomp,
        masked_paths=inner.procMount != "Unmasked",
    )


def container_spec(
    pod: core.Pod,
    container: core.Container,
    attempt: int,
    *,
    image: Image,
    env: Mapping[str, str],
    mounts: Sequence[Mount],
    config: KubeletConfig,
    node_memory: int,
    target: str = "",
) -> ContainerSpec:
    """The whole specification; `target` is the container whose PID namespace it shares. Raises ConfigError."""
    check_non_root(pod, container, image)
    ports = [codec.to_dict(port) for port in container.ports or ()]
    return ContainerSpec(
        name=container.name,
        image=container.image or image.id,
        attempt=attempt,
        command=expanded(container.command, env),
        args=expanded(container.args, env),
        working_dir=container.workingDir or "",
        env=tuple(env.items()),
        mounts=tuple(mounts),
        labels={**pod_labels(pod), LABEL_CONTAINER: container.name},
        annotations={
            HASH: container_hash(container),
            "io.kubernetes.container.restartCount": str(attempt),
            "io.kubernetes.container.terminationMessagePath": container.terminationMessagePath
            or "/dev/termination-log",
            "io.kubernetes.container.terminationMessagePolicy": container.terminationMessagePolicy or "File",
            "io.kubernetes.pod.terminationGracePeriod": str(pod.spec.terminationGracePeriodSeconds or 30),
            **({"io.kubernetes.container.ports": codec.encode(ports).decode()} if ports else {}),
        },
        log_path=f"{container.name}/{attempt}.log",
        stdin=bool(container.stdin),
        stdin_once=bool(container.stdinOnce),
        tty=bool(container.tty),
        stop_signal=_stop_signal(container),
        resources=container_resources(pod, container, node_memory),
        security=security_context(pod, container, config.root / "seccomp"),
        target_pid_of=target,
    )


def _stop_signal(container: core.Container) -> str:
    lifecycle = container.lifecycle
    return (lifecycle.stopSignal or "") if lifecycle is not None else ""
