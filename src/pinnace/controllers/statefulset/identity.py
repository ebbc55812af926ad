"""The identity of a stateful set's pods: ordinal, name, labels, volumes."""

from __future__ import annotations

from typing import Any

import msgspec

from pinnace.api import codec
from pinnace.api.apps import v1 as apps
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.controllers import history
from pinnace.controllers import pods as podlib
from pinnace.controllers.owners import controller_reference

POD_NAME = "statefulset.kubernetes.io/pod-name"
POD_INDEX = "apps.kubernetes.io/pod-index"


def start_of(stateful: apps.StatefulSet) -> int:
    ordinals = stateful.spec.ordinals
    return (ordinals.start if ordinals is not None else None) or 0


def ordinal_of(stateful: apps.StatefulSet, pod: core.Pod) -> int | None:
    """The pod's place; None if its name is not one that the set gives."""
    prefix, _, number = (pod.metadata.name or "").rpartition("-")
    return int(number) if prefix == stateful.metadata.name and number.isdecimal() else None


def claim_name(stateful: apps.StatefulSet, template: core.PersistentVolumeClaimEmbedded, ordinal: int) -> str:
    return f"{template.metadata.name}-{stateful.metadata.name}-{ordinal}"


def template_of(revision: apps.ControllerRevision) -> core.PodTemplateSpec:
    """The pod template that a revision keeps."""
    kept: dict[str, Any] = dict((revision.data or {}).get("spec", {}).get("template", {}))
    kept.pop("$patch", None)
    return codec.from_dict(core.PodTemplateSpec, kept)


def make_pod(
    stateful: apps.StatefulSet, template: core.PodTemplateSpec, revision: str, ordinal: int
) -> core.Pod:
    """The pod of a place, after a revision's template."""
    name = f"{stateful.metadata.name}-{ordinal}"
    pod = podlib.from_template(template, stateful, name, stateful.metadata.namespace or "")
    labels = {
        **(pod.metadata.labels or {}),
        history.HASH_LABEL: revision,
        POD_NAME: name,
        POD_INDEX: str(ordinal),
    }
    data = msgspec.structs.replace(pod.metadata, name=name, generateName=None, labels=labels)
    spec = pod.spec or core.PodSpec()
    claims = {
        item.metadata.name or "": core.Volume(
            name=item.metadata.name or "",
            persistentVolumeClaim=core.PersistentVolumeClaimVolumeSource(
                claimName=claim_name(stateful, item, ordinal)
            ),
        )
        for item in stateful.spec.volumeClaimTemplates or ()
    }
    volumes = [volume for volume in spec.volumes or () if volume.name not in claims]
    spec = msgspec.structs.replace(
        spec,
        hostname=name,
        subdomain=stateful.spec.serviceName or None,
        volumes=[*claims.values(), *volumes] or None,
    )
    return msgspec.structs.replace(pod, metadata=data, spec=spec)


def make_claims(stateful: apps.StatefulSet, ordinal: int) -> list[core.PersistentVolumeClaim]:
    """The volume claims of a place."""
    found = []
    for item in stateful.spec.volumeClaimTemplates or ():
        labels = {**(item.metadata.labels or {}), **(stateful.spec.selector.matchLabels or {})}
        owners = [_plain_reference(stateful)] if deletes(stateful, "whenDeleted") else None
        found.append(
            core.PersistentVolumeClaim(
                metadata=meta.ObjectMeta(
                    name=claim_name(stateful, item, ordinal),
                    namespace=stateful.metadata.namespace,
                    labels=labels or None,
                    annotations=item.metadata.annotations,
                    ownerReferences=owners,
                ),
                spec=item.spec,
            )
        )
    return found


def deletes(stateful: apps.StatefulSet, when: str) -> bool:
    """Whether claims go when the set does (`whenDeleted`) or when their pod is scaled away (`whenScaled`)."""
    policy = stateful.spec.persistentVolumeClaimRetentionPolicy
    return policy is not None and getattr(policy, when) == "Delete"


def wanted_owners(
    stateful: apps.StatefulSet, claim: core.PersistentVolumeClaim, condemned: core.Pod | None
) -> list[meta.OwnerReference]:
    """The claim's owner references under the retention policy: others', the set's, a condemned pod's."""
    ours = {stateful.metadata.uid}
    others = [
        owner
        for owner in claim.metadata.ownerReferences or ()
        if owner.uid not in ours and not _names_a_pod_of(stateful, owner)
    ]
    if deletes(stateful, "whenScaled") and condemned is not None:
        return [*others, _plain_reference(condemned)]
    if deletes(stateful, "whenDeleted"):
        return [*others, _plain_reference(stateful)]
    return others


def _names_a_pod_of(stateful: apps.StatefulSet, owner: meta.OwnerReference) -> bool:
    return owner.kind == "Pod" and owner.name.rpartition("-")[0] == stateful.metadata.name


def _plain_reference(owner: Any) -> meta.OwnerReference:
    reference = controller_reference(owner)
    return msgspec.structs.replace(reference, controller=None, blockOwnerDeletion=None)
