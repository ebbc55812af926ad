"""The node authorizer: a kubelet may read what the pods on its node need, and write what is its own.

The identity is `system:node:NAME` in the group `system:nodes`. What a pod needs is read off its spec
(upstream keeps the same relation as a graph: plugin/pkg/auth/authorizer/node).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from pinnace.api.core import v1 as core
from pinnace.api.fieldselectors import parse_field_selector
from pinnace.api.storage import v1 as storage
from pinnace.apiserver.access import NO_OPINION, NODES, Attributes, Decision
from pinnace.apiserver.authentication.objects import Objects
from pinnace.apiserver.authorization.policy.cluster_roles import CLUSTER_ROLES
from pinnace.apiserver.authorization.policy.roles import parse_rules
from pinnace.apiserver.authorization.rbac import allows
from pinnace.client.transport import User

_PREFIX = "system:node:"
_LEASES = "kube-node-lease"
_MOST_REMEMBERED = 20_000
_READS = {"secrets": ("get", "list", "watch"), "configmaps": ("get", "list", "watch")}

MIRROR = "kubernetes.io/config.mirror"

Reference = tuple[str, str]      # (resource, name), in the pod's namespace; persistent volumes have none


def node_name(user: User) -> str:
    """The node that the user is, or "" for others."""
    if NODES in user.groups and user.name.startswith(_PREFIX):
        return user.name.removeprefix(_PREFIX)
    return ""


class NodeAuthorizer:
    """Decides for nodes; has no opinion on anybody else."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._rules = tuple(parse_rules(CLUSTER_ROLES["system:node"]))
        self._references: OrderedDict[tuple[str, str], frozenset[Reference]] = OrderedDict()

    def authorize(self, attributes: Attributes) -> Decision:
        user = attributes.user
        if NODES not in user.groups or not (node := node_name(user)):
            return NO_OPINION
        resource, group = attributes.resource, attributes.group
        match (group, resource):
            case ("", "secrets" | "configmaps" | "persistentvolumeclaims" | "persistentvolumes"):
                return self._referenced(node, attributes)
            case ("resource.k8s.io", "resourceclaims"):
                return self._referenced(node, attributes)
            case ("resource.k8s.io", "resourceslices"):
                return self._selected(node, attributes, ("list", "watch", "deletecollection"))
            case ("storage.k8s.io", "volumeattachments"):
                return self._attachment(node, attributes)
            case ("", "serviceaccounts"):
                return self._account(node, attributes)
            case ("", "nodes"):
                return self._own(node, attributes, attributes.verb == "create")
            case ("", "pods"):
                return self._pods(node, attributes)
            case ("coordination.k8s.io", "leases"):
                if attributes.namespace != _LEASES:
                    return _no(f'can only access leases in the "{_LEASES}" system namespace')
                return self._own(node, attributes, attributes.verb == "create")
            case ("storage.k8s.io", "csinodes"):
                return self._own(node, attributes, attributes.verb == "create")
        return self._by_rules(attributes)

    def _by_rules(self, attributes: Attributes) -> Decision:
        return Decision(any(allows(rule, attributes) for rule in self._rules), "")

    def _own(self, node: str, attributes: Attributes, unnamed: bool) -> Decision:
        # A create has no name to check yet: NodeRestriction looks at the object.
        if unnamed and not attributes.subresource:
            return self._by_rules(attributes)
        if attributes.name != node:
            return _no(f"node '{node}' cannot {attributes.verb} {attributes.resource} other than its own")
        return self._by_rules(attributes)

    def _referenced(self, node: str, attributes: Attributes) -> Decision:
        if attributes.subresource:
            # The status of a claim, where the rules name it; of nothing else.
            if not self._by_rules(attributes).allowed:
                return _no("cannot read subresource")
        elif attributes.verb not in _READS.get(attributes.resource, ("get",)):
            return _no("can only read resources of this type")
        if not attributes.name:
            return _no("No Object name found")
        wanted = (attributes.resource, attributes.name)
        for pod in self._own_pods(node):
            if pod.metadata.namespace == attributes.namespace and wanted in self._needs(pod):
                return Decision(True, "")
            if attributes.resource == "persistentvolumes":
                if any(volume.metadata.name == attributes.name for volume in self._volumes(pod)):
                    return Decision(True, "")
            elif attributes.resource == "secrets":
                secret = (attributes.namespace, attributes.name)
                if any(secret in _secrets(volume) for volume in self._volumes(pod)):
                    return Decision(True, "")
        return _no(f"no relationship found between node '{node}' and this object")

    def _account(self, node: str, attributes: Attributes) -> Decision:
        token = attributes.subresource == "token" and attributes.verb == "create"
        if not token and (attributes.subresource or attributes.verb != "get"):
            return _no("can only create tokens for individual service accounts")
        for pod in self._own_pods(node):
            if pod.metadata.namespace == attributes.namespace and pod.spec.serviceAccountName == attributes.name:
                return Decision(True, "")
        return _no(f"no relationship found between node '{node}' and this object")

    def _pods(self, node: str, attributes: Attributes) -> Decision:
        verb = attributes.verb
        if verb == "create" and not attributes.subresource:
            return self._by_rules(attributes)
        if verb in ("list", "watch"):
            return self._selected(node, attributes, ("list", "watch"))
        pod = self._objects.get(core.Pod, attributes.namespace, attributes.name)
        if pod is None:
            # Told apart from "forbidden" only for what may have been its own: upstream answers by the graph.
            return self._by_rules(attributes)
        if pod.spec.nodeName == node:
            return self._by_rules(attributes)
        return _no(f"no relationship found between node '{node}' and this object")

    def _selected(self, node: str, attributes: Attributes, verbs: tuple[str, ...]) -> Decision:
        if attributes.verb not in verbs or attributes.subresource:
            return _no(f"can only {', '.join(verbs)} resources of this type")
        try:
            chosen = parse_field_selector(attributes.field_selector).exact("spec.nodeName")
        except ValueError:
            chosen = None
        if chosen != node:
            what = f"{'/'.join(verbs)} {attributes.resource}"
            return _no(f"can only {what} with spec.nodeName field selector")
        return Decision(True, "")

    def _attachment(self, node: str, attributes: Attributes) -> Decision:
        if attributes.verb != "get" or attributes.subresource:
            return _no("can only get individual resources of this type")
        found = self._objects.get(storage.VolumeAttachment, "", attributes.name)
        if found is None or found.spec.nodeName != node:
            return _no(f"no relationship found between node '{node}' and this object")
        return Decision(True, "")

    def _own_pods(self, node: str) -> Iterator[core.Pod]:
        """A mirror pod is the node's own word, and gives it no rights."""
        return (pod for pod in self._objects.pods_on(node) if MIRROR not in (pod.metadata.annotations or {}))

    def _volumes(self, pod: core.Pod) -> Iterator[core.PersistentVolume]:
        """The volumes that are bound to the pod's claims; a volume that does not say so too is another's."""
        namespace = pod.metadata.namespace or ""
        for resource, name in self._needs(pod):
            if resource != "persistentvolumeclaims":
                continue
            claim = self._objects.get(core.PersistentVolumeClaim, namespace, name)
            if claim is None or not claim.spec.volumeName:
                continue
            volume = self._objects.get(core.PersistentVolume, "", claim.spec.volumeName)
            bound = volume.spec.claimRef if volume is not None else None
            if volume is not None and bound is not None and (bound.namespace, bound.name) == (namespace, name):
                yield volume

    def _needs(self, pod: core.Pod) -> frozenset[Reference]:
        key = (pod.metadata.uid or "", pod.metadata.resourceVersion or "")
        known = self._references.get(key)
        if known is None:
            known = frozenset(references(pod))
            self._references[key] = known
            if len(self._references) > _MOST_REMEMBERED:
                self._references.popitem(last=False)
        return known


def references(pod: core.Pod) -> Iterator[Reference]:
    """Every object of its namespace that a pod's spec names."""
    spec = pod.spec
    for pull in spec.imagePullSecrets or ():
        if pull.name:
            yield "secrets", pull.name
    for container in (*(spec.initContainers or ()), *(spec.containers or ()), *(spec.ephemeralContainers or ())):
        for source in container.envFrom or ():
            if source.configMapRef is not None and source.configMapRef.name:
                yield "configmaps", source.configMapRef.name
            if source.secretRef is not None and source.secretRef.name:
                yield "secrets", source.secretRef.name
        for variable in container.env or ():
            value = variable.valueFrom
            if value is not None and value.configMapKeyRef is not None and value.configMapKeyRef.name:
                yield "configmaps", value.configMapKeyRef.name
            if value is not None and value.secretKeyRef is not None and value.secretKeyRef.name:
                yield "secrets", value.secretKeyRef.name
    for volume in spec.volumes or ():
        yield from _of_volume(pod, volume)
    for claim in spec.resourceClaims or ():
        if claim.resourceClaimName:
            yield "resourceclaims", claim.resourceClaimName
    for made in (pod.status.resourceClaimStatuses if pod.status is not None else None) or ():
        if made.resourceClaimName:
            yield "resourceclaims", made.resourceClaimName


def _secrets(volume: core.PersistentVolume) -> set[tuple[str, str]]:
    """Namespace and name of the secrets that a node needs to mount a volume."""
    csi = volume.spec.csi
    named = (csi.nodeStageSecretRef, csi.nodePublishSecretRef, csi.nodeExpandSecretRef) if csi is not None else ()
    return {(ref.namespace or "", ref.name or "") for ref in named if ref is not None}


def _of_volume(pod: core.Pod, volume: core.Volume) -> Iterator[Reference]:
    if volume.secret is not None and volume.secret.secretName:
        yield "secrets", volume.secret.secretName
    if volume.configMap is not None and volume.configMap.name:
        yield "configmaps", volume.configMap.name
    if volume.persistentVolumeClaim is not None:
        yield "persistentvolumeclaims", volume.persistentVolumeClaim.claimName
    if volume.ephemeral is not None:
        yield "persistentvolumeclaims", f"{pod.metadata.name}-{volume.name}"
    if volume.projected is not None:
        for source in volume.projected.sources or ():
            if source.secret is not None and source.secret.name:
                yield "secrets", source.secret.name
            if source.configMap is not None and source.configMap.name:
                yield "configmaps", source.configMap.name
    if volume.csi is not None and volume.csi.nodePublishSecretRef is not None:
        yield "secrets", volume.csi.nodePublishSecretRef.name or ""


def _no(reason: str) -> Decision:
    return Decision(False, reason)
