"""Nobody gives away rights that they do not have (upstream: registry/rbac, escalation check).

Who writes a role must hold every rule in it, or the verb `escalate` on roles; who binds one must hold its
rules, or the verb `bind` on the role.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from pinnace.api.errors import Forbidden, StatusDetails, qualified
from pinnace.api.rbac import v1 as rbac
from pinnace.apiserver.access import MASTERS, Admission, Attributes, Authorizer
from pinnace.apiserver.authentication.objects import Objects
from pinnace.apiserver.authorization.rbac import RbacAuthorizer, covers
from pinnace.client.transport import User

_GROUP = "rbac.authorization.k8s.io"


class EscalationCheck:
    """Validates writes of roles and bindings."""

    def __init__(self, objects: Objects, rbac_authorizer: RbacAuthorizer, authorizer: Authorizer) -> None:
        self._objects = objects
        self._rbac = rbac_authorizer
        self._authorizer = authorizer

    async def mutate(self, admission: Admission) -> None:
        return None

    async def validate(self, admission: Admission) -> None:
        if admission.operation not in ("CREATE", "UPDATE") or MASTERS in admission.user.groups:
            return
        new, old = admission.object, admission.old_object
        if isinstance(new, rbac.Role | rbac.ClusterRole):
            unchanged = isinstance(old, rbac.Role | rbac.ClusterRole) and (old.rules or []) == (new.rules or [])
            if not unchanged and not self._may(admission, "escalate", admission.resource, admission.name):
                self._demand(admission, new.rules or ())
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
            kind = "clusterroles" if reference.kind == "ClusterRole" else "roles"
            raise Forbidden.to(
                admission.resource, admission.group, admission.name, f'{kind}.{_GROUP} "{reference.name}" not found'
            )
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
        listed = "\n".join(_compact(rule) for rule in missing)
        raise Forbidden(
            f"{what} is forbidden: {_who(admission.user)} is attempting to grant RBAC permissions not currently "
            f"held:\n{listed}",
            StatusDetails(name=admission.name, group=admission.group, kind=admission.resource),
        )


def _who(user: User) -> str:
    return f"user {json.dumps(user.name)} (groups={json.dumps(list(user.groups))})"


def _compact(rule: rbac.PolicyRule) -> str:
    parts = [
        f"{name}:{json.dumps(values)}"
        for name, values in (
            ("APIGroups", rule.apiGroups), ("Resources", rule.resources), ("ResourceNames", rule.resourceNames),
            ("NonResourceURLs", rule.nonResourceURLs), ("Verbs", rule.verbs),
        )
        if values
    ]  # fmt: skip
    return "{" + ", ".join(parts) + "}"
