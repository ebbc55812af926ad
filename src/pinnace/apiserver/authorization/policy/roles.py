"""Objects out of the tables: what a new cluster's RBAC holds, and what an older one is brought up to."""

from __future__ import annotations

from collections.abc import Iterator

from pinnace.api.meta import v1 as meta
from pinnace.api.rbac import v1 as rbac
from pinnace.apiserver.authorization.policy.cluster_roles import CLUSTER_ROLES
from pinnace.apiserver.authorization.policy.controller_roles import CONTROLLER_ROLES
from pinnace.apiserver.authorization.policy.namespaces import (
    CLUSTER_ROLE_BINDINGS,
    NAMESPACE_ROLES,
    ROLE_BINDINGS,
)

GROUP = "rbac.authorization.k8s.io"
_AGGREGATE = f"{GROUP}/aggregate-to-"
# Aggregated role -> the role that it is itself aggregated to.
_AGGREGATED = {"admin": "", "edit": "admin", "view": "edit"}


def parse_rules(text: str) -> list[rbac.PolicyRule]:
    """The rules of a role in the tables' notation: one rule for each line and group."""
    rules = []
    for line in _lines(text):
        verbs, _, rest = line.partition(": ")
        things, _, names = rest.partition(" = ")
        paths = [thing for thing in things.split() if thing.startswith("/")]
        if paths:
            urls = ["*" if path == "/*" else path for path in paths]
            rules.append(rbac.PolicyRule(verbs=verbs.split(), nonResourceURLs=urls))
            continue
        by_group: dict[str, list[str]] = {}
        for thing in things.split():
            group, resource = _split(thing)
            by_group.setdefault(group, []).append(resource)
        for group, resources in by_group.items():
            rules.append(
                rbac.PolicyRule(
                    verbs=verbs.split(), apiGroups=[group], resources=resources, resourceNames=names.split() or None
                )
            )
    return rules


def cluster_roles() -> Iterator[rbac.ClusterRole]:
    """Every default ClusterRole; the aggregated ones come without rules, which the aggregation fills in."""
    for name, parent in _AGGREGATED.items():
        selector = meta.LabelSelector(matchLabels={_AGGREGATE + name: "true"})
        role = rbac.ClusterRole(
            metadata=_metadata(name), aggregationRule=rbac.AggregationRule(clusterRoleSelectors=[selector])
        )
        yield _labelled(role, parent)
    for name, text in (CLUSTER_ROLES | CONTROLLER_ROLES).items():
        role = rbac.ClusterRole(metadata=_metadata(name), rules=parse_rules(text))
        yield _labelled(role, name.removeprefix("system:aggregate-to-") if "aggregate-to-" in name else "")


def cluster_role_bindings() -> Iterator[rbac.ClusterRoleBinding]:
    for name, subjects in CLUSTER_ROLE_BINDINGS.items():
        yield _cluster_role_binding(name, subjects)
    for name in CONTROLLER_ROLES:
        account = name.removeprefix("system:controller:")
        yield _cluster_role_binding(name, (f"account kube-system/{account}",))


def roles() -> Iterator[rbac.Role]:
    for key, text in NAMESPACE_ROLES.items():
        namespace, _, name = key.partition("/")
        yield rbac.Role(metadata=_metadata(name, namespace), rules=parse_rules(text))


def role_bindings() -> Iterator[rbac.RoleBinding]:
    for (namespace, name), (role, subjects) in ROLE_BINDINGS.items():
        yield rbac.RoleBinding(
            metadata=_metadata(name, namespace),
            roleRef=rbac.RoleRef(apiGroup=GROUP, kind="Role", name=role),
            subjects=[_subject(subject) for subject in subjects],
        )


def _lines(text: str) -> Iterator[str]:
    """Logical lines: what is indented deeper than the first goes on with the line before."""
    current = ""
    for line in text.splitlines():
        if not line.strip():
            continue
        if line.startswith(" " * 12) and current:
            current += " " + line.strip()
            continue
        if current:
            yield current
        current = line.strip()
    if current:
        yield current


def _split(thing: str) -> tuple[str, str]:
    """`deployments.apps/scale` -> ("apps", "deployments/scale")."""
    qualified, slash, subresource = thing.partition("/")
    resource, _, group = qualified.partition(".")
    return group, resource + slash + subresource


def _cluster_role_binding(name: str, subjects: tuple[str, ...]) -> rbac.ClusterRoleBinding:
    return rbac.ClusterRoleBinding(
        metadata=_metadata(name),
        roleRef=rbac.RoleRef(apiGroup=GROUP, kind="ClusterRole", name=name),
        subjects=[_subject(subject) for subject in subjects] or None,
    )


def _subject(text: str) -> rbac.Subject:
    sort, _, name = text.partition(" ")
    if sort == "account":
        namespace, _, name = name.partition("/")
        return rbac.Subject(kind="ServiceAccount", namespace=namespace, name=name)
    return rbac.Subject(kind=sort.title(), apiGroup=GROUP, name=name)


def _metadata(name: str, namespace: str | None = None) -> meta.ObjectMeta:
    return meta.ObjectMeta(
        name=name,
        namespace=namespace,
        labels={"kubernetes.io/bootstrapping": "rbac-defaults"},
        annotations={"rbac.authorization.kubernetes.io/autoupdate": "true"},
    )


def _labelled(role: rbac.ClusterRole, aggregate_to: str) -> rbac.ClusterRole:
    if aggregate_to and role.metadata.labels is not None:
        role.metadata.labels[_AGGREGATE + aggregate_to] = "true"
    return role
