"""Which resources the server has, asked of the server itself: namespaces and garbage span all of them."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from pinnace.api import codec, errors
from pinnace.client.client import Client, ObjectList


class Resource(msgspec.Struct, frozen=True):
    """A resource in its group's preferred version."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool
    verbs: frozenset[str]

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "") -> str:
        """The path of a collection, or with `name` of one object."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        inside = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return f"{root}{inside}/{self.plural}" + (f"/{name}" if name else "")


class Discovered(msgspec.Struct, frozen=True):
    """All resources (no subresources), and the group versions that did not answer."""

    resources: tuple[Resource, ...]
    failed: tuple[tuple[str, str], ...] = ()

    def of_kind(self, api_version: str, kind: str) -> Resource | None:
        """The resource of a kind: in that version if it is the preferred one, else in the preferred one."""
        group = api_version.rpartition("/")[0]
        return next((r for r in self.resources if (r.group, r.kind) == (group, kind)), None)


async def discover(client: Client) -> Discovered:
    """Ask for all groups and their resources. Raises what the request for the groups raises."""
    groups = await get_json(client, "/apis")
    versions = [("", "v1", "/api/v1")]
    for group in groups.get("groups") or ():
        preferred = (group.get("preferredVersion") or {}).get("groupVersion") or ""
        every = [version["groupVersion"] for version in group.get("versions") or ()]
        for text in sorted(every, key=lambda text: text != preferred):
            versions += [(*_split(text), f"/apis/{text}")]
    answers = await asyncio.gather(*(_resources(client, path) for _, _, path in versions))
    found: dict[tuple[str, str], Resource] = {}
    failed: list[tuple[str, str]] = []
    for (group, version, _), answer in zip(versions, answers, strict=True):
        if isinstance(answer, str):
            failed.append((f"{group}/{version}" if group else version, answer))
            continue
        for entry in answer:
            resource = _resource(group, version, entry)
            if resource is not None:
                found.setdefault((group, resource.plural), resource)
    return Discovered(tuple(found.values()), tuple(failed))


async def _resources(client: Client, path: str) -> list[dict[str, Any]] | str:
    try:
        return list((await get_json(client, path)).get("resources") or ())
    except errors.NotFound:
        return []
    except errors.StatusError as error:
        return error.message


def _resource(group: str, version: str, entry: dict[str, Any]) -> Resource | None:
    if "/" in entry["name"]:
        return None
    return Resource(
        group, version, entry["name"], entry["kind"], bool(entry.get("namespaced")), frozenset(entry["verbs"])
    )


def _split(group_version: str) -> tuple[str, str]:
    group, _, version = group_version.rpartition("/")
    return group, version


async def get_json(client: Client, path: str) -> dict[str, Any]:
    """A GET decoded as plain JSON, for kinds that may have no type here. Of objects only the metadata is sure to
    be there: an in-process server hands them over as they are, and nobody here asks for more."""
    response = await client.call("GET", path)
    found = response.object
    if isinstance(found, ObjectList):
        return {"items": [_plain(item) for item in found.items]}
    if not response.body and found is not None:
        return _plain(found)
    decoded: dict[str, Any] = msgspec.json.decode(response.body)
    return decoded


def _plain(obj: Any) -> dict[str, Any]:
    if isinstance(obj, dict):
        return obj
    about = msgspec.structs.replace(codec.metadata(obj), managedFields=None)     # the most of it, and nobody looks
    return {"metadata": msgspec.to_builtins(about)}
