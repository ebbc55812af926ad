"""A deployment's replica sets as its revisions: which is the new one, hashes, names and annotations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from pinnace.api.apps import v1 as apps
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.base.randomness import NAME_ALPHABET
from pinnace.controllers.deployment.fenceposts import max_surge, replicas_of
from pinnace.controllers.owners import controller_reference

HASH_LABEL = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED_REPLICAS = "deployment.kubernetes.io/desired-replicas"
MAX_REPLICAS = "deployment.kubernetes.io/max-replicas"
_NOT_COPIED = frozenset({
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
})
_HISTORY_CHARS = 2000


def template_hash(template: core.PodTemplateSpec, collisions: int) -> str:
    """A stable name for a template; `collisions` gives another one where the name is taken by another template."""
    text = msgspec.json.encode(template, order="sorted") + (str(collisions).encode() if collisions else b"")
    value = 0x811C9DC5   # FNV-1a, 32 bits
    for byte in text:
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return "".join(NAME_ALPHABET[ord(digit) % len(NAME_ALPHABET)] for digit in str(value))


def _without_hash(template: core.PodTemplateSpec) -> meta.ObjectMeta:
    """Its metadata but for the hash label: two templates that agree in this and the spec make the same pods."""
    data = template.metadata or meta.ObjectMeta()
    labels = {key: value for key, value in (data.labels or {}).items() if key != HASH_LABEL} or None
    return msgspec.structs.replace(data, labels=labels)


def by_age(sets: Iterable[apps.ReplicaSet]) -> list[apps.ReplicaSet]:
    """Oldest first."""
    return sorted(sets, key=lambda rs: (rs.metadata.creationTimestamp or "", rs.metadata.name or ""))


def find_new(deployment: apps.Deployment, sets: Sequence[apps.ReplicaSet]) -> apps.ReplicaSet | None:
    """The replica set of the deployment's present template: the oldest, should there be several."""
    template = deployment.spec.template
    data = _without_hash(template)
    alike = [
        rs for rs in sets if rs.spec.template.spec == template.spec and _without_hash(rs.spec.template) == data
    ]
    return alike[0] if len(alike) == 1 else next(iter(by_age(alike)), None)


def revision(obj: Any) -> int:
    text = (obj.metadata.annotations or {}).get(REVISION, "")
    return int(text) if text.isdecimal() else 0


def make_new(deployment: apps.Deployment, old: Sequence[apps.ReplicaSet], replicas: int) -> apps.ReplicaSet:
    """The replica set that the present template needs."""
    assert deployment.spec is not None
    spec, data = deployment.spec, deployment.metadata
    collisions = (deployment.status.collisionCount if deployment.status is not None else None) or 0
    template = spec.template or core.PodTemplateSpec()
    digest = template_hash(template, collisions)
    labels = {**((template.metadata.labels if template.metadata is not None else None) or {}), HASH_LABEL: digest}
    selector = spec.selector or meta.LabelSelector()
    return apps.ReplicaSet(
        metadata=meta.ObjectMeta(
            name=f"{data.name}-{digest}",
            namespace=data.namespace,
            labels=labels,
            annotations=new_annotations(deployment, None, old),
            ownerReferences=[controller_reference(deployment)],
        ),
        spec=apps.ReplicaSetSpec(
            replicas=replicas,
            minReadySeconds=spec.minReadySeconds,
            selector=msgspec.structs.replace(
                selector, matchLabels={**(selector.matchLabels or {}), HASH_LABEL: digest}
            ),
            template=msgspec.structs.replace(
                template,
                metadata=msgspec.structs.replace(template.metadata or meta.ObjectMeta(), labels=labels),
            ),
        ),
    )


def new_annotations(
    deployment: apps.Deployment, rs: apps.ReplicaSet | None, old: Sequence[apps.ReplicaSet]
) -> dict[str, str]:
    """The new replica set's annotations: the deployment's, its revision, and the revisions it was before."""
    own = (rs.metadata.annotations if rs is not None else None) or {}
    annotations = own | {
        key: value for key, value in (deployment.metadata.annotations or {}).items() if key not in _NOT_COPIED
    }
    number = 1 + max([revision(other) for other in old], default=0)
    before = revision(rs) if rs is not None else 0
    if before < number:
        annotations[REVISION] = str(number)
        if before > 0:
            history = [*filter(None, own.get(REVISION_HISTORY, "").split(",")), str(before)]
            while len(history) > 1 and len(",".join(history)) > _HISTORY_CHARS:
                history.pop(0)
            annotations[REVISION_HISTORY] = ",".join(history)
    if rs is None:
        annotations |= size_annotations(deployment)
    return annotations


def size_annotations(deployment: apps.Deployment) -> dict[str, str]:
    """What proportional scaling needs to know later: the size that the deployment had."""
    wanted = replicas_of(deployment)
    return {DESIRED_REPLICAS: str(wanted), MAX_REPLICAS: str(wanted + max_surge(deployment))}


def number_annotation(rs: apps.ReplicaSet, name: str) -> int | None:
    text = (rs.metadata.annotations or {}).get(name, "")
    return int(text) if text.lstrip("-").isdecimal() else None
