"""Node life cycle: a node that stops renewing its lease becomes Unknown; conditions become taints.

A node is heard whenever its lease or its status changes; nothing is polled: one timer a node runs until it
would be overdue. Source: https://kubernetes.io/docs/concepts/architecture/nodes/#node-controller.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import msgspec

from pinnace.api.coordination import v1 as coordination
from pinnace.api.core import v1 as core
from pinnace.api.times import format as format_time
from pinnace.base.clock import Clock
from pinnace.client.informer import Event, Informers
from pinnace.controllers import pods as podlib
from pinnace.controllers.plan import NORMAL, WARNING, Action, Emit, Patch, Plan, Planner, Ref, Related

LEASES = "kube-node-lease"
GRACE = 50.0            # seconds of silence after which a node is not known to be well
STARTUP_GRACE = 60.0    # the same for a node that has never told its state
NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
_UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
_BY_CONDITION = {
    ("Ready", "False"): NOT_READY,
    ("Ready", "Unknown"): UNREACHABLE,
    ("MemoryPressure", "True"): "node.kubernetes.io/memory-pressure",
    ("DiskPressure", "True"): "node.kubernetes.io/disk-pressure",
    ("PIDPressure", "True"): "node.kubernetes.io/pid-pressure",
    ("NetworkUnavailable", "True"): "node.kubernetes.io/network-unavailable",
}
_OURS = frozenset(_BY_CONDITION.values()) | {_UNSCHEDULABLE}
_WATCHED = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")


class Seen(msgspec.Struct, frozen=True, gc=False):
    """A node, when it was last heard, its pods that still count as ready, and how the others do."""

    node: core.Node
    heard: datetime
    ready_pods: tuple[core.Pod, ...] = ()
    new: bool = False
    all_down: bool = False    # no node at all is ready: more likely we are cut off than they


class NodeLifecycleController:
    name = "node-lifecycle"

    def __init__(self, informers: Informers, clock: Clock, grace: float = GRACE) -> None:
        self.primary = informers.of(core.Node)
        self._pods = informers.of(core.Pod)
        self._leases = informers.of(coordination.Lease, namespace=LEASES)
        self._clock = clock
        self._grace = timedelta(seconds=grace)
        self._heard: dict[str, datetime] = {}
        self._known: set[str] = set()
        self._ready: set[str] = set()
        podlib.index_by_node(self._pods)
        self._leases.subscribe(self._lease_changed)
        self.primary.subscribe(self._node_changed)
        self.watches = (Related(self.primary, self._others),)

    def observe(self, ref: Ref) -> Seen | None:
        node = self.primary.cache.find(ref)
        if node is None:
            return None
        name = ref[1]
        new = name not in self._known
        self._known.add(name)
        pods: tuple[core.Pod, ...] = ()
        if not is_ready(node):
            pods = tuple(filter(podlib.is_ready, self._pods.cache.by_index("node", name)))
        heard = self._heard.setdefault(name, self._clock.now())
        return Seen(node, heard, pods, new, all_down=not self._ready)

    def decide(self, seen: Seen, now: datetime) -> Plan:
        return decide(seen, now, self._grace)

    def since(self, ref: Ref) -> datetime | None:
        """When it was last heard, which is all that a look at a node that is well would be about."""
        return self._heard.get(ref[1]) if ref[1] in self._ready else None

    def _lease_changed(self, event: Event[coordination.Lease]) -> None:
        new, old = event.new, event.old
        if new is not None and (old is None or old.spec.renewTime != new.spec.renewTime):
            self._heard[new.metadata.name or ""] = self._clock.now()

    def _node_changed(self, event: Event[core.Node]) -> None:
        node = event.old if event.new is None else event.new
        name = node.metadata.name or ""
        if event.new is None:
            self._heard.pop(name, None)
            self._known.discard(name)
            self._ready.discard(name)
            return
        if event.old is None or _heartbeat(event.old) != _heartbeat(event.new):
            self._heard[name] = self._clock.now()
        if is_ready(node):
            self._ready.add(name)
        else:
            self._ready.discard(name)

    def _others(self, event: Event[core.Node]) -> Iterable[Ref]:
        """When the last ready node goes, or the first comes, what is concluded of all nodes changes."""
        was = event.old is not None and is_ready(event.old)
        now = event.new is not None and is_ready(event.new)
        if was != now and len(self._ready) <= 1:
            for node in self.primary.cache:
                yield "", node.metadata.name or ""


def condition(node: core.Node, type: str) -> core.NodeCondition | None:
    for condition in node.status.conditions or ():
        if condition.type == type:
            return condition
    return None


def is_ready(node: core.Node) -> bool:
    ready = condition(node, "Ready")
    return ready is not None and ready.status == "True"


def _heartbeat(node: core.Node) -> tuple[Any, ...]:
    """What only the node itself changes in its conditions."""
    conditions = node.status.conditions or ()
    return tuple((c.type, c.lastHeartbeatTime) for c in conditions)


def decide(seen: Seen, now: datetime, grace: timedelta) -> Plan:
    planner = Planner()
    node, name = seen.node, seen.node.metadata.name or ""
    if seen.new:
        planner.do(
            Emit(NORMAL, "RegisteredNode", f"Node {name} event: Registered Node {name} in Controller")
        )
    ready = condition(node, "Ready")
    patience = grace if ready is not None else timedelta(seconds=STARTUP_GRACE)
    left = seen.heard + patience - now
    if left > timedelta():
        planner.after(left)
    elif ready is None or ready.status != "Unknown":
        planner.do(_unknown(node, now))
        if is_ready(node):
            planner.do(Emit(NORMAL, "NodeNotReady", f"Node {name} status is now: NodeNotReady"))
        return planner.plan()
    if ready is not None and ready.status != "True":
        for pod in seen.ready_pods:
            planner.do(_not_ready(pod, now))
        planner.do(*(Emit(WARNING, "NodeNotReady", "Node is not ready", about=pod) for pod in seen.ready_pods))
    taints = _taints(seen, now)
    if taints is not None:
        planner.do(taints)
    return planner.plan()


def _unknown(node: core.Node, now: datetime) -> Patch:
    """The node's conditions after it fell silent."""
    stamp = format_time(now)
    changed = []
    for type in _WATCHED:
        current = condition(node, type)
        if current is None:
            changed.append({
                "type": type,
                "status": "Unknown",
                "reason": "NodeStatusNeverUpdated",
                "message": "Kubelet never posted node status.",
                "lastHeartbeatTime": node.metadata.creationTimestamp,
                "lastTransitionTime": stamp,
            })
        elif current.status != "Unknown":
            changed.append({
                "type": type,
                "status": "Unknown",
                "reason": "NodeStatusUnknown",
                "message": "Kubelet stopped posting node status.",
                "lastHeartbeatTime": current.lastHeartbeatTime,
                "lastTransitionTime": stamp,
            })
    patch = {"status": {"conditions": changed}}
    return Patch(core.Node, "", node.metadata.name or "", patch, subresource="status")


def _not_ready(pod: core.Pod, now: datetime) -> Patch:
    """A pod on a node that is not ready gets no traffic."""
    condition = {"type": "Ready", "status": "False", "lastTransitionTime": format_time(now)}
    data = pod.metadata
    patch = {"metadata": {"uid": data.uid}, "status": {"conditions": [condition]}}
    return Patch(core.Pod, data.namespace or "", data.name or "", patch, subresource="status")


def _taints(seen: Seen, now: datetime) -> Action | None:
    """A patch that gives the node the taints its conditions call for; None if it has them."""
    node = seen.node
    have = list(node.spec.taints or ())
    wanted: set[tuple[str, str]] = set()
    ready = False     # … or not, but it has said
    for condition in node.status.conditions or ():
        ready = ready or condition.type == "Ready"
        key = _BY_CONDITION.get((condition.type, condition.status))
        if key is not None:
            wanted.add((key, "NoSchedule"))
            if condition.type == "Ready" and not seen.all_down:
                wanted.add((key, "NoExecute"))
    if not ready:
        # Admission gave it this one: it stays until the node has said that it is ready.
        wanted |= {(t.key, t.effect) for t in have if t.key == NOT_READY}
    if node.spec.unschedulable:
        wanted.add((_UNSCHEDULABLE, "NoSchedule"))
    ours = {(t.key, t.effect) for t in have if t.key in _OURS and t.effect in ("NoSchedule", "NoExecute")}
    if ours == wanted:
        return None
    kept = [_wire(t) for t in have if (t.key, t.effect) not in ours or (t.key, t.effect) in wanted]
    stamp = format_time(now)
    kept += [{"key": key, "effect": effect, "timeAdded": stamp} for key, effect in sorted(wanted - ours)]
    patch = {"metadata": {"resourceVersion": node.metadata.resourceVersion}, "spec": {"taints": kept or None}}
    return Patch(core.Node, "", node.metadata.name or "", patch, type="merge")


def _wire(taint: core.Taint) -> dict[str, str]:
    fields = {"key": taint.key, "value": taint.value, "effect": taint.effect, "timeAdded": taint.timeAdded}
    return {name: value for name, value in fields.items() if value}

