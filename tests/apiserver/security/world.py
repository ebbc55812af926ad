"""What the security parts read, without a server: objects in a dict; and short words for making them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from pinnace.api.core import v1 as core
from pinnace.api.kinds import kind_of
from pinnace.api.meta import v1 as meta
from pinnace.api.rbac import v1 as rbac
from pinnace.apiserver.access import Admission, AdmissionPlugin, Attributes
from pinnace.client.transport import User

K = TypeVar("K")
RBAC = "rbac.authorization.k8s.io"


class World:
    """`authentication.objects.Objects` over a dict."""

    def __init__(self, *objects: Any) -> None:
        self._objects: dict[tuple[type[Any], str, str], Any] = {}
        self._versions: dict[type[Any], int] = {}
        for obj in objects:
            self.put(obj)

    def put(self, obj: Any) -> None:
        kind = type(obj)
        self._versions[kind] = self._versions.get(kind, 0) + 1
        obj.metadata.resourceVersion = str(sum(self._versions.values()))
        self._objects[kind, obj.metadata.namespace or "", obj.metadata.name] = obj

    def drop(self, obj: Any) -> None:
        self._versions[type(obj)] += 1
        del self._objects[type(obj), obj.metadata.namespace or "", obj.metadata.name]

    def get(self, kind: type[K], namespace: str, name: str) -> K | None:
        return self._objects.get((kind, namespace, name))

    def list(self, kind: type[K], namespace: str = "") -> Iterable[K]:
        return [o for (k, ns, _), o in self._objects.items() if k is kind and namespace in ("", ns)]

    def pods_on(self, node: str) -> Iterable[core.Pod]:
        return [pod for pod in self.list(core.Pod) if pod.spec.nodeName == node]

    def version(self, *kinds: type[object]) -> int:
        return sum(self._versions.get(kind, 0) for kind in kinds)


async def admit(plugin: AdmissionPlugin, write: Admission) -> None:
    """Both halves of a plugin, as far as it says that it is concerned."""
    what = f"{write.resource}.{write.group}".removesuffix("."), write.subresource
    if plugin.mutates is not None and plugin.mutates.covers(write.operation, *what):
        await plugin.mutate(write)
    if plugin.validates is not None and plugin.validates.covers(write.operation, *what):
        await plugin.validate(write)


def named(name: str, namespace: str | None = None, **more: Any) -> meta.ObjectMeta:
    return meta.ObjectMeta(name=name, namespace=namespace, uid=more.pop("uid", f"uid-{name}"), **more)


def user(name: str, *groups: str) -> User:
    return User(name, groups=groups)


def node_user(name: str) -> User:
    return user(f"system:node:{name}", "system:nodes", "system:authenticated")


def rule(verbs: str, groups: str = "", resources: str = "", names: str = "") -> rbac.PolicyRule:
    """A rule in short: words by spaces; `-` is the core group; resources that begin with a slash are paths."""
    if resources.startswith(("/", "*/")) and not groups:
        return rbac.PolicyRule(verbs=verbs.split(), nonResourceURLs=resources.split())
    return rbac.PolicyRule(
        verbs=verbs.split(), apiGroups=["" if group == "-" else group for group in groups.split()],
        resources=resources.split(), resourceNames=names.split() or None,
    )  # fmt: skip


def ask(who: User, line: str, **more: str) -> Attributes:
    """`get apps deployments/scale ns name`; `-` for what is empty; `get /path` for a path."""
    verb, *rest = line.split()
    if rest[0].startswith("/"):
        return Attributes(who, verb, path=rest[0])
    group, resource, namespace, name = ["" if word == "-" else word for word in [*rest, "-", "-", "-"][:4]]
    resource, _, subresource = resource.partition("/")
    return Attributes(who, verb, group, "v1", resource, subresource, namespace, name, **more)


def admission(who: User, operation: Any, obj: Any, old: Any = None, *, resource: str = "", **more: Any) -> Admission:
    """A write of `obj` (or a deletion of `old`), as the server would make it."""
    thing = obj if obj is not None else old
    kind = kind_of(type(thing))
    plural, _, subresource = (resource or kind.plural).partition("/")
    return Admission(
        user=who, operation=operation, verb=operation.lower(), kind=kind, group=more.pop("group", kind.group),
        version="v1", resource=plural, subresource=subresource,
        namespace=more.pop("namespace", thing.metadata.namespace or ""),
        name=more.pop("name", thing.metadata.name or ""), object=obj, old_object=old, **more,
    )  # fmt: skip
