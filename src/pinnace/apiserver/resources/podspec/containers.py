"""Validation of containers: names, images, ports, environment, mounts, and what init containers may not have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pinnace.api.core import v1 as core
from pinnace.api.fields import FieldError, duplicate, forbidden, invalid, not_found, not_supported, required
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.podspec.environment import validate_environment
from pinnace.apiserver.resources.podspec.probes import validate_lifecycle, validate_probe
from pinnace.apiserver.resources.podspec.quantities import validate_requirements
from pinnace.apiserver.resources.podspec.security import validate_security_context

PROTOCOLS = ("SCTP", "TCP", "UDP")
NOT_FOR_INIT = "may not be set for init containers without restartPolicy=Always"
NOT_FOR_EPHEMERAL = "cannot be set for an Ephemeral Container"


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What the containers of one pod have in common."""

    volumes: Mapping[str, core.Volume]
    claims: Sequence[str]
    grace: int | None
    restart_policy: str
    host_users: bool
    is_pod: bool


def validate_containers(
    containers: Sequence[core.Container], facts: PodFacts, path: str
) -> Iterator[FieldError]:
    if not containers:
        yield required(path)
        return
    names: set[str] = set()
    for i, container in enumerate(containers):
        here = f"{path}[{i}]"
        yield from _common(container, facts, here)
        if container.name in names:
            yield duplicate(f"{here}.name", container.name)
        names.add(container.name)
        yield from _hooks(container, facts.grace, here)
        if container.restartPolicy is not None:
            yield from _restart_policy(container, here)
        if container.restartPolicyRules:
            yield from _restart_rules(container, here)
    yield from _host_port_conflicts(containers, path)


def validate_init_containers(
    containers: Sequence[core.Container], regular: Sequence[core.Container], facts: PodFacts, path: str
) -> Iterator[FieldError]:
    names = {container.name for container in regular}
    for i, container in enumerate(containers):
        here = f"{path}[{i}]"
        yield from _common(container, facts, here)
        if container.restartPolicy is not None:
            yield from _restart_policy(container, here)
        if container.name in names:
            yield duplicate(f"{here}.name", container.name)
        elif container.name:
            names.add(container.name)
        yield from _host_port_conflicts((container,), path)
        if container.restartPolicy == "Always":
            yield from _hooks(container, facts.grace, here)
        else:
            for word in ("lifecycle", "livenessProbe", "readinessProbe", "startupProbe"):
                if getattr(container, word) is not None:
                    yield forbidden(f"{here}.{word}", NOT_FOR_INIT)


def validate_ephemeral_containers(
    containers: Sequence[core.EphemeralContainer], others: Sequence[core.Container], facts: PodFacts, path: str
) -> Iterator[FieldError]:
    targets = {container.name for container in others}
    names = set(targets)
    for i, container in enumerate(containers):
        here = f"{path}[{i}]"
        yield from _common(container, facts, here)
        yield from image_whitespace(container.image, here)
        if container.name in names:
            yield duplicate(f"{here}.name", container.name)
        names.add(container.name)
        if container.targetContainerName and container.targetContainerName not in targets:
            yield not_found(f"{here}.targetContainerName", container.targetContainerName)
        for word in (
            "ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resizePolicy", "restartPolicy",
        ):  # fmt: skip
            if getattr(container, word):
                yield forbidden(f"{here}.{word}", NOT_FOR_EPHEMERAL)
        resources = container.resources
        if resources is not None and (resources.limits or resources.requests or resources.claims):
            yield forbidden(f"{here}.resources", NOT_FOR_EPHEMERAL)
        for j, mount in enumerate(container.volumeMounts or ()):
            if mount.subPath:
                yield forbidden(f"{here}.volumeMounts[{j}].subPath", NOT_FOR_EPHEMERAL)
            if mount.subPathExpr:
                yield forbidden(f"{here}.volumeMounts[{j}].subPathExpr", NOT_FOR_EPHEMERAL)


def image_whitespace(image: str | None, path: str) -> Iterator[FieldError]:
    """Only for pods: templates have always been allowed a padded image."""
    if image and image != image.strip():
        yield invalid(f"{path}.image", image, "must not have leading or trailing whitespace")


def _common(
    container: core.Container | core.EphemeralContainer, facts: PodFacts, path: str
) -> Iterator[FieldError]:
    if not container.name:
        yield required(f"{path}.name")
    else:
        yield from rules.dns_label(f"{path}.name", container.name)
    if not container.image:
        yield required(f"{path}.image")
    policy = container.terminationMessagePolicy
    if policy not in ("File", "FallbackToLogsOnError"):
        where = f"{path}.terminationMessagePolicy"
        yield not_supported(where, policy, ("FallbackToLogsOnError", "File")) if policy else required(where)
    if container.ports:
        yield from _ports(container.ports, f"{path}.ports")
    yield from validate_environment(container, path)
    if container.volumeMounts:
        yield from _mounts(container, facts, f"{path}.volumeMounts")
    if container.volumeDevices:
        yield from _devices(container, facts, f"{path}.volumeDevices")
    pull = container.imagePullPolicy
    if pull not in ("Always", "IfNotPresent", "Never"):
        where = f"{path}.imagePullPolicy"
        yield not_supported(where, pull, ("Always", "IfNotPresent", "Never")) if pull else required(where)
    if container.resources is not None:
        yield from validate_requirements(container.resources, facts.claims, f"{path}.resources")
    if container.resizePolicy:
        yield from _resize_policy(container.resizePolicy, facts.restart_policy, f"{path}.resizePolicy")
    if container.securityContext is not None:
        yield from validate_security_context(
            container.securityContext, f"{path}.securityContext", facts.host_users
        )


def _hooks(container: core.Container, grace: int | None, path: str) -> Iterator[FieldError]:
    if container.lifecycle is not None:
        yield from validate_lifecycle(container.lifecycle, grace, f"{path}.lifecycle")
    if container.livenessProbe is not None:
        yield from validate_probe(container.livenessProbe, "liveness", f"{path}.livenessProbe")
    if container.readinessProbe is not None:
        yield from validate_probe(container.readinessProbe, "readiness", f"{path}.readinessProbe")
    if container.startupProbe is not None:
        yield from validate_probe(container.startupProbe, "startup", f"{path}.startupProbe")


def _restart_policy(container: core.Container, path: str) -> Iterator[FieldError]:
    policy = container.restartPolicy
    if policy not in ("Always", "Never", "OnFailure"):
        yield not_supported(f"{path}.restartPolicy", policy, ("Always", "Never", "OnFailure"))


def _restart_rules(container: core.Container, path: str) -> Iterator[FieldError]:
    if container.restartPolicy is None:
        yield required(f"{path}.restartPolicy", "must specify restartPolicy when restart rules are used")
    if len(container.restartPolicyRules or ()) > 20:
        yield invalid(f"{path}.restartPolicyRules", None, "must not have more than 20 rules")


def _ports(ports: Sequence[core.ContainerPort], path: str) -> Iterator[FieldError]:
    names: set[str] = set()
    for i, port in enumerate(ports):
        here = f"{path}[{i}]"
        if port.name:
            bad = rules.port_name(f"{here}.name", port.name)
            if bad:
                yield from bad
            elif port.name in names:
                yield duplicate(f"{here}.name", port.name)
            else:
                names.add(port.name)
        if not port.containerPort:
            yield required(f"{here}.containerPort")
        else:
            yield from rules.port_number(f"{here}.containerPort", port.containerPort)
        if port.hostPort:
            yield from rules.port_number(f"{here}.hostPort", port.hostPort)
        if port.protocol not in PROTOCOLS:
            where = f"{here}.protocol"
            yield not_supported(where, port.protocol, PROTOCOLS) if port.protocol else required(where)


def _host_port_conflicts(containers: Sequence[core.Container], path: str) -> Iterator[FieldError]:
    seen: set[str] = set()
    for i, container in enumerate(containers):
        for j, port in enumerate(container.ports or ()):
            if not port.hostPort:
                continue
            text = f"{port.protocol or ''}/{port.hostIP or ''}/{port.hostPort}"
            if text in seen:
                yield duplicate(f"{path}[{i}].ports[{j}].hostPort", text)
            seen.add(text)


def _mounts(
    container: core.Container | core.EphemeralContainer, facts: PodFacts, path: str
) -> Iterator[FieldError]:
    devices = {device.name: device.devicePath for device in container.volumeDevices or ()}
    points: set[str] = set()
    for i, mount in enumerate(container.volumeMounts or ()):
        here = f"{path}[{i}]"
        if not mount.name:
            yield required(f"{here}.name")
        volume = facts.volumes.get(mount.name)
        if volume is None:
            yield not_found(f"{here}.name", mount.name)
        if not mount.mountPath:
            yield required(f"{here}.mountPath")
        if mount.mountPath in points:
            yield invalid(f"{here}.mountPath", mount.mountPath, "must be unique")
        points.add(mount.mountPath)
        if mount.name in devices:
            yield invalid(f"{here}.name", mount.name, "must not already exist in volumeDevices")
        if mount.mountPath in devices.values():
            yield invalid(f"{here}.mountPath", mount.mountPath, "must not already exist as a path in volumeDevices")
        if mount.subPath:
            yield from rules.local_descending_path(f"{path}.subPath", mount.subPath)
        if mount.subPathExpr:
            if mount.subPath:
                yield invalid(
                    f"{here}.subPathExpr", mount.subPathExpr, "subPathExpr and subPath are mutually exclusive"
                )
            yield from rules.local_descending_path(f"{path}.subPathExpr", mount.subPathExpr)
        if mount.mountPropagation is not None:
            yield from _propagation(mount.mountPropagation, container, f"{path}.mountPropagation")
        yield from _recursive_read_only(mount, f"{path}.recursiveReadOnly")


def _propagation(
    mode: str, container: core.Container | core.EphemeralContainer, path: str
) -> Iterator[FieldError]:
    if mode not in ("None", "HostToContainer", "Bidirectional"):
        yield not_supported(path, mode, ("Bidirectional", "HostToContainer", "None"))
    elif mode == "Bidirectional":
        context = container.securityContext
        if context is None or not context.privileged:
            yield forbidden(path, "Bidirectional mount propagation is available only to privileged containers")


def _recursive_read_only(mount: core.VolumeMount, path: str) -> Iterator[FieldError]:
    mode = mount.recursiveReadOnly
    if mode is None or mode == "Disabled":
        return
    if mode not in ("IfPossible", "Enabled"):
        yield not_supported(path, mode, ("Disabled", "Enabled", "IfPossible"))
        return
    if not mount.readOnly:
        yield forbidden(path, "may only be specified when readOnly is true")
    if mount.mountPropagation not in (None, "None"):
        yield forbidden(path, "may only be specified when mountPropagation is None or not specified")


def _devices(
    container: core.Container | core.EphemeralContainer, facts: PodFacts, path: str
) -> Iterator[FieldError]:
    mounts = {mount.name: mount.mountPath for mount in container.volumeMounts or ()}
    names: set[str] = set()
    paths: set[str] = set()
    for i, device in enumerate(container.volumeDevices or ()):
        here = f"{path}[{i}]"
        volume = facts.volumes.get(device.name)
        if not device.name:
            yield required(f"{here}.name")
        if device.name in names:
            yield invalid(f"{here}.name", device.name, "must be unique")
        if volume is None:
            yield not_found(f"{here}.name", device.name)
        elif volume.persistentVolumeClaim is None and volume.ephemeral is None:
            yield invalid(
                f"{here}.name",
                device.name,
                "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
            )
        if not device.devicePath:
            yield required(f"{here}.devicePath")
        if device.devicePath in paths:
            yield invalid(f"{here}.devicePath", device.devicePath, "must be unique")
        if ".." in (device.devicePath or "").split("/"):
            yield invalid(f"{here}.devicePath", device.devicePath, "can not contain backsteps ('..')")
        paths.add(device.devicePath)
        if device.name in mounts:
            yield invalid(f"{here}.name", device.name, "must not already exist in volumeMounts")
        if device.devicePath in mounts.values():
            yield invalid(f"{here}.devicePath", device.devicePath, "must not already exist as a path in volumeMounts")
        names.add(device.name)


def _resize_policy(
    policies: Sequence[core.ContainerResizePolicy], pod_restart_policy: str, path: str
) -> Iterator[FieldError]:
    seen: set[str] = set()
    for i, policy in enumerate(policies):
        if policy.resourceName in seen:
            yield duplicate(f"{path}[{i}]", policy.resourceName)
        seen.add(policy.resourceName)
        if not policy.resourceName:
            yield required(path)
        elif policy.resourceName not in ("cpu", "memory"):
            yield not_supported(path, policy.resourceName, ("cpu", "memory"))
        if not policy.restartPolicy:
            yield required(path)
        elif policy.restartPolicy not in ("NotRequired", "RestartContainer"):
            yield not_supported(path, policy.restartPolicy, ("NotRequired", "RestartContainer"))
        if pod_restart_policy == "Never" and policy.restartPolicy != "NotRequired":
            yield invalid(
                path, policy.restartPolicy, "must be 'NotRequired' when `restartPolicy` is 'Never'"
            )
