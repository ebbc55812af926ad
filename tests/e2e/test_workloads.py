"""kubectl on real pods: run, deployments, rollouts, logs, exec, copies, port-forward."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from .conftest import IMAGE, Cluster, eventually, server_pod, sleeper

pytestmark = pytest.mark.real


def test_run_logs_and_delete(cluster: Cluster, namespace: str) -> None:
    script = "echo one; echo two >&2; exit 3"
    cluster.kubectl("run", "hello", f"--image={IMAGE}", "--restart=Never", "--", "sh", "-c", script)
    eventually(lambda: cluster.get("pod", "hello")["status"]["phase"] == "Failed")
    assert sorted(cluster.kubectl("logs", "hello").out.split()) == ["one", "two"]
    status = cluster.get("pod", "hello")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (status["exitCode"], status["reason"]) == (3, "Error")
    row = cluster.kubectl("get", "pod", "hello", "--no-headers").out.split()
    assert row[:4] == ["hello", "0/1", "Error", "0"]
    cluster.kubectl("delete", "pod", "hello")
    gone = cluster.kubectl("get", "pod", "hello", check=False)
    assert 'pods "hello" not found' in gone.err


def test_exec_and_copy(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    cluster.apply(sleeper("box"))
    cluster.wait_pod("box")
    assert cluster.kubectl("exec", "box", "--", "hostname").out == "box\n"
    assert cluster.kubectl("exec", "-i", "box", "--", "cat", stdin="to and fro\n").out == "to and fro\n"
    failed = cluster.kubectl("exec", "box", "--", "sh", "-c", "exit 7", check=False)
    assert (failed.code, "exit code 7" in failed.err) == (7, True)
    source = tmp_path / "source.txt"
    source.write_text("a file\n" * 1000)
    cluster.kubectl("cp", str(source), "box:/tmp/there.txt")
    cluster.kubectl("cp", "box:/tmp/there.txt", str(tmp_path / "back.txt"))
    assert (tmp_path / "back.txt").read_text() == source.read_text()


def test_deployment_from_create_to_undo(cluster: Cluster, namespace: str) -> None:
    cluster.kubectl("create", "deployment", "web", f"--image={IMAGE}", "--replicas=2", "--", "sleep", "3600")
    cluster.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    cluster.kubectl("scale", "deployment/web", "--replicas=3")
    cluster.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    nodes = {pod["spec"]["nodeName"] for pod in cluster.get("pods")["items"]}
    assert len(nodes) == 2, "three pods should use both nodes"
    cluster.kubectl("set", "image", "deployment/web", "busybox=pinnace.local/missing:1")
    eventually(lambda: "ImagePull" in cluster.kubectl("get", "pods").out)
    cluster.kubectl("rollout", "undo", "deployment/web")
    cluster.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    history = cluster.kubectl("rollout", "history", "deployment/web").out
    assert "2" in history and "3" in history
    image = cluster.kubectl("get", "deploy", "web", "-o", "jsonpath={.spec.template.spec.containers[0].image}").out
    assert image == IMAGE
    text = cluster.kubectl("describe", "deployment", "web").out
    assert "NewReplicaSetAvailable" in text and "ScalingReplicaSet" in text


def test_a_lost_pod_is_replaced_and_a_killed_process_restarted(cluster: Cluster, namespace: str) -> None:
    cluster.kubectl("create", "deployment", "web", f"--image={IMAGE}", "--", "sleep", "3600")
    cluster.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    first = cluster.get("pods")["items"][0]["metadata"]["name"]
    cluster.kubectl("delete", "pod", first, "--force", "--grace-period=0")
    cluster.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    second = next(p for p in cluster.get("pods")["items"] if p["metadata"]["name"] != first)["metadata"]["name"]
    cluster.wait_pod(second)
    cluster.kubectl("exec", second, "--", "sh", "-c", "kill -9 -1", check=False)
    cluster.apply(sleeper("killed"))
    cluster.wait_pod("killed")
    # The process that kills may itself be gone with the container before it has answered.
    cluster.kubectl("exec", "killed", "--", "kill", "-TERM", "1", check=False)
    eventually(lambda: cluster.get("pod", "killed")["status"]["containerStatuses"][0]["restartCount"] == 1)
    cluster.wait_pod("killed")


def test_port_forward(cluster: Cluster, namespace: str) -> None:
    cluster.apply(server_pod("server"))
    cluster.wait_pod("server")
    process = cluster.start_kubectl("port-forward", "pod/server", ":8080")
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        port = int(line.split("127.0.0.1:")[1].split(" ")[0])
        for _ in range(3):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
                assert answer.read() == b"server\n"
    finally:
        process.terminate()
        process.communicate(timeout=10)


def test_logs_follow_and_previous(cluster: Cluster, namespace: str) -> None:
    script = "echo begin; sleep 1; echo end"
    cluster.kubectl("run", "talker", f"--image={IMAGE}", "--", "sh", "-c", script)
    eventually(lambda: cluster.get("pod", "talker")["status"]["phase"] == "Running")
    followed = cluster.kubectl("logs", "-f", "talker", "--pod-running-timeout=20s").out
    assert followed.startswith("begin\n")
    eventually(lambda: cluster.get("pod", "talker")["status"]["containerStatuses"][0]["restartCount"] >= 1)
    assert "end" in cluster.kubectl("logs", "talker", "--previous").out
    assert cluster.kubectl("logs", "talker", "--previous", "--tail=1").out == "end\n"


def test_environment_volumes_and_identity(cluster: Cluster, namespace: str) -> None:
    cluster.kubectl("create", "configmap", "settings", "--from-literal=color=blue")
    cluster.kubectl("create", "secret", "generic", "keys", "--from-literal=token=hush")
    script = "env; cat /config/color /secret/token; ls /var/run/secrets/kubernetes.io/serviceaccount"
    pod = sleeper(
        "looker",
        volumes=[
            {"name": "config", "configMap": {"name": "settings"}},
            {"name": "secret", "secret": {"secretName": "keys"}},
            {"name": "scratch", "emptyDir": {}},
        ],
        container={
            "env": [
                {"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "color"}}},
                {"name": "BOTH", "value": "$(WHO)-$(COLOR)"},
            ],
            "envFrom": [{"secretRef": {"name": "keys"}, "prefix": "KEY_"}],
            "volumeMounts": [
                {"name": "config", "mountPath": "/config"},
                {"name": "secret", "mountPath": "/secret", "readOnly": True},
                {"name": "scratch", "mountPath": "/scratch"},
            ],
            "resources": {"requests": {"cpu": "50m", "memory": "16Mi"}, "limits": {"memory": "32Mi"}},
        },
    )
    cluster.apply(pod)
    cluster.wait_pod("looker")
    seen = cluster.kubectl("exec", "looker", "--", "sh", "-c", script).out
    wanted = ("BOTH=looker-blue", "KEY_token=hush", "bluehush", "ca.crt", "namespace", "KUBERNETES_SERVICE_HOST=")
    for expected in wanted:
        assert expected in seen, expected
    assert cluster.get("pod", "looker")["status"]["qosClass"] == "Burstable"


def test_out_of_memory(cluster: Cluster, namespace: str) -> None:
    hungry = ["sh", "-c", "x=a; while :; do x=$x$x; done"]
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "hungry"},
            "spec": {
                "restartPolicy": "Never",
                "containers": [
                    {"name": "c", "image": IMAGE, "command": hungry, "resources": {"limits": {"memory": "20Mi"}}}
                ],
            },
        }
    )
    eventually(lambda: cluster.get("pod", "hungry")["status"]["phase"] == "Failed")
    state = cluster.get("pod", "hungry")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (state["reason"], state["exitCode"]) == ("OOMKilled", 137)


def test_job_completes(cluster: Cluster, namespace: str) -> None:
    cluster.kubectl("create", "job", "once", f"--image={IMAGE}", "--", "true")
    cluster.kubectl("wait", "--for=condition=Complete", "job/once", "--timeout=60s")
    assert json.loads(cluster.kubectl("get", "job", "once", "-o", "json").out)["status"]["succeeded"] == 1
