"""Grants a pod the resources it asks for, and brings them into force: one for each pod's worker.

`resizing.py` decides; the worker asks on every round and runs `apply` as one of its operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Literal

from pinnace.api.core import v1 as core
from pinnace.kubelet import resizing
from pinnace.kubelet.container_spec import container_resources, pod_resources
from pinnace.kubelet.resizing import Progress
from pinnace.runtime.cri import Container, ContainerState, Resources, Runtime, RuntimeFault, Sandbox

Tell = Callable[[Literal["Normal", "Warning"], str, str], None]


class Resizer:
    def __init__(self, pod: core.Pod, runtime: Runtime, tell: Tell) -> None:
        self.grant: resizing.Allotment = resizing.reported(pod)
        self.in_force: dict[str, core.ResourceRequirements] = {}
        self.outgrown: set[str] = set()
        self._runtime = runtime
        self._tell = tell
        self._pending: tuple[str, str] | None = None
        self._fault = ""
        self._due: list[Container] = []

    def consider(
        self, pod: core.Pod, containers: Iterable[Container],
        obstacle: Callable[[core.Pod], tuple[str, str] | None],
    ) -> bool:  # fmt: skip
        """Grant what the pod asks for, if it fits. True when something has to be brought into force."""
        wanted = resizing.wanted(pod.spec)
        before = self.grant
        running = [c for c in containers if c.state is ContainerState.RUNNING and c.name in before]
        for container in running:
            self.in_force.setdefault(container.id, before[container.name])
        known = {c.id for c in running}
        self.in_force = {id: resources for id, resources in self.in_force.items() if id in known}
        self.outgrown &= known
        pending = obstacle(pod) if wanted != before else None
        if pending is not None and pending != self._pending:
            reason, message = pending
            self._tell("Warning", f"Resize{reason}", f"Pod resize {reason}: {resizing.told(pod, wanted, message)}")
        self._pending = pending
        if wanted != before and pending is None:
            self.grant = wanted
            if running:
                self._tell("Normal", "ResizeStarted", f"Pod resize started: {resizing.told(pod, wanted)}")
        was_due = self._due
        self._due = [c for c in running if self.in_force[c.id] != self.grant.get(c.name, self.in_force[c.id])]
        if was_due and not self._due:
            self._fault = ""
            self._tell("Normal", "ResizeCompleted", f"Pod resize completed: {resizing.told(pod, self.grant)}")
        return any(c.id not in self.outgrown for c in self._due)

    @property
    def deferred(self) -> bool:
        return self._pending is not None and self._pending[0] == "Deferred"

    @property
    def progress(self) -> Progress:
        return Progress(self._pending, self._fault, bool(self._due))

    async def apply(self, pod: core.Pod, sandbox: Sandbox, pids_limit: int | None) -> None:
        """`pod` has the granted resources. Raises RuntimeFault; what is in force then is known still."""
        limits = pod_resources(pod.spec, pids_limit)
        held = {c.name: self.in_force[c.id] for c in self._due if c.id in self.in_force}
        before = pod_resources(resizing.granted_pod(pod, {**self.grant, **held}).spec, pids_limit)
        try:
            # Never less for the pod than for its containers, while they change one by one.
            await self._runtime.update_sandbox_resources(sandbox.id, _larger(before, limits))
            for container in self._due:
                await self._change(pod, container)
            await self._runtime.update_sandbox_resources(sandbox.id, limits)
        except RuntimeFault as fault:
            if str(fault) != self._fault:
                words = resizing.told(pod, self.grant, str(fault))
                self._tell("Warning", "ResizeError", f"Pod resize error: {words}")
            self._fault = str(fault)
            raise

    async def _change(self, pod: core.Pod, running: Container) -> None:
        container = next(c for c in resizing.resizable(pod.spec) if c.name == running.name)
        before = self.in_force.get(running.id, container.resources)
        if resizing.needs_restart(container, before, container.resources):
            self.outgrown.add(running.id)
            return
        limits = replace(container_resources(pod, container, node_memory=0), oom_score_adj=None)
        await self._runtime.update_resources(running.id, limits)
        self.in_force[running.id] = container.resources


def _larger(one: Resources, other: Resources) -> Resources:
    """The looser limits of both; None is none at all."""

    def looser(a: int | None, b: int | None) -> int | None:
        return None if a is None or b is None else max(a, b)

    return replace(
        other,
        cpu_shares=looser(one.cpu_shares, other.cpu_shares),
        cpu_quota=looser(one.cpu_quota, other.cpu_quota),
        memory_limit=looser(one.memory_limit, other.memory_limit),
    )
