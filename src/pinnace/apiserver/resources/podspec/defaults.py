"""Defaults of a pod spec, wherever it stands: in a Pod, in a template, in a CronJob's template's template.

Called by the `default` of every kind that holds a pod spec; upstream's SetDefaults_* of core/v1. What only a
Pod gets (requests from limits, enableServiceLinks, host ports) is in `pods/defaults.py`.
"""

from __future__ import annotations

from pinnace.api.core import v1 as core

FILE_MODE = 0o644
TOKEN_SECONDS = 3600
GRACE_SECONDS = 30


def default_pod_template(template: core.PodTemplateSpec | None) -> None:
    if template is not None:
        default_pod_spec(template.spec)


def default_pod_spec(spec: core.PodSpec) -> None:
    if not spec.dnsPolicy:
        spec.dnsPolicy = "ClusterFirst"
    if not spec.restartPolicy:
        spec.restartPolicy = "Always"
    if spec.securityContext is None:
        spec.securityContext = core.PodSecurityContext()
    if spec.terminationGracePeriodSeconds is None:
        spec.terminationGracePeriodSeconds = GRACE_SECONDS
    if not spec.schedulerName:
        spec.schedulerName = "default-scheduler"
    # The deprecated name of the field is kept equal to the one in use.
    if spec.serviceAccountName:
        spec.serviceAccount = spec.serviceAccountName
    elif spec.serviceAccount:
        spec.serviceAccountName = spec.serviceAccount
    for volume in spec.volumes or ():
        default_volume(volume)
    for container in spec.containers or ():
        default_container(container)
    for container in spec.initContainers or ():
        default_container(container)
    for ephemeral in spec.ephemeralContainers or ():
        default_container(ephemeral)


def default_container(container: core.Container | core.EphemeralContainer) -> None:
    if not container.imagePullPolicy:
        container.imagePullPolicy = pull_policy(container.image or "")
    if not container.terminationMessagePath:
        container.terminationMessagePath = "/dev/termination-log"
    if not container.terminationMessagePolicy:
        container.terminationMessagePolicy = "File"
    for port in container.ports or ():
        if not port.protocol:
            port.protocol = "TCP"
    for variable in container.env or ():
        source = variable.valueFrom
        if source is not None and source.fieldRef is not None and not source.fieldRef.apiVersion:
            source.fieldRef.apiVersion = "v1"
    if container.livenessProbe is not None:
        default_probe(container.livenessProbe)
    if container.readinessProbe is not None:
        default_probe(container.readinessProbe)
    if container.startupProbe is not None:
        default_probe(container.startupProbe)
    lifecycle = container.lifecycle
    if lifecycle is not None:
        for handler in (lifecycle.postStart, lifecycle.preStop):
            if handler is not None and handler.httpGet is not None:
                _default_http_get(handler.httpGet)


def default_probe(probe: core.Probe) -> None:
    if not probe.timeoutSeconds:
        probe.timeoutSeconds = 1
    if not probe.periodSeconds:
        probe.periodSeconds = 10
    if not probe.successThreshold:
        probe.successThreshold = 1
    if not probe.failureThreshold:
        probe.failureThreshold = 3
    if probe.httpGet is not None:
        _default_http_get(probe.httpGet)
    if probe.grpc is not None and probe.grpc.service is None:
        probe.grpc.service = ""


def _default_http_get(action: core.HTTPGetAction) -> None:
    if not action.path:
        action.path = "/"
    if not action.scheme:
        action.scheme = "HTTP"


def default_volume(volume: core.Volume) -> None:
    if volume.configMap is not None:
        if volume.configMap.defaultMode is None:
            volume.configMap.defaultMode = FILE_MODE
    elif volume.secret is not None:
        if volume.secret.defaultMode is None:
            volume.secret.defaultMode = FILE_MODE
    elif volume.projected is not None:
        _default_projected(volume.projected)
    elif volume.hostPath is not None:
        if volume.hostPath.type is None:
            volume.hostPath.type = ""
    elif volume.downwardAPI is not None:
        if volume.downwardAPI.defaultMode is None:
            volume.downwardAPI.defaultMode = FILE_MODE
        _default_downward_items(volume.downwardAPI.items)
    elif volume.ephemeral is not None:
        template = volume.ephemeral.volumeClaimTemplate
        if template is not None:
            default_claim_spec(template.spec)
    elif volume.image is not None:
        if not volume.image.pullPolicy:
            volume.image.pullPolicy = pull_policy(volume.image.reference or "")
    elif volume.emptyDir is None and volume.persistentVolumeClaim is None and not _network_volume(volume):
        volume.emptyDir = core.EmptyDirVolumeSource()


def _network_volume(volume: core.Volume) -> bool:
    """Volumes of storage systems, most of them served by CSI drivers today: their own small defaults."""
    if volume.iscsi is not None:
        if not volume.iscsi.iscsiInterface:
            volume.iscsi.iscsiInterface = "default"
        return True
    if volume.rbd is not None:
        default_rbd(volume.rbd)
        return True
    if volume.azureDisk is not None:
        default_azure_disk(volume.azureDisk)
        return True
    if volume.scaleIO is not None:
        default_scale_io(volume.scaleIO)
        return True
    return any(
        source is not None
        for source in (
            volume.nfs, volume.csi, volume.cephfs, volume.glusterfs, volume.fc, volume.flexVolume, volume.cinder,
            volume.awsElasticBlockStore, volume.gcePersistentDisk, volume.azureFile, volume.vsphereVolume,
            volume.portworxVolume, volume.gitRepo, volume.flocker, volume.quobyte, volume.storageos,
            volume.photonPersistentDisk,
        )
    )  # fmt: skip


def default_rbd(rbd: core.RBDVolumeSource | core.RBDPersistentVolumeSource) -> None:
    rbd.pool = rbd.pool or "rbd"
    rbd.user = rbd.user or "admin"
    rbd.keyring = rbd.keyring or "/etc/ceph/keyring"


def default_azure_disk(disk: core.AzureDiskVolumeSource) -> None:
    disk.cachingMode = disk.cachingMode or "ReadWrite"
    disk.kind = disk.kind or "Shared"
    disk.fsType = disk.fsType or "ext4"
    if disk.readOnly is None:
        disk.readOnly = False


def default_scale_io(volume: core.ScaleIOVolumeSource | core.ScaleIOPersistentVolumeSource) -> None:
    volume.storageMode = volume.storageMode or "ThinProvisioned"
    volume.fsType = volume.fsType or "xfs"


def _default_projected(projected: core.ProjectedVolumeSource) -> None:
    if projected.defaultMode is None:
        projected.defaultMode = FILE_MODE
    for source in projected.sources or ():
        if source.serviceAccountToken is not None and source.serviceAccountToken.expirationSeconds is None:
            source.serviceAccountToken.expirationSeconds = TOKEN_SECONDS
        if source.downwardAPI is not None:
            _default_downward_items(source.downwardAPI.items)


def _default_downward_items(items: list[core.DownwardAPIVolumeFile] | None) -> None:
    for item in items or ():
        if item.fieldRef is not None and not item.fieldRef.apiVersion:
            item.fieldRef.apiVersion = "v1"


def default_claim_spec(spec: core.PersistentVolumeClaimSpec | None) -> None:
    if spec is not None and spec.volumeMode is None:
        spec.volumeMode = "Filesystem"


def pull_policy(image: str) -> str:
    """Always for `:latest` or no tag at all; an image named by digest alone never changes."""
    reference, _, digest = image.partition("@")
    tag = reference.rpartition("/")[2].partition(":")[2]
    if digest and not tag:
        return "IfNotPresent"
    return "Always" if tag in ("", "latest") else "IfNotPresent"
