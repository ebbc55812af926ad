"""RBAC: roles are sets of rules, bindings give them to users, groups and service accounts.

An index from subject to rules is built when a role or binding has changed since it was last asked, and every
decision is remembered until then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pinnace.api.rbac import v1 as rbac
from pinnace.apiserver.access import ALLOWED, NO_OPINION, Attributes, Decision
from pinnace.apiserver.authentication.objects import Objects
from pinnace.client.transport import User

_KINDS = (rbac.ClusterRole, rbac.ClusterRoleBinding, rbac.Role, rbac.RoleBinding)
_FOR_ALL = Decision(True, until=_KINDS)
_MOST_REMEMBERED = 50_000
_ACCOUNT_PREFIX = "system:serviceaccount:"

Rules = tuple[rbac.PolicyRule, ...]


@dataclass(slots=True)
class _Index:
    """Rules by subject (`user:NAME`, `group:NAME`) and namespace ("": everywhere)."""

    grants: dict[str, dict[str, list[rbac.PolicyRule]]] = field(default_factory=dict)

    def add(self, subject: str, namespace: str, rules: Rules) -> None:
        self.grants.setdefault(subject, {}).setdefault(namespace, []).extend(rules)

    def rules(self, user: User, namespace: str) -> Iterator[rbac.PolicyRule]:
        """Every rule that the user has in the namespace; "" gives only what holds everywhere."""
        for subject in (f"user:{user.name}", *(f"group:{group}" for group in user.groups)):
            granted = self.grants.get(subject)
            if granted:
                yield from granted.get("", ())
                if namespace:
                    yield from granted.get(namespace, ())


class RbacAuthorizer:
    """Allows what a rule allows; has no opinion otherwise."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._index = _Index()
        self._version = -1
        # What was asked, but for the object's name -> the names for which it is allowed; None: for all.
        self._decisions: dict[tuple[object, ...], frozenset[str] | None] = {}

    def authorize(self, attributes: Attributes) -> Decision:
        if self._objects.version(*_KINDS) != self._version:
            self._renew()
        user = attributes.user
        key = (
            user.name, user.groups, attributes.verb, attributes.group, attributes.resource, attributes.subresource,
            attributes.namespace, "" if attributes.resource else attributes.path,
        )  # fmt: skip
        try:
            names = self._decisions[key]
        except KeyError:
            names = allowed_names(self._index.rules(user, attributes.namespace), attributes)
            if len(self._decisions) >= _MOST_REMEMBERED:
                self._decisions.clear()
            self._decisions[key] = names
        if names is None:
            return _FOR_ALL
        return ALLOWED if attributes.name in names else NO_OPINION

    def rules(self, user: User, namespace: str) -> tuple[rbac.PolicyRule, ...]:
        """Every rule that the user has in the namespace, as SelfSubjectRulesReview lists them."""
        if self._objects.version(*_KINDS) != self._version:
            self._renew()
        return tuple(self._index.rules(user, namespace))

    def _renew(self) -> None:
        self._index = build(self._objects)
        self._version = self._objects.version(*_KINDS)
        self._decisions.clear()


def build(objects: Objects) -> _Index:
    """The index over all bindings. A binding whose role does not exist grants nothing."""
    index = _Index()
    cluster = {role.metadata.name: tuple(role.rules or ()) for role in objects.list(rbac.ClusterRole)}
    local = {(r.metadata.namespace, r.metadata.name): tuple(r.rules or ()) for r in objects.list(rbac.Role)}
    for binding in objects.list(rbac.ClusterRoleBinding):
        for subject in subjects(binding.subjects or (), ""):
            index.add(subject, "", cluster.get(binding.roleRef.name, ()))
    for narrow in objects.list(rbac.RoleBinding):
        namespace = narrow.metadata.namespace or ""
        rules = (
            cluster.get(narrow.roleRef.name, ())
            if narrow.roleRef.kind == "ClusterRole"
            else local.get((namespace, narrow.roleRef.name), ())
        )
        for subject in subjects(narrow.subjects or (), namespace):
            index.add(subject, namespace, rules)
    return index


def subjects(bound: Iterable[rbac.Subject], namespace: str) -> Iterator[str]:
    """The index's names of a binding's subjects; an account without a namespace is in the binding's own."""
    for subject in bound:
        match subject.kind:
            case "User":
                yield f"user:{subject.name}"
            case "Group":
                yield f"group:{subject.name}"
            case "ServiceAccount":
                yield f"user:{_ACCOUNT_PREFIX}{subject.namespace or namespace}:{subject.name}"


def allows(rule: rbac.PolicyRule, attributes: Attributes) -> bool:
    """One rule against one request."""
    named = rule.resourceNames if attributes.resource else None
    return concerns(rule, attributes) and (not named or attributes.name in named)


def allowed_names(rules: Iterable[rbac.PolicyRule], attributes: Attributes) -> frozenset[str] | None:
    """The names for which some rules allow a request, whatever name it has itself; None: all names, and none."""
    names: set[str] = set()
    for rule in rules:
        if concerns(rule, attributes):
            if not rule.resourceNames or not attributes.resource:
                return None
            names.update(rule.resourceNames)
    return frozenset(names)


def concerns(rule: rbac.PolicyRule, attributes: Attributes) -> bool:
    """Whether a rule speaks of such a request, its object's name aside."""
    if not _has(rule.verbs, attributes.verb):
        return False
    if not attributes.resource:
        return any(_path_matches(pattern, attributes.path) for pattern in rule.nonResourceURLs or ())
    return _has(rule.apiGroups, attributes.group) and _resource_matches(
        rule.resources or (), attributes.resource, attributes.subresource
    )


def covers(owned: Iterable[rbac.PolicyRule], wanted: Iterable[rbac.PolicyRule]) -> list[rbac.PolicyRule]:
    """What of `wanted` the owner of `owned` does not have, one verb, group, resource and name at a time."""
    rules = tuple(owned)
    simple = (part for rule in wanted for part in _simplify(rule))
    return [part for part in simple if not any(_covers_simple(own, part) for own in rules)]


def _simplify(rule: rbac.PolicyRule) -> Iterator[rbac.PolicyRule]:
    for verb in rule.verbs or ():
        for url in rule.nonResourceURLs or ():
            yield rbac.PolicyRule(verbs=[verb], nonResourceURLs=[url])
        for group in rule.apiGroups or ():
            for resource in rule.resources or ():
                for name in rule.resourceNames or ("",):
                    yield rbac.PolicyRule(
                        verbs=[verb], apiGroups=[group], resources=[resource], resourceNames=[name] if name else None
                    )


def _covers_simple(own: rbac.PolicyRule, wanted: rbac.PolicyRule) -> bool:
    if not all(_has(own.verbs, verb) for verb in wanted.verbs):
        return False
    if wanted.nonResourceURLs:
        return any(_path_matches(pattern, wanted.nonResourceURLs[0]) for pattern in own.nonResourceURLs or ())
    resource, _, subresource = (wanted.resources or [""])[0].partition("/")
    return (
        _has(own.apiGroups, (wanted.apiGroups or [""])[0])
        and _resource_matches(own.resources or (), resource, subresource)
        and (not own.resourceNames or set(wanted.resourceNames or ("",)) <= set(own.resourceNames))
    )


def _has(values: Iterable[str] | None, wanted: str) -> bool:
    listed = values or ()
    return wanted in listed or "*" in listed


def _resource_matches(resources: Iterable[str], resource: str, subresource: str) -> bool:
    whole = f"{resource}/{subresource}" if subresource else resource
    every = f"*/{subresource}" if subresource else ""
    return any(listed in ("*", whole) or (every and listed == every) for listed in resources)


def _path_matches(pattern: str, path: str) -> bool:
    return pattern in ("*", path) or (pattern.endswith("*") and path.startswith(pattern[:-1]))
