"""Leads pods and nodes by kwok's Stages, where `SimulatedNodes` was given some.

A pod that some Stage could select is led by Stages alone; so is a node. The pods' timers and writes are the wheel's
and the writers' of `nodes.py`; nodes, which change rarely, have a timer each.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from pinnace.api import codec, errors, times, yaml
from pinnace.api.core import v1 as core
from pinnace.client.client import PatchType
from pinnace.client.informer import Deleted, Event, revision_number
from pinnace.kubelet.simulated.heartbeats import TRANSIENT
from pinnace.kubelet.simulated.machines import Machine, Tracked
from pinnace.kubelet.simulated.stages import Stage, body_of, choose, delay_of, finalizers_of, parse
from pinnace.kubelet.simulated.templates import Function, text_of

if TYPE_CHECKING:
    from pinnace.kubelet.simulated.nodes import SimulatedNodes

log = logging.getLogger("pinnace.kubelet.simulated")

AGAIN = 1.0                  # seconds at least between one entry of a stage and the next, if nothing comes between
RETRY = 5.0                  # … and after a stage that could not be entered
VERSION = "v0.7.0"           # of kwok, as whose its templates may show themselves
_CONDITIONS = (
    ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    ("NetworkUnavailable", "False", "RouteCreated", "RouteController created a route"),
)


class Staging:
    """Raises NotUnderstood for Stages that are not."""

    def __init__(self, source: Sequence[Mapping[str, Any] | str] | str, nodes: SimulatedNodes) -> None:
        self._nodes = nodes
        stages = parse(source)
        self._of_pods = [stage for stage in stages if stage.kind == "Pod"]
        self._of_nodes = [stage for stage in stages if stage.kind == "Node"]
        self._by_name = {(stage.kind, stage.name): stage for stage in stages}
        self._begun = nodes.now()
        self._due: dict[str, tuple[str, float, asyncio.TimerHandle | None]] = {}    # of nodes, by name
        self._entered: dict[str, tuple[str, float]] = {}                            # of nodes

    def leads_node(self, name: str) -> bool:
        """Whether the node's status is the Stages' to write."""
        machine = self._nodes.machine(name)
        if machine is None or not self._of_nodes:
            return False
        obj = codec.to_dict(machine.node(self._nodes.now(), conditions=False))
        return any(stage.claims(obj) for stage in self._of_nodes)

    # Pods

    def look(self, tracked: Tracked) -> bool:
        """Whether the pod is led by Stages; if so, what is next for it has been arranged."""
        obj = codec.to_dict(tracked.pod)
        if tracked.staged is None:
            tracked.staged = any(stage.claims(obj) for stage in self._of_pods)
        if not tracked.staged:
            return False
        nodes, now = self._nodes, self._nodes.now()
        stage = self._by_name.get(("Pod", tracked.stage))
        if stage is None or not stage.selects(obj):
            stage = choose(self._of_pods, obj, nodes.randomness.below)
            if stage is None:
                tracked.stage, tracked.timer = "", 0.0
                return True
            tracked.stage = stage.name
            tracked.due = now + delay_of(stage, obj, now, nodes.randomness.uniform)
            if tracked.entered == stage.name:
                tracked.due = max(tracked.due, tracked.again)
        if tracked.due > now + 2e-6:
            nodes.set_timer(tracked, tracked.due)
        elif tracked.machine.reachable:
            nodes.queue(tracked)
        return True

    async def apply(self, tracked: Tracked) -> None:
        """Enter the stage of a pod, if it is still the one."""
        stage, obj, now = self._by_name["Pod", tracked.stage], codec.to_dict(tracked.pod), self._nodes.now()
        if tracked.due > now + 2e-6 or not stage.selects(obj):
            return
        tracked.stage, tracked.entered, tracked.again = "", stage.name, now + RETRY
        tracked.moved = True
        pod = await self._enter(stage, tracked.pod, obj, self._functions(tracked.machine, tracked.place.pod_ip))
        if pod is None:
            tracked.deleted = tracked.deleted or not tracked.pod.metadata.finalizers
        else:
            if pod is not tracked.pod:
                tracked.again = now + AGAIN
            tracked.pod = pod

    async def _enter(self, stage: Stage, obj: Any, data: Any, functions: Mapping[str, Function]) -> Any:
        """The object after the stage; None once it was deleted. A stage whose template fails is passed over."""
        about, client, kind = codec.metadata(obj), self._nodes.client, type(obj)
        name, namespace = about.name or "", about.namespace or ""
        because = (revision_number(about.resourceVersion),)
        effect = stage.effect
        try:
            if effect.event is not None:
                type_, reason, message = effect.event
                words = message.render(data, functions)
                self._nodes.tell(obj, cast(Literal["Normal", "Warning"], type_), reason, words)
            bodies = [(patch, body_of(patch, data, functions)) for patch in effect.patches]
        except ValueError as error:
            log.warning("stage %s of %s %s/%s: %s", stage.name, stage.kind, namespace, name, error)
            return obj
        finalizers = finalizers_of(stage, data)
        if finalizers is not None:
            obj = await client.patch(kind, name, namespace, {"metadata": {"finalizers": finalizers}}, because=because)
        if effect.delete:
            try:
                await client.delete(kind, name, namespace, grace_period=0, uid=about.uid or "", because=because)
            except errors.NotFound:
                log.debug("%s %s/%s went with its finalizers", stage.kind, namespace, name)
            return None
        for patch, body in bodies:
            obj = await client.patch(
                kind, name, namespace, body, type=cast(PatchType, patch.type), subresource=patch.subresource,
                because=because,
            )
        return obj

    # Nodes

    async def run(self) -> None:
        """Lead the nodes until cancelled."""
        unsubscribe: Callable[[], None] = lambda: None  # noqa: E731  # there may be nothing to unsubscribe
        if self._of_nodes:
            informer = self._nodes.informers.of(core.Node)
            await informer.wait_synced()
            unsubscribe = informer.subscribe(self._node_changed)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            unsubscribe()
            for name in list(self._due):
                self._forget(name)

    def _node_changed(self, event: Event[core.Node]) -> None:
        if isinstance(event, Deleted):
            self._forget(event.old.metadata.name or "")
        else:
            self._look_at_node(event.new)

    def _forget(self, name: str) -> None:
        _, _, timer = self._due.pop(name, ("", 0.0, None))
        if timer is not None:
            timer.cancel()

    def _look_at_node(self, node: core.Node) -> None:
        name, now = node.metadata.name or "", self._nodes.now()
        machine = self._nodes.machine(name)
        if machine is None or not machine.connected:
            return
        obj = codec.to_dict(node)
        known = self._due.get(name)
        stage = self._by_name.get(("Node", known[0])) if known is not None else None
        if known is not None and stage is not None and stage.selects(obj):
            return
        self._forget(name)
        stage = choose(self._of_nodes, obj, self._nodes.randomness.below)
        if stage is None:
            return
        due = now + delay_of(stage, obj, now, self._nodes.randomness.uniform)
        entered, at = self._entered.get(name, ("", 0.0))
        if entered == stage.name:
            due = max(due, at + AGAIN)
        loop = asyncio.get_running_loop()
        timer = loop.call_later(max(0.0, due - now), lambda: self._nodes.spawn(self._lead(machine, stage)))
        self._due[name] = (stage.name, due, timer)

    async def _lead(self, machine: Machine, stage: Stage) -> None:
        name = machine.name
        node = self._nodes.informers.of(core.Node).cache.get("", name)
        self._forget(name)
        if node is None or not machine.connected:
            return
        obj = codec.to_dict(node)
        try:
            if stage.selects(obj):
                self._entered[name] = (stage.name, self._nodes.now())
                node = await self._enter(stage, node, obj, self._functions(machine, ""))
        except TRANSIENT as error:
            log.warning("stage %s of node %s: %s", stage.name, name, error)
            await self._nodes.pause(RETRY)
        if node is not None:
            self._look_at_node(node)

    def look_at(self, machine: Machine) -> None:
        """The node can be reached again."""
        node = self._nodes.informers.of(core.Node).cache.get("", machine.name) if self._of_nodes else None
        if node is not None:
            self._look_at_node(node)

    # What templates may call

    def _functions(self, machine: Machine, pod_ip: str) -> dict[str, Function]:
        def moment(seconds: float) -> str:
            return times.format(times.from_timestamp(seconds + machine.drift))

        def node_ip(*_: Any) -> str:
            return machine.host_ip

        def pod_address(_: Any = "", host_network: Any = False, *__: Any) -> str:
            return machine.host_ip if host_network else pod_ip

        now = moment(self._nodes.now())
        return {
            "Now": lambda: now, "StartTime": lambda: moment(self._begun), "Version": lambda: VERSION,
            "Quote": _quote, "YAML": _yaml, "NodeIP": node_ip, "NodeIPWith": node_ip,
            "NodeIPsWith": lambda *_: [machine.host_ip], "NodeName": lambda: machine.name,
            "NodePort": lambda: 10250, "PodIP": lambda: pod_ip, "PodIPWith": pod_address,
            "PodIPsWith": lambda *given: [pod_address(*given)],
            "NodeConditions": lambda: [
                {"type": t, "status": s, "reason": r, "message": m} for t, s, r, m in _CONDITIONS
            ],
        }  # fmt: skip


def _quote(value: Any) -> str:
    return json.dumps(value if isinstance(value, str) else json.dumps(value, separators=(",", ":")))


def _yaml(value: Any, indent: Any = 0) -> str:
    """A value in YAML, each line so many steps of two blanks further in."""
    text = yaml.dump(value)
    return f"\n{text}".replace("\n", "\n" + "  " * int(text_of(indent))) if indent else text
