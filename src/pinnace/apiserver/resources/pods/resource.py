"""The Pod's row of the table."""

from __future__ import annotations

from pinnace.api.core import v1 as core
from pinnace.api.kinds import kind_of
from pinnace.apiserver.resource import Resource, Subresource
from pinnace.apiserver.resources import connect
from pinnace.apiserver.resources.pods import resize
from pinnace.apiserver.resources.pods.binding import BINDING
from pinnace.apiserver.resources.pods.columns import COLUMNS
from pinnace.apiserver.resources.pods.defaults import default, prepare_create
from pinnace.apiserver.resources.pods.eviction import EVICTION
from pinnace.apiserver.resources.pods.update import grace, prepare_ephemeral, prepare_status, prepare_update
from pinnace.apiserver.resources.pods.validation import (
    validate_create,
    validate_ephemeral,
    validate_status,
    validate_update,
)
from pinnace.apiserver.resources.podspec.warnings import pod_warnings


def _address(pod: core.Pod) -> str:
    if pod.status.podIPs:
        return pod.status.podIPs[0].ip
    return pod.status.podIP or ""


POD: Resource[core.Pod] = Resource(
    kind=kind_of(core.Pod),
    default=default,
    prepare_create=prepare_create,
    prepare_update=prepare_update,
    validate_create=validate_create,
    validate_update=validate_update,
    warnings=pod_warnings,
    columns=COLUMNS,
    fields={
        "spec.nodeName": lambda pod: pod.spec.nodeName or "",
        "spec.restartPolicy": lambda pod: pod.spec.restartPolicy or "",
        "spec.schedulerName": lambda pod: pod.spec.schedulerName or "",
        "spec.serviceAccountName": lambda pod: pod.spec.serviceAccountName or "",
        "spec.hostNetwork": lambda pod: "true" if pod.spec.hostNetwork else "false",
        "status.phase": lambda pod: pod.status.phase or "",
        "status.podIP": _address,
        "status.nominatedNodeName": lambda pod: pod.status.nominatedNodeName or "",
    },
    subresources=(
        connect.ATTACH,
        BINDING,
        Subresource("ephemeralcontainers", prepare=prepare_ephemeral, validate=validate_ephemeral),
        EVICTION,
        connect.EXEC,
        connect.LOG,
        connect.PORT_FORWARD,
        connect.POD_PROXY,
        Subresource("resize", prepare=resize.prepare, validate=resize.validate),
        Subresource("status", prepare=prepare_status, validate=validate_status, generation=False),
    ),
    grace=grace,
    returns_deleted=True,
)
RESOURCES = (POD,)
