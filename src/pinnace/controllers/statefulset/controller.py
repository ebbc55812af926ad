"""The stateful set controller: pods in their order, one at a time unless told otherwise.

Source: https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/ and upstream's
pkg/controller/statefulset.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from pinnace.api.apps import v1 as apps
from pinnace.api.core import v1 as core
from pinnace.client.informer import Event, Informers
from pinnace.controllers import history
from pinnace.controllers import pods as podlib
from pinnace.controllers.deployment.fenceposts import replicas_of, scaled
from pinnace.controllers.owners import (
    CONTROLLER,
    Owned,
    candidates,
    claim,
    controller_of,
    index_by_controller,
)
from pinnace.controllers.plan import (
    NORMAL,
    WARNING,
    Action,
    Create,
    Delete,
    Emit,
    Plan,
    Planner,
    Ref,
    Related,
    Update,
)
from pinnace.controllers.statefulset import identity


class Seen(msgspec.Struct, frozen=True):
    stateful: apps.StatefulSet
    pods: tuple[core.Pod, ...]
    revisions: tuple[apps.ControllerRevision, ...]
    claims: tuple[core.PersistentVolumeClaim, ...]


class StatefulSetController:
    name = "statefulset"

    def __init__(self, informers: Informers) -> None:
        self.primary = informers.of(apps.StatefulSet)
        self._pods = informers.of(core.Pod)
        self._revisions = informers.of(apps.ControllerRevision)
        self._claims = informers.of(core.PersistentVolumeClaim)
        index_by_controller(self._pods)
        index_by_controller(self._revisions)
        self.watches = (
            Owned(self._pods, "StatefulSet", "apps", self._adopters),
            Owned(self._revisions, "StatefulSet", "apps"),
            Related(self._claims, self._of_claim),
        )

    def observe(self, ref: Ref) -> Seen | None:
        stateful = self.primary.cache.find(ref)
        if stateful is None:
            return None
        pods = [
            pod
            for pod in candidates(self._pods, stateful)
            if controller_of(pod) is not None or identity.ordinal_of(stateful, pod) is not None
        ]
        revisions = self._revisions.cache.by_index(CONTROLLER, stateful.metadata.uid or "")
        claims: list[core.PersistentVolumeClaim] = []
        if stateful.spec.volumeClaimTemplates:
            names = [f"{item.metadata.name}-{stateful.metadata.name}-" for item in stateful.spec.volumeClaimTemplates]
            claims = [
                c for c in self._claims.cache.list(ref[0]) if (c.metadata.name or "").startswith(tuple(names))
            ]
        return Seen(stateful, tuple(pods), tuple(revisions), tuple(claims))

    def decide(self, seen: Seen, now: datetime) -> Plan:
        return decide(seen, now)

    def _adopters(self, pod: core.Pod) -> Iterable[Ref]:
        namespace = pod.metadata.namespace or ""
        stateful = self.primary.cache.get(namespace, (pod.metadata.name or "").rpartition("-")[0])
        if stateful is not None:
            yield namespace, stateful.metadata.name or ""

    def _of_claim(self, event: Event[core.PersistentVolumeClaim]) -> Iterable[Ref]:
        if event.old is not None and event.new is not None:
            return
        obj = event.old if event.new is None else event.new
        for stateful in self.primary.cache.list(obj.metadata.namespace or ""):
            if stateful.spec.volumeClaimTemplates and f"-{stateful.metadata.name}-" in (obj.metadata.name or ""):
                yield stateful.metadata.namespace or "", stateful.metadata.name or ""


class _Set(msgspec.Struct, frozen=True):
    """A stateful set with its pods in their places."""

    stateful: apps.StatefulSet
    now: datetime
    places: dict[int, core.Pod | None]     # wanted ordinals, ascending
    condemned: tuple[core.Pod, ...]        # pods of other ordinals, the highest first
    current: str                           # revision names
    update: str
    templates: dict[str, core.PodTemplateSpec]
    claims: dict[str, core.PersistentVolumeClaim]

    @property
    def ordered(self) -> bool:
        return self.stateful.spec.podManagementPolicy != "Parallel"

    def available(self, pod: core.Pod | None) -> bool:
        if pod is None or pod.metadata.deletionTimestamp is not None or podlib.phase(pod) != "Running":
            return False
        return podlib.is_available(pod, self.stateful.spec.minReadySeconds or 0, self.now)


def decide(seen: Seen, now: datetime) -> Plan:
    """One step: adopt; revision; a place to fill; a pod to let go; one to replace; then the status."""
    stateful = seen.stateful
    claimed = claim(stateful, stateful.spec.selector, seen.pods)
    if claimed.patches:
        return Plan(claimed.patches)
    past = history.present(stateful, seen.revisions, stateful.status.collisionCount or 0)
    if past.actions and stateful.metadata.deletionTimestamp is None:
        return Plan(past.actions)
    known = {r.metadata.name or "": identity.template_of(r) for r in seen.revisions}
    current = stateful.status.currentRevision or past.name
    start = identity.start_of(stateful)
    by_ordinal = {identity.ordinal_of(stateful, pod): pod for pod in claimed.owned}
    wanted = range(start, start + replicas_of(stateful))
    condemned = [(n, pod) for n, pod in by_ordinal.items() if n is not None and n not in wanted]
    condemned.sort(key=lambda item: item[0], reverse=True)
    state = _Set(
        stateful,
        now,
        {ordinal: by_ordinal.get(ordinal) for ordinal in wanted},
        tuple(pod for _, pod in condemned),
        current if current in known else past.name,
        past.name,
        known | {past.name: stateful.spec.template},
        {c.metadata.name or "": c for c in seen.claims},
    )
    planner = Planner()
    if stateful.metadata.deletionTimestamp is None:
        planner.do(*_step(state))
        if not planner.actions:
            live = {(pod.metadata.labels or {}).get(history.HASH_LABEL, "") for pod in claimed.owned}
            live |= {state.current, state.update}
            planner.do(*history.surplus(past.old, live, stateful.spec.revisionHistoryLimit))
    if planner.actions:
        return planner.plan()
    _wake_when_available(state, planner)
    status = _status(state, claimed.owned)
    return planner.plan(None if status == stateful.status else msgspec.structs.replace(stateful, status=status))


def _step(state: _Set) -> list[Action]:
    actions = _retention(state)
    waits = False
    for ordinal, pod in state.places.items():
        step, waits = _fill(state, ordinal, pod)
        actions += step
        if (step or waits) and state.ordered:
            return actions
    if actions:
        return actions
    actions = _let_go(state)
    if actions or (state.ordered and state.condemned):
        return actions
    return _replace(state)


def _fill(state: _Set, ordinal: int, pod: core.Pod | None) -> tuple[list[Action], bool]:
    """What a place needs, and whether the next ones wait for it."""
    name = state.stateful.metadata.name
    missing: list[Action] = [
        Create(
            made,
            then=Emit(NORMAL, "SuccessfulCreate",
                      f"create Claim {{name}} Pod {name}-{ordinal} in StatefulSet {name} success"),
        )
        for made in identity.make_claims(state.stateful, ordinal)
        if (made.metadata.name or "") not in state.claims
    ]  # fmt: skip
    if pod is None:
        return [*missing, _create(state, ordinal)], True
    if podlib.is_finished(pod) and pod.metadata.deletionTimestamp is None:
        word = "failed" if podlib.phase(pod) == "Failed" else "terminated"
        where = f"{state.stateful.metadata.namespace}/{name}"
        text = f"StatefulSet {where} is recreating {word} Pod {pod.metadata.name}"
        reason = "RecreatingFailedPod" if word == "failed" else "RecreatingTerminatedPod"
        return [Emit(WARNING, reason, text), _delete(state, pod)], True
    return missing, not state.available(pod)


def _create(state: _Set, ordinal: int) -> Create:
    start = identity.start_of(state.stateful)
    rolling = state.stateful.spec.updateStrategy.rollingUpdate
    if state.stateful.spec.updateStrategy.type == "OnDelete":
        old = False
    elif rolling is None or rolling.partition is None:
        old = ordinal < start + (state.stateful.status.currentReplicas or 0)
    else:
        old = ordinal < start + rolling.partition
    revision = state.current if old else state.update
    pod = identity.make_pod(state.stateful, state.templates[revision], revision, ordinal)
    text = f"create Pod {pod.metadata.name} in StatefulSet {state.stateful.metadata.name}"
    return Create(
        pod,
        then=Emit(NORMAL, "SuccessfulCreate", f"{text} successful"),
        otherwise=Emit(WARNING, "FailedCreate", f"{text} failed error: {{error}}"),
    )


def _delete(state: _Set, pod: core.Pod) -> Delete:
    data = pod.metadata
    text = f"delete Pod {data.name} in StatefulSet {state.stateful.metadata.name}"
    return Delete(
        core.Pod,
        data.namespace or "",
        data.name or "",
        data.uid or "",
        then=Emit(NORMAL, "SuccessfulDelete", f"{text} successful"),
        otherwise=Emit(WARNING, "FailedDelete", f"{text} failed error: {{error}}"),
    )


def _let_go(state: _Set) -> list[Action]:
    """Pods beyond the wanted ones, the highest first; in order, one when all others are well."""
    if not state.ordered:
        return [_delete(state, pod) for pod in state.condemned if pod.metadata.deletionTimestamp is None]
    well = all(state.available(pod) for pod in state.places.values())
    for position, pod in enumerate(state.condemned):
        if pod.metadata.deletionTimestamp is not None:
            return []
        lower = state.condemned[position + 1 :]
        if state.available(pod) or (well and all(map(state.available, lower))):
            return [_delete(state, pod)]
        return []
    return []


def _replace(state: _Set) -> list[Action]:
    """Rolling update: from the highest ordinal down to the partition, pods of older revisions go."""
    strategy = state.stateful.spec.updateStrategy
    if strategy.type == "OnDelete":
        return []
    rolling = strategy.rollingUpdate
    partition = (rolling.partition if rolling is not None else None) or 0
    limit = rolling.maxUnavailable if rolling is not None and rolling.maxUnavailable is not None else 1
    room = max(1, scaled(limit, len(state.places), up=True))
    room -= sum(not state.available(pod) for pod in state.places.values())
    actions: list[Action] = []
    start = identity.start_of(state.stateful)
    for ordinal in sorted(state.places, reverse=True):
        pod = state.places[ordinal]
        if ordinal < start + partition or pod is None:
            continue
        if _revision(pod) == state.update:
            if not state.available(pod) and room <= 0:
                return actions   # the last one replaced is not well yet
            continue
        if pod.metadata.deletionTimestamp is not None:
            continue
        if not state.available(pod):
            actions.append(_delete(state, pod))   # it counts as missing anyway
        elif room > 0:
            actions.append(_delete(state, pod))
            room -= 1
    return actions


def _retention(state: _Set) -> list[Action]:
    """Claims are owned as the retention policy says."""
    actions: list[Action] = []
    condemned = {identity.ordinal_of(state.stateful, pod): pod for pod in state.condemned}
    for ordinal in [*state.places, *condemned]:
        for item in state.stateful.spec.volumeClaimTemplates or ():
            found = state.claims.get(identity.claim_name(state.stateful, item, ordinal or 0))
            if found is None:
                continue
            owners = identity.wanted_owners(state.stateful, found, condemned.get(ordinal))
            if owners != (found.metadata.ownerReferences or []):
                data = msgspec.structs.replace(found.metadata, ownerReferences=owners or None)
                actions.append(Update(msgspec.structs.replace(found, metadata=data)))
    return actions


def _revision(pod: core.Pod) -> str:
    return (pod.metadata.labels or {}).get(history.HASH_LABEL, "")


def _wake_when_available(state: _Set, planner: Planner) -> None:
    min_ready = state.stateful.spec.minReadySeconds or 0
    for pod in state.places.values() if min_ready else ():
        at = podlib.available_at(pod, min_ready) if pod is not None else None
        if at is not None and at > state.now:
            planner.after(at - state.now)


def _status(state: _Set, pods: list[core.Pod]) -> apps.StatefulSetStatus:
    stateful = state.stateful
    alive = [pod for pod in pods if pod.metadata.deletionTimestamp is None]
    ready = [pod for pod in pods if podlib.phase(pod) == "Running" and podlib.is_ready(pod)]
    min_ready = stateful.spec.minReadySeconds or 0
    updated = sum(_revision(pod) == state.update for pod in alive)
    current, of_current = state.current, sum(_revision(pod) == state.current for pod in alive)
    rolling = stateful.spec.updateStrategy.type != "OnDelete"
    if rolling and updated == len(pods) == len(ready) and len(pods) == len(state.places):
        current, of_current = state.update, updated   # the rolling update is over
    return msgspec.structs.replace(
        stateful.status,
        replicas=len(pods),
        readyReplicas=len(ready) or None,
        availableReplicas=sum(podlib.is_available(pod, min_ready, state.now) for pod in ready),
        currentReplicas=of_current or None,
        updatedReplicas=updated or None,
        currentRevision=current,
        updateRevision=state.update,
        observedGeneration=stateful.metadata.generation,
        collisionCount=stateful.status.collisionCount or 0,
    )


