"""The resize path of a pod: cpu and memory of its containers, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from pinnace.api.core import v1 as core
from pinnace.api.fields import FieldError, forbidden, invalid
from pinnace.apiserver.resource import Context
from pinnace.apiserver.resources.pods.defaults import qos_class
from pinnace.apiserver.resources.pods.update import keep_metadata
from pinnace.apiserver.resources.pods.validation import validate_pod

Amounts = Mapping[str, str | int | float]


def prepare(new: core.Pod, old: core.Pod, _: Context) -> None:
    """Only resources and resize policies are taken from what was sent."""
    replace = msgspec.structs.replace
    spec = replace(old.spec)
    spec.containers = _taken(new.spec.containers, old.spec.containers)
    if old.spec.initContainers:
        spec.initContainers = _taken(new.spec.initContainers or [], old.spec.initContainers)
    new.spec = spec
    new.status = old.status
    new.metadata = keep_metadata(new, old)


def _taken(new: list[core.Container], old: list[core.Container]) -> list[core.Container]:
    by_name = {container.name: container for container in new}
    return [
        msgspec.structs.replace(
            was, resources=by_name[was.name].resources, resizePolicy=by_name[was.name].resizePolicy
        )
        if was.name in by_name
        else was
        for was in old
    ]


def validate(new: core.Pod, old: core.Pod) -> Iterator[FieldError]:
    yield from validate_pod(new)
    if "kubernetes.io/config.mirror" in (old.metadata.annotations or {}):
        yield forbidden("", "static pods cannot be resized")
        return
    if old.spec.os is not None and old.spec.os.name == "windows":
        yield forbidden("", "windows pods cannot be resized")
        return
    if (old.status.qosClass or qos_class(old.spec)) != qos_class(new.spec):
        yield invalid("spec", new.status.qosClass or "", "Pod QOS Class may not change as a result of resizing")
    for i, (after, before) in enumerate(zip(new.spec.containers, old.spec.containers, strict=True)):
        yield from _container(after, before, f"spec.containers[{i}].resources")
    pairs = zip(new.spec.initContainers or (), old.spec.initContainers or (), strict=True)
    for i, (after, before) in enumerate(pairs):
        if before.restartPolicy == "Always":
            yield from _container(after, before, f"spec.initContainers[{i}].resources")
        elif after != before:
            yield forbidden("spec", "resources for non-sidecar init containers are immutable")


def _container(after: core.Container, before: core.Container, path: str) -> Iterator[FieldError]:
    for word in ("requests", "limits"):
        new: Amounts = getattr(after.resources, word) or {}
        old: Amounts = getattr(before.resources, word) or {}
        if any(name not in new for name in old):
            yield forbidden(f"{path}.{word}", f"resource {word} cannot be removed")
        others = (name for name in (*new, *old) if name not in ("cpu", "memory"))
        if any(new.get(name) != old.get(name) for name in others):
            yield forbidden("spec", "only cpu and memory resources are mutable")
