"""ReplicaSet and ReplicationController: keep so many pods of one template running.

Both are the same decision over a small view of what they have in common. Source: upstream's
pkg/controller/replicaset and https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec
from msgspec.structs import replace

from pinnace.api.apps import v1 as apps
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.api.times import format as format_time
from pinnace.client.informer import Informers
from pinnace.controllers import pods as podlib
from pinnace.controllers.owners import (
    Claim,
    Owned,
    candidates,
    claim,
    controller_of,
    index_by_controller,
)
from pinnace.controllers.plan import (
    NORMAL,
    WARNING,
    Create,
    Delete,
    Emit,
    Failure,
    Plan,
    Planner,
    Ref,
)
from pinnace.controllers.selectors import selects

_BURST = 500   # pods made or deleted in one go


class Seen(msgspec.Struct, frozen=True, gc=False):
    """A replica set (or replication controller) and the pods that concern it.

    `related`: the active pods of all replica sets of the same deployment; read only when some must go.
    """

    owner: Any
    selector: meta.LabelSelector | None
    template: core.PodTemplateSpec
    pods: tuple[core.Pod, ...]
    related: tuple[core.Pod, ...] = ()


class ReplicaSetController:
    name = "replicaset"

    def __init__(self, informers: Informers) -> None:
        self.primary = informers.of(apps.ReplicaSet)
        self._pods = informers.of(core.Pod)
        index_by_controller(self._pods)
        index_by_controller(self.primary)
        self.watches = (
            Owned(self._pods, "ReplicaSet", "apps", self._adopters, same=podlib.same_standing),
        )

    def observe(self, ref: Ref) -> Seen | None:
        rs = self.primary.cache.find(ref)
        if rs is None or rs.spec is None:
            return None
        template = rs.spec.template or core.PodTemplateSpec()
        seen = Seen(rs, rs.spec.selector, template, tuple(candidates(self._pods, rs)))
        wanted = rs.spec.replicas or 0
        if len(seen.pods) <= wanted or len(_active(_claim(seen).owned)) <= wanted:
            return seen
        return replace(seen, related=tuple(self._related(rs)))

    def decide(self, seen: Seen, now: datetime) -> Plan:
        return decide(seen, now)

    def report(self, seen: Seen, plan: Plan, failures: tuple[Failure, ...], now: datetime) -> Plan:
        return report(seen, failures, now)

    def _related(self, rs: apps.ReplicaSet) -> Iterable[core.Pod]:
        owner = controller_of(rs)
        siblings = self.primary.cache.by_index("controller", owner.uid) if owner is not None else [rs]
        for sibling in siblings:
            for pod in self._pods.cache.by_index("controller", sibling.metadata.uid or ""):
                if podlib.is_active(pod):
                    yield pod

    def _adopters(self, pod: core.Pod) -> Iterable[Ref]:
        """Replica sets that might adopt a pod nobody controls."""
        if not pod.metadata.labels:
            return
        for rs in self.primary.cache.list(pod.metadata.namespace or ""):
            selector = rs.spec.selector if rs.spec is not None else None
            if selector is not None and selects(selector, pod.metadata.labels):
                yield rs.metadata.namespace or "", rs.metadata.name or ""


class ReplicationControllerController:
    name = "replication-controller"

    def __init__(self, informers: Informers) -> None:
        self.primary = informers.of(core.ReplicationController)
        self._pods = informers.of(core.Pod)
        index_by_controller(self._pods)
        self.watches = (
            Owned(self._pods, "ReplicationController", "", self._adopters, same=podlib.same_standing),
        )

    def observe(self, ref: Ref) -> Seen | None:
        rc = self.primary.cache.find(ref)
        if rc is None or rc.spec is None:
            return None
        template = rc.spec.template or core.PodTemplateSpec()
        pods = tuple(candidates(self._pods, rc))
        active = tuple(pod for pod in self._pods.cache.by_index("controller", rc.metadata.uid or "")
                       if podlib.is_active(pod))
        return Seen(rc, meta.LabelSelector(matchLabels=rc.spec.selector), template, pods, active)

    def decide(self, seen: Seen, now: datetime) -> Plan:
        return decide(seen, now)

    def report(self, seen: Seen, plan: Plan, failures: tuple[Failure, ...], now: datetime) -> Plan:
        return report(seen, failures, now)

    def _adopters(self, pod: core.Pod) -> Iterable[Ref]:
        if not pod.metadata.labels:
            return
        for rc in self.primary.cache.list(pod.metadata.namespace or ""):
            if rc.spec is not None and _covers(rc.spec.selector or {}, pod.metadata.labels):
                yield rc.metadata.namespace or "", rc.metadata.name or ""


def decide(seen: Seen, now: datetime) -> Plan:
    """Adopt and release first; then make or delete pods; then, with nothing left to do, the status."""
    owner = seen.owner
    claimed = _claim(seen)
    if claimed.patches:
        return Plan(claimed.patches)
    active = _active(claimed.owned)
    planner = Planner()
    if owner.metadata.deletionTimestamp is None:
        missing = _replicas(owner) - len(active)
        if missing > 0:
            pod = podlib.from_template(
                seen.template, owner, owner.metadata.name or "", owner.metadata.namespace or ""
            )
            planner.do(*[_create(pod)] * min(missing, _BURST))
        elif missing < 0:
            count = min(-missing, _BURST)
            related = seen.related or tuple(active)
            planner.do(*map(_delete, podlib.first_to_go(active, related, count, now)))
    if planner.actions:
        return planner.plan()
    status = _status(seen, claimed.owned, now, None)
    _wake_when_available(planner, owner, active, now)
    return planner.plan(_with_status(owner, status), final=True)


def report(seen: Seen, failures: tuple[Failure, ...], now: datetime) -> Plan:
    """What could not be made or deleted becomes the condition ReplicaFailure."""
    first = failures[0]
    reason = "FailedDelete" if isinstance(first.action, Delete) else "FailedCreate"
    status = _status(seen, _claim(seen).owned, now, (reason, first.error.message))
    return Plan(status=_with_status(seen.owner, status))


def _claim(seen: Seen) -> Claim[core.Pod]:
    pods = [p for p in seen.pods if not podlib.is_finished(p) or controller_of(p) is not None]
    return claim(seen.owner, seen.selector, pods)


def _active(pods: Iterable[core.Pod]) -> list[core.Pod]:
    return [pod for pod in pods if podlib.is_active(pod)]


def _replicas(owner: Any) -> int:
    return 1 if owner.spec.replicas is None else int(owner.spec.replicas)


def _create(pod: core.Pod) -> Create:
    return Create(
        pod,
        then=Emit(NORMAL, "SuccessfulCreate", "Created pod: {name}"),
        otherwise=Emit(WARNING, "FailedCreate", "Error creating: {error}"),
    )


def _delete(pod: core.Pod) -> Delete:
    return Delete(
        core.Pod,
        pod.metadata.namespace or "",
        pod.metadata.name or "",
        pod.metadata.uid or "",
        then=Emit(NORMAL, "SuccessfulDelete", "Deleted pod: {name}"),
        otherwise=Emit(WARNING, "FailedDelete", "Error deleting: {error}"),
    )


def _status(seen: Seen, owned: list[core.Pod], now: datetime, failure: tuple[str, str] | None) -> Any:
    owner = seen.owner
    active = _active(owned)
    wanted = (seen.template.metadata.labels if seen.template.metadata is not None else None) or {}
    min_ready = owner.spec.minReadySeconds or 0
    old = owner.status
    labelled = ready = available = 0
    for pod in active:
        labelled += _covers(wanted, pod.metadata.labels or {})
        if podlib.is_ready(pod):
            ready += 1
            available += not min_ready or podlib.is_available(pod, min_ready, now)
    fields: dict[str, Any] = {
        "replicas": len(active),
        "fullyLabeledReplicas": labelled or None,
        "readyReplicas": ready or None,
        "availableReplicas": available or None,
        "observedGeneration": owner.metadata.generation,
        "conditions": _conditions(owner, failure, now),
    }
    if isinstance(owner, apps.ReplicaSet):
        fields["terminatingReplicas"] = sum(map(podlib.is_terminating, owned))
        return apps.ReplicaSetStatus(**fields) if old is None else msgspec.structs.replace(old, **fields)
    return core.ReplicationControllerStatus(**fields) if old is None else msgspec.structs.replace(old, **fields)


def _conditions(owner: Any, failure: tuple[str, str] | None, now: datetime) -> list[Any] | None:
    old = list((owner.status.conditions if owner.status is not None else None) or ())
    current = next((c for c in old if c.type == "ReplicaFailure"), None)
    kept = [c for c in old if c.type != "ReplicaFailure"]
    if failure is not None:
        if current is not None and (current.status, current.reason) == ("True", failure[0]):
            return old
        is_rs = isinstance(owner, apps.ReplicaSet)
        make = apps.ReplicaSetCondition if is_rs else core.ReplicationControllerCondition
        kept.append(make(type="ReplicaFailure", status="True", reason=failure[0], message=failure[1],
                         lastTransitionTime=format_time(now)))
    return kept or None


def _with_status(owner: Any, status: Any) -> Any:
    """The owner with this status; None if it has it already."""
    return None if owner.status == status else msgspec.structs.replace(owner, status=status)


def _wake_when_available(planner: Planner, owner: Any, active: list[core.Pod], now: datetime) -> None:
    min_ready = owner.spec.minReadySeconds or 0
    if not min_ready:
        return
    for pod in active:
        at = podlib.available_at(pod, min_ready)
        if at is not None and at > now:
            planner.after(at - now)


def _covers(wanted: dict[str, str], labels: dict[str, str]) -> bool:
    return wanted.items() <= labels.items()
