"""The daemon set controller: from nodes and pods to what is started, stopped, replaced.

Source: https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/ and upstream's pkg/controller/daemon.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from pinnace.api.apps import v1 as apps
from pinnace.api.core import v1 as core
from pinnace.client.informer import Event, Informers
from pinnace.controllers import history
from pinnace.controllers import pods as podlib
from pinnace.controllers.daemonset.placement import Fit, fit, node_of, pinned, tolerant
from pinnace.controllers.deployment.fenceposts import scaled
from pinnace.controllers.owners import Owned, candidates, claim, index_by_controller
from pinnace.controllers.plan import (
    NORMAL,
    NOTHING,
    WARNING,
    Action,
    Create,
    Delete,
    Emit,
    Plan,
    Planner,
    Ref,
    Related,
)
from pinnace.controllers.selectors import selects

GENERATION_LABEL = "pod-template-generation"
GENERATION = "deprecated.daemonset.template.generation"
_BURST = 250
# A failed pod is replaced at most so often; until then it stays, so that a crash loop does not spin.
_FAILED_SECONDS = 10.0


class Seen(msgspec.Struct, frozen=True):
    daemon_set: apps.DaemonSet
    nodes: tuple[core.Node, ...]
    pods: tuple[core.Pod, ...]
    revisions: tuple[apps.ControllerRevision, ...]


class DaemonSetController:
    name = "daemonset"

    def __init__(self, informers: Informers) -> None:
        self.primary = informers.of(apps.DaemonSet)
        self._pods = informers.of(core.Pod)
        self._nodes = informers.of(core.Node)
        self._revisions = informers.of(apps.ControllerRevision)
        index_by_controller(self._pods)
        index_by_controller(self._revisions)
        self.watches = (
            Owned(self._pods, "DaemonSet", "apps", self._adopters),
            Owned(self._revisions, "DaemonSet", "apps"),
            Related(self._nodes, self._of_node),
        )

    def observe(self, ref: Ref) -> Seen | None:
        daemon_set = self.primary.cache.find(ref)
        if daemon_set is None:
            return None
        nodes = sorted(self._nodes.cache, key=lambda node: node.metadata.name or "")
        revisions = self._revisions.cache.by_index("controller", daemon_set.metadata.uid or "")
        return Seen(daemon_set, tuple(nodes), tuple(candidates(self._pods, daemon_set)), tuple(revisions))

    def decide(self, seen: Seen, now: datetime) -> Plan:
        return decide(seen, now)

    def _adopters(self, pod: core.Pod) -> Iterable[Ref]:
        if not pod.metadata.labels:
            return
        for item in self.primary.cache.list(pod.metadata.namespace or ""):
            if selects(item.spec.selector, pod.metadata.labels):
                yield item.metadata.namespace or "", item.metadata.name or ""

    def _of_node(self, event: Event[core.Node]) -> Iterable[Ref]:
        """Only what decides where daemons belong matters: labels and taints."""
        if event.old is not None and event.new is not None and _face(event.old) == _face(event.new):
            return
        for item in self.primary.cache:
            yield item.metadata.namespace or "", item.metadata.name or ""


def _face(node: core.Node) -> tuple[Any, ...]:
    return node.metadata.labels, node.spec.taints if node.spec is not None else None


class _Place(msgspec.Struct, frozen=True):
    """A node with the daemon's pods on it."""

    node: core.Node
    fit: Fit
    pods: tuple[core.Pod, ...]


def decide(seen: Seen, now: datetime) -> Plan:
    """One step: adopt; revision; one pod a node; roll; clean up; status."""
    daemon_set = seen.daemon_set
    claimed = claim(daemon_set, daemon_set.spec.selector, seen.pods)
    if claimed.patches:
        return Plan(claimed.patches)
    if daemon_set.metadata.deletionTimestamp is not None:
        return NOTHING
    past = history.present(daemon_set, seen.revisions, daemon_set.status.collisionCount or 0)
    if past.actions:
        return Plan(past.actions)
    spec = tolerant(daemon_set.spec.template.spec or core.PodSpec())
    by_node: dict[str, list[core.Pod]] = {}
    for pod in claimed.owned:
        by_node.setdefault(node_of(pod), []).append(pod)
    places = [
        _Place(node, fit(spec, node), tuple(by_node.pop(node.metadata.name or "", ()))) for node in seen.nodes
    ]
    strays = [pod for pods in by_node.values() for pod in pods]
    planner = Planner()
    _keep_one_each(daemon_set, spec, past.hash, places, strays, planner, now)
    if not planner.actions and (daemon_set.spec.updateStrategy.type or "RollingUpdate") == "RollingUpdate":
        planner.do(*_roll(daemon_set, spec, past.hash, places, now))
    if not planner.actions:
        live = {(pod.metadata.labels or {}).get(history.HASH_LABEL, "") for pod in claimed.owned}
        planner.do(*history.surplus(past.old, live, daemon_set.spec.revisionHistoryLimit))
    if planner.actions:
        return planner.plan()
    return _with_status(daemon_set, places, past.hash, planner, now)


def _keep_one_each(
    daemon_set: apps.DaemonSet,
    spec: core.PodSpec,
    digest: str,
    places: Sequence[_Place],
    strays: Sequence[core.Pod],
    planner: Planner,
    now: datetime,
) -> None:
    creations: list[Action] = []
    deletions: list[Action] = []
    surge = _surge(daemon_set, places)
    for place in places:
        name = place.node.metadata.name or ""
        if place.fit.start and not place.pods:
            creations.append(_create(daemon_set, spec, digest, name))
        elif not place.fit.stay:
            deletions += map(_delete, (pod for pod in place.pods if pod.metadata.deletionTimestamp is None))
        else:
            deletions += _finished(place, planner, now)
            running = [pod for pod in place.pods if podlib.is_active(pod)]
            deletions += map(_delete, _extra(running, digest, surge))
    # Pods meant for a node that is not there (any more) would wait for ever.
    deletions += map(_delete, (pod for pod in strays if not _bound(pod) and podlib.is_active(pod)))
    planner.do(*deletions[:_BURST], *creations[:_BURST])


def _bound(pod: core.Pod) -> bool:
    return pod.spec is not None and bool(pod.spec.nodeName)


def _finished(place: _Place, planner: Planner, now: datetime) -> list[Action]:
    """Pods that ended are deleted, so that new ones can come."""
    actions: list[Action] = []
    for pod in place.pods:
        phase = podlib.phase(pod)
        if pod.metadata.deletionTimestamp is not None or phase not in ("Failed", "Succeeded"):
            continue
        age = now - podlib.created(pod, now)
        if phase == "Failed" and age < timedelta(seconds=_FAILED_SECONDS):
            planner.after(timedelta(seconds=_FAILED_SECONDS) - age)
            continue
        where = f"{phase.lower()} daemon pod {pod.metadata.namespace}/{pod.metadata.name}"
        text = f"Found {where} on node {place.node.metadata.name}, will try to "
        if phase == "Failed":
            actions += [Emit(WARNING, "FailedDaemonPod", text + "kill it"), _delete(pod)]
        else:
            actions += [Emit(NORMAL, "SucceededDaemonPod", text + "delete it"), _delete(pod)]
    return actions


def _extra(running: list[core.Pod], digest: str, surge: int) -> list[core.Pod]:
    """All but the pod that stays: the oldest bound one. With surge an old and a new one may overlap."""
    if len(running) < 2:
        return []
    ordered = sorted(running, key=lambda p: (not _bound(p), p.metadata.creationTimestamp or "", p.metadata.name or ""))
    if not surge:
        return ordered[1:]
    old = [pod for pod in ordered if _hash_of(pod) != digest]
    new = [pod for pod in ordered if _hash_of(pod) == digest]
    return old[1:] + new[1:]


def _surge(daemon_set: apps.DaemonSet, places: Sequence[_Place]) -> int:
    rolling = daemon_set.spec.updateStrategy.rollingUpdate
    if rolling is None:
        return 0
    return scaled(rolling.maxSurge, sum(place.fit.start for place in places), up=True)


def _unavailable(daemon_set: apps.DaemonSet, places: Sequence[_Place]) -> int:
    rolling = daemon_set.spec.updateStrategy.rollingUpdate
    value = rolling.maxUnavailable if rolling is not None and rolling.maxUnavailable is not None else 1
    return scaled(value, sum(place.fit.start for place in places), up=True)


def _roll(
    daemon_set: apps.DaemonSet, spec: core.PodSpec, digest: str, places: Sequence[_Place], now: datetime
) -> list[Action]:
    """Replace pods of older revisions, so many nodes at a time."""
    surge = _surge(daemon_set, places)
    min_ready = daemon_set.spec.minReadySeconds or 0
    down = doubled = 0
    broken: list[core.Pod] = []
    standing: list[core.Pod] = []
    actions: list[Action] = []
    waiting: list[str] = []
    for place in places:
        running = [pod for pod in place.pods if podlib.is_active(pod)]
        old = next((pod for pod in running if _hash_of(pod) != digest), None)
        new = next((pod for pod in running if _hash_of(pod) == digest), None)
        up = new is not None and podlib.is_available(new, min_ready, now)
        if old is None:
            down += place.fit.start and not up
        elif new is not None:
            doubled += 1
            if up:
                actions.append(_delete(old))
        elif not podlib.is_available(old, min_ready, now):
            down += 1
            broken.append(old)
            waiting.append(place.node.metadata.name or "")
        else:
            standing.append(old)
            waiting.append(place.node.metadata.name or "")
    if surge:
        room = max(0, surge - doubled)
        return actions + [_create(daemon_set, spec, digest, name) for name in waiting[:room]]
    room = max(0, _unavailable(daemon_set, places) - down)
    return [_delete(pod) for pod in broken + standing[:room]]


def _hash_of(pod: core.Pod) -> str:
    return (pod.metadata.labels or {}).get(history.HASH_LABEL, "")


def _create(daemon_set: apps.DaemonSet, spec: core.PodSpec, digest: str, node: str) -> Create:
    template = msgspec.structs.replace(daemon_set.spec.template, spec=pinned(spec, node))
    data = daemon_set.metadata
    pod = podlib.from_template(template, daemon_set, data.name or "", data.namespace or "")
    labels = {**(pod.metadata.labels or {}), history.HASH_LABEL: digest}
    generation = (data.annotations or {}).get(GENERATION)
    if generation:
        labels[GENERATION_LABEL] = generation
    pod = msgspec.structs.replace(pod, metadata=msgspec.structs.replace(pod.metadata, labels=labels))
    return Create(
        pod,
        then=Emit(NORMAL, "SuccessfulCreate", "Created pod: {name}"),
        otherwise=Emit(WARNING, "FailedCreate", "Error creating: {error}"),
    )


def _delete(pod: core.Pod) -> Delete:
    data = pod.metadata
    return Delete(
        core.Pod,
        data.namespace or "",
        data.name or "",
        data.uid or "",
        then=Emit(NORMAL, "SuccessfulDelete", "Deleted pod: {name}"),
        otherwise=Emit(WARNING, "FailedDelete", "Error deleting: {error}"),
    )


def _with_status(
    daemon_set: apps.DaemonSet, places: Sequence[_Place], digest: str, planner: Planner, now: datetime
) -> Plan:
    min_ready = daemon_set.spec.minReadySeconds or 0
    desired = scheduled = misplaced = ready = available = updated = 0
    for place in places:
        running = [pod for pod in place.pods if podlib.phase(pod) not in ("Failed", "Succeeded")]
        if not place.fit.start:
            misplaced += bool(running)
            continue
        desired += 1
        if not running:
            continue
        scheduled += 1
        ordered = sorted(running, key=lambda p: (not _bound(p), p.metadata.creationTimestamp or ""))
        first = next((pod for pod in ordered if podlib.is_ready(pod)), ordered[0])
        ready += podlib.is_ready(first)
        available += podlib.is_available(first, min_ready, now)
        updated += _hash_of(first) == digest
        at = podlib.available_at(first, min_ready) if min_ready else None
        if at is not None and at > now:
            planner.after(at - now)
    status = msgspec.structs.replace(
        daemon_set.status,
        desiredNumberScheduled=desired,
        currentNumberScheduled=scheduled,
        numberMisscheduled=misplaced,
        numberReady=ready,
        numberAvailable=available or None,
        numberUnavailable=(desired - available) or None,
        updatedNumberScheduled=updated or None,
        observedGeneration=daemon_set.metadata.generation,
    )
    changed = None if status == daemon_set.status else msgspec.structs.replace(daemon_set, status=status)
    return planner.plan(changed)
