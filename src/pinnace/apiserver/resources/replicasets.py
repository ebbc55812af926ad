"""ReplicaSets, and the ReplicationControllers they came from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pinnace.api.apps import v1 as apps
from pinnace.api.core import v1 as core
from pinnace.api.fields import FieldError, forbidden, invalid, not_supported, required
from pinnace.api.kinds import kind_of
from pinnace.apiserver.resource import Column, Resource, Scale
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.columns import (
    AGE,
    NAME,
    column,
    format_labels,
    format_selector,
    template_columns,
)
from pinnace.apiserver.resources.podspec.defaults import default_pod_spec, default_pod_template
from pinnace.apiserver.resources.podspec.spec import validate_pod_template
from pinnace.apiserver.resources.podspec.warnings import of_template
from pinnace.apiserver.resources.strategy import (
    keep_status,
    non_negative_counts,
    not_above_replicas,
    reset_status,
    status_part,
)
from pinnace.apiserver.resources.workloads import SCALE, validate_template, validate_workload_selector

# A ReplicationController counts all but one of what a ReplicaSet counts.
_COUNTS_OF_OLD = ("replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration")
_COUNTS = (*_COUNTS_OF_OLD, "terminatingReplicas")


def default(replica_set: apps.ReplicaSet) -> None:
    default_pod_spec(replica_set.spec.template.spec)
    if replica_set.spec.replicas is None:
        replica_set.spec.replicas = 1


def validate(replica_set: apps.ReplicaSet) -> Iterator[FieldError]:
    spec = replica_set.spec
    yield from rules.non_negative("spec.replicas", spec.replicas or 0)
    yield from rules.non_negative("spec.minReadySeconds", spec.minReadySeconds or 0)
    yield from validate_workload_selector(spec.selector, "spec.selector", "deployment")
    yield from validate_template(spec.template, spec.selector, "spec.template")


def validate_update(new: apps.ReplicaSet, old: apps.ReplicaSet) -> Iterator[FieldError]:
    yield from validate(new)
    yield from rules.immutable("spec.selector", new.spec.selector, old.spec.selector)


def validate_status(new: Any, _: Any) -> Iterator[FieldError]:
    status = new.status
    counts = _COUNTS if isinstance(status, apps.ReplicaSetStatus) else _COUNTS_OF_OLD
    yield from non_negative_counts(status, "status", *counts)
    yield from not_above_replicas(status, "fullyLabeledReplicas", "readyReplicas", "availableReplicas")
    if (status.availableReplicas or 0) > (status.readyReplicas or 0):
        yield invalid(
            "status.availableReplicas", status.availableReplicas, "cannot be greater than readyReplicas"
        )


def _columns(selector: Any) -> tuple[Column[Any], ...]:
    return (
        NAME,
        column("Desired", lambda r: r.spec.replicas or 0, "Pods wanted.", type="integer"),
        column("Current", lambda r: r.status.replicas or 0, "Pods there are.", type="integer"),
        column("Ready", lambda r: r.status.readyReplicas or 0, "Pods that are ready.", type="integer"),
        AGE,
        *template_columns(lambda r: r.spec.template, selector),
    )


def default_controller(controller: core.ReplicationController) -> None:
    spec = controller.spec
    default_pod_template(spec.template)
    labels = spec.template.metadata.labels if spec.template is not None else None
    if labels:
        if not spec.selector:
            spec.selector = dict(labels)
        if not controller.metadata.labels:
            controller.metadata.labels = dict(labels)
    if spec.replicas is None:
        spec.replicas = 1


def validate_controller(controller: core.ReplicationController) -> Iterator[FieldError]:
    spec = controller.spec
    yield from rules.non_negative("spec.minReadySeconds", spec.minReadySeconds or 0)
    if not spec.selector:
        yield required("spec.selector")
    yield from rules.non_negative("spec.replicas", spec.replicas or 0)
    if spec.template is None:
        yield required("spec.template")
        return
    labels = spec.template.metadata.labels or {}
    if any(labels.get(key) != value for key, value in (spec.selector or {}).items()):
        yield invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")
    yield from validate_pod_template(spec.template, "spec.template")
    if spec.template.spec.restartPolicy != "Always":
        yield not_supported(
            "spec.template.spec.restartPolicy", spec.template.spec.restartPolicy or "", ("Always",)
        )
    if spec.template.spec.activeDeadlineSeconds is not None:
        yield forbidden(
            "spec.template.spec.activeDeadlineSeconds",
            "activeDeadlineSeconds in ReplicationController is not Supported",
        )


def _set_replicas(controller: core.ReplicationController, replicas: int) -> None:
    controller.spec.replicas = replicas


REPLICA_SET: Resource[apps.ReplicaSet] = Resource(
    kind=kind_of(apps.ReplicaSet),
    default=default,
    prepare_create=reset_status,
    prepare_update=keep_status,
    validate_create=validate,
    validate_update=validate_update,
    warnings=of_template("spec.template"),
    columns=_columns(lambda r: format_selector(r.spec.selector)),
    fields={"status.replicas": lambda r: str(r.status.replicas or 0)},
    subresources=(status_part(validate_status),),
    scale=SCALE,
)
REPLICATION_CONTROLLER: Resource[core.ReplicationController] = Resource(
    kind=kind_of(core.ReplicationController),
    default=default_controller,
    prepare_create=reset_status,
    prepare_update=keep_status,
    validate_create=validate_controller,
    validate_update=lambda new, _: validate_controller(new),
    warnings=of_template("spec.template"),
    columns=_columns(lambda r: format_labels(r.spec.selector)),
    fields={"status.replicas": lambda r: str(r.status.replicas or 0)},
    subresources=(status_part(validate_status),),
    scale=Scale(
        replicas=lambda r: r.spec.replicas or 0,
        set_replicas=_set_replicas,
        status_replicas=lambda r: r.status.replicas or 0,
        selector=lambda r: ",".join(f"{k}={v}" for k, v in sorted((r.spec.selector or {}).items())),
    ),
    storage_prefix="controllers",
)
RESOURCES = (REPLICA_SET, REPLICATION_CONTROLLER)
