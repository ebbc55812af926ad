"""kubectl against the API: every way of getting, changing and explaining objects; refusals are clean."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import IMAGE, Cluster, deployment, eventually

pytestmark = pytest.mark.real


def config_map(name: str, **data: str) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def test_output_formats(cluster: Cluster, namespace: str) -> None:
    cluster.apply(config_map("settings", color="blue"))
    assert cluster.kubectl("get", "cm", "settings", "-o", "jsonpath={.data.color}").out == "blue"
    assert "color: blue" in cluster.kubectl("get", "cm", "settings", "-o", "yaml").out
    columns = cluster.kubectl("get", "cm", "settings", "-o", "custom-columns=N:.metadata.name,C:.data.color").out
    assert columns.split() == ["N", "C", "settings", "blue"]
    assert cluster.kubectl("get", "cm", "settings", "-o", "name").out == "configmap/settings\n"
    header, row = cluster.kubectl("get", "cm", "settings").out.splitlines()
    assert header.split() == ["NAME", "DATA", "AGE"]
    assert row.split()[:2] == ["settings", "1"]


def test_nodes_table(cluster: Cluster) -> None:
    header, first, _ = cluster.kubectl("get", "nodes", "-o", "wide").out.splitlines()
    assert header.split()[:5] == ["NAME", "STATUS", "ROLES", "AGE", "VERSION"]
    assert first.split()[1] == "Ready"
    assert "pinnace://" in first
    described = cluster.kubectl("describe", "node", first.split()[0]).out
    for word in ("KubeletReady", "Capacity:", "Allocatable:", "Non-terminated Pods", "PodCIDR:"):
        assert word in described


def test_watch(cluster: Cluster, namespace: str) -> None:
    watcher = cluster.start_kubectl("get", "cm", "-w", "--no-headers")
    try:
        cluster.apply(config_map("later", a="1"))
        assert watcher.stdout is not None
        lines = iter(watcher.stdout.readline, "")
        assert any(line.startswith("later ") for line in lines)
    finally:
        watcher.terminate()
        watcher.communicate(timeout=10)


def test_apply_diff_edit_label_annotate_patch(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    cluster.apply(config_map("settings", color="blue", size="1"))
    changed = tmp_path / "changed.yaml"
    changed.write_text(json.dumps(config_map("settings", color="red")))
    diff = cluster.kubectl("diff", "-f", str(changed), check=False)
    assert diff.code == 1 and "-  color: blue" in diff.out and "+  color: red" in diff.out
    cluster.kubectl("apply", "-f", str(changed))
    assert cluster.get("cm", "settings")["data"] == {"color": "red"}
    editor = tmp_path / "editor.sh"
    editor.write_text("#!/bin/sh\nsed -i 's/color: red/color: green/' \"$1\"\n")
    editor.chmod(0o755)
    cluster.kubectl("config", "view")
    edited = cluster._run(["env", f"EDITOR={editor}", "kubectl", "edit", "cm", "settings"], check=True, timeout=30)
    assert "edited" in edited.out
    cluster.kubectl("label", "cm", "settings", "tier=web")
    cluster.kubectl("annotate", "cm", "settings", "note=why not")
    assert cluster.kubectl("get", "cm", "-l", "tier=web", "-o", "name").out == "configmap/settings\n"
    cluster.kubectl("label", "cm", "settings", "tier-")
    cluster.kubectl("patch", "cm", "settings", "-p", '{"data":{"strategic":"1"}}')
    cluster.kubectl("patch", "cm", "settings", "--type=merge", "-p", '{"data":{"color":null}}')
    cluster.kubectl("patch", "cm", "settings", "--type=json", "-p", '[{"op":"add","path":"/data/json","value":"1"}]')
    found = cluster.get("cm", "settings")
    assert found["data"] == {"strategic": "1", "json": "1"}
    assert found["metadata"]["annotations"]["note"] == "why not"


def test_strategic_patch_merges_containers_by_name(cluster: Cluster, namespace: str) -> None:
    cluster.kubectl("create", "deployment", "web", f"--image={IMAGE}", "--replicas=0")
    containers = [{"name": "busybox", "env": [{"name": "A", "value": "1"}]}]
    patch = {"spec": {"template": {"spec": {"containers": containers}}}}
    cluster.kubectl("patch", "deployment", "web", "-p", json.dumps(patch))
    container = cluster.get("deployment", "web")["spec"]["template"]["spec"]["containers"]
    assert [(c["name"], c["image"], c["env"]) for c in container] == [("busybox", IMAGE, [{"name": "A", "value": "1"}])]


def test_cascading_deletion(cluster: Cluster, namespace: str) -> None:
    cluster.apply(deployment("web"))
    eventually(lambda: cluster.get("pods")["items"])
    cluster.kubectl("delete", "deployment", "web", "--cascade=orphan")
    replica_set = cluster.get("rs")["items"][0]["metadata"]
    assert not replica_set.get("ownerReferences")
    cluster.kubectl("delete", "rs", replica_set["name"], "--cascade=foreground")
    eventually(lambda: not [p for p in cluster.get("pods")["items"] if "deletionTimestamp" not in p["metadata"]])


def test_explain_resources_and_rights(cluster: Cluster) -> None:
    explained = cluster.kubectl("explain", "deployment.spec.strategy").out
    assert "rollingUpdate" in explained and "DeploymentStrategy" in explained
    assert "containers" in cluster.kubectl("explain", "pod.spec").out
    resources = cluster.kubectl("api-resources").out
    for word in ("deployments", "endpointslices", "cronjobs", "networkpolicies"):
        assert word in resources
    assert cluster.kubectl("auth", "can-i", "create", "pods").out == "yes\n"
    denied = cluster.kubectl("auth", "can-i", "delete", "nodes", "--as=somebody", check=False)
    assert (denied.code, denied.out) == (1, "no\n")
    assert "Metrics API not available" in cluster.kubectl("top", "nodes", check=False).err
    assert "v1.36" in cluster.kubectl("version").out
    assert "system:masters" in cluster.kubectl("auth", "whoami").out


REFUSALS = [
    ("unknown kind", "apiVersion: v1\nkind: Gadget\nmetadata: {name: a}\n", 'no matches for kind "Gadget"'),
    (
        "unknown field",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\nfoo: bar\n",
        'strict decoding error: unknown field "foo"',
    ),
    (
        "wrong type",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {replicas: many}\n",
        "cannot be handled as a Deployment",
    ),
    ("bad name", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: A_b}\n", "a lowercase RFC 1123 subdomain"),
    (
        "missing namespace",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: nowhere}\n",
        'namespaces "nowhere" not found',
    ),
    (
        "missing parts",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {}\n",
        "spec.containers: Required value",
    ),
]


@pytest.mark.parametrize(("text", "expected"), [case[1:] for case in REFUSALS], ids=[case[0] for case in REFUSALS])
def test_refusals(cluster: Cluster, text: str, expected: str) -> None:
    refused = cluster.kubectl("create", "-f", "-", "--validate=strict", stdin=text, check=False)
    assert refused.code == 1
    assert expected in refused.err


def test_conflicts_immutable_fields_and_rights(cluster: Cluster, namespace: str) -> None:
    cluster.kubectl("create", "deployment", "web", f"--image={IMAGE}", "--replicas=0")
    old = cluster.get("deployment", "web")
    cluster.kubectl("label", "deployment", "web", "a=b")
    stale = cluster.kubectl("replace", "-f", "-", stdin=json.dumps(old), check=False)
    assert "the object has been modified; please apply your changes to the latest version" in stale.err
    patch = '{"spec":{"selector":{"matchLabels":{"x":"y"}}}}'
    immutable = cluster.kubectl("patch", "deployment", "web", "-p", patch, check=False)
    assert "field is immutable" in immutable.err
    refused = cluster.kubectl("get", "secrets", "--as=somebody", check=False)
    text = f'User "somebody" cannot list resource "secrets" in API group "" in the namespace "{namespace}"'
    assert text in refused.err
    wrong = cluster.kubectl("get", "pods", "--token=nonsense", "--kubeconfig", "/dev/null",
                            "--server", server(cluster), "--insecure-skip-tls-verify", check=False)  # fmt: skip
    assert "Unauthorized" in wrong.err or "must be logged in" in wrong.err


def server(cluster: Cluster) -> str:
    return cluster.kubectl("config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}").out


BROKEN = [
    ("never pull", {"image": "pinnace.local/none:1", "imagePullPolicy": "Never"}, "ErrImageNeverPull"),
    ("no image", {"image": "pinnace.local/none:1"}, "ImagePullBackOff"),
    (
        "no config map",
        {"image": IMAGE, "envFrom": [{"configMapRef": {"name": "missing"}}]},
        "CreateContainerConfigError",
    ),
    ("no command", {"image": IMAGE, "command": ["/not/there"]}, "CrashLoopBackOff"),
]


@pytest.mark.parametrize(("container", "reason"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_broken_pods_say_why(cluster: Cluster, namespace: str, container: dict[str, object], reason: str) -> None:
    spec = {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", **container}]}
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "broken"}, "spec": spec})

    def waiting() -> bool:
        statuses = cluster.get("pod", "broken")["status"].get("containerStatuses") or [{}]
        return statuses[0].get("state", {}).get("waiting", {}).get("reason") == reason

    eventually(waiting)
    assert reason in cluster.kubectl("get", "pod", "broken").out
    assert "Warning" in cluster.kubectl("describe", "pod", "broken").out


def test_unschedulable_pods_say_why(cluster: Cluster, namespace: str) -> None:
    spec = {"nodeSelector": {"no": "where"}, "containers": [{"name": "c", "image": IMAGE}]}
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "homeless"}, "spec": spec})
    text = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."
    eventually(lambda: text in cluster.kubectl("describe", "pod", "homeless").out)
    assert "FailedScheduling" in cluster.kubectl("get", "events").out
