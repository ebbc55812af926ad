"""What upstream's conformance tests ask of pods, on real nodes: debugging, resizing, refusals, faults."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from .conftest import IMAGE, Cluster, eventually, pod, sleeper

pytestmark = [pytest.mark.root, pytest.mark.real]


def status_of(cluster: Cluster, name: str) -> dict[str, Any]:
    found: dict[str, Any] = cluster.get("pod", name)["status"]
    return found


def test_debugging_a_running_pod(cluster: Cluster, namespace: str) -> None:
    cluster.apply(sleeper("web"))
    cluster.wait_pod("web")
    cluster.kubectl(
        "debug", "web", f"--image={IMAGE}", "--target=main", "--container=look", "--profile=general", "--",
        "sh", "-c", "ps; exit 3",
    )  # fmt: skip

    def ended() -> Any:
        statuses = status_of(cluster, "web").get("ephemeralContainerStatuses") or [{}]
        return statuses[0].get("state", {}).get("terminated")

    assert eventually(ended)["exitCode"] == 3
    assert "trap" in cluster.kubectl("logs", "web", "-c", "look").out    # the other container's processes
    status = status_of(cluster, "web")
    assert status["phase"] == "Running" and status["containerStatuses"][0]["restartCount"] == 0


def test_resizing_in_place(cluster: Cluster, namespace: str) -> None:
    resources = {"requests": {"cpu": "50m", "memory": "20Mi"}, "limits": {"cpu": "100m", "memory": "30Mi"}}
    cluster.apply(sleeper("web", container={"resources": resources}))
    cluster.wait_pod("web")

    def resize(**limits: str) -> None:
        patch = {"spec": {"containers": [{"name": "main", "resources": {"limits": limits}}]}}
        cluster.kubectl("patch", "pod", "web", "--subresource=resize", "-p", json.dumps(patch))

    def limits() -> Any:
        return status_of(cluster, "web")["containerStatuses"][0]["resources"]["limits"]

    resize(cpu="200m", memory="40Mi")
    eventually(lambda: limits() == {"cpu": "200m", "memory": "40Mi"})
    read = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"
    assert cluster.kubectl("exec", "web", "--", "sh", "-c", read).out.strip() == str(40 << 20)
    assert status_of(cluster, "web")["containerStatuses"][0]["restartCount"] == 0
    patch = {"spec": {"containers": [{"name": "main", "resources": {
        "requests": {"cpu": "9000"}, "limits": {"cpu": "9000"}}}]}}  # fmt: skip
    cluster.kubectl("patch", "pod", "web", "--subresource=resize", "-p", json.dumps(patch))

    def pending() -> Any:
        found = [c for c in status_of(cluster, "web")["conditions"] if c["type"] == "PodResizePending"]
        return found and found[0]["reason"] == "Infeasible"

    eventually(pending)
    assert limits()["cpu"] == "200m"


def test_what_a_node_refuses(cluster: Cluster, namespace: str) -> None:
    sysctls = {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}
    cluster.apply(sleeper("tuned", securityContext=sysctls))
    eventually(lambda: status_of(cluster, "tuned").get("reason") == "SysctlForbidden")
    assert status_of(cluster, "tuned")["phase"] == "Failed"


def test_how_containers_end(cluster: Cluster, namespace: str) -> None:
    limits = {"resources": {"limits": {"memory": "20Mi"}}}
    log = {"terminationMessagePolicy": "FallbackToLogsOnError"}
    cluster.apply(
        pod("oom", "sh", "-c", "x=a; while :; do x=$x$x; done", container=limits, restartPolicy="Never"),
        pod("words", "sh", "-c", "echo from the log; exit 4", container=log, restartPolicy="Never"),
        pod("late", "sleep", "1000", activeDeadlineSeconds=1),
    )

    def terminated(name: str) -> Any:
        return status_of(cluster, name)["containerStatuses"][0]["state"].get("terminated")

    eventually(lambda: terminated("oom"))
    assert terminated("oom")["reason"] == "OOMKilled"
    eventually(lambda: terminated("words"))
    assert (terminated("words")["exitCode"], terminated("words")["message"]) == (4, "from the log\n")
    eventually(lambda: status_of(cluster, "late").get("reason") == "DeadlineExceeded")


def test_a_node_that_was_deleted_comes_back(cluster: Cluster, namespace: str) -> None:
    name = f"{cluster.name}-node-2"
    before = cluster.get("node", name)
    cluster.apply(sleeper("web", nodeName=name))
    cluster.wait_pod("web")
    cluster.kubectl("delete", "node", name)
    eventually(lambda: cluster.kubectl("get", "node", name, check=False).code == 0)
    after = cluster.get("node", name)
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert after["spec"]["podCIDR"] == before["spec"]["podCIDR"]
    assert cluster.kubectl("exec", "web", "--", "echo", "on").out == "on\n"


def test_a_node_process_killed_while_containers_start(cluster: Cluster, namespace: str) -> None:
    name = f"{cluster.name}-node-1"
    needle = f"pinnace.cluster.node\0{cluster.home}\0{cluster.name}\0{name}\0".encode()
    found = [p.name for p in Path("/proc").iterdir() if p.name.isdigit() and needle in _command(int(p.name))]
    assert len(found) == 1
    names = [f"p{number}" for number in range(4)]
    cluster.apply(*(sleeper(each, nodeName=name) for each in names))
    os.kill(int(found[0]), signal.SIGKILL)
    for each in names:
        cluster.wait_pod(each)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
