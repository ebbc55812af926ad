"""StatefulSets: ordered pods with names and volumes of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from pinnace.api.apps import v1 as apps
from pinnace.api.fields import FieldError, forbidden, invalid, not_supported, required
from pinnace.api.kinds import kind_of
from pinnace.apiserver.resource import Column, Resource
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.columns import AGE, NAME, column, template_columns
from pinnace.apiserver.resources.podspec.defaults import default_claim_spec, default_pod_spec
from pinnace.apiserver.resources.podspec.warnings import of_template
from pinnace.apiserver.resources.strategy import (
    at_most_hundred,
    keep_status,
    non_negative_counts,
    not_above_replicas,
    percent,
    reset_status,
    status_part,
)
from pinnace.apiserver.resources.workloads import SCALE, validate_template, validate_workload_selector

IMMUTABLE = (
    "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', "
    "'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
)
_MUTABLE = (
    "replicas", "ordinals", "template", "updateStrategy", "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy", "minReadySeconds",
)  # fmt: skip
_COUNTS = ("replicas", "readyReplicas", "availableReplicas", "currentReplicas", "updatedReplicas")


def default(stateful: apps.StatefulSet) -> None:
    spec = stateful.spec
    default_pod_spec(spec.template.spec)
    if not spec.podManagementPolicy:
        spec.podManagementPolicy = "OrderedReady"
    strategy = spec.updateStrategy
    if not strategy.type:
        strategy.type = "RollingUpdate"
    if strategy.type == "RollingUpdate":
        if strategy.rollingUpdate is None:
            strategy.rollingUpdate = apps.RollingUpdateStatefulSetStrategy()
        if strategy.rollingUpdate.partition is None:
            strategy.rollingUpdate.partition = 0
    policy = spec.persistentVolumeClaimRetentionPolicy
    if policy is None:
        policy = spec.persistentVolumeClaimRetentionPolicy = (
            apps.StatefulSetPersistentVolumeClaimRetentionPolicy()
        )
    policy.whenDeleted = policy.whenDeleted or "Retain"
    policy.whenScaled = policy.whenScaled or "Retain"
    if spec.replicas is None:
        spec.replicas = 1
    if spec.revisionHistoryLimit is None:
        spec.revisionHistoryLimit = 10
    for claim in spec.volumeClaimTemplates or ():
        claim.kind, claim.apiVersion = "PersistentVolumeClaim", "v1"
        default_claim_spec(claim.spec)
        claim.status.phase = claim.status.phase or "Pending"


def validate(stateful: apps.StatefulSet) -> Iterator[FieldError]:
    spec = stateful.spec
    if not spec.podManagementPolicy:
        yield required("spec.podManagementPolicy")
    elif spec.podManagementPolicy not in ("OrderedReady", "Parallel"):
        yield invalid(
            "spec.podManagementPolicy", spec.podManagementPolicy, "must be 'OrderedReady' or 'Parallel'"
        )
    yield from _update_strategy(spec.updateStrategy, "spec.updateStrategy")
    policy = spec.persistentVolumeClaimRetentionPolicy
    if policy is not None:
        for word in ("whenScaled", "whenDeleted"):
            if getattr(policy, word) not in ("Retain", "Delete"):
                yield not_supported(
                    f"spec.persistentVolumeClaimRetentionPolicy.{word}", getattr(policy, word), ("Delete", "Retain")
                )
    yield from rules.non_negative("spec.replicas", spec.replicas or 0)
    yield from rules.non_negative("spec.minReadySeconds", spec.minReadySeconds or 0)
    if spec.ordinals is not None:
        yield from rules.non_negative("spec.ordinals.start", spec.ordinals.start or 0)
    if spec.serviceName:
        yield from rules.dns_subdomain("spec.serviceName", spec.serviceName)
    yield from validate_workload_selector(spec.selector, "spec.selector", "statefulset")
    yield from validate_template(spec.template, spec.selector, "spec.template")
    if spec.revisionHistoryLimit is not None:
        yield from rules.non_negative("spec.revisionHistoryLimit", spec.revisionHistoryLimit)


def _update_strategy(strategy: apps.StatefulSetUpdateStrategy, path: str) -> Iterator[FieldError]:
    rolling = strategy.rollingUpdate
    match strategy.type:
        case None | "":
            yield required(path)
        case "OnDelete":
            if rolling is not None:
                yield invalid(
                    f"{path}.rollingUpdate", rolling, "only allowed for updateStrategy 'RollingUpdate'"
                )
        case "RollingUpdate":
            if rolling is not None:
                yield from rules.non_negative(f"{path}.rollingUpdate.partition", rolling.partition or 0)
                most = rolling.maxUnavailable
                if most is not None:
                    here = f"{path}.rollingUpdate.maxUnavailable"
                    yield from percent(here, most)
                    if most in (0, "0%"):
                        yield invalid(here, most, "cannot be 0")
                    yield from at_most_hundred(here, most)
        case other:
            yield invalid(path, other, "must be 'RollingUpdate' or 'OnDelete'")


def validate_update(new: apps.StatefulSet, old: apps.StatefulSet) -> Iterator[FieldError]:
    kept = {word: getattr(old.spec, word) for word in _MUTABLE}
    if msgspec.structs.replace(new.spec, **kept) != old.spec:
        yield forbidden("spec", IMMUTABLE)
    yield from validate(new)


def validate_status(new: apps.StatefulSet, old: apps.StatefulSet) -> Iterator[FieldError]:
    status = new.status
    yield from non_negative_counts(status, "status", *_COUNTS, "observedGeneration", "collisionCount")
    yield from not_above_replicas(status, "readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas")
    if (status.availableReplicas or 0) > (status.readyReplicas or 0):
        yield invalid(
            "status.availableReplicas", status.availableReplicas, "cannot be greater than status.readyReplicas"
        )
    if (status.collisionCount or 0) < (old.status.collisionCount or 0):
        yield invalid("status.collisionCount", status.collisionCount, "cannot be decremented")


COLUMNS: tuple[Column[Any], ...] = (
    NAME,
    column(
        "Ready",
        lambda s: f"{s.status.readyReplicas or 0}/{s.spec.replicas or 0}",
        "Pods that are ready, of those wanted.",
    ),
    AGE,
    *template_columns(lambda s: s.spec.template, None),
)

STATEFUL_SET: Resource[apps.StatefulSet] = Resource(
    kind=kind_of(apps.StatefulSet),
    default=default,
    prepare_create=reset_status,
    prepare_update=keep_status,
    validate_create=validate,
    validate_update=validate_update,
    # Pods are called name-0, name-1 …: the name must leave them a valid host name.
    validate_name=rules.label_messages,
    warnings=of_template("spec.template"),
    columns=COLUMNS,
    subresources=(status_part(validate_status),),
    scale=SCALE,
)
RESOURCES = (STATEFUL_SET,)
