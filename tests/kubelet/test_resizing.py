"""Resources that change while a pod runs: what is granted, what is in force, what is told."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pinnace.api.core import v1 as core
from pinnace.kubelet import resizing
from pinnace.kubelet.resizing import needs_restart, obstacle, reported
from pinnace.kubelet.status_writer import patch_of

from .fakes import make_pod
from .test_worker import Bench, run

ROOM = {"cpu": "2", "memory": "1Gi"}


def sized(cpu: str, memory: str = "100Mi", *, policy: str = "", name: str = "web") -> core.Pod:
    amounts = {"cpu": cpu, "memory": memory}
    container: dict[str, Any] = {"name": "app", "image": "app:1", "resources": {"requests": amounts, "limits": amounts}}
    if policy:
        container["resizePolicy"] = [{"resourceName": policy, "restartPolicy": "RestartContainer"}]
    return make_pod(name, containers=[container])


@pytest.mark.parametrize(("pod", "others", "expected"), [
    (sized("2"), [], None),
    (sized("1500m"), [sized("500m")], None),
    (sized("3"), [], ("Infeasible", "Node didn't have enough capacity: cpu, requested: 3000, capacity: 2000")),
    (sized("1", "2Gi"), [], (
        "Infeasible", "Node didn't have enough capacity: memory, requested: 2147483648, capacity: 1073741824")),
    (sized("2"), [sized("500m")], (
        "Deferred", "Node didn't have enough resource: cpu, requested: 2000, used: 500, capacity: 2000")),
])  # fmt: skip
def test_what_the_node_grants(pod: core.Pod, others: list[core.Pod], expected: tuple[str, str] | None) -> None:
    assert obstacle(pod, others, ROOM) == expected


def test_who_is_restarted() -> None:
    (before,) = sized("1").spec.containers
    (more_cpu,) = sized("2", policy="memory").spec.containers
    (more_memory,) = sized("1", "200Mi", policy="memory").spec.containers
    assert not needs_restart(more_cpu, before.resources, more_cpu.resources)
    assert needs_restart(more_memory, before.resources, more_memory.resources)


def test_a_restarted_kubelet_begins_with_what_was_in_force() -> None:
    pod = sized("2")
    (old,) = sized("1").spec.containers
    pod.status.containerStatuses = [
        msgspec.convert({"name": "app", "resources": msgspec.to_builtins(old.resources)}, core.ContainerStatus)
    ]
    grant = reported(pod)
    assert grant == {"app": old.resources}
    granted = resizing.granted_pod(pod, grant)
    assert granted.spec.containers[0].resources == old.resources
    assert pod.spec.containers[0].resources != old.resources
    assert resizing.granted_pod(pod, resizing.wanted(pod.spec)) is pod


def test_conditions_that_are_over_are_deleted() -> None:
    old = core.PodStatus(conditions=[core.PodCondition(type="Ready", status="True"),
                                     core.PodCondition(type="PodResizePending", status="True")])  # fmt: skip
    new = core.PodStatus(conditions=[core.PodCondition(type="Ready", status="True")])
    assert patch_of(old, new) == {"conditions": [{"$patch": "delete", "type": "PodResizePending"}]}


def condition(b: Bench, type: str) -> core.PodCondition | None:
    return next((c for c in b.status().conditions or () if c.type == type), None)


def in_force(b: Bench) -> str:
    status = (b.status().containerStatuses or [core.ContainerStatus()])[0]
    return str(((status.resources or core.ResourceRequirements()).limits or {}).get("cpu"))


def resize(b: Bench, pod: core.Pod) -> None:
    path = "/api/v1/pods"
    stored = b.api.objects[(path, "default", "web")]
    b.api.put(path, "default", {**stored, "spec": msgspec.to_builtins(pod.spec)})


def test_a_resize_in_place(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        b.kubelet.allocatable = {"cpu": "2", "memory": "1Gi", "pods": "10"}
        b.api.add_pod(sized("1"))
        await b.until(b.ready)
        running = b.runtime.running("app")
        assert running is not None and in_force(b) == "1"
        resize(b, sized("1500m"))
        await b.until(lambda: in_force(b) == "1500m")
        assert f"update {running.id} 150000 104857600" in b.runtime.log
        assert b.runtime.running("app") == running
        assert {"ResizeStarted", "ResizeCompleted"} <= set(b.api.reasons())

    run(tmp_path, test)


def test_a_resize_by_restart(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        b.kubelet.allocatable = {"cpu": "2", "memory": "1Gi", "pods": "10"}
        b.api.add_pod(sized("1", policy="cpu"))
        await b.until(b.ready)
        resize(b, sized("500m", policy="cpu"))
        await b.until(lambda: in_force(b) == "500m" and b.ready())
        statuses = b.status().containerStatuses or []
        assert [status.restartCount for status in statuses] == [1]
        assert "Container app resize requires restart, will be restarted" in b.api.messages()

    run(tmp_path, test)


def test_a_resize_waits_for_room(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        b.kubelet.allocatable = {"cpu": "2", "memory": "1Gi", "pods": "10"}
        b.api.add_pod(sized("1"))
        b.api.add_pod(sized("1", name="other"))
        await b.until(lambda: b.ready() and b.ready("other"))
        resize(b, sized("1500m"))
        await b.until(lambda: condition(b, "PodResizePending") is not None)
        pending = condition(b, "PodResizePending")
        assert pending is not None and (pending.reason, in_force(b)) == ("Deferred", "1")
        b.api.delete_pod("other", 1)
        await b.until(lambda: in_force(b) == "1500m")
        await asyncio.sleep(1)
        assert b.api.reasons().count("ResizeDeferred") == 1

    run(tmp_path, test)
