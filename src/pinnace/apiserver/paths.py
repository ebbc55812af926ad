"""What a URL path names: pure, and remembered, since the same paths come again and again."""

from __future__ import annotations

from functools import lru_cache

import msgspec


class Target(msgspec.Struct, frozen=True):
    """A path at or below a collection: /api/v1/namespaces/{namespace}/{resource}/{name}/{subresource}/{rest}.

    `watch`: the path has the old `/watch/` prefix. `namespaced`: the path says `/namespaces/{namespace}/`.
    """

    group: str
    version: str
    resource: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    rest: str = ""
    watch: bool = False

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


# RBAC's verb for an HTTP method, where the path does not matter.
VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch"}
# Below a namespace's own name these are parts of it, not collections in it.
_NAMESPACE_PARTS = frozenset({"status", "finalize"})
# Their last part is a path of its own, slashes and all.
_WITH_REST = frozenset({"proxy"})


@lru_cache(maxsize=16384)
def parse(path: str) -> Target | None:
    """The target of a resource path; None for every other path (discovery, health, …)."""
    parts = path.split("/")
    if len(parts) < 4:
        return None
    if parts[1] == "api":
        group, version, rest = "", parts[2], parts[3:]
    elif parts[1] == "apis" and len(parts) > 4:
        group, version, rest = parts[2], parts[3], parts[4:]
    else:
        return None
    if rest[-1] == "" and not (len(rest) > 3 and _WITH_REST & set(rest)):
        rest = rest[:-1]       # one trailing slash is forgiven
    watch = bool(rest) and rest[0] == "watch"
    if watch:
        rest = rest[1:]
    namespace = ""
    if len(rest) > 2 and rest[0] == "namespaces" and rest[2] not in _NAMESPACE_PARTS:
        namespace, rest = rest[1], rest[2:]
        if not namespace:
            return None
    if not rest or not rest[0] or not version:
        return None
    count = len(rest)
    name = rest[1] if count > 1 else ""
    subresource = rest[2] if count > 2 else ""
    if (count > 1 and not name) or (count > 2 and not subresource):
        return None
    if count > 3 and subresource not in _WITH_REST:
        return None
    tail = "/".join(rest[3:]) if count > 3 else ""
    return Target(group, version, rest[0], namespace, name, subresource, tail, watch)


def verb_of(method: str, target: Target, watching: bool) -> str:
    """RBAC's verb for an HTTP method; "" for a method that the API does not know."""
    if method in VERBS:
        return VERBS[method]
    match method:
        case "GET" | "HEAD":
            if target.name:
                return "watch" if target.watch else "get"
            return "watch" if watching or target.watch else "list"
        case "DELETE":
            return "delete" if target.name else "deletecollection"
        case _:
            return ""
