# ruff: noqa: E501  (tables of whole texts, one row a line)
"""The other kinds: defaults, refusals, rows."""

from __future__ import annotations

from typing import Any

import pytest

from pinnace.api import codec
from pinnace.api.core import v1 as core
from pinnace.api.errors import BadRequest
from pinnace.apiserver.resources.columns import human_duration
from pinnace.apiserver.resources.cronjobs import schedule_error
from pinnace.apiserver.resources.events import from_core
from pinnace.apiserver.resources.metadata import validate_object_meta, validate_object_meta_update

TEMPLATE = "template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: 'x:1'}]}}"
DEPLOYMENT = f"{{metadata: {{name: web, namespace: d}}, spec: {{selector: {{matchLabels: {{app: web}}}}, {TEMPLATE}}}}}"


def with_spec(more: str) -> str:
    return DEPLOYMENT.replace("spec: {selector", f"spec: {{{more}, selector", 1)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"), (-0.5, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (301, "5m1s"), (600, "10m"), (10_799, "179m"),
        (10_800, "3h"), (11_460, "3h11m"), (28_800, "8h"), (172_799, "47h"), (172_800, "2d"), (180_000, "2d2h"), (691_200, "8d"),
        (63_072_000, "2y"), (63_158_400, "2y1d"), (252_288_000, "8y"),
    ],
)  # fmt: skip
def test_ages(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


def test_a_deployment_gets_upstreams_defaults(rows: Any) -> None:
    spec = rows.defaulted("deployments.apps", DEPLOYMENT)["spec"]
    assert {key: spec[key] for key in spec if key not in ("template", "selector")} == {
        "replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
    }  # fmt: skip
    assert spec["template"]["spec"]["dnsPolicy"] == "ClusterFirst"
    assert "enableServiceLinks" not in spec["template"]["spec"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (DEPLOYMENT, []),
        (with_spec("replicas: -1"), ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]),
        (DEPLOYMENT.replace("matchLabels: {app: web}", "matchLabels: {app: other}"),
         ['spec.template.metadata.labels: Invalid value: {"app":"web"}: `selector` does not match template `labels`']),
        (with_spec("strategy: {type: Recreate, rollingUpdate: {}}"),
         ["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"]),
        (with_spec("strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 0}}"),
         ["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"]),
        (with_spec("minReadySeconds: 600"),
         ["spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds"]),
    ],
)  # fmt: skip
def test_deployments_refused(rows: Any, text: str, expected: list[str]) -> None:
    assert rows.errors("deployments.apps", text) == expected


def test_selectors_never_change(rows: Any) -> None:
    new = DEPLOYMENT.replace("app: web", "app: w2")
    for name in ("deployments.apps", "replicasets.apps", "daemonsets.apps"):
        assert any("field is immutable" in text for text in rows.update_errors(name, DEPLOYMENT, new)), name


def test_a_stateful_set_changes_only_some_fields(rows: Any) -> None:
    assert rows.update_errors("statefulsets.apps", DEPLOYMENT, with_spec("replicas: 3")) == []
    found = rows.update_errors("statefulsets.apps", DEPLOYMENT, with_spec("serviceName: other"))
    assert found == [
        "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', "
        "'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
    ]


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("statefulsets.apps", DEPLOYMENT, {"podManagementPolicy": "OrderedReady", "replicas": 1, "revisionHistoryLimit": 10,
         "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
         "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"}}),
        ("daemonsets.apps", DEPLOYMENT, {"revisionHistoryLimit": 10,
         "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}}),
        ("jobs.batch", DEPLOYMENT, {"completions": 1, "parallelism": 1, "backoffLimit": 6, "completionMode": "NonIndexed",
         "suspend": False, "podReplacementPolicy": "TerminatingOrFailed"}),
        ("cronjobs.batch", "{spec: {schedule: '* * * * *'}}", {"concurrencyPolicy": "Allow", "suspend": False,
         "successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 1}),
        ("networkpolicies.networking.k8s.io", "{spec: {podSelector: {}, egress: [{}]}}", {"policyTypes": ["Ingress", "Egress"]}),
        ("persistentvolumeclaims", "{spec: {}}", {"volumeMode": "Filesystem"}),
        ("csidrivers.storage.k8s.io", "{spec: {}}", {"attachRequired": True, "fsGroupPolicy": "ReadWriteOnceWithFSType",
         "volumeLifecycleModes": ["Persistent"]}),
    ],
)  # fmt: skip
def test_defaults_of_specs(rows: Any, kind: str, text: str, expected: dict[str, Any]) -> None:
    spec = rows.defaulted(kind, text)["spec"]
    assert {key: spec.get(key) for key in expected} == expected


def test_a_secrets_strings_become_data(rows: Any) -> None:
    thing = rows.defaulted("secrets", "{metadata: {name: s}, data: {a: eA==}, stringData: {b: hello}}")
    assert thing["data"] == {"a": "eA==", "b": "aGVsbG8="} and thing["type"] == "Opaque" and "stringData" not in thing


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("secrets", "{type: kubernetes.io/tls, data: {tls.crt: eA==}}", ["data[tls.key]: Required value"]),
        ("secrets", "{type: kubernetes.io/basic-auth}", ["data[username]: Required value", "data[password]: Required value"]),
        ("configmaps", "{data: {a: x}, binaryData: {a: eA==}}",
         ['data[a]: Invalid value: "a": duplicate of key present in binaryData']),
        ("poddisruptionbudgets.policy", "{spec: {minAvailable: 101%}}",
         ['spec.minAvailable: Invalid value: "101%": must not be greater than 100%']),
        ("roles.rbac.authorization.k8s.io", "{rules: [{resources: [pods], apiGroups: ['']}]}",
         ["rules[0].verbs: Required value: verbs must contain at least one value"]),
        ("rolebindings.rbac.authorization.k8s.io", "{roleRef: {kind: Role}}", ["roleRef.name: Required value"]),
        ("leases.coordination.k8s.io", "{spec: {leaseDurationSeconds: 0}}",
         ["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"]),
        ("persistentvolumes", "{spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce]}}",
         ["spec: Required value: must specify a volume type"]),
        ("persistentvolumeclaims", "{spec: {accessModes: [ReadWriteOnce]}}", ["spec.resources[storage]: Required value"]),
        ("priorityclasses.scheduling.k8s.io", "{metadata: {name: x}, value: 1000000001}",
         ["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"]),
        ("ingresses.networking.k8s.io", "{spec: {}}",
         ["spec: Invalid value: []: either `defaultBackend` or `rules` must be specified"]),
        ("nodes", "{spec: {taints: [{key: a, effect: Odd}]}}",
         ['metadata.taints[0].effect: Unsupported value: "Odd": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"']),
        ("limitranges", "{spec: {limits: [{type: Container, min: {cpu: 2}, max: {cpu: 1}}]}}",
         ['spec.limits[0].min[cpu]: Invalid value: "2": min value 2 is greater than max value 1',
          'spec.limits[0].default[cpu]: Invalid value: "2": min value 2 is greater than default value 1']),
    ],
)  # fmt: skip
def test_refused(rows: Any, kind: str, text: str, expected: list[str]) -> None:
    found = rows.errors(kind, text)
    assert [text for text in expected if text not in found] == [], found


@pytest.mark.parametrize(
    ("kind", "old", "new", "expected"),
    [
        ("configmaps", "{immutable: true, data: {a: x}}", "{immutable: true, data: {a: y}}",
         ["data: Forbidden: field is immutable when `immutable` is set"]),
        ("secrets", "{type: a}", "{type: b}", ['type: Invalid value: "b": field is immutable']),
        ("rolebindings.rbac.authorization.k8s.io", "{roleRef: {kind: Role, name: a}}", "{roleRef: {kind: Role, name: b}}",
         ['roleRef: Invalid value: {"kind":"Role","apiGroup":"rbac.authorization.k8s.io","name":"b"}: cannot change roleRef']),
        ("nodes", "{spec: {podCIDR: 10.0.0.0/24}}", "{spec: {podCIDR: 10.0.1.0/24}}",
         ['spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid']),
        ("storageclasses.storage.k8s.io", "{provisioner: a}", "{provisioner: b}",
         ["provisioner: Forbidden: updates to provisioner are forbidden."]),
    ],
)  # fmt: skip
def test_changes_refused(rows: Any, kind: str, old: str, new: str, expected: list[str]) -> None:
    assert rows.update_errors(kind, old, new) == expected


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("deployments.apps", "{metadata: {name: w}, spec: {replicas: 3}, status: {readyReplicas: 2, updatedReplicas: 3}}",
         {"Ready": "2/3", "Up-to-date": 3, "Available": 0}),
        ("nodes", "{metadata: {labels: {node-role.kubernetes.io/control-plane: ''}}, spec: {unschedulable: true},"
         " status: {conditions: [{type: Ready, status: 'True'}], nodeInfo: {kubeletVersion: v1.36.0}}}",
         {"Status": "Ready,SchedulingDisabled", "Roles": "control-plane", "Version": "v1.36.0"}),
        ("jobs.batch", "{spec: {completions: 3}, status: {succeeded: 1, startTime: '2026-01-01T11:59:00Z'}}",
         {"Status": "Running", "Completions": "1/3", "Duration": "60s"}),
        ("cronjobs.batch", "{spec: {schedule: '@daily', suspend: false}, status: {lastScheduleTime: '2026-01-01T11:00:00Z'}}",
         {"Schedule": "@daily", "Timezone": "<none>", "Suspend": "False", "Active": 0, "Last Schedule": "60m"}),
        ("endpoints", "{subsets: [{addresses: [{ip: 1.1.1.1}, {ip: 1.1.1.2}], ports: [{port: 80}, {port: 81}]}]}",
         {"Endpoints": "1.1.1.1:80,1.1.1.2:80,1.1.1.1:81 + 1 more..."}),
        ("endpointslices.discovery.k8s.io", "{addressType: IPv4, ports: [{port: 80}], endpoints: [{addresses: [1.1.1.1]}]}",
         {"AddressType": "IPv4", "Ports": "80", "Endpoints": "1.1.1.1"}),
        ("events", "{lastTimestamp: '2026-01-01T11:58:00Z', type: Normal, reason: Pulled, involvedObject: {kind: Pod, name: a}, message: hi}",
         {"Last Seen": "2m", "Type": "Normal", "Reason": "Pulled", "Object": "pod/a", "Message": "hi"}),
        ("poddisruptionbudgets.policy", "{spec: {minAvailable: 1}, status: {disruptionsAllowed: 2}}",
         {"Min Available": "1", "Max Unavailable": "N/A", "Allowed Disruptions": 2}),
        ("persistentvolumeclaims", "{spec: {volumeName: v, storageClassName: fast}, status: {phase: Bound, capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce]}}",
         {"Status": "Bound", "Volume": "v", "Capacity": "1Gi", "Access Modes": "RWO", "StorageClass": "fast"}),
        ("horizontalpodautoscalers.autoscaling/v2", "{spec: {maxReplicas: 4, minReplicas: 2, scaleTargetRef: {kind: Deployment, name: w},"
         " metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}]}}",
         {"Reference": "Deployment/w", "Targets": "cpu: <unknown>/80%", "MinPods": "2", "MaxPods": 4, "Replicas": 0}),
        ("ingresses.networking.k8s.io", "{spec: {ingressClassName: n, rules: [{host: a.b}], tls: [{}]}}",
         {"Class": "n", "Hosts": "a.b", "Address": "", "Ports": "80, 443"}),
        ("certificatesigningrequests.certificates.k8s.io", "{spec: {signerName: a/b, username: u}, status: {certificate: eA==, conditions: [{type: Approved}]}}",
         {"SignerName": "a/b", "Requestor": "u", "RequestedDuration": "<none>", "Condition": "Approved,Issued"}),
        ("resourcequotas", "{status: {hard: {cpu: '2', limits.cpu: '4'}, used: {cpu: '1'}}}",
         {"Request": "cpu: 1/2", "Limit": "limits.cpu: 0/4"}),
    ],
)  # fmt: skip
def test_rows(rows: Any, kind: str, text: str, expected: dict[str, Any]) -> None:
    cells = rows.cells(kind, text)
    assert {name: cells[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("schedule", "why"),
    [
        ("*/5 * * * *", ""), ("0 0 1 jan mon", ""), ("@hourly", ""), ("@every 1h30m", ""), ("1-5,10 * * * 0-6", ""),
        ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
        ("60 * * * *", "end of range (60) above maximum (59): 60"),
        ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
        ("@never", "unrecognized descriptor: @never"),
    ],
)  # fmt: skip
def test_schedules(schedule: str, why: str) -> None:
    assert schedule_error(schedule) == why


def meta_errors(rows: Any, text: str, **options: Any) -> list[str]:
    return [str(error) for error in validate_object_meta(rows.decode("configmaps", text).metadata, **options)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{metadata: {name: a, namespace: b}}", []),
        ("{metadata: {namespace: b}}", ["metadata.name: Required value: name or generateName is required"]),
        ("{metadata: {name: a}}", ["metadata.namespace: Required value"]),
        ("{metadata: {name: a, namespace: b, finalizers: [odd]}}",
         ['metadata.finalizers[0]: Invalid value: "odd": name is neither a standard finalizer name nor is it fully qualified']),
        ("{metadata: {name: a, namespace: b, ownerReferences: [{apiVersion: v1, kind: Pod, name: p}]}}",
         ['metadata.ownerReferences.uid: Invalid value: "": must not be empty']),
        ("{metadata: {name: a, namespace: b, ownerReferences: [{apiVersion: v1, kind: Pod, name: p, uid: x, controller: true},"
         " {apiVersion: v1, kind: Pod, name: q, uid: y, controller: true}]}}",
         ['metadata.ownerReferences: Invalid value: [{"kind":"Pod","apiVersion":"v1","controller":true,"name":"p","uid":"x"},'
          '{"kind":"Pod","apiVersion":"v1","controller":true,"name":"q","uid":"y"}]: Only one reference can have Controller set '
          'to true. Found "true" in references for p and q']),
        ("{metadata: {name: a, namespace: b, labels: {'a b': c}}}",
         ["metadata.labels: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must "
          "start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
          "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"]),
    ],
)  # fmt: skip
def test_metadata(rows: Any, text: str, expected: list[str]) -> None:
    assert meta_errors(rows, text, namespaced=True) == expected


def test_metadata_of_a_dying_object_takes_no_new_finalizers(rows: Any) -> None:
    old = rows.decode("configmaps", "{metadata: {name: a, deletionTimestamp: '2026-01-01T00:00:00Z', resourceVersion: '1'}}").metadata
    new = rows.decode(
        "configmaps", "{metadata: {name: a, deletionTimestamp: '2026-01-01T00:00:00Z', resourceVersion: '1', finalizers: [a.b/c]}}"
    ).metadata
    assert [str(error) for error in validate_object_meta_update(new, old)] == [
        "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers "
        '[]string{"a.b/c"}'
    ]


@pytest.mark.parametrize(
    ("kind", "field", "text", "place"),
    [
        ("Secret", "data", "!!!", 0),
        ("Secret", "data", "YQ", 0),
        ("Secret", "data", "eA==YQ", 4),
        ("ConfigMap", "binaryData", "YWJj!", 4),
    ],
)
def test_what_is_no_base64_is_refused_as_go_decodes(rows: Any, kind: str, field: str, text: str, place: int) -> None:
    resource = f"{kind.lower()}s"
    with pytest.raises(BadRequest) as refusal:
        rows.errors(resource, f"{{metadata: {{name: a}}, {field}: {{a: '{text}'}}}}")
    assert refusal.value.message == (
        f'{kind} in version "v1" cannot be handled as a {kind}: illegal base64 data at input byte {place}'
    )


def test_base64_may_be_broken_into_lines(rows: Any) -> None:
    assert rows.errors("secrets", '{metadata: {name: a}, data: {a: "YW\\nJj"}}') == []


def test_an_event_without_a_time_says_null_which_go_can_read() -> None:
    seen = codec.to_dict(from_core(core.Event(series=core.EventSeries(count=1))))
    assert seen["eventTime"] is None
    assert seen["series"] == {"count": 1, "lastObservedTime": None}
