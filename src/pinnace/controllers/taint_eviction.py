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
        self._since: dict[str, datetime] = {}   # pod uid: when it was first seen under its node's taints
        podlib.index_by_node(self.primary)
        self.primary.subscribe(self._forget)
        self.watches = (Related(self._nodes, self._of_node),)

    def observe(self, ref: Ref) -> Seen | None:
        pod = self.primary.cache.get(*ref)
        if pod is None or pod.spec is None or not pod.spec.nodeName:
            return None
        node = self._nodes.cache.get("", pod.spec.nodeName)
        taints = _no_execute(node) if node is not None else ()
        uid = pod.metadata.uid or ""
        if not taints or podlib.is_finished(pod) or pod.metadata.deletionTimestamp is not None:
            self._since.pop(uid, None)
            return None
        return Seen(pod, taints, self._since.setdefault(uid, self._clock.now()))

    def concerns(self, event: Event[core.Pod]) -> bool:
        pod = event.new
        if pod is None or pod.spec is None or not pod.spec.nodeName:
            return False
        node = self._nodes.cache.get("", pod.spec.nodeName)
        return node is not None and node.spec is not None and bool(node.spec.taints)

    def decide(self, seen: Seen, now: datetime) -> Plan:
        return decide(seen, now)

    def _forget(self, event: Event[core.Pod]) -> None:
        if event.new is None:
            self._since.pop(event.old.metadata.uid or "", None)

    def _of_node(self, event: Event[core.Node]) -> Iterable[Ref]:
        node = event.old if event.new is None else event.new
        if event.new is None or (_no_execute(event.old) if event.old is not None else ()) == _no_execute(event.new):
            return
        for pod in self.primary.cache.by_index("node", node.metadata.name or ""):
            yield pod.metadata.namespace or "", pod.metadata.name or ""


def _no_execute(node: core.Node) -> tuple[core.Taint, ...]:
    taints = (node.spec.taints if node.spec is not None else None) or ()
    return tuple(taint for taint in taints if taint.effect == "NoExecute")


def stay(pod: core.Pod, taints: Iterable[core.Taint]) -> float | None:
    """For how many seconds the pod may stay under these taints; None: for ever; 0: not at all."""
    tolerations = (pod.spec.tolerations if pod.spec is not None else None) or ()
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
