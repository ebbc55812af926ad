"""An API server in two hundred lines: no validation, no defaults, but revisions, watches, finalizers, patches.

The controllers' own tests run on it, so that they fail for the controllers' faults only.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from pinnace.api import codec, errors
from pinnace.api.kinds import KINDS, Kind
from pinnace.base.clock import Clock
from pinnace.base.randomness import Randomness
from pinnace.client.client import ObjectList
from pinnace.client.transport import Request, Response, WatchLine

Key = tuple[str, str]
_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]


class FakeServer:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.randomness = Randomness(1)
        self.revision = 0
        self.objects: dict[str, dict[Key, dict[str, Any]]] = {}
        self.watchers: dict[str, list[asyncio.Queue[WatchLine]]] = {}
        self.kinds = {(k.group, k.version, k.plural): k for k in KINDS if k.served}
        self.requests: list[str] = []
        self.acts: set[tuple[str, str, str, str]] = set()   # who, verb, group, resource with its subresource
        self.refuse: dict[tuple[str, str], errors.StatusError] = {}   # (method, plural): what it is answered

    async def close(self) -> None: ...

    async def send(self, request: Request) -> Response:
        self.requests.append(f"{request.method} {request.path}")
        if request.user is not None:
            self.acts.add(_act(request))
        await asyncio.sleep(0)
        try:
            return self._answer(request)
        except errors.StatusError as error:
            return Response(error.status_code, body=json.dumps(error.status()).encode())

    def _answer(self, request: Request) -> Response:
        parts = request.path.strip("/").split("/")
        if request.path == "/apis":
            return _json({"groups": self._groups()})
        group, version, rest = ("", parts[1], parts[2:]) if parts[0] == "api" else (parts[1], parts[2], parts[3:])
        if not rest:
            return _json({"resources": self._resources(group, version)})
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in ("status", "finalize"):
            namespace, rest = rest[1], rest[2:]
        kind = self.kinds.get((group, version, rest[0]))
        if kind is None:
            raise errors.NotFound.path()
        refusal = self.refuse.get((request.method, kind.plural))
        if refusal is not None:
            raise refusal
        name, sub = (rest[1] if len(rest) > 1 else ""), (rest[2] if len(rest) > 2 else "")
        if isinstance(request.given, msgspec.Struct):
            text = request.text()
            assert codec.encode(codec.decode(type(request.given), text)) == text, "what is given has its normal form"
        match request.method, bool(name):
            case "GET", False if "watch" in request.query:
                return Response(200, watch=self._watch(kind, request.query["resourceVersion"][0]))
            case "GET", False:
                return self._list(kind, namespace)
            case "GET", True:
                return self._one(kind, self._find(kind, namespace, name))
            case "POST", _:
                return self._create(kind, namespace, json.loads(request.text()))
            case "PUT", _:
                return self._update(kind, namespace, name, sub, json.loads(request.text()))
            case "PATCH", _:
                old = self._find(kind, namespace, name)
                patch = json.loads(request.text())
                uid = patch.get("metadata", {}).get("uid")
                if uid and uid != old["metadata"]["uid"]:
                    raise errors.Conflict.of(kind.plural, kind.group, name)
                return self._update(kind, namespace, name, sub, _merge(old, patch), lenient=True)
            case "DELETE", True:
                return self._delete(kind, namespace, name, json.loads(request.text() or b"{}"))
            case "DELETE", False:
                for key in [key for key in self.objects.get(kind.plural, {}) if key[0] == namespace]:
                    self._delete(kind, *key, json.loads(request.text() or b"{}"))
                return _json({})
        raise AssertionError(request)

    def _groups(self) -> list[dict[str, Any]]:
        versions: dict[str, list[str]] = {}
        for group, version, _ in self.kinds:
            if group and version not in versions.setdefault(group, []):
                versions[group].append(version)
        return [
            {
                "name": group,
                "versions": [{"groupVersion": f"{group}/{v}"} for v in found],
                "preferredVersion": {"groupVersion": f"{group}/{sorted(found)[-1]}"},
            }
            for group, found in versions.items()
        ]

    def _resources(self, group: str, version: str) -> list[dict[str, Any]]:
        return [
            {"name": k.plural, "kind": k.kind, "namespaced": k.namespaced, "verbs": _VERBS}
            for k in self.kinds.values()
            if (k.group, k.version) == (group, version)
        ]

    def _find(self, kind: Kind, namespace: str, name: str) -> dict[str, Any]:
        try:
            return self.objects.get(kind.plural, {})[namespace, name]
        except KeyError:
            raise errors.NotFound.of(kind.plural, kind.group, name) from None

    def _one(self, kind: Kind, obj: dict[str, Any]) -> Response:
        body = json.dumps(obj).encode()
        return Response(200, body=body, object=codec.decode(kind.type, body))

    def _list(self, kind: Kind, namespace: str) -> Response:
        items = [o for (ns, _), o in self.objects.get(kind.plural, {}).items() if namespace in ("", ns)]
        typed = [codec.decode(kind.type, json.dumps(o).encode()) for o in items]
        body = json.dumps({"items": items, "metadata": {"resourceVersion": str(self.revision)}}).encode()
        return Response(200, body=body, object=ObjectList(typed, str(self.revision)))

    async def _watch(self, kind: Kind, since: str) -> AsyncIterator[tuple[WatchLine, ...]]:
        queue: asyncio.Queue[WatchLine] = asyncio.Queue()
        self.watchers.setdefault(kind.plural, []).append(queue)
        assert int(since) <= self.revision
        for obj in self.objects.get(kind.plural, {}).values():
            if int(obj["metadata"]["resourceVersion"]) > int(since):
                self._line(queue, kind, "MODIFIED", obj)
        try:
            while True:
                batch = [await queue.get()]
                while not queue.empty():
                    batch.append(queue.get_nowait())
                yield tuple(batch)
        finally:
            self.watchers[kind.plural].remove(queue)

    def _line(self, queue: asyncio.Queue[WatchLine], kind: Kind, type: str, obj: dict[str, Any]) -> None:
        queue.put_nowait(WatchLine(type, codec.decode(kind.type, json.dumps(obj).encode()), b""))

    def _commit(self, kind: Kind, type: str, obj: dict[str, Any]) -> None:
        self.revision += 1
        obj["metadata"]["resourceVersion"] = str(self.revision)
        key = (obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        if type == "DELETED":
            del self.objects[kind.plural][key]
        else:
            self.objects.setdefault(kind.plural, {})[key] = obj
        for queue in self.watchers.get(kind.plural, []):
            self._line(queue, kind, type, obj)

    def _create(self, kind: Kind, namespace: str, obj: dict[str, Any]) -> Response:
        data = obj.setdefault("metadata", {})
        if namespace:
            data["namespace"] = namespace
            ns = self.objects.get("namespaces", {}).get(("", namespace))
            if ns is not None and ns["metadata"].get("deletionTimestamp"):
                cause = errors.StatusCause("NamespaceTerminating", "it is being terminated")
                raise errors.Forbidden("namespace is terminating", errors.StatusDetails(causes=(cause,)))
        name = data.setdefault("name", data.get("generateName", "") + self.randomness.suffix())
        if (namespace, name) in self.objects.get(kind.plural, {}):
            raise errors.AlreadyExists.of(kind.plural, kind.group, name)
        data |= {"uid": self.randomness.uid(), "creationTimestamp": _stamp(self.clock), "generation": 1}
        if kind.kind == "Namespace":
            obj.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
            obj.setdefault("status", {})["phase"] = "Active"
        elif kind.kind == "Pod":
            obj["status"] = obj.get("status") or {"phase": "Pending"}
        elif kind.plural != "endpoints" and kind.kind not in ("Event",):
            obj.pop("status", None)
        self._commit(kind, "ADDED", obj)
        return self._one(kind, obj)

    def _update(
        self, kind: Kind, namespace: str, name: str, sub: str, new: dict[str, Any], *, lenient: bool = False
    ) -> Response:
        old = self._find(kind, namespace, name)
        given = new["metadata"].get("resourceVersion")
        if given and given != old["metadata"]["resourceVersion"]:
            raise errors.Conflict.of(kind.plural, kind.group, name)
        if sub == "status":
            new = {**old, "status": new.get("status"), "metadata": dict(old["metadata"])}
        elif sub != "finalize" and "status" in old:
            new["status"] = old["status"]
        for field in ("uid", "creationTimestamp", "deletionTimestamp", "generation"):
            if field in old["metadata"]:
                new["metadata"][field] = old["metadata"][field]
        if new.get("spec") != old.get("spec"):
            new["metadata"]["generation"] = old["metadata"]["generation"] + 1
        if _bare(new) == _bare(old):
            return self._one(kind, old)
        if not new["metadata"].get("finalizers"):
            new["metadata"].pop("finalizers", None)
        done = new["metadata"].get("deletionTimestamp") and not new["metadata"].get("finalizers")
        if done and not (new.get("spec") or {}).get("finalizers") and not self._lingers(kind, new):
            self._commit(kind, "DELETED", new)
        else:
            self._commit(kind, "MODIFIED", new)
        return self._one(kind, new)

    def _lingers(self, kind: Kind, obj: dict[str, Any]) -> bool:
        return kind.kind == "Pod" and bool(obj["metadata"].get("deletionGracePeriodSeconds"))

    def _delete(self, kind: Kind, namespace: str, name: str, options: dict[str, Any]) -> Response:
        obj = json.loads(json.dumps(self._find(kind, namespace, name)))
        data = obj["metadata"]
        wanted = options.get("preconditions", {})
        if any(data[field] != value for field, value in wanted.items()):
            raise errors.Conflict.of(kind.plural, kind.group, name)
        finalizers = [f for f in data.get("finalizers", []) if f not in ("orphan", "foregroundDeletion")]
        policy = options.get("propagationPolicy")
        finalizers += {"Orphan": ["orphan"], "Foreground": ["foregroundDeletion"]}.get(policy or "", [])
        grace = 0
        if kind.kind == "Pod" and (obj.get("spec") or {}).get("nodeName"):
            grace = options.get("gracePeriodSeconds", 30)
        if not finalizers and not grace and not (kind.kind == "Namespace" and obj["spec"].get("finalizers")):
            self._commit(kind, "DELETED", obj)
            return _json({"kind": "Status", "status": "Success"})
        if not data.get("deletionTimestamp") or data.get("finalizers", []) != finalizers:
            data |= {"deletionTimestamp": _stamp(self.clock), "finalizers": finalizers}
            if grace:
                data["deletionGracePeriodSeconds"] = grace
            if kind.kind == "Namespace":
                obj["status"]["phase"] = "Terminating"
            self._commit(kind, "MODIFIED", obj)
        return self._one(kind, obj)


def _act(request: Request) -> tuple[str, str, str, str]:
    assert request.user is not None
    parts = request.path.strip("/").split("/")
    group, rest = ("", parts[2:]) if parts[0] == "api" else (parts[1] if len(parts) > 2 else "", parts[3:])
    if len(rest) > 2 and rest[0] == "namespaces" and rest[2] not in ("status", "finalize"):
        rest = rest[2:]
    many, one = {"GET": ("list", "get"), "DELETE": ("deletecollection", "delete")}.get(
        request.method, ({"POST": "create", "PUT": "update", "PATCH": "patch"}.get(request.method, ""),) * 2
    )
    resource = "/".join([*rest[:1], *rest[2:]])
    return request.user.name, (one if len(rest) > 1 else many), group, resource


def _stamp(clock: Clock) -> str:
    return clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")


def _json(value: Any) -> Response:
    return Response(200, body=json.dumps(value).encode())


def _bare(obj: dict[str, Any]) -> dict[str, Any]:
    data = {k: v for k, v in obj["metadata"].items() if k != "resourceVersion"}
    return {**obj, "metadata": data}


_KEYS = {"conditions": "type", "ownerReferences": "uid"}


def _merge(old: Any, patch: Any, name: str = "") -> Any:
    """Merge patch, with as much of the strategic kind as the controllers use."""
    if isinstance(patch, list) and name in _KEYS and isinstance(old, list | None):
        key = _KEYS[name]
        found = {item[key]: item for item in old or ()}
        for item in patch:
            if item.get("$patch") == "delete":
                found.pop(item[key], None)
            else:
                found[item[key]] = {**found.get(item[key], {}), **item}
        return list(found.values())
    if isinstance(patch, list) and name == "finalizers" and isinstance(old, list) and set(patch) >= set(old):
        return patch
    if not isinstance(patch, dict):
        return patch
    out = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            field = key.partition("/")[2]
            out[field] = [item for item in out.get(field, []) if item not in value]
        elif value is None:
            out.pop(key, None)
        else:
            out[key] = _merge(out.get(key), value, key)
    return out
