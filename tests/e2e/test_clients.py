"""Client libraries from PyPI, unmodified: create, watch, exec, logs, delete."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from .conftest import IMAGE, Cluster, eventually, sleeper

pytestmark = pytest.mark.real

COMMAND = ["sh", "-c", "echo spoken; trap 'exit 0' TERM; sleep 3600 & wait"]


def test_kubernetes(cluster: Cluster, namespace: str) -> None:
    kubernetes = pytest.importorskip("kubernetes")
    from kubernetes.stream import stream

    api_client = kubernetes.config.new_client_from_config(config_file=str(cluster.kubeconfig))
    core = kubernetes.client.CoreV1Api(api_client)
    core.create_namespaced_pod(namespace, sleeper("one", container={"command": COMMAND}))
    for event in kubernetes.watch.Watch().stream(core.list_namespaced_pod, namespace, timeout_seconds=60):
        conditions = event["object"].status.conditions or []
        if any(c.type == "Ready" and c.status == "True" for c in conditions):
            break
    else:
        pytest.fail("the pod was never Ready")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        said = stream(
            core.connect_get_namespaced_pod_exec, "one", namespace, command=["echo", "hi"], stdout=True, stderr=True,
            stdin=False, tty=False,
        )  # fmt: skip
    assert said == "hi\n"
    assert core.read_namespaced_pod_log("one", namespace) == "spoken\n"
    core.delete_namespaced_pod("one", namespace)
    eventually(lambda: not core.list_namespaced_pod(namespace).items)
    api_client.close()


@pytest.mark.filterwarnings("ignore:Kubernetes version:UserWarning")
async def test_kr8s(cluster: Cluster, namespace: str) -> None:
    pytest.importorskip("kr8s")
    from kr8s.asyncio import api as connect
    from kr8s.asyncio.objects import Pod

    api = await connect(kubeconfig=str(cluster.kubeconfig))
    pod = await Pod({**sleeper("two", container={"command": COMMAND}), }, namespace=namespace, api=api)
    await pod.create()
    await pod.wait("condition=Ready", timeout=60)
    result = await pod.exec(["echo", "hi"])
    assert result.stdout == b"hi\n"
    assert [line async for line in pod.logs()] == ["spoken"]
    await pod.delete()
    await pod.wait("delete", timeout=60)
    await api._session.aclose()  # it keeps its connections until the interpreter's end, and Python complains then


def test_lightkube(cluster: Cluster, namespace: str) -> None:
    pytest.importorskip("lightkube")
    from lightkube import Client, KubeConfig
    from lightkube.codecs import from_dict
    from lightkube.resources.core_v1 import Pod

    client: Any = Client(config=KubeConfig.from_file(str(cluster.kubeconfig)), namespace=namespace)
    made = sleeper("three", container={"command": COMMAND})
    made["metadata"]["namespace"] = namespace
    client.create(from_dict(made))
    client.wait(Pod, "three", for_conditions=["Ready"], namespace=namespace)
    assert list(client.log("three", namespace=namespace)) == ["spoken\n"]
    assert client.get(Pod, "three", namespace=namespace).spec.containers[0].image == IMAGE
    client.delete(Pod, "three", namespace=namespace)
    eventually(lambda: not list(client.list(Pod, namespace=namespace)))
