"""A node reads what its pods need and writes what is its own; and what it is refused."""

from __future__ import annotations

from typing import Any

import pytest

from pinnace.api.authentication import v1 as authentication
from pinnace.api.coordination import v1 as coordination
from pinnace.api.core import v1 as core
from pinnace.api.errors import Forbidden
from pinnace.api.meta import v1 as meta
from pinnace.api.policy import v1 as policy
from pinnace.api.storage import v1 as storage
from pinnace.apiserver.admission.node_restriction import NodeRestriction
from pinnace.apiserver.authorization.node import MIRROR, NodeAuthorizer
from pinnace.apiserver.authorization.rbac import RbacAuthorizer

from .test_rbac import bind, cluster_role
from .world import World, admission, ask, named, node_user, rule, user

N1 = node_user("n1")


def pod(name: str, node: str = "", *, mirror: bool = False, account: str = "", **spec: Any) -> core.Pod:
    annotations = {MIRROR: "x"} if mirror else None
    return core.Pod(
        metadata=named(name, "a", annotations=annotations),
        spec=core.PodSpec(nodeName=node or None, serviceAccountName=account or None, **spec),
    )


def secret_volume(secret: str) -> core.Volume:
    return core.Volume(name="v", secret=core.SecretVolumeSource(secretName=secret))


def secret_key(name: str) -> core.EnvVar:
    return core.EnvVar(name="E", valueFrom=core.EnvVarSource(secretKeyRef=core.SecretKeySelector(name=name, key="k")))


OWN = pod(
    "own", "n1", account="robot",
    imagePullSecrets=[core.LocalObjectReference(name="pull")],
    initContainers=[
        core.Container(name="i", envFrom=[core.EnvFromSource(secretRef=core.SecretEnvSource(name="from"))]),
    ],
    containers=[core.Container(name="c", env=[secret_key("env")])],
    volumes=[
        secret_volume("mounted"),
        core.Volume(name="m", configMap=core.ConfigMapVolumeSource(name="settings")),
        core.Volume(name="p", projected=core.ProjectedVolumeSource(sources=[
            core.VolumeProjection(secret=core.SecretProjection(name="projected")),
            core.VolumeProjection(configMap=core.ConfigMapProjection(name="roots")),
        ])),
        core.Volume(name="d", persistentVolumeClaim=core.PersistentVolumeClaimVolumeSource(claimName="disk")),
        core.Volume(name="x", persistentVolumeClaim=core.PersistentVolumeClaimVolumeSource(claimName="stolen")),
        core.Volume(name="e", ephemeral=core.EphemeralVolumeSource()),
    ],
)  # fmt: skip


def claim(name: str, volume: str) -> core.PersistentVolumeClaim:
    spec = core.PersistentVolumeClaimSpec(volumeName=volume)
    return core.PersistentVolumeClaim(metadata=named(name, "a"), spec=spec)


def volume(name: str, bound_to: str, secret: str) -> core.PersistentVolume:
    csi = core.CSIPersistentVolumeSource(
        driver="d", volumeHandle="h", nodePublishSecretRef=core.SecretReference(namespace="vault", name=secret)
    )
    return core.PersistentVolume(
        metadata=named(name),
        spec=core.PersistentVolumeSpec(csi=csi, claimRef=core.ObjectReference(namespace="a", name=bound_to)),
    )


def attachment(name: str, node: str) -> storage.VolumeAttachment:
    spec = storage.VolumeAttachmentSpec(attacher="d", nodeName=node, source=storage.VolumeAttachmentSource())
    return storage.VolumeAttachment(metadata=named(name), spec=spec)


WORLD = World(
    OWN,
    pod("other", "n2", account="other", volumes=[secret_volume("others")]),
    pod("unbound", volumes=[secret_volume("unbound")]),
    pod("mirror", "n1", mirror=True, account="master", volumes=[secret_volume("crown")]),
    claim("disk", "pv"), volume("pv", "disk", "mount"),
    claim("stolen", "far"), volume("far", "elsewhere", "far"),
    attachment("here", "n1"), attachment("there", "n2"),
    core.Node(metadata=named("n1")),
)  # fmt: skip


@pytest.mark.parametrize(
    ("question", "allowed"),
    [
        *((f"{verb} - secrets a {name}", True)
          for verb in ("get", "list", "watch") for name in ("pull", "from", "env", "mounted", "projected")),
        *((f"get - secrets a {name}", False) for name in ("others", "unbound", "crown", "nobodys")),
        ("get - secrets b mounted", False),
        ("get - secrets vault mount", True),
        ("get - secrets vault far", False),
        ("get - secrets a mount", False),
        ("list - secrets a", False),
        ("list - secrets", False),
        ("watch - secrets a", False),
        ("update - secrets a mounted", False),
        ("delete - secrets a mounted", False),
        ("get - secrets/status a mounted", False),
        ("get - configmaps a settings", True),
        ("watch - configmaps a roots", True),
        ("get - configmaps a mounted", False),
        ("get - persistentvolumeclaims a disk", True),
        ("get - persistentvolumeclaims a own-e", True),
        ("list - persistentvolumeclaims a disk", False),
        ("patch - persistentvolumeclaims a disk", False),
        ("patch - persistentvolumeclaims/status a disk", True),
        ("patch - persistentvolumeclaims/status a others", False),
        ("get - persistentvolumes - pv", True),
        ("get - persistentvolumes - far", False),
        ("get storage.k8s.io volumeattachments - here", True),
        ("get storage.k8s.io volumeattachments - there", False),
        ("list storage.k8s.io volumeattachments", False),
        ("create - serviceaccounts/token a robot", True),
        ("create - serviceaccounts/token a other", False),
        ("create - serviceaccounts/token a master", False),
        ("get - serviceaccounts a robot", True),
        ("get - serviceaccounts a other", False),
        ("list - serviceaccounts a", False),
        ("update - serviceaccounts a robot", False),
        ("create - nodes", True),
        ("get - nodes - n1", True),
        ("get - nodes - n2", False),
        ("list - nodes", False),
        ("list - nodes - n1", True),
        ("patch - nodes/status - n1", True),
        ("patch - nodes/status - n2", False),
        ("delete - nodes - n1", False),
        ("get - pods a own", True),
        ("get - pods a other", False),
        ("update - pods a own", False),
        ("patch - pods/status a own", True),
        ("patch - pods/status a other", False),
        ("create - pods a", True),
        ("delete - pods a own", True),
        ("deletecollection - pods a", False),
        ("create - pods/exec a own", False),
        ("create - pods/eviction a own", True),
        ("create - pods/binding a own", False),
        ("list - services", True),
        ("update - services a s", False),
        ("get coordination.k8s.io leases kube-node-lease n1", True),
        ("create coordination.k8s.io leases kube-node-lease", True),
        ("update coordination.k8s.io leases kube-node-lease n2", False),
        ("get coordination.k8s.io leases kube-system n1", False),
        ("get storage.k8s.io csinodes - n1", True),
        ("get storage.k8s.io csinodes - n2", False),
        ("list resource.k8s.io resourceslices", False),
        ("create events.k8s.io events a", True),
        ("get rbac.authorization.k8s.io clusterroles - x", False),
        ("get /healthz", False),
    ],
)  # fmt: skip
def test_what_a_node_may(question: str, allowed: bool) -> None:
    decision = NodeAuthorizer(WORLD).authorize(ask(N1, question))
    assert decision.allowed is allowed, decision.reason


@pytest.mark.parametrize(
    ("selector", "allowed"),
    [
        ("spec.nodeName=n1", True),
        ("spec.nodeName==n1", True),
        ("status.phase!=Failed,spec.nodeName=n1", True),
        ("spec.nodeName=n2", False),
        ("spec.nodeName!=n1", False),
        ("", False),
        # One term, not two: the comma belongs to the value.
        (r"metadata.namespace!=x\,spec.nodeName=n1", False),
        (r"metadata.namespace!=x\,spec.nodeName\=n1", False),
        ("spec.nodeName=n1,,x", False),
    ],
)
def test_pods_are_listed_by_node(selector: str, allowed: bool) -> None:
    for verb in ("list", "watch"):
        asked = ask(N1, f"{verb} - pods", field_selector=selector)
        assert NodeAuthorizer(WORLD).authorize(asked).allowed is allowed
    asked = ask(N1, "deletecollection resource.k8s.io resourceslices", field_selector=selector)
    assert NodeAuthorizer(WORLD).authorize(asked).allowed is allowed


@pytest.mark.parametrize("who", [user("system:node:n1"), user("n1", "system:nodes"), user("ann", "system:masters")])
def test_others_are_no_nodes(who: Any) -> None:
    decision = NodeAuthorizer(WORLD).authorize(ask(who, "get - secrets a mounted"))
    assert not decision.allowed and not decision.reason


# ------------------------------------------------------------------------------------------------ NodeRestriction


def node(labels: dict[str, str] | None = None, taints: list[core.Taint] | None = None, name: str = "n1") -> core.Node:
    return core.Node(metadata=named(name, labels=labels), spec=core.NodeSpec(taints=taints))


def mirror(**changed: Any) -> core.Pod:
    made = pod("static", "n1", mirror=True)
    for key, value in changed.items():
        setattr(made.metadata if hasattr(made.metadata, key) else made.spec, key, value)
    return made


def owner(**changed: Any) -> meta.OwnerReference:
    return meta.OwnerReference(**{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "uid-n1"} | changed)


def token(name: str = "own", kind: str = "Pod", uid: str = "uid-own") -> authentication.TokenRequest:
    bound = authentication.BoundObjectReference(apiVersion="v1", kind=kind, name=name, uid=uid)
    spec = authentication.TokenRequestSpec(audiences=[], boundObjectRef=bound)
    return authentication.TokenRequest(metadata=named("robot", "a"), spec=spec)


UNBOUND = authentication.TokenRequest(
    metadata=named("robot", "a"), spec=authentication.TokenRequestSpec(audiences=[])
)
LEASE = coordination.Lease(metadata=named("n1", "kube-node-lease"))
FAR_LEASE = coordination.Lease(metadata=named("n2", "kube-node-lease"))
EVICTION = policy.Eviction(metadata=named("own", "a"))
TOKEN = {"resource": "serviceaccounts/token", "group": ""}


@pytest.mark.parametrize(
    ("operation", "new", "old", "more", "refusal"),
    [
        ("CREATE", mirror(), None, {}, ""),
        ("CREATE", mirror(ownerReferences=[owner()]), None, {}, ""),
        ("CREATE", mirror(annotations=None), None, {}, "can only create mirror pods"),
        ("CREATE", mirror(nodeName="n2"), None, {}, "spec.nodeName set to itself"),
        ("CREATE", mirror(nodeName=None), None, {}, "spec.nodeName set to itself"),
        ("CREATE", mirror(serviceAccountName="robot"), None, {}, "reference a service account"),
        ("CREATE", mirror(volumes=[secret_volume("crown")]), None, {}, "reference secrets"),
        ("CREATE", mirror(imagePullSecrets=[core.LocalObjectReference(name="s")]), None, {}, "reference secrets"),
        ("CREATE", mirror(ownerReferences=[owner(), owner()]), None, {}, "single owner"),
        ("CREATE", mirror(ownerReferences=[owner(name="n2")]), None, {}, "set to itself"),
        ("CREATE", mirror(ownerReferences=[owner(uid="old")]), None, {}, "UID mismatch: expected uid-n1 got old"),
        ("CREATE", mirror(ownerReferences=[owner(blockOwnerDeletion=True)]), None, {}, "blockOwnerDeletion"),
        ("UPDATE", OWN, OWN, {}, "can only create and delete mirror pods"),
        ("UPDATE", OWN, OWN, {"resource": "pods/status"}, ""),
        ("UPDATE", OWN, OWN, {"resource": "pods/resize"}, 'unexpected pod subresource "resize"'),
        ("CONNECT", None, OWN, {"resource": "pods/exec"}, 'unexpected pod subresource "exec"'),
        ("UPDATE", pod("other", "n2"), pod("other", "n2"), {"resource": "pods/status"}, "can only update pod status"),
        ("UPDATE", pod("x", "n1"), pod("x", "n2"), {"resource": "pods/status"}, "can only update pod status"),
        ("DELETE", None, OWN, {}, ""),
        ("DELETE", None, pod("other", "n2"), {}, "can only delete pods"),
        ("CREATE", EVICTION, None, {"resource": "pods/eviction", "group": ""}, ""),
        ("CREATE", EVICTION, None, {"resource": "pods/eviction", "group": "", "name": "other"}, "can only evict"),
        ("CREATE", node(), None, {}, ""),
        ("CREATE", node(taints=[core.Taint(key="k", effect="NoSchedule")]), None, {}, ""),
        ("CREATE", node(name="n2"), None, {}, 'node "n1" is not allowed to modify node "n2"'),
        ("CREATE", node({"kubernetes.io/arch": "x", "node.kubernetes.io/a": "", "x.org/a": ""}), None, {}, ""),
        ("CREATE", node({"node-role.kubernetes.io/x": ""}), None, {},
         'node "n1" is not allowed to set the following labels: node-role.kubernetes.io/x'),
        ("UPDATE", node({"a.k8s.io/x": ""}), node(), {}, 'node "n1" is not allowed to modify labels: a.k8s.io/x'),
        ("UPDATE", node(), node({"node-restriction.kubernetes.io/a": "b"}), {}, "not allowed to modify labels"),
        ("UPDATE", node({"x.org/a": "b"}), node({"x.org/a": "a"}), {}, ""),
        ("UPDATE", node(), node(taints=[core.Taint(key="k", effect="NoSchedule")]), {}, "not allowed to modify taints"),
        ("UPDATE", node({"node-role.kubernetes.io/x": ""}), node(), {"resource": "nodes/status"}, "modify labels"),
        ("UPDATE", node(name="n2"), node(name="n2"), {"resource": "nodes/status"}, "not allowed to modify node"),
        ("CREATE", token(), None, TOKEN, ""),
        ("CREATE", UNBOUND, None, TOKEN, "node requested token not bound to a pod"),
        ("CREATE", token(kind="Secret"), None, TOKEN, "bound to the Secret"),
        ("CREATE", token("gone"), None, TOKEN, "does not exist"),
        ("CREATE", token(uid="old"), None, TOKEN, "does not match the UID in record"),
        ("CREATE", token(uid=""), None, TOKEN, "not to a named pod"),
        ("CREATE", token("other", uid="uid-other"), None, TOKEN, "scheduled on a different node"),
        ("CREATE", LEASE, None, {}, ""),
        ("UPDATE", FAR_LEASE, FAR_LEASE, {}, "can only access leases with the same name as the requesting node"),
        ("CREATE", storage.CSINode(metadata=named("n2"), spec=storage.CSINodeSpec(drivers=[])), None, {},
         "can only access CSINodes with the same name"),
    ],
)  # fmt: skip
async def test_what_a_node_writes(operation: str, new: Any, old: Any, more: dict[str, str], refusal: str) -> None:
    plugin = NodeRestriction(WORLD)
    write = admission(N1, operation, new, old, **more)
    if not refusal:
        await plugin.validate(write)
    else:
        with pytest.raises(Forbidden) as refused:
            await plugin.validate(write)
        assert refusal in refused.value.message
    write.user = user("ann")
    await plugin.validate(write)


@pytest.mark.parametrize(
    ("audiences", "refusal"),
    [
        ([], ""),
        (["vault"], ""),
        (["inline"], ""),
        (["claimed"], ""),
        (["granted"], ""),
        (["other"], 'audience "other" not found in pod spec volume, system:node:n1 is not authorized to request'),
        (["vault", "inline"], "node may only request 0 or 1 audiences"),
    ],
)
async def test_a_node_asks_for_its_pods_audiences(audiences: list[str], refusal: str) -> None:
    def driver(name: str, audience: str) -> storage.CSIDriver:
        spec = storage.CSIDriverSpec(tokenRequests=[storage.TokenRequest(audience=audience)])
        return storage.CSIDriver(metadata=named(name), spec=spec)

    projection = core.VolumeProjection(
        serviceAccountToken=core.ServiceAccountTokenProjection(path="t", audience="vault")
    )
    world = World(
        pod("own", "n1", volumes=[
            core.Volume(name="t", projected=core.ProjectedVolumeSource(sources=[projection])),
            core.Volume(name="i", csi=core.CSIVolumeSource(driver="fast")),
            core.Volume(name="d", persistentVolumeClaim=core.PersistentVolumeClaimVolumeSource(claimName="disk")),
        ]),
        driver("fast", "inline"), driver("d", "claimed"), driver("unused", "other"),
        claim("disk", "pv"), volume("pv", "disk", "mount"),
        cluster_role("asker", rule("request-serviceaccounts-token-audience", "-", "granted", "robot")),
        bind("ClusterRole/asker", "Group/system:nodes"),
    )  # fmt: skip
    asked = token()
    asked.spec.audiences = audiences
    plugin = NodeRestriction(world, RbacAuthorizer(world))
    write = admission(N1, "CREATE", asked, **TOKEN)
    if not refusal:
        await plugin.validate(write)
        return
    with pytest.raises(Forbidden, match=refusal):
        await plugin.validate(write)
