"""Validation of what steers a pod to a node: affinity, tolerations, spreading, taints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pinnace.api.core import v1 as core
from pinnace.api.fields import FieldError, duplicate, forbidden, invalid, not_supported, required
from pinnace.api.meta import v1 as meta
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.selectors import validate_selector

EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def validate_affinity(affinity: core.Affinity, path: str) -> Iterator[FieldError]:
    node = affinity.nodeAffinity
    if node is not None:
        here = f"{path}.nodeAffinity"
        if node.requiredDuringSchedulingIgnoredDuringExecution is not None:
            yield from validate_node_selector(
                node.requiredDuringSchedulingIgnoredDuringExecution, f"{here}.{_REQUIRED}"
            )
        for i, term in enumerate(node.preferredDuringSchedulingIgnoredDuringExecution or ()):
            where = f"{here}.{_PREFERRED}[{i}]"
            if not 1 <= term.weight <= 100:
                yield invalid(f"{where}.weight", term.weight, "must be in the range 1-100")
            yield from _node_term(term.preference, f"{where}.preference", strict=False)
    for word, pods in (("podAffinity", affinity.podAffinity), ("podAntiAffinity", affinity.podAntiAffinity)):
        if pods is None:
            continue
        here = f"{path}.{word}"
        for i, wanted in enumerate(pods.requiredDuringSchedulingIgnoredDuringExecution or ()):
            yield from _pod_term(wanted, f"{here}.{_REQUIRED}[{i}]")
        for i, weighted in enumerate(pods.preferredDuringSchedulingIgnoredDuringExecution or ()):
            where = f"{here}.{_PREFERRED}[{i}]"
            if not 1 <= weighted.weight <= 100:
                yield invalid(f"{where}.weight", weighted.weight, "must be in the range 1-100")
            yield from _pod_term(weighted.podAffinityTerm, f"{where}.podAffinityTerm")


def validate_node_selector(selector: core.NodeSelector, path: str) -> Iterator[FieldError]:
    if not selector.nodeSelectorTerms:
        yield required(f"{path}.nodeSelectorTerms", "must have at least one node selector term")
    for i, term in enumerate(selector.nodeSelectorTerms or ()):
        yield from _node_term(term, f"{path}.nodeSelectorTerms[{i}]", strict=True)


def _node_term(term: core.NodeSelectorTerm, path: str, *, strict: bool) -> Iterator[FieldError]:
    for i, requirement in enumerate(term.matchExpressions or ()):
        yield from _node_requirement(requirement, f"{path}.matchExpressions[{i}]", strict)
    for i, requirement in enumerate(term.matchFields or ()):
        here = f"{path}.matchFields[{i}]"
        if requirement.operator not in ("In", "NotIn"):
            yield invalid(f"{here}.operator", requirement.operator, "not a valid selector operator")
        elif len(requirement.values or ()) != 1:
            yield required(
                f"{here}.values", "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"
            )
        if requirement.key != "metadata.name":
            yield invalid(f"{here}.key", requirement.key, "not a valid field selector key")
        else:
            for j, value in enumerate(requirement.values or ()):
                yield from rules.dns_subdomain(f"{here}.values[{j}]", value)


def _node_requirement(
    requirement: core.NodeSelectorRequirement, path: str, strict: bool
) -> Iterator[FieldError]:
    values = requirement.values or ()
    match requirement.operator:
        case "In" | "NotIn":
            if not values:
                yield required(f"{path}.values", "must be specified when `operator` is 'In' or 'NotIn'")
        case "Exists" | "DoesNotExist":
            if values:
                yield forbidden(
                    f"{path}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                )
        case "Gt" | "Lt":
            if len(values) != 1:
                yield required(f"{path}.values", "must be specified single value when `operator` is 'Lt' or 'Gt'")
        case other:
            yield invalid(f"{path}.operator", other, "not a valid selector operator")
    yield from rules.qualified_name(f"{path}.key", requirement.key)
    if strict:
        for i, value in enumerate(values):
            yield from rules.label_value(f"{path}.values[{i}]", value)


def _pod_term(term: core.PodAffinityTerm, path: str) -> Iterator[FieldError]:
    if term.labelSelector is not None:
        yield from validate_selector(term.labelSelector, f"{path}.labelSelector")
    if term.namespaceSelector is not None:
        yield from validate_selector(term.namespaceSelector, f"{path}.namespaceSelector")
    for name in term.namespaces or ():
        yield from rules.dns_label(f"{path}.namespace", name)
    for word, keys in (("matchLabelKeys", term.matchLabelKeys), ("mismatchLabelKeys", term.mismatchLabelKeys)):
        if keys and term.labelSelector is None:
            yield forbidden(f"{path}.{word}", "must not be specified when labelSelector is not set")
        for i, key in enumerate(keys or ()):
            yield from rules.qualified_name(f"{path}.{word}[{i}]", key)
    for i, key in enumerate(term.matchLabelKeys or ()):
        if key in (term.mismatchLabelKeys or ()):
            yield invalid(f"{path}.matchLabelKeys[{i}]", key, "exists in both matchLabelKeys and mismatchLabelKeys")
    if not term.topologyKey:
        yield required(f"{path}.topologyKey", "can not be empty")
    yield from rules.qualified_name(f"{path}.topologyKey", term.topologyKey)


def validate_tolerations(tolerations: Sequence[core.Toleration], path: str) -> Iterator[FieldError]:
    for i, toleration in enumerate(tolerations):
        here = f"{path}[{i}]"
        operator = toleration.operator
        if toleration.key:
            yield from rules.qualified_name(f"{here}.key", toleration.key)
        elif operator != "Exists":
            yield invalid(
                f"{here}.operator",
                operator or "",
                'operator must be Exists when `key` is empty, which means "match all values and all keys"',
            )
        if toleration.tolerationSeconds is not None and toleration.effect != "NoExecute":
            yield invalid(
                f"{here}.effect",
                toleration.effect or "",
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            )
        if operator in (None, "", "Equal"):
            bad = rules.label_value(f"{here}.operator", toleration.value or "")
            if bad:
                yield invalid(
                    f"{here}.operator", toleration.value, ";".join(error.detail for error in bad)
                )
        elif operator == "Exists":
            if toleration.value:
                yield invalid(
                    f"{here}.operator", toleration.value, "value must be empty when `operator` is 'Exists'"
                )
        else:
            yield not_supported(f"{here}.operator", operator, ("Equal", "Exists"))
        if toleration.effect and toleration.effect not in EFFECTS:
            yield not_supported(f"{here}.effect", toleration.effect, EFFECTS)


def validate_taints(taints: Sequence[core.Taint], path: str) -> Iterator[FieldError]:
    seen: set[tuple[str, str]] = set()
    for i, taint in enumerate(taints):
        here = f"{path}[{i}]"
        yield from rules.qualified_name(f"{here}.key", taint.key)
        bad = rules.label_value(f"{here}.value", taint.value or "")
        if bad:
            yield invalid(f"{here}.value", taint.value, ";".join(error.detail for error in bad))
        if not taint.effect:
            yield required(f"{here}.effect")
        elif taint.effect not in EFFECTS:
            yield not_supported(f"{here}.effect", taint.effect, EFFECTS)
        if (taint.key, taint.effect) in seen:
            yield FieldError(
                "FieldValueDuplicate", here, taint, "taints must be unique by key and effect pair"
            )
        seen.add((taint.key, taint.effect))


def validate_spread(
    constraints: Sequence[core.TopologySpreadConstraint], path: str
) -> Iterator[FieldError]:
    seen: set[tuple[str, str]] = set()
    for i, constraint in enumerate(constraints):
        here = f"{path}[{i}]"
        if constraint.maxSkew <= 0:
            yield invalid(f"{here}.maxSkew", constraint.maxSkew, "must be greater than zero")
        if not constraint.topologyKey:
            yield required(f"{here}.topologyKey", "can not be empty")
        else:
            yield from rules.qualified_name(f"{here}.topologyKey", constraint.topologyKey)
        when = constraint.whenUnsatisfiable
        if when not in ("DoNotSchedule", "ScheduleAnyway"):
            yield not_supported(f"{here}.whenUnsatisfiable", when, ("DoNotSchedule", "ScheduleAnyway"))
        pair = (constraint.topologyKey, when)
        if pair in seen:
            yield duplicate(f"{here}.{{topologyKey, whenUnsatisfiable}}", f"{{{pair[0]}, {pair[1]}}}")
        seen.add(pair)
        if constraint.minDomains is not None:
            if constraint.minDomains <= 0:
                yield invalid(f"{here}.minDomains", constraint.minDomains, "must be greater than zero")
            if when != "DoNotSchedule":
                yield invalid(
                    f"{here}.minDomains",
                    constraint.minDomains,
                    f"can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}",
                )
        for word in ("nodeAffinityPolicy", "nodeTaintsPolicy"):
            policy = getattr(constraint, word)
            if policy is not None and policy not in ("Honor", "Ignore"):
                yield not_supported(f"{here}.{word}", policy, ("Honor", "Ignore"))
        yield from _spread_keys(constraint.matchLabelKeys, constraint.labelSelector, here)
        if constraint.labelSelector is not None:
            yield from validate_selector(constraint.labelSelector, f"{here}.labelSelector")


def _spread_keys(
    keys: list[str] | None, selector: meta.LabelSelector | None, path: str
) -> Iterator[FieldError]:
    if not keys:
        return
    if selector is None:
        yield forbidden(f"{path}.matchLabelKeys", "must not be specified when labelSelector is not set")
        return
    used = set(selector.matchLabels or ()) | {e.key for e in selector.matchExpressions or ()}
    for i, key in enumerate(keys):
        yield from rules.qualified_name(f"{path}.matchLabelKeys[{i}]", key)
        if key in used:
            yield invalid(
                f"{path}.matchLabelKeys[{i}]", key, "exists in both matchLabelKeys and labelSelector"
            )
