# ruff: noqa: E501  (tables of whole texts, one row a line)
"""Pods: what they get, what is refused, how they look."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from pinnace.api import codec
from pinnace.api.core import v1 as core
from pinnace.api.errors import Conflict, InternalError, TooManyRequests
from pinnace.api.policy import v1 as policy
from pinnace.apiserver.resources.pods.binding import bind
from pinnace.apiserver.resources.pods.defaults import qos_class
from pinnace.apiserver.resources.pods.eviction import decide, take
from pinnace.apiserver.resources.pods.update import grace
from pinnace.apiserver.resources.podspec.defaults import pull_policy

POD = """
metadata: {name: web, namespace: default}
spec:
  containers: [{name: web, image: "nginx:1.25"}]
"""


def pod(change: str = "{}", **container: Any) -> str:
    """The small pod with something put over its spec or its container."""
    thing = yaml.safe_load(POD)
    thing["spec"]["containers"][0].update(container)
    thing["spec"].update(yaml.safe_load(change))
    return yaml.safe_dump(thing)


def test_a_small_pod_gets_upstreams_defaults(rows: Any) -> None:
    assert rows.defaulted("pods", POD) == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "containers": [
                {
                    "name": "web", "image": "nginx:1.25", "imagePullPolicy": "IfNotPresent", "resources": {},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                }
            ],
            "dnsPolicy": "ClusterFirst", "enableServiceLinks": True, "restartPolicy": "Always",
            "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30,
        },
        "status": {},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("nginx", "Always"), ("nginx:latest", "Always"), ("nginx:1.25", "IfNotPresent"),
        ("localhost:5000/nginx", "Always"), ("localhost:5000/nginx:1", "IfNotPresent"),
        ("nginx@sha256:" + "a" * 64, "IfNotPresent"), ("nginx:latest@sha256:" + "a" * 64, "Always"),
    ],
)  # fmt: skip
def test_the_pull_policy_follows_the_tag(image: str, policy: str) -> None:
    assert pull_policy(image) == policy


def test_nested_parts_get_theirs(rows: Any) -> None:
    spec = rows.defaulted(
        "pods",
        pod(
            "{volumes: [{name: a}, {name: b, configMap: {name: c}}, {name: d, hostPath: {path: /x}},"
            " {name: e, projected: {sources: [{serviceAccountToken: {path: t}}]}}], serviceAccount: bot,"
            " hostNetwork: true}",
            ports=[{"containerPort": 80}],
            env=[{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            livenessProbe={"httpGet": {"port": 80}},
            resources={"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m"}},
        ),
    )["spec"]
    container = spec["containers"][0]
    assert container["ports"] == [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}]
    assert container["env"][0]["valueFrom"]["fieldRef"]["apiVersion"] == "v1"
    assert container["livenessProbe"] == {
        "httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10,
        "successThreshold": 1, "failureThreshold": 3,
    }  # fmt: skip
    assert container["resources"]["requests"] == {"cpu": "100m", "memory": "1Gi"}
    assert [{k: v for k, v in volume.items() if k != "name"} for volume in spec["volumes"]] == [
        {"emptyDir": {}},
        {"configMap": {"name": "c", "defaultMode": 420}},
        {"hostPath": {"path": "/x", "type": ""}},
        {
            "projected": {
                "defaultMode": 420, "sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}]
            }
        },
    ]  # fmt: skip
    assert spec["serviceAccountName"] == spec["serviceAccount"] == "bot"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (pod(), []),
        (pod("{containers: []}"), ["spec.containers: Required value"]),
        (pod(image=""), ["spec.containers[0].image: Required value"]),
        (pod(image=" x "), ['spec.containers[0].image: Invalid value: " x ": must not have leading or trailing whitespace']),
        (
            pod(ports=[{"containerPort": 70000}]),
            ["spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive"],
        ),
        (
            pod(volumeMounts=[{"name": "data", "mountPath": "/d"}]),
            ['spec.containers[0].volumeMounts[0].name: Not found: "data"'],
        ),
        (
            pod("{restartPolicy: Sometimes}"),
            ['spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "Never", "OnFailure"'],
        ),
        (
            pod(resources={"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}),
            ['spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1'],
        ),
        (
            pod(livenessProbe={}),
            ["spec.containers[0].livenessProbe: Required value: must specify a handler type"],
        ),
        (
            pod(livenessProbe={"tcpSocket": {"port": 80}, "successThreshold": 2}),
            ["spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1"],
        ),
        (
            pod("{volumes: [{name: v, emptyDir: {}, configMap: {name: c}}]}"),
            ["spec.volumes[0].configMap: Forbidden: may not specify more than 1 volume type"],
        ),
        (
            pod("{tolerations: [{operator: Equal}]}"),
            [
                'spec.tolerations[0].operator: Invalid value: "Equal": operator must be Exists when `key` is empty, '
                'which means "match all values and all keys"'
            ],
        ),
        (
            pod("{initContainers: [{name: web, image: x}]}"),
            ['spec.initContainers[0].name: Duplicate value: "web"'],
        ),
        (
            pod("{initContainers: [{name: i, image: x, readinessProbe: {exec: {command: [x]}}}]}"),
            [
                "spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without "
                "restartPolicy=Always"
            ],
        ),
        (
            pod("{ephemeralContainers: [{name: e, image: x}]}"),
            ["spec.ephemeralContainers: Forbidden: cannot be set on create"],
        ),
        (
            pod("{nodeName: n, schedulingGates: [{name: a.b/c}]}"),
            ["spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"],
        ),
        (pod("{activeDeadlineSeconds: 0}"),
         ["spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"]),
        (
            pod(env=[{"name": "X", "value": "a", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]),
            ['spec.containers[0].env[0].valueFrom: Invalid value: "": may not be specified when `value` is not empty'],
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_new_pod(rows: Any, given: str, expected: list[str]) -> None:
    assert rows.errors("pods", given) == expected


def test_a_wrong_container_name_is_told_as_upstream_tells_it(rows: Any) -> None:
    assert rows.errors("pods", pod(name="Web_1")) == [
        'spec.containers[0].name: Invalid value: "Web_1": a lowercase RFC 1123 label must consist of lower case '
        "alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or "
        "'123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
    ]


UNCHANGEABLE = (
    "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"
    "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing "
    "tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (pod(image="nginx:2"), []),
        (pod("{tolerations: [{key: a, operator: Exists}]}"), []),
        (pod("{activeDeadlineSeconds: 10}"), []),
        (pod("{dnsPolicy: Default}"), [UNCHANGEABLE + "\nchanged: spec.dnsPolicy"]),
        (pod(command=["x"]), [UNCHANGEABLE + "\nchanged: spec.containers"]),
        (
            pod("{containers: [{name: a, image: x}, {name: b, image: x}]}"),
            ["spec.containers: Forbidden: pod updates may not add or remove containers"],
        ),
        (
            pod("{schedulingGates: [{name: x.y/z}]}"),
            ["spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'x.y/z'"],
        ),
    ],
)
def test_what_may_change(rows: Any, new: str, expected: list[str]) -> None:
    assert rows.update_errors("pods", POD, new) == expected


def test_tolerations_only_grow(rows: Any) -> None:
    old = pod("{tolerations: [{key: a, operator: Exists}]}")
    assert rows.update_errors("pods", old, POD) == [
        "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"
    ]


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ([{}], "BestEffort"),
        ([{"requests": {"cpu": "1"}}], "Burstable"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}}], "Guaranteed"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}}, {}], "Burstable"),
        ([{"requests": {"cpu": "0"}}], "BestEffort"),
    ],
)
def test_quality_of_service(rows: Any, resources: list[Any], expected: str) -> None:
    containers = [{"name": f"c{i}", "image": "x", "resources": r} for i, r in enumerate(resources)]
    assert qos_class(rows.make("pods", yaml.safe_dump({"spec": {"containers": containers}})).spec) == expected


@pytest.mark.parametrize(
    ("spec", "phase", "asked", "expected"),
    [
        ("{nodeName: n}", "Running", None, 30), ("{nodeName: n}", "Running", 5, 5), ("{nodeName: n}", "Running", 0, 0),
        ("{nodeName: n, terminationGracePeriodSeconds: -1}", "Running", None, 1),
        ("{}", "Pending", None, 0), ("{nodeName: n}", "Succeeded", 20, 0),
    ],
)  # fmt: skip
def test_grace(rows: Any, spec: str, phase: str, asked: int | None, expected: int) -> None:
    thing = rows.make("pods", pod(spec))
    thing.status.phase = phase
    assert grace(thing, asked) == expected


STATUS = """
metadata: {name: web, creationTimestamp: "2026-01-01T11:55:00Z"}
spec: {containers: [{name: a}, {name: b}], nodeName: n1}
status:
  phase: Running
  podIPs: [{ip: 10.1.0.5}]
  containerStatuses:
  - {name: a, ready: true, restartCount: 2, state: {running: {}},
     lastState: {terminated: {exitCode: 1, finishedAt: "2026-01-01T11:58:00Z"}}}
  - {name: b, ready: false, restartCount: 1, state: {waiting: {reason: CrashLoopBackOff}}}
"""


def test_a_row(rows: Any) -> None:
    assert rows.cells("pods", STATUS, wide=True) == {
        "Name": "web", "Ready": "1/2", "Status": "CrashLoopBackOff", "Restarts": "3 (2m ago)", "Age": "5m",
        "IP": "10.1.0.5", "Node": "n1", "Nominated Node": "<none>", "Readiness Gates": "<none>",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("{phase: Pending}", ("0/1", "Pending", "0")),
        ("{phase: Running, containerStatuses: [{name: a, ready: true, state: {running: {}}}]}", ("1/1", "Running", "0")),
        ("{phase: Succeeded, containerStatuses: [{name: a, state: {terminated: {reason: Completed}}}]}",
         ("0/1", "Completed", "0")),
        ("{phase: Failed, containerStatuses: [{name: a, state: {terminated: {exitCode: 3}}}]}", ("0/1", "ExitCode:3", "0")),
        ("{phase: Failed, reason: Evicted}", ("0/1", "Evicted", "0")),
        ("{phase: Pending, initContainerStatuses: [{name: i, state: {running: {}}}]}", ("0/1", "Init:0/1", "0")),
        ("{phase: Pending, initContainerStatuses: [{name: i, restartCount: 4, state: {terminated: {exitCode: 1,"
         " reason: Error}}}]}", ("0/1", "Init:Error", "4")),
        ("{phase: Pending, conditions: [{type: PodScheduled, status: 'False', reason: SchedulingGated}]}",
         ("0/1", "SchedulingGated", "0")),
    ],
)  # fmt: skip
def test_status_words(rows: Any, status: str, expected: tuple[str, str, str]) -> None:
    text = f"{{spec: {{containers: [{{name: a}}], initContainers: [{{name: i}}]}}, status: {status}}}"
    cells = rows.cells("pods", text)
    assert (cells["Ready"], cells["Status"], cells["Restarts"]) == expected


def test_a_deleted_pod_is_terminating(rows: Any) -> None:
    text = STATUS.replace("metadata: {", 'metadata: {deletionTimestamp: "2026-01-01T12:00:00Z", ')
    assert rows.cells("pods", text)["Status"] == "Terminating"


def test_binding_sets_the_node_once(rows: Any) -> None:
    thing = rows.make("pods", POD)
    thing.metadata.annotations = {"a": "b"}
    thing.status = core.PodStatus(nominatedNodeName="n2", conditions=[core.PodCondition(type="PodScheduled", status="False")])
    stored = codec.to_dict(thing)
    binding = core.Binding(target=core.ObjectReference(kind="Node", name="n1"))
    binding.metadata.annotations = {"c": "d"}
    bound = bind(thing, binding, rows.context)
    bound.metadata.resourceVersion = "7"
    assert codec.to_dict(thing) == stored, "the current pod is untouched"
    assert bound.spec.nodeName == "n1" and bound.status.nominatedNodeName is None
    assert bound.metadata.annotations == {"a": "b", "c": "d"}
    condition = bound.status.conditions[0]
    assert (condition.type, condition.status, condition.lastTransitionTime) == (
        "PodScheduled", "True", "2026-01-01T12:00:00Z",
    )  # fmt: skip
    with pytest.raises(Conflict, match='pod web is already assigned to node "n1"') as caught:
        bind(bound, binding, rows.context)
    assert caught.value.message.startswith('Operation cannot be fulfilled on pods/binding "web": ')
    bound.metadata.deletionTimestamp = "2026-01-01T12:00:00Z"
    with pytest.raises(Conflict, match="is being deleted"):
        bind(bound, binding, rows.context)


def budget(**status: int) -> policy.PodDisruptionBudget:
    made = {"disruptionsAllowed": 1, "currentHealthy": 3, "desiredHealthy": 2, "observedGeneration": 1} | status
    return codec.from_dict(
        policy.PodDisruptionBudget,
        {"metadata": {"name": "b", "generation": 1}, "spec": {"selector": {"matchLabels": {"app": "web"}}}, "status": made},
    )


def ready_pod(rows: Any) -> core.Pod:
    return rows.make(
        "pods",
        "{metadata: {name: web, labels: {app: web}}, spec: {containers: [{name: a}]}, "
        "status: {phase: Running, conditions: [{type: Ready, status: 'True'}]}}",
    )


def test_eviction_takes_a_disruption_or_is_refused(rows: Any) -> None:
    mine = budget()
    assert decide(ready_pod(rows), [mine]).budget is mine
    taken = take(mine, "web", rows.context)
    assert taken.status.disruptionsAllowed == 0 and list(taken.status.disruptedPods) == ["web"]
    with pytest.raises(TooManyRequests) as caught:
        take(budget(disruptionsAllowed=0), "web", rows.context)
    assert caught.value.message == "Cannot evict pod as it would violate the pod's disruption budget."
    assert caught.value.details.causes[0].message == "The disruption budget b needs 2 healthy pods and has 3 currently"
    with pytest.raises(InternalError, match="more than one PodDisruptionBudget"):
        decide(ready_pod(rows), [mine, budget()])


def test_eviction_of_what_does_not_count_is_free(rows: Any) -> None:
    waiting = rows.make("pods", POD)
    waiting.status.phase = "Pending"
    assert decide(waiting, [budget()]).budget is None
    sick = ready_pod(rows)
    sick.status.conditions = None
    assert decide(sick, [budget(disruptionsAllowed=0)]).budget is None
    assert decide(sick, [budget(disruptionsAllowed=0, currentHealthy=1)]).budget is not None


def test_warnings(rows: Any) -> None:
    thing = rows.make("pods", pod(env=[{"name": "A"}, {"name": "A"}]))
    assert list(rows.row("pods").warnings(thing, None)) == [
        'spec.containers[0].env[1]: hides previous definition of "A", which may be dropped when using apply'
    ]
