"""What upstream's conformance tests ask of the API itself, seen from outside: kubectl and its raw requests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import Cluster, eventually

pytestmark = pytest.mark.real


def config(name: str, **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **metadata}}


def create(cluster: Cluster, namespace: str, thing: dict[str, Any]) -> Any:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    return json.loads(cluster.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(thing)).out)


def names(cluster: Cluster) -> set[str]:
    return {item["metadata"]["name"] for item in cluster.get("configmaps")["items"]} - {"kube-root-ca.crt"}


def test_lists_come_in_pieces(cluster: Cluster, namespace: str) -> None:
    for number in range(5):
        create(cluster, namespace, config(f"piece-{number}"))
    path, found, token = f"/api/v1/namespaces/{namespace}/configmaps?limit=2", [], ""
    while True:
        piece = json.loads(cluster.kubectl("get", "--raw", f"{path}&continue={token}").out)
        found += [item["metadata"]["name"] for item in piece["items"]]
        token = piece["metadata"].get("continue", "")
        if not token:
            break
        assert piece["metadata"]["remainingItemCount"] == 6 - len(found)
        create(cluster, namespace, config(f"late-{len(found)}"))
    assert found == ["kube-root-ca.crt", *(f"piece-{number}" for number in range(5))]


def test_a_watch_begins_with_what_there_is_and_says_where_that_ends(cluster: Cluster, namespace: str) -> None:
    create(cluster, namespace, config("there"))
    query = "watch=1&timeoutSeconds=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    path = f"/api/v1/namespaces/{namespace}/configmaps?{query}&fieldSelector=metadata.name%3Dthere"
    events = [json.loads(line) for line in cluster.kubectl("get", "--raw", path).out.splitlines()]
    assert [event["type"] for event in events] == ["ADDED", "BOOKMARK"]
    assert events[1]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


@pytest.mark.parametrize(("policy", "left"), [("background", set()), ("foreground", set()), ("orphan", {"child"})])
def test_what_becomes_of_dependents(cluster: Cluster, namespace: str, policy: str, left: set[str]) -> None:
    owner = create(cluster, namespace, config("owner"))["metadata"]
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["uid"]}
    reference |= {"blockOwnerDeletion": True}
    create(cluster, namespace, config("child", ownerReferences=[reference]))
    cluster.kubectl("delete", "configmap", "owner", f"--cascade={policy}")
    eventually(lambda: names(cluster) == left)


def test_a_namespace_waits_for_finalizers_and_says_so(cluster: Cluster, namespace: str) -> None:
    inner = f"{namespace[:40]}-inner"
    cluster.kubectl("create", "namespace", inner)
    create(cluster, inner, config("held", finalizers=["example.com/hold"]))
    cluster.kubectl("delete", "namespace", inner, "--wait=false")

    def remaining() -> bool:
        conditions = cluster.get("namespace", inner)["status"].get("conditions") or []
        return any(c["type"] == "NamespaceFinalizersRemaining" and c["status"] == "True" for c in conditions)

    eventually(remaining)
    refused = cluster.kubectl("create", "configmap", "late", "-n", inner, check=False)
    assert "because it is being terminated" in refused.err
    cluster.kubectl("patch", "configmap", "held", "-n", inner, "-p", '{"metadata":{"finalizers":null}}')
    eventually(lambda: "NotFound" in cluster.kubectl("get", "namespace", inner, check=False).err)


@pytest.mark.parametrize(
    ("thing", "text"),
    [
        ({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"a": "!"}}, "illegal base64 data"),
        ({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "r"}, "spec": {"replicas": 2**31}},
         "cannot unmarshal number into Go struct field ReplicationControllerSpec.spec.replicas of type int32"),
    ],
)  # fmt: skip
def test_what_go_could_not_decode_is_refused(cluster: Cluster, namespace: str, thing: Any, text: str) -> None:
    plural = f"{thing['kind'].lower()}s"
    path = f"/api/v1/namespaces/{namespace}/{plural}"
    done = cluster.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(thing), check=False)
    assert done.code and text in done.err


def test_a_node_sees_only_what_its_pods_need(cluster: Cluster, namespace: str) -> None:
    node = cluster.get("nodes")["items"][0]["metadata"]["name"]
    other = cluster.get("nodes")["items"][1]["metadata"]["name"]
    cluster.kubectl("create", "secret", "generic", "mine", "--from-literal=a=b")
    who = (f"--as=system:node:{node}", "--as-group=system:nodes")
    labelling = ("label", "node", other, "a=b")
    for refused in (("get", "secret", "mine"), ("get", "secrets"), ("get", "pods", "-A"), labelling):
        assert "forbidden" in cluster.kubectl(*refused, *who, check=False).err
    label = "node-restriction.kubernetes.io/a=b"
    assert "is not allowed to modify labels" in cluster.kubectl("label", "node", node, label, *who, check=False).err
    assert cluster.kubectl("get", "node", node, *who).code == 0


def test_service_accounts_find_out_how_tokens_are_checked(cluster: Cluster, namespace: str) -> None:
    token = cluster.kubectl("create", "token", "default").out.strip()
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
    path = "/apis/authentication.k8s.io/v1/tokenreviews"
    status = json.loads(cluster.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(review)).out)["status"]
    assert status["authenticated"] and status["user"]["username"] == f"system:serviceaccount:{namespace}:default"
    who = (f"--as=system:serviceaccount:{namespace}:default",)
    document = json.loads(cluster.kubectl("get", "--raw", "/.well-known/openid-configuration", *who).out)
    assert document["jwks_uri"].endswith("/openid/v1/jwks")
    assert json.loads(cluster.kubectl("get", "--raw", "/openid/v1/jwks", *who).out)["keys"]
