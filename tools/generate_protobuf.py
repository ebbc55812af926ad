"""Derives protobuf's field numbers from upstream's own sample objects, which exist as JSON and as protobuf.

    python tools/generate_protobuf.py ../shared/reference/objects

A fully populated object is walked in both encodings side by side: a field number belongs to the JSON field whose value
stands under it. Where several fields hold the same value (booleans, mostly), KNOWN decides. The table is written to
src/pinnace/apiserver/protobuf_table.py.
"""

from __future__ import annotations

import base64
import json
import struct
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from msgspec import Struct

from pinnace.api.authentication import v1 as authentication
from pinnace.api.autoscaling import v1 as autoscaling
from pinnace.api.kinds import KINDS
from pinnace.api.merge_table import MERGE
from pinnace.api.meta import v1 as meta
from pinnace.api.patch.fields import name_of
from pinnace.api.policy import v1 as policy
from pinnace.api.shapes import Shape, fields_of
from pinnace.apiserver.protobuf import parse

KNOWN: dict[str, dict[int, str]] = {
    "meta/v1:OwnerReference": {6: "controller", 7: "blockOwnerDeletion"},
    "meta/v1:DeleteOptions": {1: "gracePeriodSeconds", 3: "orphanDependents",
                              6: "ignoreStoreReadErrorWithClusterBreakingPotential"},
    "admissionregistration/v1:MutatingAdmissionPolicySpec": {3: "variables", 6: "matchConditions"},
    "admissionregistration/v1:ValidatingAdmissionPolicySpec": {6: "matchConditions", 7: "variables"},
    "admissionregistration/v1:MatchResources": {1: "namespaceSelector", 2: "objectSelector", 3: "resourceRules",
                                                4: "excludeResourceRules"},
    "admissionregistration/v1:Mutation": {3: "applyConfiguration", 4: "jsonPatch"},
    "admissionregistration/v1:MutatingWebhook": {5: "namespaceSelector", 11: "objectSelector"},
    "admissionregistration/v1:ValidatingWebhook": {5: "namespaceSelector", 10: "objectSelector"},
    "apps/v1:DeploymentSpec": {1: "replicas", 7: "paused"},
    "authorization/v1:SubjectAccessReviewStatus": {1: "allowed", 4: "denied"},
    "authorization/v1:ResourceAttributes": {8: "fieldSelector", 9: "labelSelector"},
    "autoscaling/v2:MetricSpec": {3: "pods", 5: "external"},
    "autoscaling/v2:MetricStatus": {3: "pods", 5: "external"},
    "autoscaling/v2:MetricTarget": {2: "value", 3: "averageValue"},
    "autoscaling/v2:MetricValueStatus": {1: "value", 2: "averageValue"},
    "autoscaling/v2:HorizontalPodAutoscalerBehavior": {1: "scaleUp", 2: "scaleDown"},
    "batch/v1:JobSpec": {1: "parallelism", 5: "manualSelector", 10: "suspend"},
    "core/v1:Affinity": {2: "podAffinity", 3: "podAntiAffinity"},
    "core/v1:CSIPersistentVolumeSource": {6: "controllerPublishSecretRef", 7: "nodeStageSecretRef",
                                          8: "nodePublishSecretRef", 9: "controllerExpandSecretRef",
                                          10: "nodeExpandSecretRef"},
    "core/v1:Container": {10: "livenessProbe", 11: "readinessProbe", 16: "stdin", 17: "stdinOnce", 18: "tty",
                          22: "startupProbe"},
    "core/v1:ContainerStatus": {2: "state", 3: "lastState", 4: "ready", 9: "started"},
    "core/v1:EndpointSubset": {1: "addresses", 2: "notReadyAddresses"},
    "core/v1:EnvFromSource": {2: "configMapRef", 3: "secretRef"},
    "core/v1:EnvVarSource": {3: "configMapKeyRef", 4: "secretKeyRef"},
    "core/v1:EphemeralContainer+": {10: "livenessProbe", 11: "readinessProbe", 16: "stdin", 17: "stdinOnce", 18: "tty",
                                    22: "startupProbe"},
    "core/v1:Event": {2: "involvedObject", 13: "related"},
    "core/v1:ISCSIVolumeSource": {6: "readOnly", 8: "chapAuthDiscovery", 11: "chapAuthSession"},
    "core/v1:ISCSIPersistentVolumeSource": {6: "readOnly", 8: "chapAuthDiscovery", 11: "chapAuthSession"},
    "core/v1:Lifecycle": {1: "postStart", 2: "preStop"},
    "core/v1:NodeConfigStatus": {1: "assigned", 2: "active", 3: "lastKnownGood"},
    "core/v1:NodeRuntimeHandlerFeatures": {1: "recursiveReadOnlyMounts", 2: "userNamespaces"},
    "core/v1:NodeSelectorTerm": {1: "matchExpressions", 2: "matchFields"},
    "core/v1:PodAffinityTerm": {1: "labelSelector", 4: "namespaceSelector"},
    "core/v1:PodSecurityContext": {10: "seccompProfile", 11: "appArmorProfile"},
    "core/v1:PodSpec": {2: "containers", 11: "hostNetwork", 12: "hostPID", 13: "hostIPC",
                        15: "imagePullSecrets", 20: "initContainers",
                        21: "automountServiceAccountToken", 27: "shareProcessNamespace", 30: "enableServiceLinks",
                        35: "setHostnameAsFQDN", 36: "os", 37: "hostUsers", 38: "schedulingGates"},
    "networking/v1:NetworkPolicyPeer": {1: "podSelector", 2: "namespaceSelector"},
    "core/v1:PodStatus": {8: "containerStatuses", 10: "initContainerStatuses", 12: "podIPs",
                          13: "ephemeralContainerStatuses", 16: "hostIPs"},
    "core/v1:ScaleIOVolumeSource": {4: "sslEnabled", 10: "readOnly"},
    "core/v1:ScaleIOPersistentVolumeSource": {4: "sslEnabled", 10: "readOnly"},
    "core/v1:SecurityContext": {2: "privileged", 5: "runAsNonRoot", 6: "readOnlyRootFilesystem",
                                7: "allowPrivilegeEscalation", 11: "seccompProfile", 12: "appArmorProfile"},
    "core/v1:ServiceSpec": {13: "publishNotReadyAddresses", 20: "allocateLoadBalancerNodePorts"},
    "core/v1:VolumeProjection": {1: "secret", 3: "configMap"},
    "discovery/v1:EndpointConditions": {1: "ready", 2: "serving", 3: "terminating"},
    "discovery/v1:EndpointHints": {1: "forZones", 2: "forNodes"},
    "events/v1:Event": {8: "regarding", 9: "related"},
    "flowcontrol/v1:Subject": {2: "user", 3: "group"},
    "networking/v1:NetworkPolicySpec": {2: "ingress", 3: "egress"},
    "resource/v1:CapacityRequestPolicy": {1: "default", 3: "validValues"},
    "resource/v1:CapacityRequestPolicyRange": {1: "min", 2: "max", 3: "step"},
    "resource/v1:Device": {7: "allNodes", 9: "bindsToNode", 12: "allowMultipleAllocations"},
    "resource/v1:DeviceAttribute": {3: "bool", 7: "bools"},
    "resource/v1:ResourceSliceSpec": {5: "allNodes", 7: "perDeviceNodeSelection"},
    "storage/v1:CSIDriverSpec": {1: "attachRequired", 2: "podInfoOnMount", 4: "storageCapacity",
                                 7: "requiresRepublish", 8: "seLinuxMount", 10: "serviceAccountTokenInSecrets",
                                 11: "preventPodSchedulingIfMissing"},
    "storage/v1:CSIStorageCapacity": {4: "capacity", 5: "maximumVolumeSize"},
    "storage/v1:VolumeAttachmentStatus": {3: "attachError", 4: "detachError"},
}
TABLE: dict[str, dict[int, Any]] = {}
TRIED: dict[Any, bool] = {}
AMBIGUOUS: dict[str, dict[int, list[str]]] = {}


def fits(values: list[Any], shape: Shape, kind: str, expected: Any) -> bool:
    """Whether the values under one number are this JSON value."""
    if kind in ("time", "microtime"):
        raw = attempt(values[0])
        found = dict(raw or ())
        if raw == [] and expected is None:
            return True
        if raw is None or not isinstance(expected, str) or not set(found) <= {1, 2}:
            return False
        try:
            moment = datetime.fromisoformat(expected)
        except ValueError:
            return False
        return isinstance(found.get(1, 0), int) and int(moment.timestamp()) == found.get(1, 0)
    if kind == "quantity":
        message = attempt(values[0])
        return message is not None and isinstance(expected, str) and dict(message).get(1) == expected.encode()
    if kind == "intstr":
        parts = dict(attempt(values[0]) or ())
        if set(parts) != {1, 2, 3} or not isinstance(parts[3], bytes):
            return False
        return bool(parts[3] == str(expected).encode() if parts[1] else parts[2] == expected)
    if kind == "any":
        return isinstance(values[0], bytes) and not isinstance(expected, str | int | bool | list)
    if shape.form == "list" and shape.inner is not None:
        if not isinstance(expected, list) or len(expected) != len(values):
            return False
        return all(fits([v], shape.inner, kind.removeprefix("[]"), e) for v, e in zip(values, expected, strict=True))
    if shape.form == "map" and shape.inner is not None:
        if not isinstance(expected, dict) or len(expected) != len(values):
            return False
        for value, (key, inner) in zip(values, expected.items(), strict=True):
            message = attempt(value)
            if message is None:
                return False
            parts = dict(message)
            if not set(parts) <= {1, 2} or parts.get(1) != key.encode():
                return False
            values_of = parts.get(2, b"")
            if shape.inner.form == "list":      # a map of lists: each list is a message of its own
                items = attempt(values_of)
                if items is None or [v for _, v in items] != [text.encode() for text in inner]:
                    return False
            elif not fits([values_of], shape.inner, kind.removeprefix("{}"), inner):
                return False
        return True
    if shape.struct is not None:
        return len(values) == 1 and isinstance(expected, dict) and isinstance(values[0], bytes) and (
            walk(shape.struct, values[0], expected, trial=True)
        )
    value = values[0]
    if len(values) != 1:
        return False
    if isinstance(expected, bool):
        return value == int(expected) and isinstance(value, int)
    if isinstance(expected, int):
        return value == expected and isinstance(value, int)
    if isinstance(expected, float):
        return isinstance(value, float) and value == expected
    if isinstance(expected, str) and isinstance(value, bytes):
        if value == expected.encode():
            return True
        try:
            return base64.b64decode(expected, validate=True) == value and bool(value)
        except ValueError:
            return False
    return False


def attempt(value: Any) -> list[tuple[int, Any]] | None:
    if not isinstance(value, bytes):
        return None
    try:
        return list(parse(value))
    except (ValueError, IndexError, struct.error):
        return None


def kind_in(of: str, wire: str) -> str:
    row = MERGE.get(of, {}).get(wire)
    return row[5] if row is not None else ""


def walk(cls: type[Struct], payload: bytes, data: dict[str, Any], *, trial: bool = False) -> bool:
    """Whether the payload is this object; unless it is a trial, what is found goes into the table."""
    of, fields = name_of(cls), fields_of(cls)
    memory = (cls, payload, json.dumps(data))
    if trial and memory in TRIED:
        return TRIED[memory]
    raw = attempt(payload)
    if raw is None:
        return False
    groups: dict[int, list[Any]] = {}
    for number, value in raw:
        groups.setdefault(number, []).append(value)
    open_keys = [key for key in data if (key in fields and key not in ("kind", "apiVersion")) or (
        key in ("kind", "apiVersion") and key in fields and of.split(":")[1] not in TOP)]
    found: dict[int, Any] = {}
    for number, name in KNOWN.get(of, {}).items():
        if number in groups and name in open_keys:
            found[number] = name
            open_keys.remove(name)
    rest = {n: [k for k in open_keys if fits(v, fields[k].shape, kind_in(of, k), data[k])] for n, v in groups.items()
            if n not in found}
    changed = True
    while changed:
        changed = False
        for number, names in list(rest.items()):
            if len(names) == 1:
                found[number] = names[0]
                open_keys = [k for k in open_keys if k != names[0]]
                del rest[number]
                for other in rest.values():
                    if names[0] in other:
                        other.remove(names[0])
                changed = True
                break
    for number, names in list(rest.items()):
        if not names and len(groups[number]) == 1 and isinstance(groups[number][0], bytes):
            part = inline(cls, groups[number][0], data, open_keys)
            if part is not None:
                found[number] = part
                open_keys = [k for k in open_keys if k not in set(names_in(part))]
                del rest[number]
    if trial:
        TRIED[memory] = all(rest.values())
        return TRIED[memory]
    if any(not names for names in rest.values()):
        print("unmatched", of, {n: groups[n] for n, names in rest.items() if not names}, open_keys, file=sys.stderr)
    for number, names in rest.items():
        AMBIGUOUS.setdefault(of, {})[number] = names
    for number, name in found.items():
        known = TABLE.setdefault(of, {}).setdefault(number, name)
        if known != name:
            print("contradiction", of, number, known, name, file=sys.stderr)
        if isinstance(name, str):
            descend(fields[name].shape, kind_in(of, name), groups[number], data[name])
        else:
            deep(cls, groups[number][0], data, name)
    return True


TOP = {kind.kind for kind in KINDS} | {"DeleteOptions", "Eviction", "Scale", "TokenRequest", "CreateOptions",
                                       "UpdateOptions", "PatchOptions"}


def names_in(part: dict[int, Any]) -> list[str]:
    return [n for v in part.values() for n in ([v] if isinstance(v, str) else names_in(v))]


def inline(cls: type[Struct], payload: bytes, data: dict[str, Any], keys: list[str]) -> dict[int, Any] | None:
    raw = attempt(payload)
    if not raw:
        return None
    of, fields = name_of(cls), fields_of(cls)
    groups: dict[int, list[Any]] = {}
    for number, value in raw:
        groups.setdefault(number, []).append(value)
    part: dict[int, Any] = {}
    open_keys = list(keys)
    pending: dict[int, list[str]] = {}
    for number, values in groups.items():
        known = KNOWN.get(of + "+", {}).get(number)
        names = [k for k in open_keys if fits(values, fields[k].shape, kind_in(of, k), data[k])]
        pending[number] = [known] if known in names else names
    for number in sorted(pending, key=lambda n: len(pending[n])):
        names = [n for n in pending[number] if n in open_keys]
        if not names:
            deeper = inline(cls, groups[number][0], data, open_keys) if isinstance(groups[number][0], bytes) else None
            if deeper is None:
                return None
            part[number] = deeper
            open_keys = [k for k in open_keys if k not in names_in(deeper)]
            continue
        if len(names) > 1:
            AMBIGUOUS.setdefault(of + "+", {})[number] = names
        part[number] = names[0]
        open_keys.remove(names[0])
    return part


def deep(cls: type[Struct], payload: bytes, data: dict[str, Any], part: dict[int, Any]) -> None:
    of, fields = name_of(cls), fields_of(cls)
    groups: dict[int, list[Any]] = {}
    for number, value in parse(payload):
        groups.setdefault(number, []).append(value)
    for number, name in part.items():
        if isinstance(name, str):
            descend(fields[name].shape, kind_in(of, name), groups[number], data[name])
        else:
            deep(cls, groups[number][0], data, name)


def descend(shape: Shape, kind: str, values: list[Any], data: Any) -> None:
    if kind.lstrip("[]{}") in ("time", "microtime", "quantity", "intstr", "any"):
        return
    if shape.struct is not None:
        walk(shape.struct, values[0], data)
    elif shape.form == "list" and shape.inner is not None:
        for value, item in zip(values, data, strict=True):
            descend(shape.inner, kind.removeprefix("[]"), [value], item)
    elif shape.form == "map" and shape.inner is not None and shape.inner.form != "list":
        for value, item in zip(values, data.values(), strict=True):
            descend(shape.inner, kind.removeprefix("{}"), [dict(parse(value)).get(2, b"")], item)


def ordered(rows: dict[int, Any]) -> dict[int, Any]:
    return {number: ordered(name) if isinstance(name, dict) else name for number, name in sorted(rows.items())}


def main(directory: Path) -> None:
    extra: dict[str, type[Struct]] = {
        "core.v1.DeleteOptions": meta.DeleteOptions, "policy.v1.Eviction": policy.Eviction,
        "autoscaling.v1.Scale": autoscaling.Scale, "authentication.k8s.io.v1.TokenRequest": authentication.TokenRequest,
    }
    pairs = {f"{kind.group or 'core'}.{kind.version}.{kind.kind}": kind.type for kind in KINDS if kind.served} | extra
    for name, cls in sorted(pairs.items()):
        path = directory / f"{name}.pb"
        if not path.exists():
            print("no sample:", name, file=sys.stderr)
            continue
        raw = dict(parse(path.read_bytes()[4:]))
        data = json.loads((directory / f"{name}.json").read_text())
        if not walk(cls, raw[2], data):
            print("does not fit:", name, file=sys.stderr)
    for of, rows in AMBIGUOUS.items():
        print("ambiguous", of, rows, file=sys.stderr)
    lines = [
        '"""Generated by tools/generate_protobuf.py from upstream\'s sample objects: never edit."""',
        "# ruff: noqa: E501", "",
        "from __future__ import annotations", "", "from typing import Any", "",
        "# `module:Class` -> field number -> field; a dict stands for a message whose fields JSON has inline.",
        "NUMBERS: dict[str, dict[int, Any]] = {",
    ]  # fmt: skip
    lines += [f'    "{of}": {ordered(TABLE[of])},' for of in sorted(TABLE)]
    lines += ["}  # fmt: skip"]
    out = Path(__file__).parent.parent / "src/pinnace/apiserver/protobuf_table.py"
    out.write_text("\n".join(lines).replace("'", '"') + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
