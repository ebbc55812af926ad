"""Disruption budgets: how many of the pods that a budget selects may be evicted now.

The eviction subresource takes from `disruptionsAllowed` and notes the pod in `disruptedPods`; this controller
counts and forgets. Source: https://kubernetes.io/docs/concepts/workloads/pods/disruptions/.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import msgspec

from pinnace.api.apps import v1 as apps
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.api.policy import v1 as policy
from pinnace.api.times import format as format_time
from pinnace.api.times import parse as parse_time
from pinnace.client.informer import Event, Informers
from pinnace.controllers import pods as podlib
from pinnace.controllers.deployment.fenceposts import scaled
from pinnace.controllers.owners import controller_of
from pinnace.controllers.plan import NOTHING, WARNING, Emit, Plan, Planner, Ref, Related
from pinnace.controllers.selectors import selects

_DELETION_SECONDS = 120.0   # an evicted pod that is still there by then was not deleted after all


class Seen(msgspec.Struct, frozen=True):
    """`wanted`: how many pods each controller of the selected ones wants, by its uid; None if not known."""

    budget: policy.PodDisruptionBudget
    pods: tuple[core.Pod, ...]
    wanted: dict[str, int | None]


class DisruptionController:
    name = "disruption"

    def __init__(self, informers: Informers) -> None:
        self.primary = informers.of(policy.PodDisruptionBudget)
        self._pods = informers.of(core.Pod)
        self._sets = informers.of(apps.ReplicaSet)
        self._deployments = informers.of(apps.Deployment)
        self._stateful = informers.of(apps.StatefulSet)
        self._rcs = informers.of(core.ReplicationController)
        self.watches = (
            Related(self._pods, self._of_pod),
            *(Related(scale, self._of_scale) for scale in (self._sets, self._deployments, self._stateful, self._rcs)),
        )

    def observe(self, ref: Ref) -> Seen | None:
        budget = self.primary.cache.find(ref)
        if budget is None:
            return None
        pods = tuple(pod for pod in self._pods.cache.list(ref[0]) if _selects(budget, pod))
        return Seen(budget, pods, self._wanted(pods))

    def decide(self, seen: Seen, now: datetime) -> Plan:
        return decide(seen, now)

    def _wanted(self, pods: Iterable[core.Pod]) -> dict[str, int | None]:
        """The scales behind the pods; a deployment counts instead of its replica sets."""
        found: dict[str, int | None] = {}
        for pod in pods:
            owner = controller_of(pod)
            if owner is None or owner.uid in found:
                continue
            namespace = pod.metadata.namespace or ""
            scale: Any = None
            match owner.kind:
                case "ReplicaSet":
                    scale = self._sets.cache.get(namespace, owner.name)
                    above = controller_of(scale) if scale is not None else None
                    if above is not None and above.kind == "Deployment":
                        scale = self._deployments.cache.get(namespace, above.name)
                        owner = above
                case "StatefulSet":
                    scale = self._stateful.cache.get(namespace, owner.name)
                case "ReplicationController":
                    scale = self._rcs.cache.get(namespace, owner.name)
            if scale is None:
                found[owner.uid] = None
            else:
                found[owner.uid] = 1 if scale.spec.replicas is None else scale.spec.replicas
        return found

    def _of_pod(self, event: Event[core.Pod]) -> Iterable[Ref]:
        pod = event.old if event.new is None else event.new
        namespace = pod.metadata.namespace or ""
        if namespace not in self.primary.cache.namespaces:
            return ()
        versions = [pod for pod in (event.old, event.new) if pod is not None]
        return [
            (namespace, budget.metadata.name or "")
            for budget in self.primary.cache.list(namespace)
            if any(_selects(budget, pod) for pod in versions)
        ]

    def _of_scale(self, event: Event[Any]) -> Iterable[Ref]:
        old, new = event.old, event.new
        if old is not None and new is not None and old.spec.replicas == new.spec.replicas:
            return
        obj: Any = old if new is None else new
        for budget in self.primary.cache.list(obj.metadata.namespace or ""):
            yield budget.metadata.namespace or "", budget.metadata.name or ""


def _selects(budget: policy.PodDisruptionBudget, pod: core.Pod) -> bool:
    return selects(budget.spec.selector, pod.metadata.labels)


def decide(seen: Seen, now: datetime) -> Plan:
    budget = seen.budget
    if budget.metadata.deletionTimestamp is not None:
        return NOTHING
    planner = Planner()
    pods = [pod for pod in seen.pods if not podlib.is_finished(pod)]
    unmanaged = [uid for uid, count in seen.wanted.items() if count is None]
    if unmanaged and not isinstance(budget.spec.minAvailable, int):
        names = ", ".join(sorted({o.name for p in pods if (o := controller_of(p)) and o.uid in unmanaged}))
        planner.do(Emit(WARNING, "CalculateExpectedPodCountFailed",
                        f"Failed to calculate the number of expected pods: no scale found for {names}"))
        failed = _status(budget, 0, 0, 0, 0, {}, now, "SyncFailed", "no scale was found for the pods' controllers")
        return Plan(tuple(planner.actions), failed) if failed is not None else NOTHING
    expected, desired = _expected(budget, pods, seen.wanted)
    disrupted = _disrupted(budget, pods, planner, now)
    healthy = sum(
        podlib.is_ready(pod)
        and pod.metadata.deletionTimestamp is None
        and (pod.metadata.name or "") not in disrupted
        for pod in pods
    )
    allowed = max(0, healthy - desired) if expected > 0 else 0
    changed = _status(budget, allowed, healthy, desired, expected, disrupted, now)
    return planner.plan(changed)


def _expected(
    budget: policy.PodDisruptionBudget, pods: list[core.Pod], wanted: dict[str, int | None]
) -> tuple[int, int]:
    """How many pods there should be, and how many must stay healthy."""
    if budget.spec.maxUnavailable is not None:
        expected = sum(count or 0 for count in wanted.values())
        return expected, max(0, expected - scaled(budget.spec.maxUnavailable, expected, up=True))
    least = budget.spec.minAvailable
    if isinstance(least, int):
        return len(pods), least
    expected = sum(count or 0 for count in wanted.values())
    return expected, scaled(least, expected, up=True)


def _disrupted(
    budget: policy.PodDisruptionBudget, pods: list[core.Pod], planner: Planner, now: datetime
) -> dict[str, str | None]:
    """Evicted pods whose deletion is not seen yet; those that were spared after all are given up."""
    names = {pod.metadata.name: pod for pod in pods}
    kept: dict[str, str | None] = {}
    for name, since in (budget.status.disruptedPods or {}).items():
        pod = names.get(name)
        if pod is None or pod.metadata.deletionTimestamp is not None or not since:
            continue
        left = parse_time(since) + timedelta(seconds=_DELETION_SECONDS) - now
        if left <= timedelta():
            planner.do(Emit(WARNING, "NotDeleted", "Pod was expected by PDB "
                            f"{budget.metadata.namespace}/{budget.metadata.name} to be deleted but it wasn't", pod))
        else:
            kept[name] = since
            planner.after(left)
    return kept


def _status(
    budget: policy.PodDisruptionBudget,
    allowed: int,
    healthy: int,
    desired: int,
    expected: int,
    disrupted: dict[str, str | None],
    now: datetime,
    reason: str = "",
    message: str = "",
) -> policy.PodDisruptionBudget | None:
    reason = reason or ("SufficientPods" if allowed > 0 else "InsufficientPods")
    value = "True" if allowed > 0 else "False"
    generation = budget.metadata.generation
    old = next((c for c in budget.status.conditions or () if c.type == "DisruptionAllowed"), None)
    stamp = old.lastTransitionTime if old is not None and old.status == value else format_time(now)
    condition = meta.Condition(
        type="DisruptionAllowed", status=value, reason=reason, message=message,
        lastTransitionTime=stamp, observedGeneration=generation,
    )  # fmt: skip
    others = [c for c in budget.status.conditions or () if c.type != "DisruptionAllowed"]
    status = policy.PodDisruptionBudgetStatus(
        conditions=[*others, condition],
        currentHealthy=healthy,
        desiredHealthy=desired,
        disruptionsAllowed=allowed,
        expectedPods=expected,
        disruptedPods=disrupted or None,
        observedGeneration=generation,
    )
    return None if status == budget.status else msgspec.structs.replace(budget, status=status)
