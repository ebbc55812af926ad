"""Validation of a container's environment: names, and exactly one source a value."""

from __future__ import annotations

from collections.abc import Iterator

from pinnace.api.core import v1 as core
from pinnace.api.fields import FieldError, invalid, not_supported, required
from pinnace.apiserver.resources import rules

ENV_FIELDS = (
    "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
    "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
)  # fmt: skip
VOLUME_FIELDS = ("metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid")
# Labels of fields that exist in the API but have no place in the environment or in files.
_CONVERTIBLE = frozenset(
    (*ENV_FIELDS, *VOLUME_FIELDS, "spec.restartPolicy", "spec.schedulerName", "status.phase")
)
CONTAINER_RESOURCES = (
    "limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage",
    "requests.memory",
)  # fmt: skip
_HUGE = ("limits.hugepages-", "requests.hugepages-")
_BYTE_DIVISORS = frozenset(
    ("1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei")
)
_BYTES = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei"


def validate_environment(container: core.Container | core.EphemeralContainer, path: str) -> Iterator[FieldError]:
    for i, variable in enumerate(container.env or ()):
        here = f"{path}.env[{i}]"
        if not variable.name:
            yield required(f"{here}.name")
        else:
            yield from rules.env_name(f"{here}.name", variable.name)
        if variable.valueFrom is not None:
            yield from _source(variable.valueFrom, bool(variable.value), f"{here}.valueFrom")
    for i, origin in enumerate(container.envFrom or ()):
        here = f"{path}.envFrom[{i}]"
        if origin.prefix:
            yield from rules.env_name(f"{here}.prefix", origin.prefix)
        sources = 0
        for word, reference in (("configMapRef", origin.configMapRef), ("secretRef", origin.secretRef)):
            if reference is None:
                continue
            sources += 1
            if not reference.name:
                yield required(f"{here}.{word}.name")
            else:
                yield from rules.dns_subdomain(f"{here}.{word}.name", reference.name)
        if sources == 0:
            yield invalid(f"{path}.envFrom", "", "must specify one of: `configMapRef` or `secretRef`")
        elif sources > 1:
            yield invalid(f"{path}.envFrom", "", "may not have more than one field specified at a time")


def _source(source: core.EnvVarSource, has_value: bool, path: str) -> Iterator[FieldError]:
    sources = 0
    if source.fieldRef is not None:
        sources += 1
        yield from validate_field_ref(source.fieldRef, ENV_FIELDS, f"{path}.fieldRef")
    if source.resourceFieldRef is not None:
        sources += 1
        yield from validate_resource_ref(source.resourceFieldRef, f"{path}.resourceFieldRef", volume=False)
    if source.configMapKeyRef is not None:
        sources += 1
        yield from _key(source.configMapKeyRef, f"{path}.configMapKeyRef")
    if source.secretKeyRef is not None:
        sources += 1
        yield from _key(source.secretKeyRef, f"{path}.secretKeyRef")
    if source.fileKeyRef is not None:
        sources += 1
    if sources == 0:
        yield invalid(
            path, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`"
        )
    elif has_value:
        yield invalid(path, "", "may not be specified when `value` is not empty")
    elif sources > 1:
        yield invalid(path, "", "may not have more than one field specified at a time")


def _key(reference: core.ConfigMapKeySelector | core.SecretKeySelector, path: str) -> Iterator[FieldError]:
    yield from rules.dns_subdomain(f"{path}.name", reference.name or "")
    if not reference.key:
        yield required(f"{path}.key")
    else:
        yield from rules.config_key(f"{path}.key", reference.key)


def validate_field_ref(
    reference: core.ObjectFieldSelector, allowed: tuple[str, ...], path: str
) -> Iterator[FieldError]:
    if not reference.apiVersion:
        yield required(f"{path}.apiVersion")
        return
    field = reference.fieldPath
    if not field:
        yield required(f"{path}.fieldPath")
        return
    base, bracket, rest = field.partition("['")
    subscripted = bool(bracket) and rest.endswith("']")
    if (base if subscripted else field) not in _CONVERTIBLE:
        yield invalid(
            f"{path}.fieldPath", field, f"error converting fieldPath: field label not supported: {field}"
        )
        return
    if subscripted:
        key = rest[:-2]
        if base == "metadata.annotations":
            yield from rules.qualified_name(path, key.lower())
        elif base == "metadata.labels":
            yield from rules.qualified_name(path, key)
        else:
            yield invalid(path, base, "does not support subscript")
    elif field not in allowed:
        yield not_supported(f"{path}.fieldPath", field, sorted(allowed))


def validate_resource_ref(
    reference: core.ResourceFieldSelector, path: str, *, volume: bool
) -> Iterator[FieldError]:
    name = reference.resource
    if volume and not reference.containerName:
        yield required(f"{path}.containerName")
    elif not name:
        yield required(f"{path}.resource")
    elif name not in CONTAINER_RESOURCES and not name.startswith(_HUGE):
        yield not_supported(f"{path}.resource", name, CONTAINER_RESOURCES)
    divisor = reference.divisor
    if divisor in (None, "", "0", 0):
        return
    if name in ("limits.cpu", "requests.cpu"):
        if divisor not in ("1", "1m", 1):
            yield invalid(
                f"{path}.divisor", name, "only divisor's values 1m and 1 are supported with the cpu resource"
            )
    elif str(divisor) not in _BYTE_DIVISORS:
        kind = name.partition(".")[2] if name else ""
        word = "hugepages" if kind.startswith("hugepages-") else kind.replace("ephemeral", "local ephemeral")
        yield invalid(
            f"{path}.divisor",
            name,
            f"only divisor's values {_BYTES} are supported with the {word.replace('-', ' ')} resource",
        )
