"""Pod garbage collection: pods whose node is gone, pods deleted before they were scheduled, and finished ones
beyond a threshold.

Source: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-garbage-collection.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import msgspec

from pinnace.api.core import v1 as core
from pinnace.api.times import format as format_time
from pinnace.base.clock import Clock
from pinnace.client.informer import Event, Handler, Informer, Informers
from pinnace.controllers import pods as podlib
from pinnace.controllers.plan import NOTHING, Action, Delete, Patch, Plan, Ref, Related, Wake

THRESHOLD = 12500
_QUARANTINE = timedelta(seconds=40)   # a node that vanished may come back under its name
_REMEMBERED = 1000                     # missed nodes, before those without pods are forgotten
_OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
# A pod that stays unfinished is looked at by its own key; all finished ones together by this one.
_FINISHED = ("", "")


class Seen(msgspec.Struct, frozen=True):
    """One pod with its node (None if there is none of that name), or the surplus of finished pods."""

    pod: core.Pod | None = None
    node: core.Node | None = None
    node_gone_since: datetime | None = None
    surplus: tuple[core.Pod, ...] = ()


class _Finished:
    """The finished pods, of which only so many are kept. Whatever makes them too many wakes the key of them all."""

    def __init__(self, pods: Informer[core.Pod], threshold: int) -> None:
        self.informer = pods
        self._threshold = threshold
        self._refs: dict[Ref, None] = {}

    def handler(self, wake: Wake) -> Handler[core.Pod]:
        self._refs.clear()      # it is about to be told of all that there are

        def changed(event: Event[core.Pod]) -> None:
            obj: Any = event.old if event.new is None else event.new
            data = obj.metadata
            ref = (data.namespace or "", data.name or "")
            counts = event.new is not None and obj.status.phase in podlib.FINISHED and data.deletionTimestamp is None
            if not counts:
                if ref in self._refs:
                    del self._refs[ref]
            elif ref not in self._refs:
                self._refs[ref] = None
                if len(self._refs) > self._threshold:
                    wake(_FINISHED, data.resourceVersion)

        return changed

    def surplus(self) -> tuple[core.Pod, ...]:
        """The oldest beyond those that are kept."""
        count = len(self._refs) - self._threshold
        if count <= 0:
            return ()
        pods = [pod for ref in self._refs if (pod := self.informer.cache.get(*ref)) is not None]
        pods.sort(key=lambda pod: (pod.metadata.creationTimestamp or "", pod.metadata.name or ""))
        return tuple(pods[:count])


class PodGarbageCollector:
    """`threshold`: so many finished pods are kept."""

    name = "pod-garbage-collector"

    def __init__(self, informers: Informers, clock: Clock, threshold: int = THRESHOLD) -> None:
        self._clock = clock
        self.primary = informers.of(core.Pod)
        self._nodes = informers.of(core.Node)
        self._finished = _Finished(self.primary, threshold)
        self._gone: dict[str, datetime] = {}   # nodes that were missed, and since when
        podlib.index_by_node(self.primary)
        self.watches = (Related(self._nodes, self._of_node), self._finished)

    def observe(self, ref: Ref) -> Seen | None:
        if ref == _FINISHED:
            return Seen(surplus=self._finished.surplus())
        pod = self.primary.cache.find(ref)
        if pod is None or not self._is_in_doubt(pod):
            return None
        name = pod.spec.nodeName
        if not name:
            return Seen(pod)
        node = self._nodes.cache.get("", name)
        return Seen(pod, node, None if node is not None else self._missed(name))

    def concerns(self, event: Event[core.Pod]) -> bool:
        old, new = event.old, event.new
        if new is None:
            return False
        if new.metadata.deletionTimestamp is None and old is not None:
            # Whether its node is there was asked when it was bound, and is told when that changes.
            return old.spec.nodeName != new.spec.nodeName and self._is_in_doubt(new)
        return self._is_in_doubt(new)

    def _is_in_doubt(self, pod: core.Pod) -> bool:
        """Whether it is being deleted, or its node is missed."""
        if pod.metadata.deletionTimestamp is not None:
            return True
        name = pod.spec.nodeName
        return bool(name) and self._nodes.cache.get("", name or "") is None

    def decide(self, seen: Seen, now: datetime) -> Plan:
        return decide(seen, now)

    def _missed(self, name: str) -> datetime:
        """Since when a node is missed: the first pod that names it starts the quarantine."""
        if name not in self._gone:
            if len(self._gone) >= _REMEMBERED:
                self._gone = {n: t for n, t in self._gone.items() if self.primary.cache.by_index("node", n)}
            self._gone[name] = self._clock.now()
        return self._gone[name]

    def _of_node(self, event: Event[core.Node]) -> Iterable[Ref]:
        node = event.old if event.new is None else event.new
        name = node.metadata.name or ""
        if event.new is not None:
            self._gone.pop(name, None)
            if event.old is not None and _out_of_service(event.old) == _out_of_service(event.new):
                return
        for pod in self.primary.cache.by_index("node", name):
            yield pod.metadata.namespace or "", pod.metadata.name or ""


def decide(seen: Seen, now: datetime) -> Plan:
    if seen.pod is None:
        return Plan(tuple(_delete(pod) for pod in seen.surplus))
    pod = seen.pod
    name = pod.spec.nodeName
    deleted = pod.metadata.deletionTimestamp
    if not name:
        return Plan(_end(pod, "", now)) if deleted is not None else NOTHING
    if seen.node is not None:
        if deleted is not None and _out_of_service(seen.node) and not _is_ready(seen.node):
            return Plan(_end(pod, "node is out of service", now))
        return NOTHING
    if seen.node_gone_since is None:
        return NOTHING
    left = seen.node_gone_since + _QUARANTINE - now
    if left > timedelta():
        return Plan(again=left)
    return Plan(_end(pod, "node no longer exists", now))


def _end(pod: core.Pod, why: str, now: datetime) -> tuple[Action, ...]:
    """Mark a pod failed, so that its job counts it, and delete it; nothing if only finalizers hold it still."""
    data = pod.metadata
    held = data.deletionTimestamp is not None and data.deletionGracePeriodSeconds == 0 and data.finalizers
    delete = () if held else (_delete(pod),)
    if podlib.is_finished(pod):
        return delete
    status: dict[str, Any] = {"phase": "Failed"}
    if why:
        condition = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByPodGC",
            "message": f"PodGC: {why}",
            "lastTransitionTime": format_time(now),
        }
        status["conditions"] = [condition]
    patch = {"metadata": {"uid": data.uid}, "status": status}
    return (Patch(core.Pod, data.namespace or "", data.name or "", patch, subresource="status"), *delete)


def _delete(pod: core.Pod) -> Delete:
    data = pod.metadata
    return Delete(core.Pod, data.namespace or "", data.name or "", data.uid or "", grace_period=0)


def _out_of_service(node: core.Node) -> bool:
    taints = node.spec.taints or ()
    return any(taint.key == _OUT_OF_SERVICE for taint in taints)


def _is_ready(node: core.Node) -> bool:
    conditions = (node.status.conditions if node.status is not None else None) or ()
    return any(c.type == "Ready" and c.status == "True" for c in conditions)


