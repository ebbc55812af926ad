"""Every kind that the server serves, one row each.

The server calls `resources/metadata.py`'s `validate_object_meta` and `validate_object_meta_update` for all of them,
before the row's own validation; a row says only what is particular to its kind.
"""

from __future__ import annotations

from typing import Any

from pinnace.apiserver.resource import Resource
from pinnace.apiserver.resources import (
    admissionregistration,
    certificatesigningrequests,
    configmaps,
    cronjobs,
    daemonsets,
    deployments,
    deviceresources,
    endpoints,
    events,
    extensions,
    flowcontrol,
    horizontalpodautoscalers,
    jobs,
    leases,
    namespaces,
    networking,
    nodes,
    others,
    persistentvolumeclaims,
    persistentvolumes,
    poddisruptionbudgets,
    priorityclasses,
    quotas,
    rbac,
    replicasets,
    reviews,
    secrets,
    serviceaccounts,
    statefulsets,
    storage,
)
from pinnace.apiserver.resources.pods import resource as pods
from pinnace.apiserver.resources.services import resource as services

RESOURCES: tuple[Resource[Any], ...] = (
    *pods.RESOURCES,
    *services.RESOURCES,
    *admissionregistration.RESOURCES,
    *certificatesigningrequests.RESOURCES,
    *configmaps.RESOURCES,
    *cronjobs.RESOURCES,
    *daemonsets.RESOURCES,
    *deployments.RESOURCES,
    *deviceresources.RESOURCES,
    *endpoints.RESOURCES,
    *events.RESOURCES,
    *extensions.RESOURCES,
    *flowcontrol.RESOURCES,
    *horizontalpodautoscalers.RESOURCES,
    *jobs.RESOURCES,
    *leases.RESOURCES,
    *namespaces.RESOURCES,
    *networking.RESOURCES,
    *nodes.RESOURCES,
    *others.RESOURCES,
    *persistentvolumeclaims.RESOURCES,
    *persistentvolumes.RESOURCES,
    *poddisruptionbudgets.RESOURCES,
    *priorityclasses.RESOURCES,
    *quotas.RESOURCES,
    *rbac.RESOURCES,
    *replicasets.RESOURCES,
    *reviews.RESOURCES,
    *secrets.RESOURCES,
    *serviceaccounts.RESOURCES,
    *statefulsets.RESOURCES,
    *storage.RESOURCES,
)
