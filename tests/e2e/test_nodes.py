"""What happens to nodes: cordon, drain, a node process that is killed, a cluster that is stopped and started."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from .conftest import Cluster, deployment, eventually, sleeper

pytestmark = pytest.mark.real


def container_id(cluster: Cluster, pod: str) -> str:
    return str(cluster.get("pod", pod)["status"]["containerStatuses"][0]["containerID"])


def test_cordon_and_drain(cluster: Cluster, namespace: str) -> None:
    cluster.apply(deployment("web", replicas=2))
    cluster.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    node = cluster.get("nodes")["items"][0]["metadata"]["name"]
    try:
        cluster.kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=60s")
        assert "SchedulingDisabled" in cluster.kubectl("get", "node", node).out
        cluster.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
        staying = [p for p in cluster.get("pods")["items"] if "deletionTimestamp" not in p["metadata"]]
        assert node not in {p["spec"]["nodeName"] for p in staying}
    finally:
        cluster.kubectl("uncordon", node)


def test_containers_outlive_their_node_process(cluster: Cluster, namespace: str) -> None:
    cluster.apply(sleeper("survivor"))
    cluster.wait_pod("survivor")
    before = container_id(cluster, "survivor")
    node = cluster.get("pod", "survivor")["spec"]["nodeName"]
    file = cluster.directory / "run" / f"{node}.pid"
    pid = int(file.read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: int(file.read_text().split()[0]) != pid)
    assert eventually(lambda: cluster.kubectl("exec", "survivor", "--", "echo", "alive", check=False).out == "alive\n")
    assert container_id(cluster, "survivor") == before
    assert cluster.get("pod", "survivor")["status"]["containerStatuses"][0]["restartCount"] == 0
    cluster.apply(sleeper("newcomer", nodeName=node))
    cluster.wait_pod("newcomer")


def test_state_and_pods_come_back_after_down_and_up(cluster: Cluster, namespace: str) -> None:
    cluster.kubectl("create", "configmap", "kept", "--from-literal=a=b")
    cluster.apply(deployment("web"))
    cluster.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    cluster.pinnace("down", "--name", cluster.name)
    assert not [path for path in Path("/run/netns").iterdir() if cluster.name in path.name]
    cluster.pinnace("up", "--name", cluster.name)
    cluster.kubectl("config", "set-context", "--current", f"--namespace={namespace}")
    assert cluster.get("configmap", "kept")["data"] == {"a": "b"}
    cluster.kubectl("wait", "--for=condition=Ready", "pod", "-l", "app=web", "--timeout=60s")
    pod = cluster.get("pods")["items"][0]["metadata"]["name"]
    assert eventually(lambda: cluster.kubectl("exec", pod, "--", "echo", "back", check=False).out == "back\n")


def test_up_is_idempotent(cluster: Cluster) -> None:
    assert "was running already" in cluster.pinnace("up", "--name", cluster.name).out
    assert "running" in cluster.pinnace("status", "--name", cluster.name).out
