"""Every kind that the server serves, one row each.

The server calls `resources/metadata.py`'s `validate_object_meta` and `validate_object_meta_update` for all of them,
before the row's own validation; a row says only what is particular to its kind.
"""

from __future__ import annotations

from typing import Any

from pinnace.api.kinds import KINDS
from pinnace.apiserver.resource import Resource
from pinnace.apiserver.resources import (
    configmaps,
    daemonsets,
    deployments,
    jobs,
    namespaces,
    nodes,
    persistentvolumeclaims,
    replicasets,
    secrets,
    statefulsets,
)
from pinnace.apiserver.resources.generic import plain
from pinnace.apiserver.resources.pods import resource as pods

_OWN: tuple[Resource[Any], ...] = (
    *pods.RESOURCES,
    *configmaps.RESOURCES,
    *secrets.RESOURCES,
    *namespaces.RESOURCES,
    *nodes.RESOURCES,
    *persistentvolumeclaims.RESOURCES,
    *deployments.RESOURCES,
    *replicasets.RESOURCES,
    *statefulsets.RESOURCES,
    *daemonsets.RESOURCES,
    *jobs.RESOURCES,
)
_own_kinds = {row.kind for row in _OWN}

RESOURCES: tuple[Resource[Any], ...] = (
    *_OWN,
    *(
        plain(kind, status="status" in kind.type.__struct_fields__)
        for kind in KINDS
        if kind.served and kind not in _own_kinds
    ),
)
