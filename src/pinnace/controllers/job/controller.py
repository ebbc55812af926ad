"""The job controller: each finished pod is noted, let go, counted; then pods are made or the job ends.

Each pod carries a finalizer until it is counted in the job's status, so that none is lost or counted twice
(KEP-2307). Source: https://kubernetes.io/docs/concepts/workloads/controllers/job/.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from pinnace.api.batch import v1 as batch
from pinnace.api.core import v1 as core
from pinnace.api.times import format as format_time
from pinnace.api.times import parse as parse_time
from pinnace.client.informer import Informers
from pinnace.controllers import pods as podlib
from pinnace.controllers.job import indexes, tally
from pinnace.controllers.job.tally import FINALIZER, Tally
from pinnace.controllers.owners import Owned, candidates, claim, controller_of, index_by_controller
from pinnace.controllers.plan import (
    NORMAL,
    WARNING,
    Action,
    Create,
    Delete,
    Emit,
    Patch,
    Plan,
    Planner,
    Ref,
    Update,
)
from pinnace.controllers.selectors import selects

_OURS = (None, "", "kubernetes.io/job-controller")
_AT_ONCE = 500


_TRACKED = "tracked-for-job"   # index: namespace and name of the job that a pod's finalizer waits for


class Seen(msgspec.Struct, frozen=True, gc=False):
    """`job` is None when it is gone; `left` are tracked pods of a job of that name that is no longer there."""

    job: batch.Job | None
    pods: tuple[core.Pod, ...]
    left: tuple[core.Pod, ...] = ()


class JobController:
    name = "job"

    def __init__(self, informers: Informers) -> None:
        self.primary = informers.of(batch.Job)
        self._pods = informers.of(core.Pod)
        index_by_controller(self._pods)
        self._pods.add_index(_TRACKED, _tracked_for)
        self.watches = (
            Owned(self._pods, "Job", "batch", self._adopters, same=_counts_alike, without=self._is_forsaken),
        )

    def observe(self, ref: Ref) -> Seen | None:
        job = self.primary.cache.find(ref)
        uid = job.metadata.uid if job is not None else None
        tracked = self._pods.cache.by_index(_TRACKED, ref)
        left = _not_of(uid, tracked) if tracked else ()
        if job is None or job.spec.managedBy not in _OURS:
            return Seen(None, (), left) if left else None
        return Seen(job, tuple(candidates(self._pods, job)), left)

    def decide(self, seen: Seen, now: datetime) -> Plan:
        return decide(seen, now)

    def _is_forsaken(self, pod: core.Pod) -> bool:
        owner = controller_of(pod)
        return owner is not None and self.primary.cache.get(pod.metadata.namespace or "", owner.name) is None

    def _adopters(self, pod: core.Pod) -> Iterable[Ref]:
        if not pod.metadata.labels:
            return
        for job in self.primary.cache.list(pod.metadata.namespace or ""):
            if job.spec.selector is not None and selects(job.spec.selector, pod.metadata.labels):
                yield job.metadata.namespace or "", job.metadata.name or ""


def _tracked_for(pod: core.Pod) -> Iterable[Ref]:
    if pod.metadata.finalizers is None or FINALIZER not in pod.metadata.finalizers:
        return ()
    for owner in pod.metadata.ownerReferences or ():
        if owner.controller and owner.kind == "Job" and owner.apiVersion.startswith("batch/"):
            return ((pod.metadata.namespace or "", owner.name),)
    return ()


def _counts_alike(old: core.Pod, new: core.Pod) -> bool:
    """Whether a pod's change leaves all that is decided by: whether it runs, ended and how, is ready, is held."""
    before, after = old.metadata, new.metadata
    if (
        before.finalizers != after.finalizers
        or before.annotations != after.annotations
        or not podlib.same_standing(old, new)
    ):
        return False
    restarting = new.spec.restartPolicy == "OnFailure"
    return old.status == new.status if restarting or podlib.is_finished(new) else True


def _not_of(uid: str | None, pods: Iterable[core.Pod]) -> tuple[core.Pod, ...]:
    """Those that an object of that uid does not control."""
    found = []
    for pod in pods:
        for owner in pod.metadata.ownerReferences or ():
            if owner.controller and owner.uid == uid:
                break
        else:
            found.append(pod)
    return tuple(found)


class _Ending(msgspec.Struct, frozen=True, gc=False):
    """Why a job ends. Its interim condition comes first, while pods are still stopping."""

    type: str
    reason: str
    message: str

    @property
    def interim(self) -> str:
        return "SuccessCriteriaMet" if self.type == "Complete" else "FailureTarget"


def decide(seen: Seen, now: datetime) -> Plan:
    """One step: adopt; let go what was noted; then note, end, or make and delete pods."""
    job = seen.job
    if seen.left:
        # Their job is gone, e.g. deleted in the background while they ran: nobody counts them any more.
        return Plan(tuple(map(_let_go, seen.left)))
    if job is None or job.spec.selector is None:
        return Plan()
    claimed = claim(job, job.spec.selector, seen.pods, finalizer=FINALIZER)
    if claimed.patches:
        return Plan(claimed.patches)
    pods = claimed.owned
    conditions = tally.conditions(job)
    if "Complete" in conditions or "Failed" in conditions or job.metadata.deletionTimestamp is not None:
        return Plan(tuple([_let_go(pod) for pod in pods if tally.is_tracked(pod)]), final=True)
    told = tally.tell_apart(job, pods)
    held = [pod for pod in pods if pod.metadata.uid in told.noted and tally.is_tracked(pod)] if told.noted else ()
    if held:
        return Plan(tuple(map(_let_go, held)))
    status = tally.current(_started(job, "Suspended" in conditions, now), told)
    ending = _ending(job, conditions, told, now)
    if ending is not None:
        return _end(job, status, told, ending, now)
    return _go_on(job, status, told, pods, now)


def is_finished(job: batch.Job) -> bool:
    return not tally.conditions(job).keys().isdisjoint(("Complete", "Failed"))


def _started(job: batch.Job, suspended: bool, now: datetime) -> batch.JobStatus:
    """The status with its start, and with Suspended as `spec.suspend` has it."""
    status = job.status
    if job.spec.suspend:
        status = tally.set_condition(status, "Suspended", "True", "JobSuspended", "Job suspended", now)
        return msgspec.structs.replace(status, startTime=None)
    if suspended:
        status = tally.set_condition(status, "Suspended", "False", "JobResumed", "Job resumed", now)
        return msgspec.structs.replace(status, startTime=format_time(now))
    if status.startTime is None:
        status = msgspec.structs.replace(status, startTime=format_time(now))
    return status


def _ending(
    job: batch.Job, conditions: Mapping[str, batch.JobCondition], told: Tally, now: datetime
) -> _Ending | None:
    for interim, final in (("FailureTarget", "Failed"), ("SuccessCriteriaMet", "Complete")) if conditions else ():
        settled = conditions.get(interim)
        if settled is not None:
            return _Ending(final, settled.reason or "", settled.message or "")
    if told.failure:
        return _Ending("Failed", "PodFailurePolicy", told.failure)
    limit = 6 if job.spec.backoffLimit is None else job.spec.backoffLimit
    if told.failures > limit or _restarted_too_often(job, told, limit):
        return _Ending("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
    left = _deadline_left(job, now) if job.spec.activeDeadlineSeconds is not None else None
    if left is not None and left <= timedelta():
        return _Ending("Failed", "DeadlineExceeded", "Job was active longer than specified deadline")
    by_index = _index_ending(job, told) if job.spec.completionMode == "Indexed" else None
    if by_index is not None:
        return by_index
    wanted = job.spec.completions
    if not told.active and (told.successes > 0 if wanted is None else told.successes >= wanted):
        return _Ending("Complete", "CompletionsReached", "Reached expected number of succeeded pods")
    return None


def _index_ending(job: batch.Job, told: Tally) -> _Ending | None:
    """What ends an Indexed job: a success policy, or indexes that have failed for good (KEP-3998, KEP-3850)."""
    done = tally.completed_indexes(job, told)
    policy = job.spec.successPolicy
    for number, rule in enumerate(policy.rules if policy is not None else ()):
        chosen = indexes.parse(rule.succeededIndexes) if rule.succeededIndexes else None
        count = len(done if chosen is None else done & chosen)
        needed = len(chosen or ()) if rule.succeededCount is None else rule.succeededCount
        if count >= needed:
            return _Ending("Complete", "SuccessPolicy", f"Matched rules at index {number}")
    if not told.failed_indexes:
        return None
    most = job.spec.maxFailedIndexes
    if most is not None and len(told.failed_indexes) > most:
        text = "Job has exceeded the specified maximal number of failed indexes"
        return _Ending("Failed", "MaxFailedIndexesExceeded", text)
    if not told.active and len(done | told.failed_indexes) >= (job.spec.completions or 0):
        return _Ending("Failed", "FailedIndexes", "Job has failed indexes")
    return None


def _restarted_too_often(job: batch.Job, told: Tally, limit: int) -> bool:
    spec = job.spec.template.spec
    if spec is None or spec.restartPolicy != "OnFailure":
        return False
    restarts = 0
    for pod in told.active:
        status = pod.status
        for container in [*(status.initContainerStatuses or ()), *(status.containerStatuses or ())]:
            restarts += container.restartCount or 0
    return restarts > 0 if limit == 0 else restarts >= limit


def _deadline_left(job: batch.Job, now: datetime) -> timedelta | None:
    seconds, start = job.spec.activeDeadlineSeconds, job.status.startTime
    if seconds is None or not start or job.spec.suspend:
        return None
    return parse_time(start) + timedelta(seconds=seconds) - now


def _end(job: batch.Job, status: batch.JobStatus, told: Tally, ending: _Ending, now: datetime) -> Plan:
    """Stop what runs, count what has ended, and say that the job is over when nothing is left to do."""
    status = tally.set_condition(status, ending.interim, "True", ending.reason, ending.message, now)
    if told.active:
        return Plan(tuple(map(_delete, told.active)), _changed(job, status))
    if told.succeeded or told.failed:
        return _note(job, status, told)
    status = _counted(job, status, told)
    if told.terminating:
        return Plan(_loose(told), _changed(job, status))
    status = tally.set_condition(status, ending.type, "True", ending.reason, ending.message, now)
    status = msgspec.structs.replace(status, active=None, ready=0, terminating=0)
    if ending.type == "Complete":
        status = msgspec.structs.replace(status, completionTime=format_time(now))
        event = Emit(NORMAL, "Completed", "Job completed")
    else:
        event = Emit(WARNING, ending.reason, ending.message)
    return Plan((*_loose(told), event), _changed(job, status), final=True)


def _note(job: batch.Job, status: batch.JobStatus, told: Tally) -> Plan:
    """Write down which pods have ended, and only then let them go."""
    changed = _changed(job, _counted(job, status, told))
    noted = () if changed is None else (Update(changed, subresource="status"),)
    return Plan((*_loose(told), *noted, *map(_let_go, told.succeeded), *map(_let_go, told.failed)))


def _count(job: batch.Job, status: batch.JobStatus, told: Tally) -> Plan | None:
    """The next step of counting finished pods; None when all are counted."""
    loose = _loose(told)
    if told.succeeded or told.failed:
        return _note(job, status, told)
    if not (loose or told.noted):
        return None
    return Plan(loose, _changed(job, _counted(job, status, told)))


def _loose(told: Tally) -> tuple[Action, ...]:
    """Pods that count for nothing are let go."""
    return tuple([_let_go(pod) for pod in told.ignored if tally.is_tracked(pod)]) if told.ignored else ()


def _counted(job: batch.Job, status: batch.JobStatus, told: Tally) -> batch.JobStatus:
    """What was noted and let go is counted; what has ended since is noted."""
    if told.noted:
        status = tally.count(job, status)
    return tally.note(job, status, told) if told.succeeded or told.failed else status


def _go_on(
    job: batch.Job, status: batch.JobStatus, told: Tally, pods: Sequence[core.Pod], now: datetime
) -> Plan:
    planner = Planner()
    if job.spec.activeDeadlineSeconds is not None:
        left = _deadline_left(job, now)
        if left is not None:
            planner.after(left)
    counting = _count(job, status, told)
    if counting is not None:
        return counting
    writes = _stop(told.active) if job.spec.suspend else _manage(job, told, pods, planner, now)
    made = len(writes) if writes and isinstance(writes[0], Create) else 0
    if made:
        # As upstream: the pods that were just made are told in the same status. (If one is refused, it is not written.)
        status = msgspec.structs.replace(status, active=len(told.active) + made)
    elif writes and job.status.startTime == status.startTime:
        return Plan(writes, again=planner.again)
    # With fewer made than may be at once, all that are wanted are there, or their turn comes by the clock.
    final = made < _AT_ONCE if made else not writes
    return Plan((*writes, *_suspension(job, status)), _changed(job, status), planner.again, final)


def _suspension(job: batch.Job, status: batch.JobStatus) -> tuple[Action, ...]:
    if not status.conditions:
        return ()
    before = {c.type: c.status for c in job.status.conditions or ()}
    after = {c.type: c.status for c in status.conditions or ()}
    if before.get("Suspended") == after.get("Suspended"):
        return ()
    if after.get("Suspended") == "True":
        return (Emit(NORMAL, "Suspended", "Job suspended"),)
    return (Emit(NORMAL, "Resumed", "Job resumed"),)


def _stop(active: Iterable[core.Pod]) -> tuple[Action, ...]:
    return tuple(map(_delete, active))


def _manage(
    job: batch.Job, told: Tally, pods: Sequence[core.Pod], planner: Planner, now: datetime
) -> tuple[Action, ...]:
    """Bring the number of active pods to what is wanted."""
    parallelism = 1 if job.spec.parallelism is None else job.spec.parallelism
    active = len(told.active)
    if job.spec.completions is None:
        wanted = active if told.successes > 0 else parallelism
    else:
        left_over = job.spec.completions - told.successes - len(told.failed_indexes)
        wanted = max(0, min(left_over, parallelism))
    if active > wanted:
        surplus = podlib.first_to_go(told.active, told.active, active - wanted, now)
        return tuple(map(_delete, surplus))
    missing = wanted - active
    if tally.replaces_only_failed(job):
        missing -= len(told.terminating)
    if missing <= 0:
        return ()
    if job.spec.backoffLimitPerIndex is not None:
        resting = _resting(pods, planner, now)
    else:
        left = tally.backoff_left(pods, now)
        if left > timedelta():
            planner.after(left)
            return ()
        resting = set()
    return tuple(_creations(job, told, min(missing, _AT_ONCE), resting))


def _resting(pods: Sequence[core.Pod], planner: Planner, now: datetime) -> set[int]:
    """Indexes that wait out a backoff of their own."""
    by_index: dict[int, list[core.Pod]] = {}
    for pod in pods:
        index = indexes.of_pod(pod)
        if index is not None:
            by_index.setdefault(index, []).append(pod)
    resting: set[int] = set()
    for index, own in by_index.items():
        left = tally.backoff_left(own, now)
        if left > timedelta() and not any(map(podlib.is_active, own)):
            planner.after(left)
            resting.add(index)
    return resting


def _creations(job: batch.Job, told: Tally, count: int, resting: set[int]) -> Iterable[Create]:
    if not tally.is_indexed(job):
        pod = _pod(job, None)
        return [_create(pod)] * count
    taken = tally.completed_indexes(job, told)
    busy = told.active if not tally.replaces_only_failed(job) else (*told.active, *told.terminating)
    taken |= indexes.of_pods(busy, job.spec.completions or 0) | told.failed_indexes | resting
    free = (index for index in range(job.spec.completions or 0) if index not in taken)
    return [_create(_pod(job, index)) for index, _ in zip(free, range(count), strict=False)]


def _pod(job: batch.Job, index: int | None) -> core.Pod:
    name = job.metadata.name or ""
    prefix = name if index is None else f"{name}-{index}"
    pod = podlib.from_template(job.spec.template, job, prefix, job.metadata.namespace or "")
    data = msgspec.structs.replace(pod.metadata, finalizers=[*(pod.metadata.finalizers or ()), FINALIZER])
    if index is None or pod.spec is None:
        return msgspec.structs.replace(pod, metadata=data)
    text = str(index)
    data = msgspec.structs.replace(
        data,
        annotations={**(data.annotations or {}), indexes.ANNOTATION: text},
        labels={**(data.labels or {}), indexes.ANNOTATION: text},
    )
    spec = msgspec.structs.replace(
        pod.spec,
        hostname=prefix,
        containers=[_with_index(container) for container in pod.spec.containers],
        initContainers=[_with_index(container) for container in pod.spec.initContainers or ()] or None,
    )
    return msgspec.structs.replace(pod, metadata=data, spec=spec)


def _with_index(container: core.Container) -> core.Container:
    name = "JOB_COMPLETION_INDEX"
    if any(variable.name == name for variable in container.env or ()):
        return container
    path = f"metadata.labels['{indexes.ANNOTATION}']"
    source = core.EnvVarSource(fieldRef=core.ObjectFieldSelector(apiVersion="v1", fieldPath=path))
    return msgspec.structs.replace(
        container, env=[*(container.env or ()), core.EnvVar(name=name, valueFrom=source)]
    )


def _create(pod: core.Pod) -> Create:
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


def _let_go(pod: core.Pod) -> Patch:
    """Take the tracking finalizer off a pod."""
    data = pod.metadata
    patch = {"metadata": {"uid": data.uid, "$deleteFromPrimitiveList/finalizers": [FINALIZER]}}
    return Patch(core.Pod, data.namespace or "", data.name or "", patch)


def _changed(job: batch.Job, status: batch.JobStatus) -> batch.Job | None:
    return None if job.status == status else msgspec.structs.replace(job, status=status)


