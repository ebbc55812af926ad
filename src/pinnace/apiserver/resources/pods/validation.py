"""Validation of pods: on create, on update, on the status path. What may change about a running pod is little."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from pinnace.api import codec
from pinnace.api.core import v1 as core
from pinnace.api.fields import FieldError, duplicate, forbidden, invalid, required
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.podspec.containers import image_whitespace
from pinnace.apiserver.resources.podspec.known import GoodSpecs
from pinnace.apiserver.resources.podspec.scheduling import validate_tolerations
from pinnace.apiserver.resources.podspec.spec import MAX_INT32, validate_pod_spec

UPDATABLE = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)
_good = GoodSpecs()


def validate_create(pod: core.Pod) -> Iterator[FieldError]:
    yield from validate_pod(pod)
    if pod.spec.ephemeralContainers:
        yield forbidden("spec.ephemeralContainers", "cannot be set on create")
    if pod.spec.nodeName and pod.spec.schedulingGates:
        yield forbidden("spec.nodeName", "cannot be set until all schedulingGates have been cleared")


def validate_pod(pod: core.Pod) -> Sequence[FieldError]:
    name = pod.metadata.name or ""
    for volume in pod.spec.volumes or ():
        if volume.ephemeral is not None:      # its claim is named after the pod
            return list(_validate_spec(pod.spec, name))
    return _good.judge(_validate_spec, pod.spec, name)


def _validate_spec(spec: core.PodSpec, pod_name: str) -> Iterator[FieldError]:
    yield from validate_pod_spec(spec, "spec", pod_name=pod_name)
    if not spec.serviceAccountName:
        for i, volume in enumerate(spec.volumes or ()):
            if volume.projected is None:
                continue
            for j, source in enumerate(volume.projected.sources or ()):
                if source.serviceAccountToken is not None:
                    yield forbidden(
                        f"spec.volumes[{i}].projected.sources[{j}].serviceAccountToken",
                        "must not be specified when serviceAccountName is not set",
                    )
    for i, container in enumerate(spec.containers):
        yield from image_whitespace(container.image, f"spec.containers[{i}]")
    for i, container in enumerate(spec.initContainers or ()):
        yield from image_whitespace(container.image, f"spec.initContainers[{i}]")


def validate_update(new: core.Pod, old: core.Pod) -> Iterator[FieldError]:
    after, before = new.spec, old.spec
    if after == before:
        return        # what is there was found good before
    yield from validate_pod(new)
    if len(after.containers) != len(before.containers):
        yield forbidden("spec.containers", "pod updates may not add or remove containers")
        return
    if len(after.initContainers or ()) != len(before.initContainers or ()):
        yield forbidden("spec.initContainers", "pod updates may not add or remove containers")
        return
    deadline, was = after.activeDeadlineSeconds, before.activeDeadlineSeconds
    if deadline is not None:
        if not 0 <= deadline <= MAX_INT32:
            yield invalid("spec.activeDeadlineSeconds", deadline, rules.between(0, MAX_INT32))
            return
        if was is not None and was < deadline:
            yield invalid(
                "spec.activeDeadlineSeconds", deadline, "must be less than or equal to previous value"
            )
            return
    elif was is not None:
        yield invalid("spec.activeDeadlineSeconds", None, "must not update from a positive integer to nil value")
    yield from _tolerations(after.tolerations or (), before.tolerations or ())
    yield from _scheduling_gates(after.schedulingGates or (), before.schedulingGates or ())
    found = list(_gated(after, before)) if before.schedulingGates else []
    yield from found
    if _munged(after, before, gated=bool(before.schedulingGates)) != before:
        yield forbidden("spec", UPDATABLE + "\n" + _difference(after, before))


def _munged(after: core.PodSpec, before: core.PodSpec, *, gated: bool) -> core.PodSpec:
    """The new spec with everything put back that may change, to be compared with the old one."""
    replace = msgspec.structs.replace
    munged = replace(
        after,
        containers=[
            replace(new, image=old.image) for new, old in zip(after.containers, before.containers, strict=True)
        ],
        activeDeadlineSeconds=before.activeDeadlineSeconds,
        schedulingGates=before.schedulingGates,
        tolerations=before.tolerations,
    )
    if after.initContainers and before.initContainers:
        munged.initContainers = [
            replace(new, image=old.image)
            for new, old in zip(after.initContainers, before.initContainers, strict=True)
        ]
    if (before.terminationGracePeriodSeconds or 0) < 0 and after.terminationGracePeriodSeconds == 1:
        munged.terminationGracePeriodSeconds = before.terminationGracePeriodSeconds
    if gated:
        munged.nodeSelector = before.nodeSelector
        old_affinity = before.affinity.nodeAffinity if before.affinity is not None else None
        if munged.affinity is not None:
            affinity = replace(munged.affinity, nodeAffinity=old_affinity)
            bare = affinity.podAffinity is None and affinity.podAntiAffinity is None
            munged.affinity = None if before.affinity is None and bare else affinity
        elif old_affinity is not None:
            munged.affinity = core.Affinity(nodeAffinity=old_affinity)
    return munged


def _gated(after: core.PodSpec, before: core.PodSpec) -> Iterator[FieldError]:
    """While a pod is gated its node selector may grow, and its node affinity may become narrower."""
    new = after.nodeSelector or {}
    for key, value in (before.nodeSelector or {}).items():
        if new.get(key) != value:
            yield invalid(
                "spec.nodeSelector",
                new,
                "only additions to spec.nodeSelector are allowed (no mutations or deletions)",
            )
            break
    if before.affinity is None or before.affinity.nodeAffinity is None:
        return
    old_terms = before.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution
    if old_terms is None:
        return
    affinity = after.affinity.nodeAffinity if after.affinity is not None else None
    new_terms = affinity.requiredDuringSchedulingIgnoredDuringExecution if affinity is not None else None
    path = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution"
    if new_terms is None or len(new_terms.nodeSelectorTerms) != len(old_terms.nodeSelectorTerms):
        yield invalid(
            f"{path}.nodeSelectorTerms",
            codec.to_dict(new_terms.nodeSelectorTerms) if new_terms is not None else None,
            "no additions/deletions to non-empty NodeSelectorTerms list are allowed",
        )
        return
    for i, (new_term, old_term) in enumerate(
        zip(new_terms.nodeSelectorTerms, old_terms.nodeSelectorTerms, strict=True)
    ):
        kept = all(e in (new_term.matchExpressions or ()) for e in old_term.matchExpressions or ())
        if not kept or any(e not in (new_term.matchFields or ()) for e in old_term.matchFields or ()):
            yield invalid(
                f"{path}.nodeSelectorTerms[{i}]", new_term, "only additions are allowed (no mutations or deletions)"
            )


def _tolerations(new: Sequence[core.Toleration], old: Sequence[core.Toleration]) -> Iterator[FieldError]:
    for was in old:
        if was in new:
            continue
        same = (msgspec.structs.replace(was, tolerationSeconds=is_.tolerationSeconds) == is_ for is_ in new)
        if not any(same):
            yield forbidden(
                "spec.tolerations", "existing toleration can not be modified except its tolerationSeconds"
            )
            return
    yield from validate_tolerations(new, "spec.tolerations")


def _scheduling_gates(
    new: Sequence[core.PodSchedulingGate], old: Sequence[core.PodSchedulingGate]
) -> Iterator[FieldError]:
    known = {gate.name for gate in old}
    for i, gate in enumerate(new):
        if gate.name not in known:
            yield forbidden(
                f"spec.schedulingGates[{i}].name",
                f"only deletion is allowed, but found new scheduling gate '{gate.name}'",
            )


def _difference(after: core.PodSpec, before: core.PodSpec) -> str:
    """The fields that differ, named; upstream prints a Go diff here, whose form is no promise."""
    changed = [
        name for name in before.__struct_fields__ if getattr(after, name) != getattr(before, name)
    ]
    return "changed: " + ", ".join(f"spec.{name}" for name in changed)


def validate_status(new: core.Pod, old: core.Pod) -> Iterator[FieldError]:
    status, was = new.status, old.status
    for i, condition in enumerate(status.conditions or ()):
        if not rules.is_qualified(condition.type):
            yield from rules.qualified_name(f"metadata.conditions[{i}].Type", condition.type)
    if new.spec.nodeName != old.spec.nodeName:
        yield forbidden("status.nodeName", "may not be changed directly")
    if status.nominatedNodeName and status.nominatedNodeName != was.nominatedNodeName:
        yield from rules.dns_subdomain("status.nominatedNodeName", status.nominatedNodeName)
    if status.qosClass != was.qosClass:
        yield from rules.immutable("status.qosClass", status.qosClass or "", was.qosClass or "")
    policy = old.spec.restartPolicy or ""
    if was.containerStatuses:
        yield from _transitions(status.containerStatuses, was.containerStatuses, "containerStatuses", old.spec, policy)
    if was.initContainerStatuses:
        yield from _transitions(
            status.initContainerStatuses, was.initContainerStatuses, "initContainerStatuses", old.spec, policy
        )
    if was.ephemeralContainerStatuses:
        yield from _transitions(
            status.ephemeralContainerStatuses,
            was.ephemeralContainerStatuses,
            "ephemeralContainerStatuses",
            old.spec,
            "Never",
        )
    if status.podIPs and status.podIPs != was.podIPs:
        yield from _addresses(status.podIPs, "status.podIPs")
    if status.hostIPs and (status.hostIPs != was.hostIPs or status.hostIP != was.hostIP):
        first = status.hostIPs[0].ip
        if first != (status.hostIP or ""):
            yield invalid("status.hostIPs[0].ip", first, "must be equal to `hostIP`")
        if status.hostIPs != was.hostIPs:
            yield from _addresses(status.hostIPs, "status.hostIPs")
    for i, claim_status in enumerate(status.resourceClaimStatuses or ()):
        claims = {claim.name for claim in new.spec.resourceClaims or ()}
        if claim_status.name not in claims:
            yield invalid(
                f"status.resourceClaimStatuses[{i}].name",
                claim_status.name,
                "must match the name of an entry in `spec.resourceClaims`",
            )


def _addresses(items: Sequence[core.PodIP | core.HostIP], path: str) -> Iterator[FieldError]:
    for i, item in enumerate(items):
        if not rules.is_ip(item.ip):
            yield from rules.ip_address(f"{path}[{i}]", item.ip)
    if items[1:]:
        addresses = [item.ip for item in items]
        if len({":" in address for address in addresses}) < 2 or len(addresses) > 2:
            yield invalid(
                path, [{"ip": address} for address in addresses], "may specify no more than one IP for each IP family"
            )
        for i, address in enumerate(addresses):
            if address in addresses[:i]:
                yield duplicate(f"{path}[{i}]", {"ip": address})


def _transitions(
    new: Sequence[core.ContainerStatus] | None,
    old: Sequence[core.ContainerStatus] | None,
    word: str,
    spec: core.PodSpec,
    policy: str,
) -> Iterator[FieldError]:
    """A container that ended for good does not come back."""
    if policy == "Always" or not old:
        return
    specs = {c.name: c for c in (*spec.containers, *(spec.initContainers or ()))}
    states = {container.name: container.state for container in new or ()}
    for i, was in enumerate(old):
        if was.state.terminated is None:
            continue
        if was.state.terminated.exitCode and policy == "OnFailure":
            continue
        own = specs.get(was.name)
        if own is not None and (own.restartPolicy == "Always" or own.restartPolicyRules):
            continue
        state = states.get(was.name)
        if state is not None and state.terminated is None:
            yield forbidden(f"status.{word}[{i}].state", "may not be transitioned to non-terminated state")


def validate_ephemeral(new: core.Pod, old: core.Pod) -> Iterator[FieldError]:
    """On the ephemeralcontainers path: containers may be added, never changed or removed."""
    yield from validate_pod(new)
    if "kubernetes.io/config.mirror" in (old.metadata.annotations or {}):
        yield forbidden("", "static pods do not support ephemeral containers")
        return
    by_name = {container.name: container for container in new.spec.ephemeralContainers or ()}
    for was in old.spec.ephemeralContainers or ():
        found = by_name.get(was.name)
        if found is None:
            yield forbidden(
                "spec.ephemeralContainers", f'existing ephemeral containers "{was.name}" may not be removed\n'
            )
        elif found != was:
            yield forbidden(
                "spec.ephemeralContainers", f'existing ephemeral containers "{was.name}" may not be changed\n'
            )


def validate_binding(binding: core.Binding) -> Iterator[FieldError]:
    if binding.target.kind and binding.target.kind != "Node":
        yield FieldError(
            "FieldValueNotSupported", "target.kind", binding.target.kind, 'supported values: "Node", "<empty>"'
        )
    if not binding.target.name:
        yield required("target.name")
