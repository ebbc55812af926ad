"""Where a pod may be: taints and tolerations, node selectors and required node affinity.

Scheduler, DaemonSets, evictions and kubelets must agree on these (upstream: component-helpers, scheduling/corev1).
"""

from __future__ import annotations

from collections.abc import Mapping

from pinnace.api.core import v1 as core


def tolerates(toleration: core.Toleration, taint: core.Taint) -> bool:
    """Whether a toleration puts up with a taint. No effect means every effect; no key (with Exists) every taint."""
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    match toleration.operator or "Equal":
        case "Exists":
            return True
        case "Equal":
            return bool(toleration.key) and (toleration.value or "") == (taint.value or "")
        case "Lt" | "Gt" as order:
            return _compares(order, taint.value or "", toleration.value or "")
        case _:
            return False


def tolerated(spec: core.PodSpec, taint: core.Taint) -> bool:
    """Whether one of a pod's tolerations puts up with the taint."""
    return any(tolerates(toleration, taint) for toleration in spec.tolerations or ())


def matches_node(spec: core.PodSpec, node: core.Node) -> bool:
    """nodeSelector and required node affinity together."""
    labels = node.metadata.labels or {}
    for name, value in (spec.nodeSelector or {}).items():
        if labels.get(name) != value:
            return False
    affinity = spec.affinity.nodeAffinity if spec.affinity is not None else None
    required = affinity.requiredDuringSchedulingIgnoredDuringExecution if affinity is not None else None
    return required is None or any(matches_term(term, node) for term in required.nodeSelectorTerms or ())


def matches_term(term: core.NodeSelectorTerm, node: core.Node) -> bool:
    """All of a term's requirements; a term without any matches nothing."""
    if not term.matchExpressions and not term.matchFields:
        return False
    labels = node.metadata.labels or {}
    if not all(_matches(requirement, labels) for requirement in term.matchExpressions or ()):
        return False
    fields = {"metadata.name": node.metadata.name or ""}
    return all(_matches(requirement, fields) for requirement in term.matchFields or ())


def _matches(requirement: core.NodeSelectorRequirement, labels: Mapping[str, str]) -> bool:
    value, values = labels.get(requirement.key), requirement.values or []
    match requirement.operator:
        case "In":
            return value is not None and value in values
        case "NotIn":
            return value is None or value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt":
            return len(values) == 1 and _compares(requirement.operator, value or "", values[0])
        case _:
            return False


def _compares(order: str, left: str, right: str) -> bool:
    """Both must be whole numbers."""
    try:
        return int(left) > int(right) if order == "Gt" else int(left) < int(right)
    except ValueError:
        return False
