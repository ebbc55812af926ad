"""Roles and bindings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pinnace.api.fields import FieldError, forbidden, invalid, not_supported, required
from pinnace.api.kinds import kind_of
from pinnace.api.rbac import v1 as rbac
from pinnace.apiserver.resource import Column, Resource
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.columns import AGE, NAME, column
from pinnace.apiserver.resources.selectors import validate_selector

GROUP = "rbac.authorization.k8s.io"


def _validate_rules(policy: Sequence[rbac.PolicyRule] | None, *, namespaced: bool) -> Iterator[FieldError]:
    for i, rule in enumerate(policy or ()):
        path = f"rules[{i}]"
        if not rule.verbs:
            yield required(f"{path}.verbs", "verbs must contain at least one value")
        if rule.nonResourceURLs:
            if namespaced:
                yield invalid(
                    f"{path}.nonResourceURLs",
                    rule.nonResourceURLs,
                    "namespaced rules cannot apply to non-resource URLs",
                )
            if rule.apiGroups or rule.resources or rule.resourceNames:
                yield invalid(
                    f"{path}.nonResourceURLs",
                    rule.nonResourceURLs,
                    "rules cannot apply to both regular resources and non-resource URLs",
                )
            continue
        if not rule.apiGroups:
            yield required(f"{path}.apiGroups", "resource rules must supply at least one api group")
        if not rule.resources:
            yield required(f"{path}.resources", "resource rules must supply at least one resource")


def validate_role(role: rbac.Role) -> Iterator[FieldError]:
    yield from _validate_rules(role.rules, namespaced=True)


def validate_cluster_role(role: rbac.ClusterRole) -> Iterator[FieldError]:
    yield from _validate_rules(role.rules, namespaced=False)
    if role.aggregationRule is not None:
        selectors = role.aggregationRule.clusterRoleSelectors or ()
        if not selectors:
            yield required(
                "aggregationRule.clusterRoleSelectors", "at least one clusterRoleSelector required if aggregationRule "
                "is non-nil",
            )
        for i, selector in enumerate(selectors):
            yield from validate_selector(selector, f"aggregationRule.clusterRoleSelectors[{i}]")


def default_binding(binding: rbac.RoleBinding | rbac.ClusterRoleBinding) -> None:
    if not binding.roleRef.apiGroup:
        binding.roleRef.apiGroup = GROUP
    for subject in binding.subjects or ():
        if not subject.apiGroup and subject.kind in ("User", "Group"):
            subject.apiGroup = GROUP


def _validate_binding(
    binding: rbac.RoleBinding | rbac.ClusterRoleBinding, kinds: tuple[str, ...], *, namespaced: bool
) -> Iterator[FieldError]:
    reference = binding.roleRef
    if reference.apiGroup != GROUP:
        yield not_supported("roleRef.apiGroup", reference.apiGroup, (GROUP,))
    if reference.kind not in kinds:
        yield not_supported("roleRef.kind", reference.kind, kinds)
    if not reference.name:
        yield required("roleRef.name")
    else:
        for message in rules.path_segment_messages(reference.name):
            yield invalid("roleRef.name", reference.name, message)
    for i, subject in enumerate(binding.subjects or ()):
        yield from _subject(subject, f"subjects[{i}]", namespaced)


def _subject(subject: rbac.Subject, path: str, namespaced: bool) -> Iterator[FieldError]:
    if not subject.name:
        yield required(f"{path}.name")
    match subject.kind:
        case "ServiceAccount":
            if subject.name:
                yield from rules.dns_subdomain(f"{path}.name", subject.name)
            if subject.apiGroup:
                yield not_supported(f"{path}.apiGroup", subject.apiGroup, ("",))
            if not subject.namespace and not namespaced:
                yield required(f"{path}.namespace")
        case "User" | "Group":
            if subject.apiGroup != GROUP:
                yield not_supported(f"{path}.apiGroup", subject.apiGroup, (GROUP,))
            if subject.namespace:
                yield forbidden(f"{path}.namespace", "must not be set for this kind of subject")
        case other:
            yield not_supported(f"{path}.kind", other, ("Group", "ServiceAccount", "User"))


def validate_role_binding(binding: rbac.RoleBinding) -> Iterator[FieldError]:
    yield from _validate_binding(binding, ("ClusterRole", "Role"), namespaced=True)


def validate_cluster_role_binding(binding: rbac.ClusterRoleBinding) -> Iterator[FieldError]:
    yield from _validate_binding(binding, ("ClusterRole",), namespaced=False)


def _role_ref_fixed(new: Any, old: Any) -> Iterator[FieldError]:
    if new.roleRef != old.roleRef:
        yield invalid("roleRef", new.roleRef, "cannot change roleRef")


def _update_role_binding(new: rbac.RoleBinding, old: rbac.RoleBinding) -> Iterator[FieldError]:
    yield from validate_role_binding(new)
    yield from _role_ref_fixed(new, old)


def _update_cluster_role_binding(
    new: rbac.ClusterRoleBinding, old: rbac.ClusterRoleBinding
) -> Iterator[FieldError]:
    yield from validate_cluster_role_binding(new)
    yield from _role_ref_fixed(new, old)


def _names(binding: Any, kind: str) -> str:
    return ", ".join(
        f"{s.namespace}/{s.name}" if kind == "ServiceAccount" and s.namespace else s.name
        for s in binding.subjects or ()
        if s.kind == kind
    )


BINDING_COLUMNS: tuple[Column[Any], ...] = (
    NAME,
    column("Role", lambda b: f"{b.roleRef.kind}/{b.roleRef.name}", "The role that is given."),
    AGE,
    column("Users", lambda b: _names(b, "User"), "Users it is given to.", wide=True),
    column("Groups", lambda b: _names(b, "Group"), "Groups it is given to.", wide=True),
    column("ServiceAccounts", lambda b: _names(b, "ServiceAccount"), "Accounts it is given to.", wide=True),
)


def _created(role: Any) -> str:
    return role.metadata.creationTimestamp or ""


ROLE_COLUMNS: tuple[Column[Any], ...] = (
    NAME,
    column("Created At", _created, "When it was made."),
)
ROLE: Resource[rbac.Role] = Resource(
    kind=kind_of(rbac.Role),
    validate_create=validate_role,
    validate_update=lambda new, _: validate_role(new),
    validate_name=rules.path_segment_messages,
    columns=ROLE_COLUMNS,
    generation=False,
    allow_create_on_update=True,
)
CLUSTER_ROLE: Resource[rbac.ClusterRole] = Resource(
    kind=kind_of(rbac.ClusterRole),
    validate_create=validate_cluster_role,
    validate_update=lambda new, _: validate_cluster_role(new),
    validate_name=rules.path_segment_messages,
    columns=ROLE_COLUMNS,
    generation=False,
    allow_create_on_update=True,
)
ROLE_BINDING: Resource[rbac.RoleBinding] = Resource(
    kind=kind_of(rbac.RoleBinding),
    default=default_binding,
    validate_create=validate_role_binding,
    validate_update=_update_role_binding,
    validate_name=rules.path_segment_messages,
    columns=BINDING_COLUMNS,
    generation=False,
    allow_create_on_update=True,
)
CLUSTER_ROLE_BINDING: Resource[rbac.ClusterRoleBinding] = Resource(
    kind=kind_of(rbac.ClusterRoleBinding),
    default=default_binding,
    validate_create=validate_cluster_role_binding,
    validate_update=_update_cluster_role_binding,
    validate_name=rules.path_segment_messages,
    columns=BINDING_COLUMNS,
    generation=False,
    allow_create_on_update=True,
)
RESOURCES = (ROLE, CLUSTER_ROLE, ROLE_BINDING, CLUSTER_ROLE_BINDING)
