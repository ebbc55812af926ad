"""ServiceAccount: every pod acts as an account, and finds a token for it where clients look.

The volume is upstream's: a projected token of an hour, the authority's certificate, the namespace.
"""

from __future__ import annotations

from pinnace.api import codec
from pinnace.api.core import v1 as core
from pinnace.api.errors import Forbidden
from pinnace.apiserver.access import Admission, AdmissionPlugin, Concern
from pinnace.apiserver.authentication.objects import Objects
from pinnace.apiserver.authorization.node import MIRROR, references
from pinnace.base.randomness import Randomness

MOUNT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
_TOKEN_SECONDS = 3607      # upstream's odd number tells these tokens apart from asked-for ones
_VOLUME_PREFIX = "kube-api-access-"
# In every pod the same; nobody changes it, as nobody changes what is stored.
_TOKEN = core.ProjectedVolumeSource(
    defaultMode=0o644,
    sources=[
        core.VolumeProjection(
            serviceAccountToken=core.ServiceAccountTokenProjection(expirationSeconds=_TOKEN_SECONDS, path="token")
        ),
        core.VolumeProjection(
            configMap=core.ConfigMapProjection(
                name="kube-root-ca.crt", items=[core.KeyToPath(key="ca.crt", path="ca.crt")]
            )
        ),
        core.VolumeProjection(
            downwardAPI=core.DownwardAPIProjection(
                items=[
                    core.DownwardAPIVolumeFile(
                        path="namespace",
                        fieldRef=core.ObjectFieldSelector(apiVersion="v1", fieldPath="metadata.namespace"),
                    )
                ]
            )
        ),
    ],
)


class ServiceAccountAdmission(AdmissionPlugin):
    """Mutates pods on creation. A mirror pod, whose truth is a file on its node, acts as nobody."""

    mutates = Concern(("CREATE",), ("pods",), whole=True)
    validates = None

    def __init__(self, objects: Objects, randomness: Randomness) -> None:
        self._objects = objects
        self._randomness = randomness

    async def mutate(self, admission: Admission) -> None:
        pod: core.Pod = admission.object
        if MIRROR in (pod.metadata.annotations or ()):
            _check_mirror(admission, pod)
            return
        spec = pod.spec
        spec.serviceAccountName = spec.serviceAccountName or spec.serviceAccount or "default"
        spec.serviceAccount = spec.serviceAccountName
        account = self._objects.get(core.ServiceAccount, admission.namespace, spec.serviceAccountName)
        if account is None:
            raise Forbidden.to(
                "pods", "", admission.name,
                f"error looking up service account {admission.namespace}/{spec.serviceAccountName}: "
                f'serviceaccount "{spec.serviceAccountName}" not found',
            )  # fmt: skip
        # What the pod says counts more than what its account says.
        wanted, by_default = spec.automountServiceAccountToken, account.automountServiceAccountToken
        if wanted if wanted is not None else by_default is not False:
            self._mount(spec)
        if not spec.imagePullSecrets and account.imagePullSecrets:
            spec.imagePullSecrets = [codec.copy(pull) for pull in account.imagePullSecrets]

    def _mount(self, spec: core.PodSpec) -> None:
        volumes, name = spec.volumes or [], ""
        for volume in volumes:
            if volume.projected and volume.name.startswith(_VOLUME_PREFIX):
                name = volume.name
                break
        fresh = not name
        if fresh:
            taken = {volume.name for volume in volumes} if volumes else ()
            name = _VOLUME_PREFIX + self._randomness.suffix()
            while name in taken:
                name = _VOLUME_PREFIX + self._randomness.suffix()
        mounted = False
        for container in (*(spec.initContainers or ()), *(spec.containers or ())):
            mounts = container.volumeMounts or []
            if mounts and any(mount.mountPath == MOUNT_PATH for mount in mounts):
                continue
            mount = core.VolumeMount(name=name, readOnly=True, mountPath=MOUNT_PATH)
            container.volumeMounts = [*mounts, mount]
            mounted = True
        if fresh and mounted:
            spec.volumes = [*volumes, core.Volume(name=name, projected=_TOKEN)]


def _check_mirror(admission: Admission, pod: core.Pod) -> None:
    why = ""
    if pod.spec.serviceAccountName or pod.spec.serviceAccount:
        why = "a mirror pod may not reference service accounts"
    elif any(resource == "secrets" for resource, _ in references(pod)):
        why = "a mirror pod may not reference secrets"
    elif any(
        source.serviceAccountToken is not None
        for volume in pod.spec.volumes or () if volume.projected is not None
        for source in volume.projected.sources or ()
    ):  # fmt: skip
        why = "a mirror pod may not use ServiceAccountToken volume projections"
    if why:
        raise Forbidden.to("pods", "", admission.name, why)
