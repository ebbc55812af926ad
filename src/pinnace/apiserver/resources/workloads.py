"""What Deployments, ReplicaSets, StatefulSets and DaemonSets share: selector, template, replicas, scale."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pinnace.api.core import v1 as core
from pinnace.api.fields import FieldError, forbidden, invalid, not_supported
from pinnace.api.labels import selector_of
from pinnace.api.meta import v1 as meta
from pinnace.apiserver.resource import Scale
from pinnace.apiserver.resources.podspec.spec import validate_pod_template
from pinnace.apiserver.resources.selectors import is_empty, matches, validate_selector


def validate_workload_selector(selector: meta.LabelSelector, path: str, kind: str) -> Iterator[FieldError]:
    """A workload without a selector would take every pod for its own."""
    yield from validate_selector(selector, path)
    if is_empty(selector):
        yield invalid(path, selector, f"empty selector is invalid for {kind}")


def validate_template(
    template: core.PodTemplateSpec, selector: meta.LabelSelector, path: str
) -> Iterator[FieldError]:
    """A template whose pods the selector finds, restarted for ever."""
    if not is_empty(selector):
        labels = template.metadata.labels or {}
        if not matches(selector, labels):
            yield invalid(f"{path}.metadata.labels", labels, "`selector` does not match template `labels`")
    yield from validate_pod_template(template, path)
    yield from validate_always(template, path)


def validate_always(template: core.PodTemplateSpec, path: str) -> Iterator[FieldError]:
    if template.spec.restartPolicy != "Always":
        yield not_supported(f"{path}.spec.restartPolicy", template.spec.restartPolicy or "", ("Always",))
    if template.spec.activeDeadlineSeconds is not None:
        yield forbidden(
            f"{path}.spec.activeDeadlineSeconds", "activeDeadlineSeconds in ReplicaSet is not Supported"
        )


def _set_replicas(thing: Any, replicas: int) -> None:
    thing.spec.replicas = replicas


SCALE: Scale[Any] = Scale(
    replicas=lambda thing: thing.spec.replicas or 0,
    set_replicas=_set_replicas,
    status_replicas=lambda thing: thing.status.replicas or 0,
    selector=lambda thing: str(selector_of(thing.spec.selector)),
)
