"""What is allowed but probably not meant, about pods and pod templates: sent as Warning headers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import Any

from pinnace.api.core import v1 as core

# Node labels that have gone, and what to say instead.
_NODE_LABELS = {
    "beta.kubernetes.io/arch": 'deprecated since v1.14; use "kubernetes.io/arch" instead',
    "beta.kubernetes.io/os": 'deprecated since v1.14; use "kubernetes.io/os" instead',
    "failure-domain.beta.kubernetes.io/region": 'deprecated since v1.17; use "topology.kubernetes.io/region" instead',
    "failure-domain.beta.kubernetes.io/zone": 'deprecated since v1.17; use "topology.kubernetes.io/zone" instead',
    "beta.kubernetes.io/instance-type": 'deprecated since v1.17; use "node.kubernetes.io/instance-type" instead',
}
_ANNOTATIONS = {
    "scheduler.alpha.kubernetes.io/critical-pod": 'non-functional in v1.16+; use the "priorityClassName" field instead',
    "security.alpha.kubernetes.io/sysctls": 'non-functional in v1.11+; use the "sysctls" field instead',
    "security.alpha.kubernetes.io/unsafe-sysctls": 'non-functional in v1.11+; use the "sysctls" field instead',
    "seccomp.security.alpha.kubernetes.io/pod": (
        'non-functional in v1.27+; use the "seccompProfile" field instead'
    ),
}


def pod_warnings(new: core.Pod, old: core.Pod | None) -> Iterable[str]:
    if old is not None and new.spec == old.spec:
        return ()
    return template_warnings(new.spec, new.metadata.annotations, "spec", "metadata.annotations")


def of_template(path: str) -> Callable[..., Iterable[str]]:
    """The `warnings` of a kind that holds a pod template there."""
    template: Callable[[Any], core.PodTemplateSpec | None] = attrgetter(path)

    def warnings(new: Any, old: Any | None) -> Iterable[str]:
        now = template(new)
        if now is None or (old is not None and template(old) == now):
            return ()
        return template_warnings(now.spec, now.metadata.annotations, f"{path}.spec", f"{path}.metadata.annotations")

    return warnings


def template_warnings(
    spec: core.PodSpec, annotations: dict[str, str] | None, path: str, annotation_path: str
) -> Iterator[str]:
    for key in annotations or ():
        text = _ANNOTATIONS.get(key)
        if text is not None:
            yield f"{annotation_path}[{key}]: {text}"
    for key in spec.nodeSelector or ():
        if key in _NODE_LABELS:
            yield f"{path}.nodeSelector[{key}]: {_NODE_LABELS[key]}"
    for i, alias in enumerate(spec.hostAliases or ()):
        if "." not in alias.ip and ":" not in alias.ip:
            yield f"{path}.hostAliases[{i}].ip: should be a valid IP address"
    for i, reference in enumerate(spec.imagePullSecrets or ()):
        if not reference.name:
            yield f'{path}.imagePullSecrets[{i}]: invalid empty name "{reference.name or ""}"'
    if spec.terminationGracePeriodSeconds is not None and spec.terminationGracePeriodSeconds < 0:
        yield (
            f"{path}.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
        )
    yield from _ports(spec, path)
    yield from _environment(spec, path)


def _ports(spec: core.PodSpec, path: str) -> Iterator[str]:
    seen: dict[tuple[int, str], str] = {}
    for i, container in enumerate(spec.containers):
        for j, port in enumerate(container.ports or ()):
            here = f"{path}.containers[{i}].ports[{j}]"
            key = (port.containerPort, port.protocol or "TCP")
            if key in seen:
                yield f"{here}: duplicate port definition with {seen[key]}"
            else:
                seen[key] = here


def _environment(spec: core.PodSpec, path: str) -> Iterator[str]:
    for word, containers in (("initContainers", spec.initContainers), ("containers", spec.containers)):
        for i, container in enumerate(containers or ()):
            seen: set[str] = set()
            for j, variable in enumerate(container.env or ()):
                if variable.name in seen:
                    here = f"{path}.{word}[{i}].env[{j}]"
                    yield (
                        f'{here}: hides previous definition of "{variable.name}", which may be dropped when using apply'
                    )
                seen.add(variable.name)
