"""What the server keeps of a pod when somebody writes it: the rules of each path, in place (upstream's strategies)."""

from __future__ import annotations

import msgspec

from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.apiserver.resource import Context

TERMINAL = ("Succeeded", "Failed")


def prepare_update(new: core.Pod, old: core.Pod, _: Context) -> None:
    new.status = old.status
    # Ephemeral containers have a path of their own.
    new.spec.ephemeralContainers = old.spec.ephemeralContainers


def prepare_status(new: core.Pod, old: core.Pod, _: Context) -> None:
    new.spec = old.spec
    new.metadata.deletionTimestamp = old.metadata.deletionTimestamp
    new.metadata.ownerReferences = old.metadata.ownerReferences
    if not new.status.qosClass:
        new.status.qosClass = old.status.qosClass
    # The plural fields and their singular elders say the same.
    status = new.status
    if status.podIP and not status.podIPs:
        status.podIPs = [core.PodIP(ip=status.podIP)]
    elif status.podIPs:
        status.podIP = status.podIPs[0].ip
    if status.hostIP and not status.hostIPs:
        status.hostIPs = [core.HostIP(ip=status.hostIP)]


def prepare_ephemeral(new: core.Pod, old: core.Pod, _: Context) -> None:
    """Only the list of ephemeral containers is taken from what was sent."""
    new.spec = msgspec.structs.replace(old.spec, ephemeralContainers=new.spec.ephemeralContainers)
    new.status = old.status
    new.metadata = keep_metadata(new, old)


def keep_metadata(new: core.Pod, old: core.Pod) -> meta.ObjectMeta:
    """The stored metadata, as a copy: the server writes generation and revision into it."""
    return msgspec.structs.replace(old.metadata, managedFields=new.metadata.managedFields)


def grace(pod: core.Pod, asked: int | None) -> int | None:
    """How long a deletion waits: not at all for a pod that no node runs, or that has ended."""
    seconds = asked if asked is not None else pod.spec.terminationGracePeriodSeconds or 0
    if not pod.spec.nodeName or pod.status.phase in TERMINAL:
        return 0
    # A negative period means "at once, but through the kubelet".
    return 1 if seconds < 0 else seconds
