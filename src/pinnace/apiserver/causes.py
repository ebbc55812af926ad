"""`/pinnace.dev/v1/why/…`: why an object is as it is. Behind the prefix stands the object's own path.

Whoever may `get` the object sees its writes. Each other object that they lead to is shown only to whoever may get
that one; of the rest only the revision is told. Everything comes from the store's history and from the causes that
stand in it, so it goes back as far as that is kept, deleted objects included.

What a client claimed (revisions, object, component) is followed and shown, never trusted: a claim can lead only to
earlier writes, and those are guarded one by one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from pinnace.api import codec, errors, times
from pinnace.api.batch import v1 as batch
from pinnace.api.core import v1 as core
from pinnace.api.kinds import Kind, by_kind
from pinnace.apiserver import options, standing
from pinnace.apiserver.access import Attributes, forbidden
from pinnace.apiserver.calls import printable
from pinnace.apiserver.changes import differences
from pinnace.apiserver.paths import Target, parse
from pinnace.apiserver.registry import Registry
from pinnace.client.transport import Request, Response, User
from pinnace.client.why import (
    API_VERSION,
    MOST_DEPTH,
    ROOT,
    Claims,
    Link,
    Named,
    NodeRefusal,
    Scheduling,
    Why,
)  # fmt: skip
from pinnace.store.store import CLOCK, Cause, Change, Entry, Trace

if TYPE_CHECKING:
    from pinnace.apiserver.server import ApiServer

_MOST_WRITES = 64         # of the object itself, the newest
_MOST_LINKS = 256         # in one answer
_MOST_NODES = 100         # whose refusals are told one by one
_MOST_BYTES = 4 * 1024 * 1024        # of values that are read for one answer; of further ones only the names are told
_MOST_STEPS = 128         # writes of an object that are looked through for the one that asked
_JSON = {"content-type": "application/json"}

# What each node has against a pod (nothing: it would take it): the scheduler knows.
Refusals = Callable[[core.Pod], Mapping[str, Sequence[str]]]
# When a CronJob's schedule comes next: its controller knows.
Upcoming = Callable[[batch.CronJob, datetime], datetime | None]


@dataclass(slots=True)
class _Seen:
    """One commit: what was written, what was there before, who did it."""

    revision: int
    value: dict[str, Any]            # the object's state then; of a deletion its last
    before: dict[str, Any] | None
    action: str
    known: bool                      # `before` is what was there
    cause: Cause | None


@dataclass(slots=True)
class _Search:
    """What one answer has gathered so far."""

    user: User
    links: dict[int, Link] = field(default_factory=dict)
    truncated: bool = False
    nbytes: int = 0


class Causes:
    """Answers why. One for a server; whoever runs the scheduler and the controllers beside it sets `refusals` and
    `upcoming`, and without them nothing is said of nodes and schedules."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self.refusals: Refusals | None = None
        self.upcoming: Upcoming | None = None

    @staticmethod
    def asked(path: str) -> Target | None:
        """The object that a path asks about; None for every other path. Raises NotFound for one that names none."""
        if not path.startswith(ROOT + "/"):
            return None
        target = parse(path[len(ROOT) :])
        if target is None or not target.name or target.subresource or target.watch:
            raise errors.NotFound.path()
        return target

    async def answer(self, request: Request, user: User, target: Target) -> Response:
        """Raises Forbidden, NotFound, BadRequest, MethodNotAllowed."""
        if request.method not in ("GET", "HEAD"):
            raise errors.MethodNotAllowed()
        attributes = _attributes(user, target)
        decision = self._server.authorizer.authorize(attributes)
        if not decision.allowed:
            raise forbidden(attributes, decision.reason)
        registry = self._server.served(target)
        if registry.kind.namespaced != bool(target.namespace):
            raise errors.NotFound.path()
        depth = options.number(request.query, "depth")
        depth = MOST_DEPTH if depth is None else max(0, min(depth, MOST_DEPTH))
        at = options.number(request.query, "revision") or 0
        if at < 0:
            raise errors.BadRequest(f"revision: Invalid value: {at}: must be a revision of the store")
        await registry.catch_up()
        found = await self._why(user, registry, target, at, depth)
        return Response(200, dict(_JSON), codec.encode(found) + b"\n", found)

    async def _why(self, user: User, registry: Registry, target: Target, at: int, depth: int) -> Why:
        server, kind = self._server, registry.kind
        key = registry.cache.key(target.namespace, target.name)
        revisions = [revision for revision in await server.store.revisions(key) if not at or revision <= at]
        entry = registry.find(target.namespace, target.name)
        if not revisions and (entry is None or at):
            raise registry.not_found(target.name)
        search = _Search(user, truncated=len(revisions) > _MOST_WRITES)
        revisions = revisions[-_MOST_WRITES:]
        await self._follow(search, revisions, depth)
        writes = [search.links.pop(revision) for revision in reversed(revisions) if revision in search.links]
        why = Why(
            API_VERSION, Named(kind.kind, target.name, target.namespace, kind.api_version), exists=entry is not None,
            now=times.format_micro(server.clock.now()), writes=writes, truncated=search.truncated,
            causes=sorted(search.links.values(), key=lambda link: -link.revision),
        )  # fmt: skip
        if entry is not None:
            self._present(why, user, entry.object)
        return why

    def _present(self, why: Why, user: User, obj: Any) -> None:
        """What the object itself tells of what it is and waits for."""
        meta = obj.metadata
        why.created = meta.creationTimestamp or ""
        why.owners = [
            Named(owner.kind, owner.name, meta.namespace or "", owner.apiVersion)
            for owner in meta.ownerReferences or ()
        ]
        why.state = standing.state(obj)
        if isinstance(obj, core.Pod) and self.refusals is not None and standing.waits_for_node(obj):
            why.scheduling = self._scheduling(user, self.refusals(obj))
        if isinstance(obj, batch.CronJob) and self.upcoming is not None and not obj.spec.suspend:
            coming = self.upcoming(obj, self._server.clock.now())
            if coming is not None:
                why.state.append(f"scheduled next for {times.format(coming)}")

    def _scheduling(self, user: User, reasons: Mapping[str, Sequence[str]]) -> Scheduling:
        counts: dict[str, int] = {}
        for found in reasons.values():
            for reason in found:
                counts[reason] = counts.get(reason, 0) + 1
        free = sum(1 for found in reasons.values() if not found)
        told = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
        message = f"{free}/{len(reasons)} nodes are available" if reasons else "no nodes available to schedule pods"
        scheduling = Scheduling(message + (f": {told}." if told else "."))
        # Names of nodes are no business of whoever may not list them.
        listing = Attributes(user, "list", "", "v1", "nodes")
        if self._server.authorizer.authorize(listing).allowed:
            listed = sorted(reasons.items())
            scheduling.nodes = [NodeRefusal(node, list(found)) for node, found in listed[:_MOST_NODES]]
            scheduling.moreNodes = max(0, len(listed) - _MOST_NODES)
        return scheduling

    # --------------------------------------------------------------------------------------------- the chain

    async def _follow(self, search: _Search, revisions: Sequence[int], depth: int) -> None:
        """Gather the commits and what they reacted to, the nearest first."""
        # The third says that a timer leads there: what only reports how things were is then no cause.
        waiting = deque((revision, 0, False) for revision in reversed(revisions))
        while waiting:
            revision, far, timed = waiting.popleft()
            if revision in search.links:
                continue
            if len(search.links) >= _MOST_LINKS:
                search.truncated = True
                return
            seen = await self._commit(search, revision)
            if seen is None:
                continue
            if timed and seen.cause is not None and seen.cause.subresource == "status":
                continue
            link = search.links[revision] = await self._link(search.user, seen)
            timer = CLOCK in link.claimed.because
            causes = [cause for cause in (*link.claimed.because, link.wanted) if cause != CLOCK]
            if far < depth:
                waiting.extend((cause, far + 1, timer) for cause in causes)
            elif causes:
                search.truncated = True

    async def _commit(self, search: _Search, revision: int) -> _Seen | None:
        found = await self._server.store.change(revision)
        cause = await self._server.store.cause(revision)
        match found:
            case Change(value=value, previous=previous):
                search.nbytes += len(value or b"") + (len(previous.value) if previous is not None else 0)
                if search.nbytes > _MOST_BYTES:
                    action = "deleted" if value is None else "created" if previous is None else "changed"
                    return self._trace(found.key, revision, cause, action)
                before = _decode(previous.value) if previous is not None else None
                if value is None:
                    return _Seen(revision, before or {}, before, "deleted", True, cause)
                now = _decode(value)
                action = "created" if before is None else _action(before, now)
                return _Seen(revision, now, before, action, True, cause)
            case Entry(key=key, created=created):
                return self._trace(key, revision, cause, "created" if created == revision else "changed")
            case Trace(key=key):
                made = cause is not None and cause.verb == "create" and not cause.subresource
                return self._trace(key, revision, cause, "created" if made else "changed")
            case _:
                return None

    def _trace(self, key: str, revision: int, cause: Cause | None, action: str) -> _Seen | None:
        """A write of which it is known who made it, not what it changed."""
        named = self._server.named(key)
        if named is None:
            return None
        kind, namespace, name = named
        metadata = {"name": name, "namespace": namespace}
        identity = {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata}
        return _Seen(revision, identity, None, action, False, cause)

    async def _link(self, user: User, seen: _Seen) -> Link:
        kind, name, namespace = _identity(seen.value)
        if kind is None or not self._may_get(user, kind, namespace, name):
            return Link(seen.revision)
        link = Link(
            seen.revision, action=seen.action, object=Named(kind.kind, name, namespace, kind.api_version),
            forgotten=not seen.known,
        )  # fmt: skip
        if seen.action in ("changed", "deleting") and seen.before is not None:
            link.changes, link.moreChanges = differences(seen.before, seen.value)
        cause = seen.cause
        if cause is None:
            return link
        if cause.at:
            link.time = times.format_micro(times.from_timestamp(cause.at / 1000))
        link.user, link.verb, link.subresource = printable(cause.actor[:256]), cause.verb, cause.subresource
        acting = self._acting(user, cause.about)
        # A reaction comes after what it reacts to, whatever the client says.
        because = [revision for revision in cause.because if revision < seen.revision]
        link.claimed = Claims(cause.agent, acting, because)
        if acting is not None and CLOCK in because:
            link.wanted = await self._wanted(acting, seen.revision)
        return link

    def _acting(self, user: User, about: str) -> Named | None:
        """The object that the writer said it acted for, if there are such and the asker may get that one."""
        acting = named(about)
        kind = self._kind(acting) if acting is not None else None
        if acting is None or kind is None or not self._may_get(user, kind, acting.namespace, acting.name):
            return None
        return Named(kind.kind, acting.name, acting.namespace, kind.api_version)

    def _kind(self, named: Named) -> Kind | None:
        for registry in self._server.registries():
            kind = registry.kind
            if (kind.kind, kind.group) == (named.kind, named.apiVersion):
                return kind
        return None

    async def _wanted(self, acting: Named, before: int) -> int:
        """The last write that asked for something of an object, and did not only report on it; 0 if none is known."""
        group, _, version = acting.apiVersion.rpartition("/")
        registry = self._server.registry(by_kind(group, version, acting.kind))
        key = registry.cache.key(acting.namespace, acting.name)
        earlier = [revision for revision in await self._server.store.revisions(key) if revision < before]
        for revision in reversed(earlier[-_MOST_STEPS:]):
            cause = await self._server.store.cause(revision)
            if cause is not None and cause.subresource != "status" and CLOCK not in cause.because:
                return revision
        return 0

    def _may_get(self, user: User, kind: Kind, namespace: str, name: str) -> bool:
        target = Target(kind.group, kind.version, kind.plural, namespace, name)
        return self._server.authorizer.authorize(_attributes(user, target)).allowed


def named(about: str) -> Named | None:
    """The object that a client said it acted for: "Job.batch/default/backup", "Node/node-1". `apiVersion` is then the
    group alone."""
    word, *place = about.split("/")
    kind, _, group = word.partition(".")
    match place:
        case [name]:
            return Named(kind, name, "", group)
        case [namespace, name]:
            return Named(kind, name, namespace, group)
        case _:
            return None


def _attributes(user: User, target: Target) -> Attributes:
    namespace = target.namespace
    if target.resource == "namespaces" and not target.group:
        namespace = target.name          # upstream: a namespace lies in itself
    path = f"{ROOT}/…"
    return Attributes(
        user, "get", target.group, target.version, target.resource, "", namespace, target.name, path
    )


def _decode(value: bytes) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(value)
    return found


def _identity(value: dict[str, Any]) -> tuple[Kind | None, str, str]:
    metadata = value.get("metadata") or {}
    group, _, version = str(value.get("apiVersion", "")).rpartition("/")
    try:
        kind = by_kind(group, version, str(value.get("kind", "")))
    except KeyError:
        return None, "", ""
    return kind, metadata.get("name") or "", metadata.get("namespace") or ""


def _action(before: dict[str, Any], now: dict[str, Any]) -> str:
    begun = now["metadata"].get("deletionTimestamp") and not before["metadata"].get("deletionTimestamp")
    return "deleting" if begun else "changed"

