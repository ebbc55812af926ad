"""Discovery: which groups, versions and resources there are, plain and aggregated (apidiscovery.k8s.io/v2).

Pure functions of the resource table.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from pinnace.api.kinds import Kind
from pinnace.apiserver.resource import Resource
from pinnace.apiserver.subresources import SCALE_KIND, SCALE_VERBS

Table = Sequence[Resource[Any]]

# Upstream's order of groups: kubectl prefers the earlier where a short name fits several.
_FIRST = (
    "", "apiregistration.k8s.io", "apps", "events.k8s.io", "authentication.k8s.io",
    "authorization.k8s.io", "autoscaling", "batch", "certificates.k8s.io", "networking.k8s.io", "policy",
    "rbac.authorization.k8s.io", "storage.k8s.io", "admissionregistration.k8s.io",
    "apiextensions.k8s.io", "scheduling.k8s.io", "coordination.k8s.io", "node.k8s.io",
    "discovery.k8s.io", "resource.k8s.io", "flowcontrol.apiserver.k8s.io",
)  # fmt: skip


def groups(table: Table) -> list[str]:
    """Group names, the core group first."""
    found = {resource.kind.group for resource in table}
    known = [group for group in _FIRST if group in found]
    return known + sorted(found - set(known))


def versions(table: Table, group: str) -> list[str]:
    """The group's versions, the preferred first: stable ones, then beta, then alpha, the newest first."""
    return sorted({r.kind.version for r in table if r.kind.group == group}, key=_version_rank)


def _version_rank(version: str) -> tuple[int, int, int, str]:
    digits = version[1:]
    for rank, word in ((1, "beta"), (2, "alpha")):
        major, found, minor = digits.partition(word)
        if found and major.isdigit() and minor.isdigit():
            return (rank, -int(major), -int(minor), version)
    return (0, -int(digits), 0, version) if digits.isdigit() else (3, 0, 0, version)


def api_versions(address: str) -> dict[str, Any]:
    """/api."""
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    }


def group_list(table: Table) -> dict[str, Any]:
    """/apis."""
    found = [api_group(table, group) for group in groups(table) if group]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": found}


def api_group(table: Table, group: str) -> dict[str, Any]:
    """/apis/GROUP, without its kind."""
    found = [{"groupVersion": f"{group}/{version}", "version": version} for version in versions(table, group)]
    return {"name": group, "versions": found, "preferredVersion": found[0]}


def resource_list(table: Table, group: str, version: str) -> dict[str, Any]:
    """/api/v1 and /apis/GROUP/VERSION."""
    found: list[dict[str, Any]] = []
    for resource in table:
        if (resource.kind.group, resource.kind.version) == (group, version):
            found.append(_resource(resource))
            found.extend(_subresources(resource))
    found.sort(key=lambda row: str(row["name"]))
    api_version = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": found}


def _resource(resource: Resource[Any]) -> dict[str, Any]:
    kind = resource.kind
    row: dict[str, Any] = {
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": sorted(resource.verbs),
    }
    if kind.short_names:
        row["shortNames"] = list(kind.short_names)
    if kind.categories:
        row["categories"] = list(kind.categories)
    if resource.answer is None:
        row["storageVersionHash"] = storage_hash(resource.stored_as or kind)
    return row


def storage_hash(kind: Kind) -> str:
    """Changes when objects of the kind are stored in another version."""
    digest = hashlib.sha256(f"{kind.group}/{kind.version}/{kind.kind}".encode()).digest()
    return base64.b64encode(digest[:8]).decode()


def _parts(resource: Resource[Any]) -> Iterable[tuple[str, Sequence[str], Kind]]:
    """Subresources: their path, verbs and the kind they speak."""
    for part in resource.subresources:
        yield part.name, sorted(part.verbs), part.kind or resource.kind
    if resource.scale is not None and not any(part.name == "scale" for part in resource.subresources):
        yield "scale", SCALE_VERBS, SCALE_KIND


def _subresources(resource: Resource[Any]) -> Iterable[dict[str, Any]]:
    kind = resource.kind
    for path, verbs, speaks in _parts(resource):
        row: dict[str, Any] = {
            "name": f"{kind.plural}/{path}",
            "singularName": "",
            "namespaced": kind.namespaced,
            "kind": speaks.kind,
            "verbs": list(verbs),
        }
        if (speaks.group, speaks.version) != (kind.group, kind.version):
            row["group"], row["version"] = speaks.group, speaks.version
        yield row


def aggregated(table: Table, *, core: bool, version: str) -> dict[str, Any]:
    """/api (`core`) or /apis as one document, in apidiscovery.k8s.io/`version`."""
    items = [
        {
            "metadata": {"name": group, "creationTimestamp": None} if group else {"creationTimestamp": None},
            "versions": [_version(table, group, name) for name in versions(table, group)],
        }
        for group in groups(table)
        if bool(group) is not core
    ]
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{version}",
        "metadata": {},
        "items": items,
    }


def _version(table: Table, group: str, version: str) -> dict[str, Any]:
    resources = [r for r in table if (r.kind.group, r.kind.version) == (group, version)]
    rows = [_aggregated_resource(resource) for resource in sorted(resources, key=lambda r: r.kind.plural)]
    return {"version": version, "resources": rows, "freshness": "Current"}


def _aggregated_resource(resource: Resource[Any]) -> dict[str, Any]:
    kind = resource.kind
    row: dict[str, Any] = {
        "resource": kind.plural,
        "responseKind": {"group": "", "version": "", "kind": kind.kind},
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": kind.singular,
        "verbs": sorted(resource.verbs),
    }
    if kind.short_names:
        row["shortNames"] = list(kind.short_names)
    if kind.categories:
        row["categories"] = list(kind.categories)
    parts = []
    for path, verbs, speaks in sorted(_parts(resource), key=lambda part: part[0]):
        foreign = (speaks.group, speaks.version) != (kind.group, kind.version)
        parts.append(
            {
                "subresource": path,
                "responseKind": {
                    "group": speaks.group if foreign else "",
                    "version": speaks.version if foreign else "",
                    "kind": speaks.kind,
                },
                "verbs": list(verbs),
            }
        )
    if parts:
        row["subresources"] = parts
    return row


def etag(body: bytes) -> str:
    return f'"{hashlib.sha512(body).hexdigest().upper()}"'

