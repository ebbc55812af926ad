"""A container's environment: literals, ConfigMaps, Secrets, fields, resources, and the services around it.

Pure: the objects come in through `Sources`. Errors are `ConfigError`, which becomes CreateContainerConfigError.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pinnace.api.core import v1 as core
from pinnace.kubelet.policy import all_containers, amount

_REFERENCE = re.compile(r"\$(\$|\([^()]*\))")
_SUBSCRIPT = re.compile(r"^(metadata\.(?:labels|annotations))\['(.+)'\]$")


class ConfigError(Exception):
    """The container cannot be configured; the message is its waiting message."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What an environment is made from. The mappings hold only what the pod names; absent: it does not exist."""

    pod: core.Pod
    config_maps: Mapping[str, core.ConfigMap] = field(default_factory=dict)
    secrets: Mapping[str, core.Secret] = field(default_factory=dict)
    services: Sequence[core.Service] = ()
    pod_ips: tuple[str, ...] = ()
    host_ips: tuple[str, ...] = ()
    allocatable: Mapping[str, Any] = field(default_factory=dict)    # of the node, for unset limits


def expand(text: str, values: Mapping[str, str]) -> str:
    """`$(NAME)` becomes the variable's value, `$$` a dollar sign; unknown references stay."""

    def one(match: re.Match[str]) -> str:
        inner = match.group(1)
        if inner == "$":
            return "$"
        return values.get(inner[1:-1], match.group(0))

    return _REFERENCE.sub(one, text)


def environment(container: core.Container, sources: Sources) -> dict[str, str]:
    """All variables, in order. Raises ConfigError."""
    env: dict[str, str] = {}
    for source in container.envFrom or ():
        env.update(_from(source, sources))
    services = service_environment(sources)
    for variable in container.env or ():
        if variable.valueFrom is not None:
            value = _value_from(variable.valueFrom, container, sources)
            if value is None:
                continue
        else:
            value = expand(variable.value or "", {**services, **env})
        env[variable.name] = value
    return {**{k: v for k, v in services.items() if k not in env}, **env}


def _from(source: core.EnvFromSource, sources: Sources) -> dict[str, str]:
    prefix = source.prefix or ""
    if source.configMapRef is not None:
        name = source.configMapRef.name or ""
        found = sources.config_maps.get(name)
        if found is None:
            if source.configMapRef.optional:
                return {}
            raise ConfigError(f'configmap "{name}" not found')
        return {prefix + key: value for key, value in sorted((found.data or {}).items())}
    if source.secretRef is not None:
        name = source.secretRef.name or ""
        secret = sources.secrets.get(name)
        if secret is None:
            if source.secretRef.optional:
                return {}
            raise ConfigError(f'secret "{name}" not found')
        return {prefix + key: _text(value) for key, value in sorted((secret.data or {}).items())}
    return {}


def _text(encoded: str) -> str:
    return base64.b64decode(encoded).decode("utf-8", "surrogateescape")


def _value_from(source: core.EnvVarSource, container: core.Container, sources: Sources) -> str | None:
    where = f"{sources.pod.metadata.namespace}/"
    if source.fieldRef is not None:
        return field_value(source.fieldRef.fieldPath, sources)
    if source.resourceFieldRef is not None:
        return resource_value(source.resourceFieldRef, container, sources)
    if source.configMapKeyRef is not None:
        ref = source.configMapKeyRef
        found = sources.config_maps.get(ref.name or "")
        if found is None:
            if ref.optional:
                return None
            raise ConfigError(f'configmap "{ref.name}" not found')
        value = (found.data or {}).get(ref.key)
        if value is None:
            if ref.optional:
                return None
            raise ConfigError(f"couldn't find key {ref.key} in ConfigMap {where}{ref.name}")
        return value
    if source.secretKeyRef is not None:
        key = source.secretKeyRef
        secret = sources.secrets.get(key.name or "")
        if secret is None:
            if key.optional:
                return None
            raise ConfigError(f'secret "{key.name}" not found')
        encoded = (secret.data or {}).get(key.key)
        if encoded is None:
            if key.optional:
                return None
            raise ConfigError(f"couldn't find key {key.key} in Secret {where}{key.name}")
        return _text(encoded)
    return ""


def field_value(path: str, sources: Sources) -> str:
    """A field of the pod as the downward API gives it. Raises ConfigError for one it does not give."""
    pod = sources.pod
    meta, spec = pod.metadata, pod.spec
    if match := _SUBSCRIPT.match(path):
        values = meta.labels if match.group(1) == "metadata.labels" else meta.annotations
        return (values or {}).get(match.group(2), "")
    simple = {
        "metadata.name": meta.name or "",
        "metadata.namespace": meta.namespace or "",
        "metadata.uid": meta.uid or "",
        "metadata.labels": format_map(meta.labels or {}),
        "metadata.annotations": format_map(meta.annotations or {}),
        "spec.nodeName": spec.nodeName or "",
        "spec.serviceAccountName": spec.serviceAccountName or "",
        "spec.restartPolicy": spec.restartPolicy or "",
        "status.podIP": sources.pod_ips[0] if sources.pod_ips else "",
        "status.podIPs": ",".join(sources.pod_ips),
        "status.hostIP": sources.host_ips[0] if sources.host_ips else "",
        "status.hostIPs": ",".join(sources.host_ips),
    }
    if path not in simple:
        raise ConfigError(f"unsupported fieldPath: {path}")
    return simple[path]


def format_map(values: Mapping[str, str]) -> str:
    """`key="value"` lines, sorted, as the downward API writes labels and annotations."""
    return "\n".join(f"{key}={_quote(values[key])}" for key in sorted(values))


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    escaped = escaped.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    return f'"{escaped}"'


def resource_value(ref: core.ResourceFieldSelector, container: core.Container, sources: Sources) -> str:
    """A request or limit, in units of the divisor, rounded up; an unset limit is the node's allocatable."""
    target = container
    if ref.containerName:
        named = [c for c in all_containers(sources.pod.spec) if c.name == ref.containerName]
        if not named:
            raise ConfigError(f"container {ref.containerName} not found")
        target = named[0]
    side, _, name = ref.resource.partition(".")
    resources = target.resources
    chosen = (resources.limits if side == "limits" else resources.requests) or {}
    value = amount(chosen.get(name))
    if side == "limits" and not value:
        value = amount(sources.allocatable.get(name))
    divisor = amount(ref.divisor) or 1.0
    return str(math.ceil(round(value / divisor, 9)))


def service_environment(sources: Sources) -> dict[str, str]:
    """Docker-links-like variables for the services of the namespace; those of `kubernetes` for every pod."""
    namespace = sources.pod.metadata.namespace or ""
    links = sources.pod.spec.enableServiceLinks is not False
    chosen: dict[str, core.Service] = {}
    for service in sources.services:
        meta = service.metadata
        if service.spec.clusterIP in (None, "", "None"):
            continue
        if meta.namespace == namespace and links:
            chosen[meta.name or ""] = service
        elif meta.namespace == "default" and meta.name == "kubernetes":
            chosen.setdefault("kubernetes", service)
    env: dict[str, str] = {}
    for name in sorted(chosen):
        env.update(_links(name, chosen[name].spec))
    return env


def _links(name: str, spec: core.ServiceSpec) -> dict[str, str]:
    prefix = name.upper().replace("-", "_")
    ip = spec.clusterIP or ""
    ports = spec.ports or []
    env = {f"{prefix}_SERVICE_HOST": ip}
    if not ports:
        return env
    env[f"{prefix}_SERVICE_PORT"] = str(ports[0].port)
    for port in ports:
        if port.name:
            env[f"{prefix}_SERVICE_PORT_{port.name.upper().replace('-', '_')}"] = str(port.port)
    host = f"[{ip}]" if ":" in ip else ip
    for number, port in enumerate(ports):
        protocol = (port.protocol or "TCP").lower()
        url = f"{protocol}://{host}:{port.port}"
        if number == 0:
            env[f"{prefix}_PORT"] = url
        base = f"{prefix}_PORT_{port.port}_{protocol.upper()}"
        env[base] = url
        env[f"{base}_PROTO"] = protocol
        env[f"{base}_PORT"] = str(port.port)
        env[f"{base}_ADDR"] = ip
    return env


def expanded(words: Iterable[str] | None, env: Mapping[str, str]) -> tuple[str, ...]:
    """A command or its arguments with variables put in."""
    return tuple(expand(word, env) for word in words or ())
