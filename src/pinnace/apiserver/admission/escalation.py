"""Nobody gives away rights that they do not have (upstream: registry/rbac, escalation check).

Who writes a role must hold every rule in it, or the verb `escalate` on roles; who binds one must hold its
rules, or the verb `bind` on the role.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from pinnace.api.errors import Forbidden, NotFound, StatusDetails, qualified
from pinnace.api.rbac import v1 as rbac
from pinnace.apiserver.access import MASTERS, Admission, AdmissionPlugin, Attributes, Authorizer, Concern
from pinnace.apiserver.authentication.objects import Objects
from pinnace.apiserver.authorization.rbac import RbacAuthorizer, covers
from pinnace.client.transport import User

_GROUP = "rbac.authorization.k8s.io"
_EVERYTHING = (
    rbac.PolicyRule(verbs=["*"], apiGroups=["*"], resources=["*"]),
    rbac.PolicyRule(verbs=["*"], nonResourceURLs=["*"]),
)


class EscalationCheck(AdmissionPlugin):
    """Validates writes of roles and bindings."""

    mutates = None
    validates = Concern(
        ("CREATE", "UPDATE"),
        tuple(f"{plural}.{_GROUP}" for plural in ("roles", "clusterroles", "rolebindings", "clusterrolebindings")),
    )

    def __init__(self, objects: Objects, rbac_authorizer: RbacAuthorizer, authorizer: Authorizer) -> None:
        self._objects = objects
        self._rbac = rbac_authorizer
        self._authorizer = authorizer

    async def validate(self, admission: Admission) -> None:
        if MASTERS in admission.user.groups:
            return
        new, old = admission.object, admission.old_object
        if isinstance(new, rbac.Role | rbac.ClusterRole):
            wanted = [*([] if _same_rules(new, old) else new.rules or ()), *_for_aggregation(new, old)]
            if wanted and not self._may(admission, "escalate", admission.resource, admission.name):
                self._demand(admission, wanted)
        elif isinstance(new, rbac.RoleBinding | rbac.ClusterRoleBinding):
            same = (
                isinstance(old, rbac.RoleBinding | rbac.ClusterRoleBinding)
                and old.roleRef == new.roleRef
                and (old.subjects or []) == (new.subjects or [])
            )
            roles = "clusterroles" if new.roleRef.kind == "ClusterRole" else "roles"
            if not same and not self._may(admission, "bind", roles, new.roleRef.name):
                self._demand(admission, self._rules(admission, new.roleRef))

    def _rules(self, admission: Admission, reference: rbac.RoleRef) -> Iterable[rbac.PolicyRule]:
        found: rbac.ClusterRole | rbac.Role | None
        if reference.kind == "ClusterRole":
            found = self._objects.get(rbac.ClusterRole, "", reference.name)
        else:
            found = self._objects.get(rbac.Role, admission.namespace, reference.name)
        if found is None:
            raise NotFound.of("clusterroles" if reference.kind == "ClusterRole" else "roles", _GROUP, reference.name)
        return found.rules or ()

    def _may(self, admission: Admission, verb: str, resource: str, name: str) -> bool:
        question = Attributes(
            user=admission.user, verb=verb, group=_GROUP, version="v1", resource=resource, subresource="",
            namespace=admission.namespace, name=name, path="",
        )  # fmt: skip
        return self._authorizer.authorize(question).allowed

    def _demand(self, admission: Admission, wanted: Iterable[rbac.PolicyRule]) -> None:
        missing = covers(self._rbac.rules(admission.user, admission.namespace), wanted)
        if not missing:
            return
        what = f'{qualified(admission.resource, admission.group)} "{admission.name}"'
        listed = "\n".join(sorted(map(_shown, _compacted(missing))))
        raise Forbidden(
            f"{what} is forbidden: {_who(admission.user)} is attempting to grant RBAC permissions not currently "
            f"held:\n{listed}",
            StatusDetails(name=admission.name, group=admission.group, kind=admission.resource),
        )


def _same_rules(new: rbac.Role | rbac.ClusterRole, old: object) -> bool:
    return isinstance(old, rbac.Role | rbac.ClusterRole) and (old.rules or []) == (new.rules or [])


def _for_aggregation(new: rbac.Role | rbac.ClusterRole, old: object) -> Sequence[rbac.PolicyRule]:
    """An aggregated role can gather any rule later, when nobody is asked: setting that up takes everything."""
    if not isinstance(new, rbac.ClusterRole) or new.aggregationRule is None:
        return ()
    if isinstance(old, rbac.ClusterRole) and old.aggregationRule == new.aggregationRule:
        return ()
    return _EVERYTHING


def _who(user: User) -> str:
    return f"user {json.dumps(user.name)} (groups={_quoted(user.groups)})"


def _compacted(rules: Iterable[rbac.PolicyRule]) -> Iterator[rbac.PolicyRule]:
    """Rules that differ in their verb only, as one."""
    verbs: dict[tuple[tuple[str, ...], ...], list[str]] = {}
    samples: dict[tuple[tuple[str, ...], ...], rbac.PolicyRule] = {}
    for rule in rules:
        parts = (rule.apiGroups, rule.resources, rule.resourceNames, rule.nonResourceURLs)
        key = tuple(tuple(part or ()) for part in parts)
        samples.setdefault(key, rule)
        verbs.setdefault(key, []).extend(rule.verbs)
    for key, sample in samples.items():
        yield msgspec.structs.replace(sample, verbs=verbs[key])


def _quoted(values: Iterable[str]) -> str:
    """As Go prints a list of strings with %q."""
    return "[" + " ".join(json.dumps(value, ensure_ascii=False) for value in values) + "]"


def _shown(rule: rbac.PolicyRule) -> str:
    parts = [
        f"{name}:{_quoted(values)}"
        for name, values in (
            ("APIGroups", rule.apiGroups), ("Resources", rule.resources),
            ("NonResourceURLs", rule.nonResourceURLs), ("ResourceNames", rule.resourceNames), ("Verbs", rule.verbs),
        )
        if values
    ]  # fmt: skip
    return "{" + ", ".join(parts) + "}"
