"""`pinnace why` on a real cluster: from a running container back to what a person typed."""

from __future__ import annotations

import json

import pytest

from .conftest import Cluster, deployment, eventually, sleeper

pytestmark = pytest.mark.real


def pods(cluster: Cluster) -> dict[str, str]:
    """Phases by name."""
    return {pod["metadata"]["name"]: pod["status"]["phase"] for pod in cluster.get("pods")["items"]}


def test_a_pod_leads_back_to_kubectl_scale(cluster: Cluster, namespace: str) -> None:
    cluster.apply(deployment("web"))
    cluster.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    before = set(pods(cluster))
    cluster.kubectl("scale", "deployment/web", "--replicas=2")
    cluster.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    [name] = set(pods(cluster)) - before
    first, *lines = cluster.pinnace("why", f"pod/{name}").out.splitlines()
    assert first == f"pod/{name} in namespace {namespace}"
    text = "\n".join(lines)
    # In this order: the node's word on it, the scheduler, the controllers, the person.
    places = [text.index(words) for words in (
        "by node ", "bound to ", "by kube-scheduler", "by replicaset-controller (for ReplicaSet web-",
        "by deployment-controller (for Deployment web)",
    )]  # fmt: skip
    assert places == sorted(places)
    asked = next(line for line in lines if "deployment/web spec.replicas 1 → 2" in line)
    assert asked.endswith(" ago by kubernetes-admin (kubectl)")
    [told] = [w for w in json.loads(cluster.pinnace("why", "po", name, "-o", "json").out)["writes"]
              if w.get("subresource") == "binding"]  # fmt: skip
    assert told["user"] == "system:kube-scheduler"


def test_a_deleted_and_a_pending_pod(cluster: Cluster, namespace: str) -> None:
    cluster.apply(sleeper("short"), sleeper("nowhere", nodeSelector={"there": "is-none"}))
    cluster.wait_pod("short")
    cluster.kubectl("delete", "pod", "short", "--wait=true")
    out = cluster.pinnace("why", "pod/short").out
    assert out.startswith(f"pod/short in namespace {namespace}, which is no more\n")
    assert "by kubernetes-admin (kubectl)" in out.split("was told to end")[1].splitlines()[0]
    reason = "node(s) didn't match Pod's node affinity/selector"
    out = eventually(lambda: cluster.pinnace("why", "pod/nowhere").out)
    assert f"  scheduler: 0/2 nodes are available: 2 {reason}." in out
    assert out.count(f": {reason}\n") == 2
    refused = cluster.pinnace("why", "pod/never", check=False)
    assert (refused.code, refused.err) == (1, 'pinnace: pods "never" not found\n')
