"""The scheduler: watches pods and nodes, finds a node for each pod that has none, and binds it there.

Decisions are made one at a time (`cycle`, pure); bindings are written many at a time, and a pod counts as placed
from its decision on. What could not be placed waits in the queue until something happens that may help.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial

from pinnace.api import labels, times
from pinnace.api.core import v1 as core
from pinnace.api.errors import Conflict, InternalError, NotFound, StatusError, Timeout
from pinnace.api.meta import v1 as meta
from pinnace.api.policy import v1 as policy
from pinnace.base.clock import Clock
from pinnace.base.crew import Crew
from pinnace.base.randomness import Randomness
from pinnace.base.supervisor import Supervisor
from pinnace.client.client import Client
from pinnace.client.events import EventRecorder
from pinnace.client.informer import Added, Deleted, Event, Informers, Updated
from pinnace.scheduler.cycle import Cycle, Placement, Unschedulable
from pinnace.scheduler.nodes import Nodes
from pinnace.scheduler.plugins.registry import PLUGINS
from pinnace.scheduler.podinfo import PodInfo, pod_info
from pinnace.scheduler.preemption import Preemption, preempt
from pinnace.scheduler.queue import SchedulingQueue

log = logging.getLogger("pinnace.scheduler")

DEFAULT_SCHEDULER = "default-scheduler"
_MOST_BINDINGS = 64            # under way at a time
_MOST_QUESTIONS = 120          # whether a binding was made whose answer was lost, once a …
_QUESTION_SECONDS = 0.5        # … so many seconds
_NO_CLAIMS = "no new claims to deallocate"


class Scheduler:
    """Places pods that ask for `name`."""

    def __init__(
        self,
        client: Client,
        informers: Informers,
        clock: Clock,
        randomness: Randomness,
        *,
        name: str = DEFAULT_SCHEDULER,
    ) -> None:
        self._client = client
        self._clock = clock
        self._name = name
        self._informers = informers
        self._pods = informers.of(core.Pod)
        self._nodes_informer = informers.of(core.Node)
        self._budgets = informers.of(policy.PodDisruptionBudget)
        self._nodes = Nodes()
        self._queue = SchedulingQueue(clock)
        self._cycle = Cycle(PLUGINS, randomness.fork())
        self._events = EventRecorder(client, name, clock=clock, randomness=randomness.fork())
        # What was decided and is to be written; with what is being written at most as much as there are bindings.
        self._bindings = asyncio.Semaphore(_MOST_BINDINGS)
        self._decided: deque[Callable[[], Coroutine[None, None, None]]] = deque()
        self._unwritten = 0
        self._writers = Crew(self._write_all, most=_MOST_BINDINGS, name="bindings")
        self._told: dict[str, str] = {}            # pod uid -> last message in its condition
        self._pods.subscribe(self._on_pod)
        self._nodes_informer.subscribe(self._on_node)

    @property
    def idle(self) -> bool:
        """Nothing can be done now."""
        return self._queue.idle and not self._unwritten and self._events.idle

    async def run(self) -> None:
        """Schedule until cancelled."""
        async with Supervisor(self._clock) as supervisor:
            supervisor.start("events", self._events.run)
            for informer in (self._pods, self._nodes_informer, self._budgets):
                await informer.wait_synced()
            try:
                while True:
                    info = await self._queue.pop()
                    await self._bindings.acquire()
                    self._schedule(info)
                    if self._queue.more:
                        # Decisions come in long runs: let watches and writes have their turns.
                        await self._clock.sleep(0)
            finally:
                self._queue.close()
                await asyncio.gather(*self._writers.dismiss(), return_exceptions=True)
                while self._decided:
                    self._decided.popleft()
                    self._written()

    def refusals(self, pod: core.Pod) -> dict[str, tuple[str, ...]]:
        """Why each node would not take the pod now; no reasons where one would. For those who ask why a pod waits:
        a walk over all nodes, which changes nothing."""
        found = self._cycle.refusals(pod_info(pod), self._nodes)
        return {node: tuple(misfit.reason for misfit in misfits) for node, misfits in found.items()}

    # ------------------------------------------------------------------------------------------ what happens

    def _on_pod(self, event: Event[core.Pod]) -> None:
        if event.new is not None:
            self._see(event.new)
            return
        pod = event.old
        uid = pod.metadata.uid or ""
        self._told.pop(uid, None)
        self._queue.drop((pod.metadata.namespace or "", pod.metadata.name or ""))
        if self._nodes.drop_pod(uid):
            self._queue.retry_parked()

    def _see(self, pod: core.Pod) -> None:
        key = (pod.metadata.namespace or "", pod.metadata.name or "")
        finished = pod.status.phase in ("Succeeded", "Failed")
        if pod.spec.nodeName:
            if not finished and not self._nodes.set_pod(pod):
                return
            self._queue.drop(key)
            self._told.pop(pod.metadata.uid or "", None)
            if finished and self._nodes.drop_pod(pod.metadata.uid or ""):
                self._queue.retry_parked()
            return
        if (pod.spec.schedulerName or DEFAULT_SCHEDULER) != self._name:
            return
        if finished or pod.metadata.deletionTimestamp or pod.spec.schedulingGates:
            self._queue.drop(key)
        elif not self._nodes.is_assumed(pod.metadata.uid or ""):
            self._queue.put(pod_info(pod))

    def _on_node(self, event: Event[core.Node]) -> None:
        match event:
            case Deleted(old=node):
                self._nodes.drop_node(node.metadata.name or "")
            case Added(new=node):
                self._nodes.set_node(node)
                self._queue.retry_parked()
            case Updated(old=old, new=node):
                # Heartbeats change nothing that decides.
                if _deciding(old) != _deciding(node):
                    self._nodes.set_node(node)
                    self._queue.retry_parked()

    # ---------------------------------------------------------------------------------------------- the cycle

    def _schedule(self, info: PodInfo) -> None:
        """Decide for one pod; what follows from it is written by one of the crew, who gives the binding slot back."""
        result = self._cycle.schedule(info, self._nodes)
        match result:
            case Placement(node=node):
                self._nodes.assume(info, node)
                self._write(partial(self._bind, info, node))
            case Unschedulable():
                found = Preemption(None, message="no nodes")
                if result.misfits:
                    found = preempt(info, result, self._nodes, self._cycle, self._protected)
                self._queue.fail(info, park=True)
                self._write(partial(self._refuse, info, result, found))

    def _write(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        self._unwritten += 1
        self._decided.append(work)
        self._writers.rouse()

    async def _write_all(self) -> None:
        """What one of the crew does."""
        while self._decided:
            work = self._decided.popleft()
            if self._decided:
                self._writers.rouse()
            try:
                await work()
            finally:
                self._written()

    def _written(self) -> None:
        self._unwritten -= 1
        self._bindings.release()

    async def _bind(self, info: PodInfo, node: str) -> None:
        pod, (namespace, name) = info.pod, info.key
        binding = core.Binding(
            metadata=meta.ObjectMeta(name=name, namespace=namespace, uid=info.uid),
            target=core.ObjectReference(kind="Node", name=node),
        )
        because = _revisions(pod, self._nodes_informer.cache.get("", node))
        try:
            await self._client.create_subresource(
                core.Pod, name, namespace, "binding", binding, because=because, giving=True
            )
        except (StatusError, OSError, TimeoutError) as error:
            if _ambiguous(error) and await self._bound_all_the_same(info):
                return      # the watch will tell; until then the pod keeps its place
            # Somebody else may have been quicker, or the pod is gone: the watch tells, and if not, it comes again.
            self._nodes.forget(info.uid)
            self._queue.fail(info, park=False)
            if not isinstance(error, NotFound | Conflict):
                text = f"binding rejected: {error}"
                self._events.event(pod, "Warning", "FailedScheduling", text, because=because)
            return
        self._queue.drop(info.key, info.uid)
        text = f"Successfully assigned {namespace}/{name} to {node}"
        self._events.event(pod, "Normal", "Scheduled", text, because=because)

    async def _bound_all_the_same(self, info: PodInfo) -> bool:
        """The answer to a binding was lost: whether it was made. Its place is kept until that is known."""
        namespace, name = info.key
        for _ in range(_MOST_QUESTIONS):
            if not self._nodes.is_assumed(info.uid):
                return True
            try:
                pod = await self._client.get(core.Pod, name, namespace)
            except NotFound:
                return False
            except (StatusError, OSError, TimeoutError):
                await self._clock.sleep(_QUESTION_SECONDS)
                continue
            return pod.metadata.uid == info.uid and bool(pod.spec.nodeName)
        return False

    async def _refuse(self, info: PodInfo, result: Unschedulable, preemption: Preemption) -> None:
        try:
            await self._tell_refused(info, result, preemption)
        except (StatusError, OSError, TimeoutError) as error:
            # Victims may be left, and nobody has been told: what it waits for would not come.
            self._told.pop(info.uid, None)
            self._queue.unpark(info)
            log.warning("%s", error)

    async def _tell_refused(self, info: PodInfo, result: Unschedulable, preemption: Preemption) -> None:
        message = result.message
        if preemption.node is not None:
            await self._evict(info, preemption)
        elif result.misfits:
            message = f"{message} {_NO_CLAIMS}, preemption: {preemption.message}"
        self._events.event(info.pod, "Warning", "FailedScheduling", message, because=_revisions(info.pod))
        nominated = preemption.node or info.pod.status.nominatedNodeName or ""
        if self._told.get(info.uid) == message + nominated:
            return
        self._told[info.uid] = message + nominated
        now = times.format(self._clock.now())
        refused = (c for c in info.pod.status.conditions or () if c.type == "PodScheduled" and c.status == "False")
        since = next((condition.lastTransitionTime for condition in refused), now)
        status: dict[str, object] = {
            "conditions": [
                {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "Unschedulable",
                    "message": message,
                    "lastTransitionTime": since,
                }
            ]
        }
        if preemption.node is not None:
            status["nominatedNodeName"] = preemption.node
        namespace, name = info.key
        patch = {"metadata": {"uid": info.uid}, "status": status}
        await self._client.patch(
            core.Pod, name, namespace, patch, type="strategic", subresource="status", because=_revisions(info.pod)
        )

    async def _evict(self, info: PodInfo, preemption: Preemption) -> None:
        because = _revisions(info.pod)
        client = self._client.acting_for(info.pod)
        for victim in preemption.victims:
            namespace, name = victim.key
            text = f"Preempted by pod {info.uid} on node {preemption.node}"
            self._events.event(victim.pod, "Normal", "Preempted", text, because=because)
            condition = {
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "PreemptionByScheduler",
                "message": f"{self._name}: preempting to accommodate a higher priority pod",
                "lastTransitionTime": times.format(self._clock.now()),
            }
            patch = {"status": {"conditions": [condition]}}
            try:
                await client.patch(
                    core.Pod, name, namespace, patch, type="strategic", subresource="status", because=because
                )
                await client.delete(core.Pod, name, namespace, uid=victim.uid, because=because)
            except (NotFound, Conflict):
                continue      # gone already

    def _protected(self, info: PodInfo) -> bool:
        """A budget that allows no more disruptions covers the pod."""
        for budget in self._budgets.cache.list(info.key[0]):
            if budget.status.disruptionsAllowed or budget.spec.selector is None:
                continue
            if labels.selector_of(budget.spec.selector).matches(info.pod.metadata.labels or {}):
                return True
        return False


def _ambiguous(error: BaseException) -> bool:
    """Whether the write may have been made."""
    if isinstance(error, StatusError):
        return isinstance(error, Timeout | InternalError)
    return not isinstance(error, ConnectionRefusedError)


def _deciding(node: core.Node) -> tuple[object, ...]:
    """What of a node the plugins look at."""
    return (
        node.metadata.labels, node.spec, node.status.allocatable, node.status.capacity, node.status.images,
    )  # fmt: skip


def _revisions(*objects: core.Pod | core.Node | None) -> tuple[int, ...]:
    return tuple([int(found.metadata.resourceVersion or 0) for found in objects if found is not None])
