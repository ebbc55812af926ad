"""OpenAPI v3 (a document a group version) and v2, made from the resource table.

What clients read from it: schemas by group, version and kind (`kubectl explain`, merge keys for `apply`), and which
query parameters a path takes (`kubectl --dry-run`, `--validate`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pinnace.api.kinds import Kind
from pinnace.apiserver.discovery import Table
from pinnace.apiserver.resource import Resource
from pinnace.apiserver.schemas import Schema, Schemas, list_schema
from pinnace.apiserver.subresources import SCALE_KIND, SCALE_VERBS
from pinnace.version import KUBERNETES_VERSION

_METHODS = {"get": "get", "list": "get", "create": "post", "update": "put", "patch": "patch", "delete": "delete"}
_ACTIONS = {"get": "get", "list": "list", "create": "post", "update": "put", "patch": "patch", "delete": "delete",
            "deletecollection": "deletecollection"}  # fmt: skip
_WRITE = ("dryRun", "fieldManager", "fieldValidation", "pretty")
_PARAMETERS: dict[str, tuple[str, ...]] = {
    "get": ("pretty",),
    "list": ("allowWatchBookmarks", "continue", "fieldSelector", "labelSelector", "limit", "pretty", "resourceVersion",
             "resourceVersionMatch", "sendInitialEvents", "timeoutSeconds", "watch"),
    "create": _WRITE,
    "update": _WRITE,
    "patch": (*_WRITE, "force"),
    "delete": ("dryRun", "gracePeriodSeconds", "orphanDependents", "pretty", "propagationPolicy"),
    "deletecollection": ("continue", "dryRun", "fieldSelector", "gracePeriodSeconds", "labelSelector", "limit",
                         "orphanDependents", "pretty", "propagationPolicy", "resourceVersion"),
}  # fmt: skip
_TYPES = {
    "limit": "integer", "timeoutSeconds": "integer", "gracePeriodSeconds": "integer", "watch": "boolean",
    "allowWatchBookmarks": "boolean", "sendInitialEvents": "boolean", "orphanDependents": "boolean", "force": "boolean",
}  # fmt: skip
_ON_MANY: tuple[str, ...] = ("list", "create", "deletecollection")
_ON_ONE: tuple[str, ...] = ("get", "update", "patch", "delete")
_BODIES = ("create", "update", "patch")
_PATCHES = (
    "application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json",
)  # fmt: skip
_JSON = ("application/json", "application/yaml")


def names(table: Table) -> list[str]:
    """The documents of v3: `api/v1`, `apis/apps/v1` …"""
    return sorted({_root(resource.kind).strip("/") for resource in table})


def v3(table: Table, name: str) -> Schema:
    """One document."""
    schemas = Schemas("#/components/schemas/")
    paths: Schema = {}
    for resource in table:
        if _root(resource.kind).strip("/") == name:
            schemas.add(resource.kind.type, [resource.kind])
            _add_paths(paths, resource, schemas, v2=False)
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": KUBERNETES_VERSION},
        "paths": paths,
        "components": {"schemas": dict(sorted(schemas.found.items()))},
    }


def v2(table: Table) -> Schema:
    """The one document of v2."""
    schemas = Schemas("#/definitions/", v2=True)
    paths: Schema = {}
    for resource in table:
        schemas.add(resource.kind.type, [resource.kind])
        _add_paths(paths, resource, schemas, v2=True)
    return {
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": KUBERNETES_VERSION},
        "paths": paths,
        "definitions": dict(sorted(schemas.found.items())),
    }


def _root(kind: Kind) -> str:
    return f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"


def _add_paths(paths: Schema, resource: Resource[Any], schemas: Schemas, *, v2: bool) -> None:
    kind = resource.kind
    own = schemas.reference(schemas.add(kind.type))
    listed = schemas.reference(list_schema(schemas, kind)) if "list" in resource.verbs else own
    for path, verbs, speaks in _paths_of(resource):
        answer = own if speaks is kind else schemas.reference(schemas.add(speaks.type, [speaks]))
        item: Schema = {"parameters": [_place(name, v2) for name in ("namespace", "name") if f"{{{name}}}" in path]}
        for verb in verbs:
            method = _METHODS.get(verb, "delete")
            given = answer if verb in _BODIES and verb != "patch" else None
            item[method] = _operation(verb, path, speaks, listed if verb == "list" else answer, given, v2)
        paths[path] = item


def _paths_of(resource: Resource[Any]) -> Iterator[tuple[str, list[str], Kind]]:
    """Each path with its verbs, and the kind that it speaks."""
    kind, verbs = resource.kind, resource.verbs
    found: list[str]
    space = f"{_root(kind)}/namespaces/{{namespace}}" if kind.namespaced else _root(kind)
    collection = f"{space}/{kind.plural}"
    found = [verb for verb in _ON_MANY if verb in verbs]
    if found:
        yield collection, found, kind
    if kind.namespaced and "list" in verbs:
        yield f"{_root(kind)}/{kind.plural}", ["list"], kind
    found = [verb for verb in _ON_ONE if verb in verbs]
    if found:
        yield f"{collection}/{{name}}", found, kind
    for part in resource.subresources:
        speaks = part.kind if part.kind is not None and part.kind.module else kind
        if part.act is None or part.kind is not None:
            words = [verb for verb in part.verbs if verb in _METHODS]
            yield f"{collection}/{{name}}/{part.name}", words, speaks
    if resource.scale is not None:
        yield f"{collection}/{{name}}/scale", list(SCALE_VERBS), SCALE_KIND


def _operation(verb: str, path: str, kind: Kind, answer: Schema, given: Schema | None, v2: bool) -> Schema:
    parameters = [_parameter(name, v2) for name in _PARAMETERS[verb]]
    operation: Schema = {
        "operationId": _operation_id(verb, path),
        "x-kubernetes-action": _ACTIONS[verb],
        "x-kubernetes-group-version-kind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "parameters": parameters,
    }
    codes = {"200": "OK", **({"201": "Created"} if verb in _BODIES else {})}
    if v2:
        operation["produces"] = list(_JSON)
        operation["consumes"] = list(_PATCHES if verb == "patch" else _JSON)
        if verb in _BODIES:
            body = given if given is not None else {"type": "object"}
            parameters.append({"in": "body", "name": "body", "required": True, "schema": body})
        operation["responses"] = {code: {"description": text, "schema": answer} for code, text in codes.items()}
        return operation
    if verb in _BODIES:
        media = _PATCHES if verb == "patch" else _JSON
        body = given if given is not None else {"type": "object"}
        operation["requestBody"] = {"required": True, "content": {name: {"schema": body} for name in media}}
    operation["responses"] = {
        code: {"description": text, "content": {name: {"schema": answer} for name in _JSON}}
        for code, text in codes.items()
    }
    return operation


def _operation_id(verb: str, path: str) -> str:
    words = [word.strip("{}") for word in path.split("/")[1:]]
    return verb + "".join(part.capitalize() for word in words for part in word.replace("-", ".").split("."))


def _parameter(name: str, v2: bool) -> Schema:
    kind = _TYPES.get(name, "string")
    typed: Schema = {"type": kind} if v2 else {"schema": {"type": kind, "uniqueItems": True}}
    return {"in": "query", "name": name, **typed}


def _place(name: str, v2: bool) -> Schema:
    typed: Schema = {"type": "string"} if v2 else {"schema": {"type": "string", "uniqueItems": True}}
    return {"in": "path", "name": name, "required": True, **typed}
