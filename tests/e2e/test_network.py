"""Pods reach pods, Services by name, and the API; from everywhere that Kubernetes promises."""

from __future__ import annotations

import urllib.request

import pytest

from .conftest import IMAGE, Cluster, caller, eventually, server_pod

pytestmark = pytest.mark.real


@pytest.fixture
def served(cluster: Cluster, namespace: str) -> str:
    """Two servers behind the Service `web`, one on each node, and a client pod."""
    nodes = [node["metadata"]["name"] for node in cluster.get("nodes")["items"]]
    labels = {"app": "web"}
    cluster.apply(
        server_pod("one", nodeName=nodes[0], labels=labels),
        server_pod("two", nodeName=nodes[1], labels=labels),
        caller("client", nodeName=nodes[0]),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {"type": "NodePort", "selector": labels, "ports": [{"port": 80, "targetPort": 8080}]},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "headless"},
            "spec": {"clusterIP": "None", "selector": labels, "ports": [{"name": "http", "port": 8080}]},
        },
    )
    for name in ("one", "two", "client"):
        cluster.wait_pod(name)
    eventually(lambda: len(addresses(cluster, "web")) == 2)
    return namespace


def addresses(cluster: Cluster, service: str) -> list[str]:
    slices = cluster.get("endpointslices", "-l", f"kubernetes.io/service-name={service}")["items"]
    return [e["addresses"][0] for s in slices for e in s.get("endpoints") or [] if e["conditions"]["ready"]]


def python(cluster: Cluster, pod: str, code: str) -> str:
    """What a line of Python says in a pod, or its error (kubectl's own line comes behind it)."""
    done = cluster.kubectl("exec", pod, "--", "python3", "-c", code, check=False, timeout=30)
    return (done.out if done.code == 0 else "".join(done.err.strip().splitlines()[-2:-1])).strip()


def fetch(cluster: Cluster, url: str) -> str:
    code = f"import urllib.request; print(urllib.request.urlopen({url!r}, timeout=5).read().decode())"
    return python(cluster, "client", code)


def resolve(cluster: Cluster, pod: str, name: str) -> str:
    code = f"import socket; print(sorted({{a[4][0] for a in socket.getaddrinfo({name!r}, 80, socket.AF_INET)}}))"
    return python(cluster, pod, code)


def test_pods_and_services_are_reachable(cluster: Cluster, served: str) -> None:
    for pod in ("one", "two"):
        ip = cluster.get("pod", pod)["status"]["podIP"]
        assert fetch(cluster, f"http://{ip}:8080/") == pod
    assert {fetch(cluster, "http://web/") for _ in range(10)} == {"one", "two"}
    full = f"http://web.{served}.svc.cluster.local/"
    assert fetch(cluster, full) in ("one", "two")
    assert resolve(cluster, "client", f"headless.{served}") == str(sorted(addresses(cluster, "headless")))


def test_node_ports_answer_on_every_node_from_inside_and_outside(cluster: Cluster, served: str) -> None:
    port = cluster.get("service", "web")["spec"]["ports"][0]["nodePort"]
    for node in cluster.get("nodes")["items"]:
        ip = next(a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP")
        assert fetch(cluster, f"http://{ip}:{port}/") in ("one", "two")
        with urllib.request.urlopen(f"http://{ip}:{port}/", timeout=10) as answer:
            assert answer.read().decode().strip() in ("one", "two")


def test_a_service_follows_its_pods(cluster: Cluster, served: str) -> None:
    cluster.kubectl("delete", "pod", "one", "--grace-period=0", "--force")
    eventually(lambda: len(addresses(cluster, "web")) == 1)
    eventually(lambda: {fetch(cluster, "http://web/") for _ in range(4)} == {"two"})
    cluster.kubectl("delete", "pod", "two", "--grace-period=0", "--force")
    eventually(lambda: not addresses(cluster, "web"))
    eventually(lambda: "refused" in fetch(cluster, "http://web/"))


def test_the_api_answers_pods_that_show_their_token(cluster: Cluster, namespace: str) -> None:
    cluster.apply(caller("caller"))
    cluster.wait_pod("caller")
    cluster.kubectl("create", "rolebinding", "see", "--clusterrole=view", f"--serviceaccount={namespace}:default")
    code = f"""
import ssl, urllib.request
home = "/var/run/secrets/kubernetes.io/serviceaccount/"
request = urllib.request.Request("https://kubernetes.default/api/v1/namespaces/{namespace}/pods")
request.add_header("Authorization", "Bearer " + open(home + "token").read())
print(urllib.request.urlopen(request, context=ssl.create_default_context(cafile=home + "ca.crt")).read().decode())
"""
    answer = python(cluster, "caller", code)
    assert '"kind":"PodList"' in answer and '"name":"caller"' in answer
    assert "403" in python(cluster, "caller", code.replace("/pods", "/secrets"))


def test_names_outside_do_not_resolve_and_say_so_quickly(cluster: Cluster, namespace: str) -> None:
    cluster.apply(caller("asker"))
    cluster.wait_pod("asker")
    assert "Name or service not known" in resolve(cluster, "asker", "example.com")


def test_expose(cluster: Cluster, namespace: str) -> None:
    cluster.kubectl("create", "deployment", "web", f"--image={IMAGE}", "--", "sleep", "3600")
    cluster.kubectl("expose", "deployment", "web", "--port=80", "--target-port=8080")
    assert cluster.get("service", "web")["spec"]["selector"] == {"app": "web"}
    assert "80/TCP" in cluster.kubectl("describe", "service", "web").out
