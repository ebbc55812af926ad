"""The deployment controller: from a deployment and its replica sets to the next step of its rollout."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

import msgspec
from msgspec.structs import replace

from pinnace.api import errors
from pinnace.api.apps import v1 as apps
from pinnace.api.core import v1 as core
from pinnace.client.informer import Event, Informers
from pinnace.controllers import pods as podlib
from pinnace.controllers.deployment import revisions, scaling
from pinnace.controllers.deployment import status as state
from pinnace.controllers.deployment.fenceposts import is_rolling, replicas_of
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
    Failure,
    Patch,
    Plan,
    Planner,
    Ref,
    Related,
    Update,
)
from pinnace.controllers.selectors import selects


class Seen(msgspec.Struct, frozen=True, gc=False):
    """A deployment, the replica sets it owns or may adopt, and whether pods of old ones still run (only
    looked up for the Recreate strategy)."""

    deployment: apps.Deployment
    sets: tuple[apps.ReplicaSet, ...]
    old_pods_running: bool = False


class DeploymentController:
    name = "deployment"

    def __init__(self, informers: Informers) -> None:
        self.primary = informers.of(apps.Deployment)
        self._sets = informers.of(apps.ReplicaSet)
        self._pods = informers.of(core.Pod)
        index_by_controller(self._sets)
        index_by_controller(self._pods)
        self.watches = (
            Owned(self._sets, "Deployment", "apps", self._adopters),
            Related(self._pods, self._of_finished_pod),
        )

    def observe(self, ref: Ref) -> Seen | None:
        deployment = self.primary.cache.find(ref)
        if deployment is None or deployment.spec is None:
            return None
        seen = Seen(deployment, tuple(candidates(self._sets, deployment)))
        if is_rolling(deployment):
            return seen
        owned = [rs for rs in seen.sets if controller_of(rs) is not None]
        new = revisions.find_new(deployment, owned)
        running = any(
            not podlib.is_finished(pod)
            for rs in owned
            if rs is not new
            for pod in self._pods.cache.by_index(CONTROLLER, rs.metadata.uid or "")
        )
        return replace(seen, old_pods_running=running)

    def decide(self, seen: Seen, now: datetime) -> Plan:
        return decide(seen, now)

    def report(self, seen: Seen, plan: Plan, failures: tuple[Failure, ...], now: datetime) -> Plan:
        return report(seen, failures, now)

    def _adopters(self, rs: apps.ReplicaSet) -> Iterable[Ref]:
        if not rs.metadata.labels:
            return
        for deployment in self.primary.cache.list(rs.metadata.namespace or ""):
            selector = deployment.spec.selector if deployment.spec is not None else None
            if selector is not None and selects(selector, rs.metadata.labels):
                yield deployment.metadata.namespace or "", deployment.metadata.name or ""

    def _of_finished_pod(self, event: Event[core.Pod]) -> Iterable[Ref]:
        """A recreating deployment waits for the last pod of its old replica sets."""
        if event.new is not None and event.new.status.phase not in podlib.FINISHED:
            return ()
        pod = event.old if event.new is None else event.new
        owner = controller_of(pod)
        if owner is None or owner.kind != "ReplicaSet":
            return ()
        namespace = pod.metadata.namespace or ""
        rs = self._sets.cache.get(namespace, owner.name)
        above = controller_of(rs) if rs is not None else None
        deployment = self.primary.cache.get(namespace, above.name) if above is not None else None
        if deployment is None or is_rolling(deployment):
            return ()
        return ((namespace, deployment.metadata.name or ""),)


class _Rollout(msgspec.Struct, frozen=True, gc=False):
    """A deployment with its replica sets told apart."""

    deployment: apps.Deployment
    new: apps.ReplicaSet | None
    old: tuple[apps.ReplicaSet, ...]

    @property
    def sets(self) -> list[apps.ReplicaSet]:
        return [*self.old, self.new] if self.new is not None else [*self.old]


def decide(seen: Seen, now: datetime) -> Plan:
    """One step: adopt, or the new replica set, or sizes, or clean-up; with nothing of these to do, the status."""
    deployment = seen.deployment
    assert deployment.spec is not None
    claimed = claim(deployment, deployment.spec.selector, seen.sets)
    if claimed.patches:
        return Plan(claimed.patches)
    new = revisions.find_new(deployment, claimed.owned)
    rollout = _Rollout(deployment, new, tuple([rs for rs in claimed.owned if rs is not new]))
    if deployment.metadata.deletionTimestamp is not None:
        return _status(rollout, state.counted(deployment, new, rollout.sets, now), now)
    flagged = state.paused_or_resumed(deployment, now)
    if flagged != (deployment.status or apps.DeploymentStatus()):
        return Plan(status=msgspec.structs.replace(deployment, status=flagged))
    if deployment.spec.paused or _size_changed(rollout):
        return _resize(rollout, now)
    if is_rolling(deployment):
        return _roll(rollout, now)
    return _recreate(rollout, seen.old_pods_running, now)


def report(seen: Seen, failures: tuple[Failure, ...], now: datetime) -> Plan:
    """A new replica set that could not be made: another name after a collision, else a condition."""
    deployment = seen.deployment
    failed = next((f for f in failures if isinstance(f.action, Create)), None)
    if failed is None:
        return Plan()
    status = deployment.status or apps.DeploymentStatus()
    name = failed.action.object.metadata.name if isinstance(failed.action, Create) else ""
    if isinstance(failed.error, errors.AlreadyExists):
        ours = next((rs for rs in seen.sets if rs.metadata.name == name), None)
        if ours is not None and revisions.find_new(deployment, [ours]) is not None:
            return Plan()
        status = msgspec.structs.replace(status, collisionCount=(status.collisionCount or 0) + 1)
        return Plan(status=msgspec.structs.replace(deployment, status=status))
    message = f'Failed to create new replica set "{name}": {failed.error.message}'
    event = Emit(WARNING, "ReplicaSetCreateError", message)
    if not state.has_deadline(deployment):
        return Plan((event,))
    status = state.set_condition(status, "Progressing", "False", "ReplicaSetCreateError", message, now)
    changed = status != deployment.status
    return Plan((event,), msgspec.structs.replace(deployment, status=status) if changed else None)


def _size_changed(rollout: _Rollout) -> bool:
    wanted = replicas_of(rollout.deployment)
    for rs in scaling.active(rollout.sets):
        desired = revisions.number_annotation(rs, revisions.DESIRED_REPLICAS)
        if desired is not None and desired != wanted:
            return True
    return False


def _resize(rollout: _Rollout, now: datetime) -> Plan:
    """Paused, or resized in the middle of a rollout: nothing rolls, sizes follow."""
    deployment = rollout.deployment
    actions = _update_new(rollout) or _scale(rollout, scaling.resize(deployment, rollout.new, rollout.old))
    if not actions and deployment.spec is not None and deployment.spec.paused:
        actions = _clean_up(rollout)
    if actions:
        return Plan(tuple(actions))
    return _status(rollout, state.counted(deployment, rollout.new, rollout.sets, now), now)


def _roll(rollout: _Rollout, now: datetime) -> Plan:
    deployment, new, old = rollout.deployment, rollout.new, rollout.old
    running = scaling.active(old)
    if new is None:
        return Plan(tuple(_make_new(rollout, scaling.new_size(deployment, scaling.total(running), 0))))
    actions = (
        _update_new(rollout)
        or _scale(rollout, scaling.roll_up(deployment, new, running))
        or _scale(rollout, scaling.roll_down(deployment, new, running))
    )
    return _rest(rollout, actions, now)


def _recreate(rollout: _Rollout, old_pods_running: bool, now: datetime) -> Plan:
    actions = _update_new(rollout) or _scale(rollout, scaling.down_to_zero(rollout.old))
    if actions or old_pods_running or any(_pods(rs) for rs in rollout.old):
        return _rest(rollout, actions, now, clean=False)
    if rollout.new is None:
        return Plan(tuple(_make_new(rollout, replicas_of(rollout.deployment))))
    sizes = {scaling.name_of(rollout.new): replicas_of(rollout.deployment)}
    return _rest(rollout, _scale(rollout, sizes), now)


def _pods(rs: apps.ReplicaSet) -> int:
    return (rs.status.replicas if rs.status is not None else None) or 0


def _rest(rollout: _Rollout, actions: list[Action], now: datetime, *, clean: bool = True) -> Plan:
    """With no step to take: clean up what is complete, then tell how things stand."""
    deployment = rollout.deployment
    if not actions and clean and state.is_complete(deployment, deployment.status or apps.DeploymentStatus()):
        actions = _clean_up(rollout)
    if actions:
        return Plan(tuple(actions))
    status = _introduced(rollout, now)
    return _status(rollout, state.rolled(status, rollout.new, rollout.sets, now), now)


def _introduced(rollout: _Rollout, now: datetime) -> apps.Deployment:
    """The deployment, with Progressing begun where it has not."""
    deployment = rollout.deployment
    status = deployment.status or apps.DeploymentStatus()
    if rollout.new is None or not state.has_deadline(deployment):
        return deployment
    name = rollout.new.metadata.name
    current = state.condition(status, "Progressing")
    if current is not None and not _of_another(current, name or ""):
        return deployment
    found = revisions.REVISION_HISTORY in (rollout.new.metadata.annotations or {})
    reason, verb = ("FoundNewReplicaSet", "Found") if found else ("NewReplicaSetCreated", "Created")
    status = state.set_condition(status, "Progressing", "True", reason, f'{verb} new replica set "{name}"', now)
    return msgspec.structs.replace(deployment, status=status)


def _of_another(current: apps.DeploymentCondition, name: str) -> bool:
    """Whether Progressing still speaks of an earlier rollout, or of a failure that is over."""
    if current.reason in (state.PAUSED, state.RESUMED):
        return False
    return current.reason == "ReplicaSetCreateError" or name not in (current.message or "")


def _status(rollout: _Rollout, status: apps.DeploymentStatus, now: datetime) -> Plan:
    deployment = rollout.deployment
    planner = Planner()
    current = state.condition(status, "Progressing")
    if current is not None and current.reason != state.TIMED_OUT and not state.is_complete(deployment, status):
        left = state.deadline_left(deployment, current, now)
        if left is not None:
            planner.after(max(left, timedelta()) + timedelta(seconds=1))
    if status == deployment.status:
        return planner.plan()
    # Once it is complete, what is left of earlier rollouts may be cleaned up.
    final = not state.is_complete(deployment, status)
    return planner.plan(msgspec.structs.replace(deployment, status=status), final=final)


def _make_new(rollout: _Rollout, size: int) -> list[Action]:
    rs = revisions.make_new(rollout.deployment, rollout.old, size)
    message = f"Scaled up replica set {{name}} from 0 to {size}"
    then = Emit(NORMAL, "ScalingReplicaSet", message) if size else None
    return [Create(rs, then=then), *_own_revision(rollout.deployment, rs)]


def _update_new(rollout: _Rollout) -> list[Action]:
    """Bring the new replica set's annotations and minReadySeconds, and the deployment's revision, up to date."""
    rs, deployment = rollout.new, rollout.deployment
    if rs is None or rs.spec is None or deployment.spec is None:
        return []
    annotations = revisions.new_annotations(deployment, rs, rollout.old)
    min_ready = deployment.spec.minReadySeconds
    if annotations != (rs.metadata.annotations or {}) or (rs.spec.minReadySeconds or 0) != (min_ready or 0):
        updated = msgspec.structs.replace(
            rs,
            metadata=msgspec.structs.replace(rs.metadata, annotations=annotations),
            spec=msgspec.structs.replace(rs.spec, minReadySeconds=min_ready),
        )
        return [Update(updated), *_own_revision(deployment, updated)]
    return _own_revision(deployment, rs)


def _own_revision(deployment: apps.Deployment, rs: apps.ReplicaSet) -> list[Action]:
    """The deployment carries its new replica set's revision."""
    number = str(revisions.revision(rs))
    if (deployment.metadata.annotations or {}).get(revisions.REVISION) == number:
        return []
    annotations = {**(deployment.metadata.annotations or {}), revisions.REVISION: number}
    data = msgspec.structs.replace(deployment.metadata, annotations=annotations)
    return [Update(msgspec.structs.replace(deployment, metadata=data))]


def _scale(rollout: _Rollout, sizes: scaling.Sizes) -> list[Action]:
    """Updates that give replica sets their sizes, and remember the deployment's in their annotations."""
    actions: list[Action] = []
    if not sizes:
        return actions
    remembered = revisions.size_annotations(rollout.deployment)
    for rs in rollout.sets:
        size = sizes.get(scaling.name_of(rs))
        if size is None or rs.spec is None:
            continue
        before = replicas_of(rs)
        annotations = {**(rs.metadata.annotations or {}), **remembered}
        if size == before and annotations == (rs.metadata.annotations or {}):
            continue
        # A patch, since the replica set's own controller keeps writing its status meanwhile.
        patch = {"metadata": {"annotations": remembered}, "spec": {"replicas": size}}
        way = "up" if size > before else "down"
        message = f"Scaled {way} replica set {rs.metadata.name} from {before} to {size}"
        then = Emit(NORMAL, "ScalingReplicaSet", message) if size != before else None
        data = rs.metadata
        actions.append(
            Patch(apps.ReplicaSet, data.namespace or "", data.name or "", patch, type="merge", then=then)
        )
    return actions


def _clean_up(rollout: _Rollout) -> list[Action]:
    """Delete the oldest replica sets beyond the history limit."""
    spec = rollout.deployment.spec
    limit = spec.revisionHistoryLimit if spec is not None else None
    if limit is None or limit == 2**31 - 1:
        return []
    alive = [rs for rs in rollout.old if rs.metadata.deletionTimestamp is None]
    surplus = len(alive) - limit
    if surplus <= 0:
        return []
    alive.sort(key=revisions.revision)
    return [
        Delete(apps.ReplicaSet, rs.metadata.namespace or "", rs.metadata.name or "", rs.metadata.uid or "")
        for rs in alive[:surplus]
        if not replicas_of(rs) and not _pods(rs) and _observed(rs)
    ]


def _observed(rs: apps.ReplicaSet) -> bool:
    seen = (rs.status.observedGeneration if rs.status is not None else None) or 0
    return seen >= (rs.metadata.generation or 0)
