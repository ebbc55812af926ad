"""NodeRestriction: a kubelet changes its own node and the pods bound to it, and nothing of what steers pods.

Rules are upstream's plugin/pkg/admission/noderestriction: the labels a node may set on itself, no taints, no
pods but mirror pods, tokens only for pods that it runs.
"""

from __future__ import annotations

from collections.abc import Iterator

from cryptography.x509.oid import NameOID

from pinnace.api.authentication import v1 as authentication
from pinnace.api.certificates import v1 as certificates
from pinnace.api.coordination import v1 as coordination
from pinnace.api.core import v1 as core
from pinnace.api.errors import Forbidden
from pinnace.api.meta import v1 as meta
from pinnace.api.policy import v1 as policy
from pinnace.api.storage import v1 as storage
from pinnace.apiserver.access import Admission, AdmissionPlugin, Attributes, Authorizer, Concern
from pinnace.apiserver.admission.certificates import asked_for
from pinnace.apiserver.authentication.objects import Objects
from pinnace.apiserver.authorization.node import MIRROR, node_name, references

_OWN_LABELS = frozenset(
    {
        "kubernetes.io/hostname", "kubernetes.io/os", "kubernetes.io/arch", "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch", "beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type",
        "failure-domain.beta.kubernetes.io/region", "failure-domain.beta.kubernetes.io/zone",
        "topology.kubernetes.io/region", "topology.kubernetes.io/zone",
    }
)  # fmt: skip
_ASK_AUDIENCE = "request-serviceaccounts-token-audience"
_NODE_SIGNERS = ("kubernetes.io/kube-apiserver-client-kubelet", "kubernetes.io/kubelet-serving")
_OWN_DOMAINS = ("kubelet.kubernetes.io", "node.kubernetes.io")


class NodeRestriction(AdmissionPlugin):
    """Validates what nodes write; others pass. The authorizer knows of audiences that nodes may ask tokens for
    beyond those that their pods name."""

    mutates = None
    validates = Concern(nodes=True)

    def __init__(self, objects: Objects, authorizer: Authorizer | None = None) -> None:
        self._objects = objects
        self._authorizer = authorizer

    async def validate(self, admission: Admission) -> None:
        node = node_name(admission.user)
        if not node:
            return
        match (admission.group, admission.resource, admission.subresource):
            case ("", "pods", ""):
                self._pod(admission, node)
            case ("", "pods", "status"):
                self._pod_status(admission, node)
            case ("", "pods", "eviction"):
                self._eviction(admission, node)
            case ("", "pods", other):
                why = f'unexpected pod subresource "{other}", only "status" and "eviction" are allowed'
                raise _forbidden(admission, why)
            case ("", "nodes", _):
                self._node(admission, node)
            case ("", "serviceaccounts", "token"):
                self._token(admission, node)
            case ("coordination.k8s.io", "leases", ""):
                self._named(admission, node, coordination.Lease)
            case ("certificates.k8s.io", "certificatesigningrequests", ""):
                self._certificate(admission)
            case ("storage.k8s.io", "csinodes", ""):
                self._named(admission, node, storage.CSINode)

    def _pod(self, admission: Admission, node: str) -> None:
        match admission.operation:
            case "CREATE":
                self._mirror(admission, node)
            case "DELETE":
                self._bound(admission, node, "can only delete pods with spec.nodeName set to itself")
            case _:
                why = f'node "{node}" can only create and delete mirror pods'
                raise _forbidden(admission, f'unexpected operation "{admission.operation}", {why}')

    def _mirror(self, admission: Admission, node: str) -> None:
        pod = admission.object
        if not isinstance(pod, core.Pod) or MIRROR not in (pod.metadata.annotations or {}):
            raise _forbidden(
                admission, f'pod does not have "{MIRROR}" annotation, node "{node}" can only create mirror pods'
            )
        if pod.spec.nodeName != node:
            raise _forbidden(admission, f'node "{node}" can only create pods with spec.nodeName set to itself')
        self._owner(admission, node, pod.metadata.ownerReferences or [])
        # What a pod names its node may read: it must not name it itself.
        if pod.spec.serviceAccountName:
            raise _forbidden(admission, f'node "{node}" can not create pods that reference a service account')
        named = next(references(pod), None)
        if named is not None:
            raise _forbidden(admission, f'node "{node}" can not create pods that reference {named[0]}')

    def _owner(self, admission: Admission, node: str, owners: list[meta.OwnerReference]) -> None:
        """Nobody owns a mirror pod but its node: an owner decides when it is collected."""
        if len(owners) > 1:
            raise _forbidden(
                admission, f'node "{node}" can only create pods with a single owner reference set to itself'
            )
        for owner in owners:
            if (owner.apiVersion, owner.kind, owner.name) != ("v1", "Node", node):
                raise _forbidden(admission, f'node "{node}" can only create pods with an owner reference set to itself')
            if owner.blockOwnerDeletion:
                raise _forbidden(
                    admission, f'node "{node}" must not set blockOwnerDeletion on an owner reference'
                )
            found = self._objects.get(core.Node, "", node)
            uid = found.metadata.uid if found is not None else ""
            if uid != owner.uid:
                raise _forbidden(admission, f'node "{node}" UID mismatch: expected {uid} got {owner.uid}')

    def _pod_status(self, admission: Admission, node: str) -> None:
        old, new = admission.old_object, admission.object
        if not isinstance(old, core.Pod) or not isinstance(new, core.Pod):
            raise _forbidden(admission, f'unexpected operation "{admission.operation}"')
        if old.spec.nodeName != node:
            raise _forbidden(
                admission, f'node "{node}" can only update pod status for pods with spec.nodeName set to itself'
            )
        if (old.metadata.labels or {}) != (new.metadata.labels or {}):
            raise _forbidden(admission, f'node "{node}" cannot update labels through pod status')

    def _eviction(self, admission: Admission, node: str) -> None:
        eviction = admission.object
        if not isinstance(eviction, policy.Eviction):
            raise _forbidden(admission, "unexpected type")
        self._bound(admission, node, "can only evict pods with spec.nodeName set to itself")

    def _bound(self, admission: Admission, node: str, why: str) -> None:
        pod = self._objects.get(core.Pod, admission.namespace, admission.name)
        if pod is not None and pod.spec.nodeName != node:
            raise _forbidden(admission, f'node "{node}" {why}')

    def _node(self, admission: Admission, node: str) -> None:
        new, old = admission.object, admission.old_object
        name = admission.name or (new.metadata.name if isinstance(new, core.Node) else "")
        if name != node:
            raise _forbidden(admission, f'node "{node}" is not allowed to modify node "{name}"')
        if admission.operation == "CREATE" and isinstance(new, core.Node):
            if new.spec.configSource is not None:
                raise _forbidden(admission, f'node "{node}" is not allowed to create pods with a non-nil configSource')
            _check_labels(admission, f'node "{node}" is not allowed to set the following labels', {}, new)
        elif admission.operation == "UPDATE" and isinstance(new, core.Node) and isinstance(old, core.Node):
            if (new.spec.taints or []) != (old.spec.taints or []):
                raise _forbidden(admission, f'node "{node}" is not allowed to modify taints')
            if (new.metadata.ownerReferences or []) != (old.metadata.ownerReferences or []):
                raise _forbidden(admission, f'node "{node}" is not allowed to modify its ownerReferences')
            before = old.metadata.labels or {}
            _check_labels(admission, f'node "{node}" is not allowed to modify labels', before, new)

    def _token(self, admission: Admission, node: str) -> None:
        request = admission.object
        if not isinstance(request, authentication.TokenRequest):
            raise _forbidden(admission, "unexpected type")
        bound = request.spec.boundObjectRef
        if bound is None or bound.kind != "Pod" or not bound.name or not bound.uid:
            raise _forbidden(admission, "node requested token not bound to a pod" if bound is None else
                             f"node requested token bound to the {bound.kind}, and not to a named pod")
        pod = self._objects.get(core.Pod, admission.namespace, bound.name)
        if pod is None:
            raise _forbidden(admission, f"node requested token bound to a pod that does not exist: {bound.name}")
        if pod.metadata.uid != bound.uid:
            raise _forbidden(admission, "the UID in the bound object reference does not match the UID in record")
        if pod.spec.nodeName != node:
            raise _forbidden(admission, "node requested token bound to a pod scheduled on a different node")
        self._audience(admission, request.spec.audiences or [], pod)

    def _audience(self, admission: Admission, audiences: list[str], pod: core.Pod) -> None:
        """A node asks only for audiences that the pod's volumes name: others would make it a forger of tokens."""
        if len(audiences) > 1:
            raise _forbidden(admission, "node may only request 0 or 1 audiences")
        for audience in audiences:
            if audience in self._audiences(pod):
                continue
            question = Attributes(
                admission.user, _ASK_AUDIENCE, "", "*", audience, namespace=admission.namespace, name=admission.name
            )
            if self._authorizer is None or not self._authorizer.authorize(question).allowed:
                who = f"{admission.user.name} is not authorized to request tokens for this audience"
                raise _forbidden(admission, f'audience "{audience}" not found in pod spec volume, {who}')

    def _audiences(self, pod: core.Pod) -> Iterator[str]:
        """Those of the pod's projected tokens, and of the CSI drivers of its volumes."""
        for volume in pod.spec.volumes or ():
            for source in (volume.projected.sources or ()) if volume.projected is not None else ():
                if source.serviceAccountToken is not None:
                    yield source.serviceAccountToken.audience or ""
            driver = self._objects.get(storage.CSIDriver, "", self._driver(pod, volume))
            for asked in (driver.spec.tokenRequests or ()) if driver is not None else ():
                yield asked.audience

    def _driver(self, pod: core.Pod, volume: core.Volume) -> str:
        """The CSI driver behind a volume; "" if there is none."""
        if volume.csi is not None:
            return volume.csi.driver
        name = ""
        if volume.persistentVolumeClaim is not None:
            name = volume.persistentVolumeClaim.claimName
        elif volume.ephemeral is not None:
            name = f"{pod.metadata.name}-{volume.name}"
        claim = self._objects.get(core.PersistentVolumeClaim, pod.metadata.namespace or "", name) if name else None
        if claim is None or not claim.spec.volumeName:
            return ""
        found = self._objects.get(core.PersistentVolume, "", claim.spec.volumeName)
        return found.spec.csi.driver if found is not None and found.spec.csi is not None else ""

    def _certificate(self, admission: Admission) -> None:
        """A node asks for certificates of its own name only."""
        request, name = admission.object, admission.user.name
        if not isinstance(request, certificates.CertificateSigningRequest):
            return
        if request.spec.signerName in _NODE_SIGNERS and asked_for(admission, request, NameOID.COMMON_NAME) != [name]:
            raise _forbidden(admission, f"can only create a node CSR with CN={name}")

    def _named(self, admission: Admission, node: str, kind: type[coordination.Lease] | type[storage.CSINode]) -> None:
        new = admission.object
        name = admission.name or (new.metadata.name if isinstance(new, kind) else "")
        if name != node:
            what = "leases" if kind is coordination.Lease else "CSINodes"
            raise _forbidden(admission, f"can only access {what} with the same name as the requesting node")


def _check_labels(admission: Admission, why: str, old: dict[str, str], node: core.Node) -> None:
    new = node.metadata.labels or {}
    changed = {label for label in {*old, *new} if old.get(label) != new.get(label)}
    refused = sorted(label for label in changed if not _may_set(label))
    if refused:
        raise _forbidden(admission, f"{why}: {', '.join(refused)}")


def _may_set(label: str) -> bool:
    if label in _OWN_LABELS:
        return True
    domain, slash, _ = label.partition("/")
    if not slash:
        return True
    if any(domain == own or domain.endswith(f".{own}") for own in _OWN_DOMAINS):
        return True
    if domain == "node-restriction.kubernetes.io" or domain.endswith(".node-restriction.kubernetes.io"):
        return False
    return not any(
        domain == kept or domain.endswith(f".{kept}") for kept in ("kubernetes.io", "k8s.io")
    )


def _forbidden(admission: Admission, why: str) -> Forbidden:
    return Forbidden.to(admission.resource, admission.group, admission.name, why)
