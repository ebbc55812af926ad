"""Deployments: defaults of the rolling update, what may change, how they are shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pinnace.api.apps import v1 as apps
from pinnace.api.fields import FieldError, forbidden, invalid, not_supported
from pinnace.api.kinds import kind_of
from pinnace.apiserver.resource import Column, Resource
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.columns import AGE, NAME, column, format_selector, template_columns
from pinnace.apiserver.resources.podspec.defaults import default_pod_spec
from pinnace.apiserver.resources.podspec.warnings import of_template
from pinnace.apiserver.resources.strategy import (
    at_most_hundred,
    keep_status,
    non_negative_counts,
    not_above_replicas,
    percent,
    percent_of,
    reset_status,
    status_part,
)
from pinnace.apiserver.resources.workloads import SCALE, validate_template, validate_workload_selector


def default(deployment: apps.Deployment) -> None:
    spec = deployment.spec
    default_pod_spec(spec.template.spec)
    if spec.replicas is None:
        spec.replicas = 1
    strategy = spec.strategy
    if not strategy.type:
        strategy.type = "RollingUpdate"
    if strategy.type == "RollingUpdate":
        if strategy.rollingUpdate is None:
            strategy.rollingUpdate = apps.RollingUpdateDeployment()
        if strategy.rollingUpdate.maxUnavailable is None:
            strategy.rollingUpdate.maxUnavailable = "25%"
        if strategy.rollingUpdate.maxSurge is None:
            strategy.rollingUpdate.maxSurge = "25%"
    if spec.revisionHistoryLimit is None:
        spec.revisionHistoryLimit = 10
    if spec.progressDeadlineSeconds is None:
        spec.progressDeadlineSeconds = 600


def validate(deployment: apps.Deployment) -> Iterator[FieldError]:
    spec = deployment.spec
    yield from rules.non_negative("spec.replicas", spec.replicas or 0)
    yield from validate_workload_selector(spec.selector, "spec.selector", "deployment")
    yield from validate_template(spec.template, spec.selector, "spec.template")
    yield from _strategy(spec.strategy, "spec.strategy")
    yield from rules.non_negative("spec.minReadySeconds", spec.minReadySeconds or 0)
    if spec.revisionHistoryLimit is not None:
        yield from rules.non_negative("spec.revisionHistoryLimit", spec.revisionHistoryLimit)
    if spec.progressDeadlineSeconds is not None:
        yield from rules.non_negative("spec.progressDeadlineSeconds", spec.progressDeadlineSeconds)
        if spec.progressDeadlineSeconds <= (spec.minReadySeconds or 0):
            yield invalid(
                "spec.progressDeadlineSeconds",
                spec.progressDeadlineSeconds,
                "must be greater than minReadySeconds",
            )


def _strategy(strategy: apps.DeploymentStrategy, path: str) -> Iterator[FieldError]:
    rolling = strategy.rollingUpdate
    if strategy.type == "Recreate":
        if rolling is not None:
            yield forbidden(f"{path}.rollingUpdate", "may not be specified when strategy `type` is 'Recreate'")
    elif strategy.type == "RollingUpdate":
        if rolling is None or rolling.maxUnavailable is None or rolling.maxSurge is None:
            return
        here = f"{path}.rollingUpdate"
        yield from percent(f"{here}.maxUnavailable", rolling.maxUnavailable)
        yield from percent(f"{here}.maxSurge", rolling.maxSurge)
        if percent_of(rolling.maxUnavailable) == 0 and percent_of(rolling.maxSurge) == 0:
            yield invalid(
                f"{here}.maxUnavailable", rolling.maxUnavailable, "may not be 0 when `maxSurge` is 0"
            )
        yield from at_most_hundred(f"{here}.maxUnavailable", rolling.maxUnavailable)
    else:
        yield not_supported(f"{path}.type", strategy.type, ("Recreate", "RollingUpdate"))


def validate_update(new: apps.Deployment, old: apps.Deployment) -> Iterator[FieldError]:
    yield from validate(new)
    yield from rules.immutable("spec.selector", new.spec.selector, old.spec.selector)


def validate_status(new: apps.Deployment, old: apps.Deployment) -> Iterator[FieldError]:
    status = new.status
    yield from non_negative_counts(
        status, "status", "observedGeneration", "replicas", "updatedReplicas", "readyReplicas", "availableReplicas",
        "unavailableReplicas", "terminatingReplicas",
    )  # fmt: skip
    yield from not_above_replicas(status, "updatedReplicas", "readyReplicas", "availableReplicas")
    if (status.availableReplicas or 0) > (status.readyReplicas or 0):
        yield invalid(
            "status.availableReplicas", status.availableReplicas, "cannot be greater than readyReplicas"
        )
    if (status.collisionCount or 0) < (old.status.collisionCount or 0):
        yield invalid("status.collisionCount", status.collisionCount, "cannot be decremented")


COLUMNS: tuple[Column[Any], ...] = (
    NAME,
    column(
        "Ready",
        lambda d: f"{d.status.readyReplicas or 0}/{d.spec.replicas or 0}",
        "Pods that are ready, of those wanted.",
    ),
    column("Up-to-date", lambda d: d.status.updatedReplicas or 0, "Pods of the newest template.", type="integer"),
    column("Available", lambda d: d.status.availableReplicas or 0, "Pods ready for long enough.", type="integer"),
    AGE,
    *template_columns(lambda d: d.spec.template, lambda d: format_selector(d.spec.selector)),
)

DEPLOYMENT: Resource[apps.Deployment] = Resource(
    kind=kind_of(apps.Deployment),
    default=default,
    prepare_create=reset_status,
    prepare_update=keep_status,
    validate_create=validate,
    validate_update=validate_update,
    warnings=of_template("spec.template"),
    columns=COLUMNS,
    subresources=(status_part(validate_status),),
    scale=SCALE,
)
RESOURCES = (DEPLOYMENT,)
