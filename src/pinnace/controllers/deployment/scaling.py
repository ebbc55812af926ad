"""How many pods each replica set of a deployment should have: rolling, recreating, proportional.

All functions give sizes by replica set name; what is not named stays. Source: upstream's
pkg/controller/deployment and https://kubernetes.io/docs/concepts/workloads/controllers/deployment/.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from pinnace.api.apps import v1 as apps
from pinnace.controllers.deployment import revisions
from pinnace.controllers.deployment.fenceposts import is_rolling, max_surge, max_unavailable, replicas_of

Sizes = dict[str, int]
Sets = Sequence[apps.ReplicaSet]


def name_of(rs: apps.ReplicaSet) -> str:
    return rs.metadata.name or ""


def available(rs: apps.ReplicaSet) -> int:
    """How many of its pods serve and are to stay. What it was just asked to give up still stands in its status;
    upstream counts that too, and may then let too many go."""
    told = (rs.status.availableReplicas if rs.status is not None else None) or 0
    return min(told, replicas_of(rs))


def total(sets: Iterable[apps.ReplicaSet]) -> int:
    return sum(map(replicas_of, sets))


def active(sets: Iterable[apps.ReplicaSet]) -> list[apps.ReplicaSet]:
    return [rs for rs in sets if rs.spec is not None and rs.spec.replicas != 0]


def new_size(deployment: apps.Deployment, others: int, current: int) -> int:
    """How large the new replica set, now of `current` pods, may be beside `others` pods of the old ones."""
    wanted = replicas_of(deployment)
    if not is_rolling(deployment):
        return wanted
    room = wanted + max_surge(deployment) - (others + current)
    if room <= 0:
        return current
    return current + min(room, wanted - current)


def roll_up(deployment: apps.Deployment, new: apps.ReplicaSet, old: Sets) -> Sizes:
    """The new replica set's step in a rolling update; empty when it stands right."""
    wanted, current = replicas_of(deployment), replicas_of(new)
    if current == wanted:
        return {}
    size = wanted if current > wanted else new_size(deployment, total(old), current)
    return {} if size == current else {name_of(new): size}


def roll_down(deployment: apps.Deployment, new: apps.ReplicaSet, old: Sets) -> Sizes:
    """The old replica sets' step: first pods that are not available anyway, then as many as may be missing."""
    running = total(old)
    if running == 0:
        return {}
    floor = replicas_of(deployment) - max_unavailable(deployment)
    room = running + available(new) - floor
    if room <= 0:
        return {}
    sizes = {name_of(rs): replicas_of(rs) for rs in old}
    ordered = revisions.by_age(old)
    for rs in ordered:
        unhealthy = max(0, sizes[name_of(rs)] - available(rs))
        gone = min(room, unhealthy)
        sizes[name_of(rs)] -= gone
        room -= gone
    spare = sum(map(available, old)) + available(new) - floor
    for rs in ordered:
        gone = max(0, min(spare, sizes[name_of(rs)]))
        sizes[name_of(rs)] -= gone
        spare -= gone
    return _changed(old, sizes)


def down_to_zero(old: Sets) -> Sizes:
    return {name_of(rs): 0 for rs in active(old)}


def resize(deployment: apps.Deployment, new: apps.ReplicaSet | None, old: Sets) -> Sizes:
    """After the deployment's own size changed, or while it is paused: keep revisions in their proportions."""
    wanted = replicas_of(deployment)
    everything = [*old, new] if new is not None else [*old]
    running = active(everything)
    only = _active_or_latest(new, old, running)
    if only is not None:
        return {name_of(only): wanted}
    if new is not None and _saturated(deployment, new):
        return down_to_zero(old)
    if not is_rolling(deployment):
        return {name_of(rs): replicas_of(rs) for rs in running}
    return _proportional(deployment, running)


def _active_or_latest(
    new: apps.ReplicaSet | None, old: Sets, running: Sets
) -> apps.ReplicaSet | None:
    if len(running) == 1:
        return running[0]
    if running:
        return None
    if new is not None:
        return new
    return revisions.by_age(old)[-1] if old else None


def _saturated(deployment: apps.Deployment, new: apps.ReplicaSet) -> bool:
    wanted = replicas_of(deployment)
    desired = revisions.number_annotation(new, revisions.DESIRED_REPLICAS)
    return replicas_of(new) == wanted and desired == wanted and available(new) == wanted


def _proportional(deployment: apps.Deployment, running: Sets) -> Sizes:
    wanted = replicas_of(deployment)
    allowed = wanted + max_surge(deployment) if wanted > 0 else 0
    to_add = allowed - total(running)
    ordered = revisions.by_age(running)
    if to_add > 0:   # larger ones first; of equal ones the newer when growing, the older when shrinking
        ordered.reverse()
    ordered.sort(key=replicas_of, reverse=True)
    sizes: Sizes = {}
    added = 0
    for rs in ordered:
        share = _share(deployment, rs, to_add, added) if to_add else 0
        sizes[name_of(rs)] = replicas_of(rs) + share
        added += share
    if ordered and to_add:
        first = name_of(ordered[0])
        sizes[first] = max(0, sizes[first] + to_add - added)
    return sizes


def _share(deployment: apps.Deployment, rs: apps.ReplicaSet, to_add: int, added: int) -> int:
    if replicas_of(rs) == 0 or to_add == added:
        return 0
    allowed = to_add - added
    fraction = _fraction(deployment, rs)
    return min(fraction, allowed) if to_add > 0 else max(fraction, allowed)


def _fraction(deployment: apps.Deployment, rs: apps.ReplicaSet) -> int:
    current, wanted = replicas_of(rs), replicas_of(deployment)
    if wanted == 0:
        return -current
    before = revisions.number_annotation(rs, revisions.MAX_REPLICAS)
    if not before:
        before = (deployment.status.replicas if deployment.status is not None else None) or 0
    if not before:
        return 0
    # Half rounds away from zero.
    return math.floor(current * (wanted + max_surge(deployment)) / before + 0.5) - current


def _changed(sets: Sets, sizes: Sizes) -> Sizes:
    return {name_of(rs): sizes[name_of(rs)] for rs in sets if sizes[name_of(rs)] != replicas_of(rs)}
