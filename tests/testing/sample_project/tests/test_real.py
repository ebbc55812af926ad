"""In real time: kubectl and client libraries, unmodified."""

import asyncio
import shutil
import subprocess
import warnings

import pytest

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl on the PATH")


@needs_kubectl
@pytest.mark.pinnace(time="real", store="sqlite")
def test_kubectl(cluster, manifests):
    command = ["kubectl", f"--kubeconfig={cluster.kubeconfig}"]
    subprocess.run([*command, "apply", "-f", str(manifests)], check=True)
    subprocess.run([*command, "rollout", "status", "deploy/shop", "--timeout=60s"], check=True)
    assert cluster.get("deploy/shop").status.readyReplicas == 3


@pytest.mark.pinnace(time="real")
def test_the_python_client(cluster, shop_in_real_time):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from kubernetes import client, config
    with config.new_client_from_config(str(cluster.kubeconfig)) as api:
        pods = client.CoreV1Api(api).list_namespaced_pod("default", label_selector="app=shop").items
    assert [pod.status.phase for pod in pods] == ["Running"] * 3


@pytest.fixture
def shop_in_real_time(cluster, manifests):
    cluster.apply(manifests)
    cluster.rollout_status("deploy/shop")


@pytest.mark.pinnace(time="real")
async def test_a_coroutine_in_real_time(cluster, shop):
    assert type(asyncio.get_running_loop()).__module__ != "pinnace.testing.loop"
    await cluster.settle()


@needs_kubectl
def test_the_fixture_of_pytest_kubernetes(k8s, manifests):
    k8s.create()
    k8s.apply(manifests)
    k8s.wait("deployments/shop", "condition=Available=True", timeout=60)
    assert len(k8s.kubectl(["get", "pods", "-l", "app=shop"])["items"]) == 3


@needs_kubectl
def test_the_fixture_of_pytest_kind(kind_cluster):
    assert "Ready" in kind_cluster.kubectl("get", "nodes")
