"""What upstream's conformance tests ask of Services beyond the plain case, from pods on both nodes."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Cluster, caller, eventually, server_pod
from .test_network import addresses, fetch, python, resolve

pytestmark = pytest.mark.real


def service(name: str, **spec: Any) -> dict[str, Any]:
    whole = {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}], **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": whole}


def test_the_kinds_of_services(cluster: Cluster, namespace: str) -> None:
    one, two = (node["metadata"]["name"] for node in cluster.get("nodes")["items"])
    labels = {"app": "web"}
    cluster.apply(
        server_pod("one", nodeName=one, labels=labels, hostname="first", subdomain="headless"),
        server_pod("two", nodeName=two, labels=labels),
        server_pod("far", nodeName=two),
        caller("client", nodeName=one),
        service("sticky", sessionAffinity="ClientIP"),
        service("headless", clusterIP="None"),
        service("local", selector={"app": "far"}, internalTrafficPolicy="Local"),
        service("nobody", selector={"app": "nobody"}),
        service("outside", externalIPs=["192.0.2.99"]),
        {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "alias"},
            "spec": {"type": "ExternalName", "externalName": f"sticky.{namespace}.svc.cluster.local"},
        },
    )  # fmt: skip
    for name in ("one", "two", "far", "client"):
        cluster.wait_pod(name)
    eventually(lambda: len(addresses(cluster, "sticky")) == 2 and len(addresses(cluster, "outside")) == 2)

    # An address that a name stands for, and one that only nodes know.
    assert len({fetch(cluster, "http://sticky/") for _ in range(8)}) == 1
    assert fetch(cluster, "http://alias/") in ("first", "two")
    assert {fetch(cluster, "http://192.0.2.99/") for _ in range(12)} == {"first", "two"}
    # Nobody there: refused. Nobody on this node: dropped.
    assert "refused" in fetch(cluster, "http://nobody/")
    assert "timed out" in fetch(cluster, "http://local/")
    # Names of pods behind a headless service, forwards and backwards.
    ip = cluster.get("pod", "one")["status"]["podIP"]
    assert resolve(cluster, "client", "first.headless") == f"['{ip}']"
    backwards = f"import socket; print(socket.gethostbyaddr({ip!r})[0])"
    assert python(cluster, "client", backwards) == f"first.headless.{namespace}.svc.cluster.local"
    # Through the API server, which is in none of the cluster's networks.
    for path in ("pods/two:8080", "services/headless:http"):
        answer = cluster.kubectl("get", "--raw", f"/api/v1/namespaces/{namespace}/{path}/proxy/").out.strip()
        assert answer in ("first", "two")


def test_a_service_changes_its_type(cluster: Cluster, namespace: str) -> None:
    cluster.apply(service("turn"))

    def turn(patch: str) -> None:
        cluster.kubectl("patch", "service", "turn", "-p", patch)

    turn('{"spec":{"type":"NodePort"}}')
    assert cluster.get("service", "turn")["spec"]["ports"][0]["nodePort"] >= 30000
    turn('{"spec":{"type":"ClusterIP"}}')
    assert "nodePort" not in cluster.get("service", "turn")["spec"]["ports"][0]
    turn('{"spec":{"type":"ExternalName","externalName":"example.com","clusterIP":"","clusterIPs":null}}')
    assert "clusterIP" not in cluster.get("service", "turn")["spec"]
