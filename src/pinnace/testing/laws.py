"""The laws: what Kubernetes promises at every moment, whoever fails. `invariants.py` shows them each commit.

A controller decides from caches, and a cache may be behind the store, never ahead of it. So a law may be strict about
what its controller itself has done or has seen happen, and must be lenient where somebody else may have changed
things just now: such laws look back over `LAG` seconds, more than the slowest watch here is late, or fall silent for
so long after a disturbance from outside. Each says in its docstring what is promised, and where upstream says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pinnace.api import labels
from pinnace.api.quantity import parse_quantity
from pinnace.testing.world import Law, Step, World, controller_uid

LAG = 30.0             # seconds that a cache may be behind what somebody else did
_DONE = ("Succeeded", "Failed")


def every_law() -> tuple[Law, ...]:
    """New ones, as they remember."""
    return (
        Identity(), BoundOnce(), FinalPhase(), NodesHold(), OrderedReady(), OneReplacement(), Surge(), Availability(),
        Replicas(), Budgets(), Parallelism(), CountedOnce(), OneOfACronJob(),
    )  # fmt: skip


def is_ready(pod: Any) -> bool:
    conditions = (pod.status.conditions if pod.status is not None else None) or ()
    return any(c.type == "Ready" and c.status == "True" for c in conditions)


def is_serving(pod: Any) -> bool:
    """Ready, and nobody has asked it to go."""
    return is_ready(pod) and not pod.metadata.deletionTimestamp and pod.status.phase == "Running"


def is_active(pod: Any) -> bool:
    """It counts towards its owner's number."""
    return (pod.status.phase or "Pending") not in _DONE and not pod.metadata.deletionTimestamp


def going(step: Step) -> bool:
    """With this step a pod that stood begins to go, or is gone at once."""
    if step.plural != "pods" or step.old is None or step.old.metadata.deletionTimestamp:
        return False
    return step.new is None or bool(step.new.metadata.deletionTimestamp)


def by(step: Step, account: str) -> bool:
    return step.actor == f"system:serviceaccount:kube-system:{account}"


def named(obj: Any) -> str:
    return f"{obj.metadata.namespace}/{obj.metadata.name}" if obj.metadata.namespace else str(obj.metadata.name)


class _Recent:
    """The values that something had within the last `LAG` seconds, by key."""

    def __init__(self) -> None:
        self._values: dict[str, list[tuple[float, Any]]] = {}

    def note(self, key: str, at: float, value: Any) -> None:
        values = self._values.setdefault(key, [])
        if not values or values[-1][1] != value:
            values.append((at, value))

    def of(self, key: str, now: float) -> list[Any]:
        """Each value with which it stood at some moment since `LAG` ago; the newest last."""
        values = self._values.get(key, [])
        while len(values) > 1 and values[1][0] < now - LAG:
            values.pop(0)
        return [value for _, value in values]


class Identity:
    """An object keeps its uid and its creation time for life, and a deletion is not taken back.

    https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#uids"""

    name = "an object stays itself"

    def broken(self, world: World, step: Step) -> Iterator[str]:
        if step.old is None or step.new is None:
            return
        old, new = step.old.metadata, step.new.metadata
        if old.uid != new.uid:
            yield f"{step.key} changed its uid from {old.uid} to {new.uid}"
        if old.creationTimestamp != new.creationTimestamp:
            yield f"{step.key} changed its creation time"
        if old.deletionTimestamp and not new.deletionTimestamp:
            yield f"{step.key} was to be deleted, and is not any more"
        if (new.generation or 0) < (old.generation or 0):
            yield f"{step.key} went back from generation {old.generation} to {new.generation}"


class BoundOnce:
    """A pod is bound to one node, for life. https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/"""

    name = "a pod is bound once"

    def broken(self, world: World, step: Step) -> Iterator[str]:
        if step.plural != "pods" or step.old is None or step.new is None:
            return
        before, after = step.old.spec.nodeName, step.new.spec.nodeName
        if before and before != after:
            yield f"{named(step.new)} was on {before}, and is on {after or 'no node'}"


class FinalPhase:
    """Succeeded and Failed are final (pod life cycle, as above)."""

    name = "an end is final"

    def broken(self, world: World, step: Step) -> Iterator[str]:
        if step.plural != "pods" or step.old is None or step.new is None:
            return
        before, after = step.old.status.phase, step.new.status.phase
        if before in _DONE and after != before:
            yield f"{named(step.new)} was {before}, and is {after}"


class NodesHold:
    """Whenever a pod is bound, the node can hold what is bound to it: cpu, memory and number of pods.

    Strict: pods leave a node only in ways that a cache sees late, never early.
    https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/#how-pods-with-resource-requests-are-scheduled
    """

    name = "no node is overcommitted"

    def broken(self, world: World, step: Step) -> Iterator[str]:
        if step.plural != "pods" or step.new is None or not step.new.spec.nodeName:
            return
        if step.old is not None and step.old.spec.nodeName:
            return
        node = world.find("nodes", "", step.new.spec.nodeName)
        if node is None:
            return
        offered = node.status.allocatable or {}
        there = [pod for pod in world.on(step.new.spec.nodeName) if (pod.status.phase or "") not in _DONE]
        for resource in ("cpu", "memory"):
            if resource in offered:
                wanted = sum(_request(pod.spec, resource) for pod in there)
                if wanted > parse_quantity(offered[resource]).milli:
                    yield (f"{len(there)} pods on {node.metadata.name} request {wanted / 1000:g} {resource} of "
                           f"{offered[resource]}, since {named(step.new)} was bound")  # fmt: skip
        if "pods" in offered and len(there) > parse_quantity(offered["pods"]).value:
            yield f"{len(there)} pods are on {node.metadata.name}, which takes {offered['pods']}"


def _request(spec: Any, resource: str) -> int:
    """In thousandths. The larger of what runs together and what an init container needs while it runs."""

    def of(container: Any) -> int:
        requests = (container.resources.requests if container.resources is not None else None) or {}
        return parse_quantity(requests[resource]).milli if resource in requests else 0

    running, highest = 0, 0
    for container in spec.initContainers or ():
        if container.restartPolicy == "Always":
            running += of(container)
            highest = max(highest, running)
        else:
            highest = max(highest, running + of(container))
    total = running + sum(of(container) for container in spec.containers or ())
    overhead = spec.overhead or {}
    return max(total, highest) + (parse_quantity(overhead[resource]).milli if resource in overhead else 0)


class OrderedReady:
    """A StatefulSet makes its pods one after the other: none while one before it that it made has not been ready yet.

    At most one pod an ordinal follows from the name. Strict: the controller sees what it made.
    https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#deployment-and-scaling-guarantees"""

    name = "stateful pods start in order"

    def __init__(self) -> None:
        self._young: dict[str, dict[str, str]] = {}       # set's uid -> pods made and not ready yet: uid -> name

    def broken(self, world: World, step: Step) -> Iterator[str]:
        if step.plural != "pods":
            return
        pod, owner = step.object, controller_uid(step.object)
        young = self._young.get(owner)
        if step.old is None and by(step, "statefulset-controller"):
            stateful = world.owner(pod, "statefulsets")
            before = [name for name in (young or {}).values() if _ordinal(name) < _ordinal(pod.metadata.name)]
            if before and stateful is not None and stateful.spec.podManagementPolicy != "Parallel":
                yield f"{named(pod)} was made while {', '.join(before)} had not been ready"
            self._young.setdefault(owner, {})[pod.metadata.uid] = pod.metadata.name
        elif young and (step.new is None or not is_active(pod) or is_ready(pod)):
            young.pop(pod.metadata.uid, None)


def _ordinal(name: str) -> int:
    return int(name.rpartition("-")[2])


class OneReplacement:
    """A StatefulSet's rolling update takes one serving pod at a time (maxUnavailable is not used here), and none
    before the one it took last serves again. https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#rolling-updates
    """

    name = "stateful pods are replaced one by one"

    def __init__(self) -> None:
        self._taken: dict[str, dict[str, float]] = {}     # set's uid -> names of pods it took, until they serve again
        self._sizes = _Recent()

    def broken(self, world: World, step: Step) -> Iterator[str]:
        if step.plural == "statefulsets" and step.new is not None:
            self._sizes.note(step.new.metadata.uid, step.at, step.new.spec.replicas or 0)
        if step.plural != "pods":
            return
        pod, owner = step.object, controller_uid(step.object)
        taken = self._taken.setdefault(owner, {})
        if is_serving(pod) and step.new is not None:
            taken.pop(pod.metadata.name, None)
        if not (going(step) and by(step, "statefulset-controller") and is_serving(step.old)):
            return
        stateful = world.owner(pod, "statefulsets")
        if stateful is None or stateful.spec.podManagementPolicy == "Parallel":
            return
        sizes = self._sizes.of(owner, step.at)
        if _ordinal(pod.metadata.name) >= min(sizes):
            return                                         # scaled down
        for name in [name for name in taken if _ordinal(name) >= min(sizes)]:
            del taken[name]
        if taken:
            yield f"{named(pod)} was taken while {', '.join(taken)} did not serve again"
        taken[pod.metadata.name] = step.at


class _OfDeployments:
    """The sizes that deployments were asked to have lately, and the replica sets' deployments."""

    def __init__(self) -> None:
        self.asked = _Recent()

    def note(self, step: Step) -> None:
        if step.plural == "deployments" and step.new is not None:
            spec = step.new.spec
            replicas = 1 if spec.replicas is None else spec.replicas
            rolling = spec.strategy.rollingUpdate if spec.strategy is not None else None
            kind = spec.strategy.type if spec.strategy is not None else "RollingUpdate"
            surge = _scaled(rolling.maxSurge if rolling is not None else None, replicas, up=True)
            out = _scaled(rolling.maxUnavailable if rolling is not None else None, replicas, up=False)
            if surge == 0 and out == 0:
                out = 1
            self.asked.note(step.new.metadata.uid, step.at, (kind, replicas + surge, replicas - out))


def _scaled(value: Any, total: int, *, up: bool) -> int:
    text = "25%" if value is None else value
    if isinstance(text, str) and text.endswith("%"):
        share = int(text[:-1]) * total
        return -(-share // 100) if up else share // 100
    return int(text)


def _shrinks(step: Step) -> bool:
    """Somebody wants a deployment with fewer pods."""
    if step.plural != "deployments" or step.old is None or step.new is None:
        return False
    before, after = step.old.spec.replicas, step.new.spec.replicas
    return bool((1 if before is None else before) > (1 if after is None else after))


class Surge:
    """A rolling update never asks for more pods in all than replicas + maxSurge: as the sum of what its replica sets
    are asked to have, which is what upstream's controller limits; pods that are still going come on top.
    https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#max-surge"""

    name = "a deployment surges within its bound"

    def __init__(self) -> None:
        self._deployments = _OfDeployments()

    def broken(self, world: World, step: Step) -> Iterator[str]:
        self._deployments.note(step)
        if step.plural != "replicasets" or step.new is None or not by(step, "deployment-controller"):
            return
        before = (step.old.spec.replicas or 0) if step.old is not None else 0
        if (step.new.spec.replicas or 0) <= before:
            return
        uid = controller_uid(step.new)
        asked = self._deployments.asked.of(uid, step.at)
        if not asked or any(kind != "RollingUpdate" for kind, _, _ in asked):
            return
        most = max(limit for _, limit, _ in asked)
        total = sum(rs.spec.replicas or 0 for rs in world.owned(uid, "replicasets"))
        if total > most:
            yield f"{named(step.new)} was raised to {step.new.spec.replicas}: {total} pods in all, of at most {most}"


class Availability:
    """A rolling update itself never takes a serving pod if fewer than replicas - maxUnavailable would be left.

    As its controllers see it: for `LAG` seconds after somebody else (an eviction, a lost node, a preemption, a user)
    has taken or broken a serving pod, they may not know yet, here as upstream. Nor does the promise hold for who makes
    a deployment smaller in the middle of a rollout: all its replica sets shrink in proportion, whose pods serve or not.
    https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#max-unavailable
    https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#proportional-scaling"""

    name = "a deployment stays available"

    def __init__(self) -> None:
        self._deployments = _OfDeployments()
        self._disturbed: dict[str, float] = {}

    def broken(self, world: World, step: Step) -> Iterator[str]:
        self._deployments.note(step)
        if _shrinks(step):
            sets = [rs for rs in world.owned(step.new.metadata.uid, "replicasets") if rs.spec.replicas]
            if len(sets) > 1:
                self._disturbed[step.new.metadata.uid] = step.at
        if step.plural != "pods" or step.old is None or not is_serving(step.old):
            return
        if step.new is not None and is_serving(step.new):
            return
        rs = world.owner(step.old, "replicasets")
        uid = controller_uid(rs) if rs is not None else ""
        if not uid:
            return
        if not (going(step) and by(step, "replicaset-controller")):
            self._disturbed[uid] = step.at
            return
        asked = self._deployments.asked.of(uid, step.at)
        if step.at - self._disturbed.get(uid, -LAG) < LAG or not asked:
            return
        if any(kind != "RollingUpdate" for kind, _, _ in asked):
            return
        least = min(floor for _, _, floor in asked)
        sets = world.owned(uid, "replicasets")
        serving = sum(is_serving(pod) for rs in sets for pod in world.owned(rs.metadata.uid))
        if serving < least:
            yield f"{named(step.old)} was taken: {serving} pods are left serving, of at least {least}"


class Replicas:
    """A ReplicaSet does not make more pods than it is asked to have. Upstream tolerates that for moments when an
    answer is lost; here a controller first looks whether the pod was made."""

    name = "a replica set makes no pod too many"
    plural, account = "replicasets", "replicaset-controller"

    def __init__(self) -> None:
        self._asked = _Recent()

    def _size(self, obj: Any) -> int:
        return 1 if obj.spec.replicas is None else int(obj.spec.replicas)

    def broken(self, world: World, step: Step) -> Iterator[str]:
        if step.plural == self.plural and step.new is not None:
            self._asked.note(step.new.metadata.uid, step.at, self._size(step.new))
        if step.plural != "pods" or step.old is not None or not by(step, self.account):
            return
        uid = controller_uid(step.new)
        asked = self._asked.of(uid, step.at)
        active = sum(map(is_active, world.owned(uid)))
        if asked and active > max(asked):
            yield f"{named(step.new)} was made: {active} are active, of {max(asked)}"


class Parallelism(Replicas):
    """A Job never has more active pods than its parallelism.
    https://kubernetes.io/docs/concepts/workloads/controllers/job/#controlling-parallelism"""

    name = "a job keeps its parallelism"
    plural, account = "jobs", "job-controller"

    def _size(self, obj: Any) -> int:
        return 1 if obj.spec.parallelism is None else int(obj.spec.parallelism)


class Budgets:
    """An eviction leaves as many healthy pods as the budget asks for.

    The budget's status is what upstream's API server goes by, under compare-and-swap: for `LAG` seconds after a pod
    was lost in another way than by eviction it may be out of date.
    https://kubernetes.io/docs/concepts/workloads/pods/disruptions/"""

    name = "evictions keep the budget"

    def __init__(self) -> None:
        self._disturbed: dict[str, float] = {}            # namespace -> when

    def broken(self, world: World, step: Step) -> Iterator[str]:
        if step.plural == "poddisruptionbudgets" and step.new is not None:
            old = step.old.spec if step.old is not None else None
            if old != step.new.spec:
                self._disturbed[step.new.metadata.namespace] = step.at
        scaled = step.plural in ("deployments", "replicasets", "statefulsets") and step.old is not None
        if scaled and (step.new is None or step.new.spec.replicas != step.old.spec.replicas):
            self._disturbed[step.object.metadata.namespace] = step.at
        if step.plural != "pods" or step.old is None or not is_ready(step.old):
            return
        if step.new is not None and is_ready(step.new) and not going(step):
            return
        namespace = step.old.metadata.namespace
        if not (going(step) and step.verb in ("", "create")):     # POST to a subresource
            if not step.old.metadata.deletionTimestamp:   # who goes was counted when it was asked to
                self._disturbed[namespace] = step.at
            return
        if step.at - self._disturbed.get(namespace, -LAG) < LAG:
            return
        for budget in world.all("poddisruptionbudgets"):
            if budget.metadata.namespace != namespace or budget.spec.selector is None:
                continue
            matches = labels.selector_of(budget.spec.selector).matches
            if not matches(step.old.metadata.labels or {}):
                continue
            pods = [p for p in world.all("pods") if p.metadata.namespace == namespace]
            healthy = sum(is_serving(p) for p in pods if matches(p.metadata.labels or {}))
            least = budget.status.desiredHealthy or 0
            if healthy < least:
                yield f"{named(step.old)} was evicted: {healthy} are left of {least} that {named(budget)} asks for"


class CountedOnce:
    """Every pod of a Job is counted once, and a finished Job stays finished and makes no pod.
    https://kubernetes.io/docs/concepts/workloads/controllers/job/#job-termination-and-cleanup"""

    name = "a job counts its pods once"

    def __init__(self) -> None:
        self._ended: dict[str, dict[str, set[str]]] = {}      # job's uid -> phase -> uids of pods

    def broken(self, world: World, step: Step) -> Iterator[str]:
        if step.plural == "pods":
            yield from self._pod(world, step)
        elif step.plural == "jobs" and step.old is not None and step.new is not None:
            yield from self._job(step)

    def _pod(self, world: World, step: Step) -> Iterator[str]:
        owner, pod = controller_uid(step.object), step.object
        if step.old is None and by(step, "job-controller"):
            job = world.owner(pod, "jobs")
            if job is not None and finished(job):
                yield f"{named(pod)} was made for {named(job)}, which is finished"
        phase = pod.status.phase or ""
        if owner and step.new is not None and phase in _DONE:
            self._ended.setdefault(owner, {}).setdefault(phase, set()).add(pod.metadata.uid)

    def _job(self, step: Step) -> Iterator[str]:
        job = step.new
        if finished(step.old) and not finished(job):
            yield f"{named(job)} was finished, and is not any more"
        before, after = step.old.status.succeeded or 0, job.status.succeeded or 0
        if after < before:
            yield f"{named(job)} had {before} succeeded pods, and has {after}"
        seen = len(self._ended.get(job.metadata.uid, {}).get("Succeeded", ()))
        if after > seen:
            yield f"{named(job)} counts {after} succeeded pods; {seen} have succeeded"


def finished(job: Any) -> bool:
    conditions = (job.status.conditions if job.status is not None else None) or ()
    return any(c.type in ("Complete", "Failed") and c.status == "True" for c in conditions)


class OneOfACronJob:
    """A CronJob makes at most one Job for each of its times, and with `Forbid` none while another is unfinished.

    Strict: Jobs are named after their time, so that none is made twice.
    https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/#concurrency-policy"""

    name = "a cron job starts one at a time"

    def __init__(self) -> None:
        self._started: dict[tuple[str, str], str] = {}

    def broken(self, world: World, step: Step) -> Iterator[str]:
        if step.plural != "jobs" or step.old is not None or not by(step, "cronjob-controller"):
            return
        job, uid = step.new, controller_uid(step.new)
        stamp = (job.metadata.annotations or {}).get("batch.kubernetes.io/cronjob-scheduled-timestamp", "")
        if stamp and (uid, stamp) in self._started:
            yield f"{named(job)} is the second for {stamp}, after {self._started[uid, stamp]}"
        self._started[uid, stamp] = named(job)
        owner = world.owner(job, "cronjobs")
        if owner is None or owner.spec.concurrencyPolicy != "Forbid":
            return
        others: Sequence[Any] = [j for j in world.owned(uid, "jobs") if j is not job and not finished(j)]
        if others:
            yield f"{named(job)} was started while {', '.join(map(named, others))} was not finished"
