"""Taint eviction: pods leave a node whose NoExecute taints they do not tolerate, or no longer.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

import msgspec

from pinnace.api.core import v1 as core
from pinnace.api.placement import tolerates
from pinnace.api.times import format as format_time
from pinnace.base.clock import Clock
from pinnace.client.informer import Event, Informers
from pinnace.controllers import pods as podlib
from pinnace.controllers.plan import NORMAL, NOTHING, Delete, Emit, Patch, Plan, Ref, Related


class Seen(msgspec.Struct, frozen=True):
    """A pod with the NoExecute taints of its node, and since when these concern it."""

    pod: core.Pod
    taints: tuple[core.Taint, ...]
    since: datetime


class TaintEvictionController:
    name = "taint-eviction-controller"

    def __init__(self, informers: Informers, clock: Clock) -> None:
        self.primary = informers.of(core.Pod)
        self._nodes = informers.of(core.Node)
        self._clock = clock
        self._tainted: set[str] = set()         # nodes with NoExecute taints
        self._since: dict[Ref, tuple[str, datetime]] = {}   # uid, and when it was first seen under its node's taints
        podlib.index_by_node(self.primary)
        self.watches = (Related(self._nodes, self._of_node),)

    def observe(self, ref: Ref) -> Seen | None:
        pod = self.primary.cache.find(ref)
        name = pod.spec.nodeName if pod is not None else None
        node = self._nodes.cache.get("", name) if name else None
        taints = _no_execute(node) if node is not None else ()
        if pod is None or not taints or podlib.is_finished(pod) or pod.metadata.deletionTimestamp is not None:
            self._since.pop(ref, None)
            return None
        uid, since = self._since.get(ref, ("", self._clock.now()))
        if uid != pod.metadata.uid:
            since = self._clock.now()
            self._since[ref] = pod.metadata.uid or "", since
        return Seen(pod, taints, since)

    def concerns(self, event: Event[core.Pod]) -> bool:
        if event.new is None:
            data = event.old.metadata
            return (data.namespace or "", data.name or "") in self._since
        return event.new.spec.nodeName in self._tainted

    def decide(self, seen: Seen, now: datetime) -> Plan:
        return decide(seen, now)

    def _of_node(self, event: Event[core.Node]) -> Iterable[Ref]:
        before, after = (_no_execute(node) if node is not None else () for node in (event.old, event.new))
        node = event.old if event.new is None else event.new
        name = node.metadata.name or ""
        if after:
            self._tainted.add(name)
        else:
            self._tainted.discard(name)
        if event.new is None or before == after:
            return ()
        pods = self.primary.cache.by_index("node", name)
        return [(pod.metadata.namespace or "", pod.metadata.name or "") for pod in pods]


def _no_execute(node: core.Node) -> tuple[core.Taint, ...]:
    taints = node.spec.taints or ()
    return tuple(taint for taint in taints if taint.effect == "NoExecute")


def stay(pod: core.Pod, taints: Iterable[core.Taint]) -> float | None:
    """For how many seconds the pod may stay under these taints; None: for ever; 0: not at all."""
    tolerations = pod.spec.tolerations or ()
    shortest: float | None = None
    for taint in taints:
        matching = [t for t in tolerations if tolerates(t, taint)]
        if not matching:
            return 0.0
        for toleration in matching:
            if toleration.tolerationSeconds is not None:
                seconds = max(0.0, float(toleration.tolerationSeconds))
                shortest = seconds if shortest is None else min(shortest, seconds)
    return shortest


def decide(seen: Seen, now: datetime) -> Plan:
    seconds = stay(seen.pod, seen.taints)
    if seconds is None:
        return NOTHING
    left = seen.since + timedelta(seconds=seconds) - now
    if left > timedelta():
        return Plan(again=left)
    data = seen.pod.metadata
    condition = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "DeletionByTaintManager",
        "message": "Taint manager: deleting due to NoExecute taint",
        "lastTransitionTime": format_time(now),
    }
    patch = {"metadata": {"uid": data.uid}, "status": {"conditions": [condition]}}
    namespace, name = data.namespace or "", data.name or ""
    return Plan((
        Emit(NORMAL, "TaintManagerEviction", f"Marking for deletion Pod {namespace}/{name}"),
        Patch(core.Pod, namespace, name, patch, subresource="status"),
        Delete(core.Pod, namespace, name, data.uid or ""),
    ))
