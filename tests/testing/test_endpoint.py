"""A cluster in real time lets other programs in: kubectl and a client library, by its kubeconfig."""

from __future__ import annotations

import json
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pinnace.client import kubeconfig
from pinnace.testing import SyncCluster

WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "web:1"}]}
"""


@pytest.fixture(scope="module")
def real() -> Iterator[SyncCluster]:
    with SyncCluster(nodes=2, time="real") as cluster:
        yield cluster


def kubectl(cluster: SyncCluster, *args: str, stdin: str = "") -> str:
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl on the PATH")
    done = subprocess.run(
        ["kubectl", "--kubeconfig", str(cluster.kubeconfig), *args], input=stdin, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_file_is_private_and_leads_to_loopback(real: SyncCluster) -> None:
    path = real.kubeconfig
    assert path == real.kubeconfig
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
    assert kubeconfig.load(path).server.startswith("https://127.0.0.1:")


def test_it_goes_with_the_cluster() -> None:
    with SyncCluster(time="real", nodes=0) as cluster:
        path = cluster.kubeconfig
        assert path.exists()
    assert not path.parent.exists()


def test_simulated_time_has_none() -> None:
    with SyncCluster(nodes=0) as cluster, pytest.raises(RuntimeError, match='needs time="real"'):
        _ = cluster.kubeconfig


def test_kubectl(real: SyncCluster) -> None:
    kubectl(real, "apply", "-f", "-", stdin=WEB)
    kubectl(real, "rollout", "status", "deploy/web", "--timeout=60s")
    assert len(real.list("pods", label_selector="app=web")) == 2
    # What we apply and what kubectl applies is one and the same to both.
    (same,) = real.apply(WEB)
    assert "unchanged" in kubectl(real, "apply", "-f", "-", stdin=WEB)
    assert same.metadata.generation == 1
    real.apply(WEB.replace("  replicas: 2\n", ""))
    assert json.loads(kubectl(real, "get", "deploy", "web", "-o", "json"))["spec"]["replicas"] == 1
    kubectl(real, "delete", "deploy", "web")
    real.wait_for("deploy/web", condition="delete")


def test_faults_and_crashes_are_seen_from_outside() -> None:
    with SyncCluster(time="real", nodes=0) as cluster:
        cluster.faults.conflict(component="client", kind="cm", times=1)
        kubectl(cluster, "create", "cm", "seen")
        with pytest.raises(AssertionError, match=r"Conflict|modified"):
            kubectl(cluster, "label", "cm", "seen", "a=b", "--overwrite")
        cluster.run(cluster.asynchronous.control_plane.crash(restart_after=0.1))
        cluster.get("cm/seen")
        assert "seen" in kubectl(cluster, "get", "cm", "-o", "name")


def test_the_python_client(real: SyncCluster) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from kubernetes import client, config

    api: Any = config.new_client_from_config(str(real.kubeconfig))
    with api:
        core = client.CoreV1Api(api)
        core.create_namespaced_config_map("default", {"metadata": {"name": "theirs"}, "data": {"k": "v"}})
        assert real.get("cm/theirs").data == {"k": "v"}
        assert {node.metadata.name for node in core.list_node().items} == {n.metadata.name for n in real.list("nodes")}


async def test_a_coroutine_asks_for_it_too(tmp_path: Path) -> None:
    import asyncio

    from pinnace.testing import Cluster

    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl on the PATH")
    async with Cluster(time="real") as cluster:
        process = await asyncio.create_subprocess_exec(
            "kubectl", "--kubeconfig", str(cluster.kubeconfig), "get", "nodes", "-o", "name", stdout=subprocess.PIPE
        )
        out, _ = await process.communicate()
    assert out == b"node/pinnace-simulated-1\n"
