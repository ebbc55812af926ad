"""Aggregated cluster roles: a role's rules are those of all roles that its selectors choose."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from pinnace.api.rbac import v1 as rbac
from pinnace.client.informer import Event, Informers
from pinnace.controllers.plan import NOTHING, Plan, Ref, Related, Update
from pinnace.controllers.selectors import selector_of


class Seen(msgspec.Struct, frozen=True):
    """`chosen`: the roles that the selectors choose, by name, this one left out."""

    role: rbac.ClusterRole
    chosen: tuple[rbac.ClusterRole, ...]


class ClusterRoleAggregationController:
    name = "clusterrole-aggregation"

    def __init__(self, informers: Informers) -> None:
        self.primary = informers.of(rbac.ClusterRole)
        self.watches = (Related(self.primary, self._aggregated),)

    def observe(self, ref: Ref) -> Seen | None:
        role = self.primary.cache.find(ref)
        return observe(role, self.primary.cache) if role is not None else None

    def decide(self, seen: Seen, now: datetime) -> Plan:
        return decide(seen)

    def _aggregated(self, event: Event[rbac.ClusterRole]) -> Iterable[Ref]:
        """Any role may be part of any aggregated one."""
        for role in self.primary.cache:
            if role.aggregationRule is not None:
                yield "", role.metadata.name or ""


def observe(role: rbac.ClusterRole, roles: Iterable[rbac.ClusterRole]) -> Seen | None:
    """None for a role whose rules are its own."""
    if role.aggregationRule is None:
        return None
    selectors = [selector_of(s) for s in role.aggregationRule.clusterRoleSelectors or ()]
    chosen = [
        other
        for other in roles
        if other.metadata.name != role.metadata.name and any(s.matches(other.metadata.labels) for s in selectors)
    ]
    return Seen(role, tuple(sorted(chosen, key=lambda other: other.metadata.name or "")))


def decide(seen: Seen) -> Plan:
    rules: list[rbac.PolicyRule] = []
    for role in seen.chosen:
        rules += [rule for rule in role.rules or () if rule not in rules]
    if rules == (seen.role.rules or []):
        return NOTHING
    return Plan((Update(msgspec.structs.replace(seen.role, rules=rules)),))
