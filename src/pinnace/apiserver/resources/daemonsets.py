"""DaemonSets: one pod a node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pinnace.api.apps import v1 as apps
from pinnace.api.fields import FieldError, forbidden, invalid, not_supported, required
from pinnace.api.kinds import kind_of
from pinnace.apiserver.resource import Column, Resource
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.columns import (
    AGE,
    NAME,
    column,
    format_labels,
    format_selector,
    template_columns,
)
from pinnace.apiserver.resources.podspec.defaults import default_pod_spec
from pinnace.apiserver.resources.podspec.spec import validate_pod_template
from pinnace.apiserver.resources.podspec.warnings import of_template
from pinnace.apiserver.resources.selectors import is_empty, matches, validate_selector
from pinnace.apiserver.resources.strategy import (
    at_most_hundred,
    keep_status,
    non_negative_counts,
    percent,
    percent_of,
    reset_status,
    status_part,
)

_COUNTS = (
    "currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady", "observedGeneration",
    "updatedNumberScheduled", "numberAvailable", "numberUnavailable",
)  # fmt: skip


def default(daemon: apps.DaemonSet) -> None:
    spec = daemon.spec
    default_pod_spec(spec.template.spec)
    strategy = spec.updateStrategy
    if not strategy.type:
        strategy.type = "RollingUpdate"
    if strategy.type == "RollingUpdate":
        if strategy.rollingUpdate is None:
            strategy.rollingUpdate = apps.RollingUpdateDaemonSet()
        if strategy.rollingUpdate.maxUnavailable is None:
            strategy.rollingUpdate.maxUnavailable = 1
        if strategy.rollingUpdate.maxSurge is None:
            strategy.rollingUpdate.maxSurge = 0
    if spec.revisionHistoryLimit is None:
        spec.revisionHistoryLimit = 10


def validate(daemon: apps.DaemonSet) -> Iterator[FieldError]:
    spec = daemon.spec
    yield from validate_selector(spec.selector, "spec.selector")
    if not is_empty(spec.selector) and not matches(spec.selector, spec.template.metadata.labels or {}):
        yield invalid(
            "spec.template.metadata.labels",
            spec.template.metadata.labels or {},
            "`selector` does not match template `labels`",
        )
    if is_empty(spec.selector):
        yield invalid("spec.selector", spec.selector, "empty selector is invalid for daemonset")
    yield from validate_pod_template(spec.template, "spec.template")
    if spec.template.spec.restartPolicy != "Always":
        yield not_supported(
            "spec.template.spec.restartPolicy", spec.template.spec.restartPolicy or "", ("Always",)
        )
    if spec.template.spec.activeDeadlineSeconds is not None:
        yield forbidden(
            "spec.template.spec.activeDeadlineSeconds", "activeDeadlineSeconds in DaemonSet is not Supported"
        )
    yield from rules.non_negative("spec.minReadySeconds", spec.minReadySeconds or 0)
    yield from _update_strategy(spec.updateStrategy, "spec.updateStrategy")
    if spec.revisionHistoryLimit is not None:
        yield from rules.non_negative("spec.revisionHistoryLimit", spec.revisionHistoryLimit)


def _update_strategy(strategy: apps.DaemonSetUpdateStrategy, path: str) -> Iterator[FieldError]:
    if strategy.type == "OnDelete":
        return
    if strategy.type != "RollingUpdate":
        yield not_supported(f"{path}.type", strategy.type, ("OnDelete", "RollingUpdate"))
        return
    rolling, here = strategy.rollingUpdate, f"{path}.rollingUpdate"
    if rolling is None:
        yield required(here)
        return
    unavailable, surge = rolling.maxUnavailable, rolling.maxSurge
    for word, value in (("maxUnavailable", unavailable), ("maxSurge", surge)):
        if value is not None:
            yield from percent(f"{here}.{word}", value)
            yield from at_most_hundred(f"{here}.{word}", value)
    if percent_of(surge) and percent_of(unavailable):
        yield invalid(f"{here}.maxSurge", surge, "may not be set when maxUnavailable is non-zero")
    elif not percent_of(surge) and not percent_of(unavailable):
        yield required(f"{here}.maxUnavailable", "cannot be 0 when maxSurge is 0")


def validate_update(new: apps.DaemonSet, old: apps.DaemonSet) -> Iterator[FieldError]:
    yield from validate(new)
    yield from rules.immutable("spec.selector", new.spec.selector, old.spec.selector)


def validate_status(new: apps.DaemonSet, old: apps.DaemonSet) -> Iterator[FieldError]:
    yield from non_negative_counts(new.status, "status", *_COUNTS, "collisionCount")
    if (new.status.collisionCount or 0) < (old.status.collisionCount or 0):
        yield invalid("status.collisionCount", new.status.collisionCount, "cannot be decremented")


def _count(title: str, word: str, text: str) -> Column[Any]:
    return column(title, lambda d: getattr(d.status, word) or 0, text, type="integer")


COLUMNS: tuple[Column[Any], ...] = (
    NAME,
    _count("Desired", "desiredNumberScheduled", "Nodes that should run a pod."),
    _count("Current", "currentNumberScheduled", "Nodes that run one."),
    _count("Ready", "numberReady", "Nodes whose pod is ready."),
    _count("Up-to-date", "updatedNumberScheduled", "Nodes with a pod of the newest template."),
    _count("Available", "numberAvailable", "Nodes whose pod has been ready long enough."),
    column("Node Selector", lambda d: format_labels(d.spec.template.spec.nodeSelector), "Labels of its nodes."),
    AGE,
    *template_columns(lambda d: d.spec.template, lambda d: format_selector(d.spec.selector)),
)

DAEMON_SET: Resource[apps.DaemonSet] = Resource(
    kind=kind_of(apps.DaemonSet),
    default=default,
    prepare_create=reset_status,
    prepare_update=keep_status,
    validate_create=validate,
    validate_update=validate_update,
    warnings=of_template("spec.template"),
    columns=COLUMNS,
    subresources=(status_part(validate_status),),
)
RESOURCES = (DAEMON_SET,)
