"""The garbage collector's loop: watches all kinds, and asks the server before it deletes anything.

A loop of its own instead of a plan, since each verdict rests on live reads: the graph may lag behind, and
owners may be of kinds that nobody watches. What to conclude is pure (`graph.py`).
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import msgspec

from pinnace.api import errors
from pinnace.api.core import v1 as core
from pinnace.api.kinds import Kind, kind_of
from pinnace.api.kinds import by_resource as kind_by_resource
from pinnace.base.backoff import Backoff
from pinnace.base.clock import Clock
from pinnace.base.workqueue import WorkQueue
from pinnace.client.client import Client
from pinnace.client.events import WARNING, EventRecorder
from pinnace.client.informer import Event, Informer, Informers, revision_number
from pinnace.controllers.discovery import Discovered, Resource, discover, get_json
from pinnace.controllers.garbagecollector.graph import (
    FOREGROUND,
    ORPHAN,
    Graph,
    Identity,
    Node,
    Owner,
    Standing,
    Verdict,
    Work,
    blocking,
    judge,
    policy,
)

log = logging.getLogger("pinnace.controllers")

_WORKERS = 16
_ABSENT = 500               # owners known to be absent, as upstream remembers
_REDISCOVER_SECONDS = 30.0  # at most so often are new kinds looked for
_ANYWHERE = "*"
_IGNORED = frozenset({("", "events"), ("events.k8s.io", "events")})


class GarbageCollector:
    """Deletes what has lost all its owners, and drives foreground deletion and orphaning."""

    name = "garbage-collector"

    def __init__(
        self, informers: Informers, client: Client, recorder: EventRecorder, clock: Clock
    ) -> None:
        self._informers = informers
        self._client = client
        self._recorder = recorder
        self._clock = clock
        self._graph = Graph()
        self._resources = Discovered(())
        self._discovered_at = float("-inf")
        self._watched: dict[tuple[str, str], tuple[Informer[Any], Callable[[], None]]] = {}
        self._absent: OrderedDict[tuple[str, str], None] = OrderedDict()   # (uid, namespace)
        self._woken: dict[str, int] = {}     # uid of what is to be looked at -> revision of the change that says so
        self.queue: WorkQueue[Work] = WorkQueue(clock, Backoff(initial=0.005, maximum=1000.0))

    @property
    def idle(self) -> bool:
        synced = all(informer.cache.synced for informer, _ in self._watched.values())
        return bool(self._watched) and synced and self.queue.idle

    async def run(self) -> None:
        try:
            await self._rediscover()
            for informer, _ in tuple(self._watched.values()):
                await informer.wait_synced()
            await self.queue.serve(self._work, most=_WORKERS, name=self.name)
        finally:
            for _, unsubscribe in self._watched.values():
                unsubscribe()
            self._watched.clear()
            self.queue.close()

    # ------------------------------------------------------------------------------------- what there is

    async def _rediscover(self) -> None:
        self._resources = await discover(self._client)
        self._discovered_at = self._clock.monotonic()
        for resource in self._resources.resources:
            key = (resource.group, resource.plural)
            if key in _IGNORED or key in self._watched or not {"list", "watch", "delete"} <= resource.verbs:
                continue
            try:
                kind = kind_by_resource(resource.group, resource.version, resource.plural)
            except KeyError:
                continue   # a custom kind without a type: its objects are reached by live reads only
            informer = self._informers.of(kind.type)
            self._watched[key] = (informer, informer.subscribe(self._changed))

    def _changed(self, event: Event[Any]) -> None:
        old: Any = event.old
        new: Any = event.new
        if new is None:
            data = old.metadata
            work = self._graph.forget(data.uid or "")
            self._remember_absent(data.uid or "", _ANYWHERE)
        else:
            data = new.metadata
            if old is not None:
                before = old.metadata
                if (
                    before.ownerReferences == data.ownerReferences
                    and before.deletionTimestamp == data.deletionTimestamp
                    # While an object is not being deleted, its finalizers say nothing.
                    and (data.deletionTimestamp is None or before.finalizers == data.finalizers)
                ):
                    return
            work = self._graph.observe(_identity(kind_of(new), data), data)
        for item in work:
            self._woken[item.uid] = revision_number(data.resourceVersion)
            self.queue.add(item)

    # -------------------------------------------------------------------------------------- what to do

    async def _work(self, work: Work) -> None:
        try:
            node = self._graph.nodes.get(work.uid)
            if node is not None:
                await (self._orphan(node) if work.orphan else self._attempt(node))
            self.queue.forget(work)
            self._woken.pop(work.uid, None)
        except (errors.StatusError, OSError, TimeoutError, LookupError) as error:
            seconds = self.queue.retry(work)
            everyday = isinstance(error, errors.Conflict | errors.NotFound)
            level = logging.DEBUG if everyday else logging.WARNING
            log.log(level, "garbage collector: %s: %s; again in %.3g s", work.uid, error, seconds)
        except Exception:
            self.queue.retry(work)
            log.exception("garbage collector: %s", work.uid)

    async def _attempt(self, node: Node) -> None:
        """Look at one object: should it go, and does it wait for others?"""
        if node.virtual:
            await self._verify(node)
            return
        if node.deleting and not node.foreground:
            return
        resource = await self._resource(node.identity.api_version, node.identity.kind)
        live = await self._live(resource, node.identity.namespace, node.identity.name)
        if live is None or live["metadata"].get("uid") != node.identity.uid:
            return   # its watch will say so
        if node.foreground:
            await self._finish_foreground(node, resource, live)
            return
        owners = [
            (owner, await self._standing(owner, node.identity, resource)) for owner in _owners(live)
        ]
        verdict = judge(owners, node.dependents.values())
        match verdict.verdict:
            case Verdict.KEEP:
                return
            case Verdict.UNLINK:
                kept = [o for o in live["metadata"]["ownerReferences"] if o["uid"] not in verdict.unlink]
                await self._patch(node.identity, resource, live, {"ownerReferences": kept})
            case Verdict.DELETE_FOREGROUND:
                if verdict.unblock:
                    await self._unblock(node, resource, live)
                    live = await self._live(resource, node.identity.namespace, node.identity.name) or live
                await self._delete(node.identity, resource, live, "Foreground")
            case Verdict.DELETE:
                wish = policy(live["metadata"].get("finalizers") or ())
                await self._delete(node.identity, resource, live, wish)

    async def _verify(self, node: Node) -> None:
        """An owner known only by reference: if it is not there, those who refer to it must be looked at."""
        revision = self._woken.get(node.identity.uid, 0)
        for dependent in tuple(node.dependents.values()):
            self._woken.setdefault(dependent.identity.uid, revision)
            self.queue.add(Work(dependent.identity.uid))

    async def _finish_foreground(self, node: Node, resource: Resource, live: dict[str, Any]) -> None:
        waiting = blocking(node)
        for dependent in waiting:
            if not dependent.foreground:
                self.queue.add(Work(dependent.identity.uid))
        if not waiting:
            await self._drop_finalizer(node.identity, resource, live, FOREGROUND)

    async def _orphan(self, node: Node) -> None:
        """Release the dependents of an object that is deleted with the policy Orphan, then let it go."""
        resource = await self._resource(node.identity.api_version, node.identity.kind)
        live = await self._live(resource, node.identity.namespace, node.identity.name)
        if live is None or live["metadata"].get("uid") != node.identity.uid:
            return
        if ORPHAN not in (live["metadata"].get("finalizers") or ()):
            return
        for dependent in tuple(node.dependents.values()):
            await self._release(dependent.identity, node.identity.uid)
        await self._drop_finalizer(node.identity, resource, live, ORPHAN)

    async def _release(self, dependent: Identity, owner: str) -> None:
        resource = await self._resource(dependent.api_version, dependent.kind)
        live = await self._live(resource, dependent.namespace, dependent.name)
        if live is None or live["metadata"].get("uid") != dependent.uid:
            return
        references = live["metadata"].get("ownerReferences") or ()
        kept = [reference for reference in references if reference["uid"] != owner]
        if len(kept) < len(references):
            await self._patch(dependent, resource, live, {"ownerReferences": kept or None})

    async def _unblock(self, node: Node, resource: Resource, live: dict[str, Any]) -> None:
        references = [{**owner, "blockOwnerDeletion": False} for owner in live["metadata"]["ownerReferences"]]
        await self._patch(node.identity, resource, live, {"ownerReferences": references})

    # ----------------------------------------------------------------------------------- how owners stand

    async def _standing(self, owner: Owner, dependent: Identity, resource: Resource) -> Standing:
        namespace = dependent.namespace
        known = self._graph.standing(owner, namespace)
        if known is not None:
            return known
        if (owner.uid, namespace) in self._absent or (owner.uid, _ANYWHERE) in self._absent:
            return Standing.DANGLING
        kind = await self._resource(owner.api_version, owner.kind)
        if kind.namespaced and not namespace:
            self._warn(dependent, owner)
            return Standing.SOLID   # cannot be told: such an object is never collected
        live = await self._live(kind, namespace if kind.namespaced else "", owner.name)
        if live is None or live["metadata"].get("uid") != owner.uid:
            if owner.uid in self._graph.nodes and not self._graph.nodes[owner.uid].virtual:
                self._warn(dependent, owner)   # it exists, but in another namespace
            self._remember_absent(owner.uid, namespace)
            return Standing.DANGLING
        data = live["metadata"]
        waits = bool(data.get("deletionTimestamp")) and FOREGROUND in (data.get("finalizers") or ())
        return Standing.WAITING if waits else Standing.SOLID

    def _warn(self, dependent: Identity, owner: Owner) -> None:
        about = core.ObjectReference(
            apiVersion=dependent.api_version,
            kind=dependent.kind,
            namespace=dependent.namespace or None,
            name=dependent.name,
            uid=dependent.uid,
        )
        text = (
            f"ownerRef [{owner.api_version}/{owner.kind}, namespace: {dependent.namespace}, "
            f"name: {owner.name}, uid: {owner.uid}] does not exist in namespace \"{dependent.namespace}\""
        )
        self._recorder.event(about, WARNING, "OwnerRefInvalidNamespace", text)

    def _remember_absent(self, uid: str, namespace: str) -> None:
        self._absent[uid, namespace] = None
        if len(self._absent) > _ABSENT:
            self._absent.popitem(last=False)

    async def _resource(self, api_version: str, kind: str) -> Resource:
        """The resource of a kind. LookupError if the server has none (it may have it later)."""
        found = self._resources.of_kind(api_version, kind)
        if found is None and self._clock.monotonic() - self._discovered_at > _REDISCOVER_SECONDS:
            await self._rediscover()
            found = self._resources.of_kind(api_version, kind)
        if found is None:
            raise LookupError(f"the server knows no {kind} of {api_version}")
        return found

    # ------------------------------------------------------------------------------------ talking to the server

    async def _live(self, resource: Resource, namespace: str, name: str) -> dict[str, Any] | None:
        try:
            return await get_json(self._client, resource.path(namespace, name))
        except errors.NotFound:
            return None

    async def _patch(
        self, identity: Identity, resource: Resource, live: dict[str, Any], data: dict[str, Any]
    ) -> None:
        body = {"metadata": {"resourceVersion": live["metadata"]["resourceVersion"], **data}}
        try:
            await self._client.call(
                "PATCH",
                resource.path(identity.namespace, identity.name),
                body=msgspec.json.encode(body),
                content_type="application/merge-patch+json",
                because=self._because(identity, live),
            )
        except errors.NotFound:
            return

    async def _drop_finalizer(
        self, identity: Identity, resource: Resource, live: dict[str, Any], name: str
    ) -> None:
        finalizers = [f for f in live["metadata"].get("finalizers") or () if f != name]
        await self._patch(identity, resource, live, {"finalizers": finalizers})

    async def _delete(
        self, identity: Identity, resource: Resource, live: dict[str, Any], propagation: str
    ) -> None:
        data = live["metadata"]
        options = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "propagationPolicy": propagation,
            "preconditions": {"uid": data["uid"], "resourceVersion": data["resourceVersion"]},
        }
        path = resource.path(identity.namespace, identity.name)
        because = self._because(identity, live)
        try:
            await self._client.call("DELETE", path, body=msgspec.json.encode(options), because=because)
        except errors.NotFound:
            return

    def _because(self, identity: Identity, live: dict[str, Any]) -> tuple[int, ...]:
        """What had the object looked at (the end of its owner, say), and the object as it is."""
        woken = self._woken.get(identity.uid, 0)
        revision = revision_number(live["metadata"].get("resourceVersion"))
        return (woken, revision) if woken and woken != revision else (revision,)


def _identity(kind: Kind, data: Any) -> Identity:
    return Identity(kind.api_version, kind.kind, data.namespace or "", data.name or "", data.uid or "")


def _owners(live: dict[str, Any]) -> tuple[Owner, ...]:
    return tuple(
        Owner(o["apiVersion"], o["kind"], o["name"], o["uid"], bool(o.get("blockOwnerDeletion")))
        for o in live["metadata"].get("ownerReferences") or ()
    )
