"""Namespace: when one is deleted, all its content goes, pods first, and then it is let go.

A loop of its own instead of a plan, since only the server knows all kinds of content (custom ones too): it
asks, deletes, asks again. What to make of the answers is pure: `conditions_of`, `finalized`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from pinnace.api import errors
from pinnace.api.core import v1 as core
from pinnace.api.times import format as format_time
from pinnace.base.backoff import Backoff
from pinnace.base.clock import Clock
from pinnace.base.workqueue import WorkQueue
from pinnace.client.client import Client
from pinnace.client.informer import Event, Informers
from pinnace.controllers.discovery import Discovered, Resource, discover, get_json

log = logging.getLogger("pinnace.controllers")

FINALIZER = "kubernetes"
_WORKERS = 4
_SIDE_BY_SIDE = 16


class Remaining(msgspec.Struct, frozen=True):
    """What is left of one resource after its collection was deleted."""

    resource: Resource
    count: int = 0
    finalizers: tuple[str, ...] = ()   # one entry for each object that has it
    error: str = ""


def conditions_of(
    namespace: core.Namespace, discovered: Discovered, remaining: Sequence[Remaining], now: datetime
) -> core.Namespace:
    """The namespace with the five conditions of its deletion."""
    failed = [f"{version}: {why}" for version, why in discovered.failed]
    broken = [entry for entry in remaining if entry.error]
    left = sorted(
        f"{entry.resource.plural}.{entry.resource.group} has {entry.count} resource instances"
        for entry in remaining
        if entry.count
    )
    counts: dict[str, int] = {}
    for entry in remaining:
        for name in entry.finalizers:
            counts[name] = counts.get(name, 0) + 1
    held = [f"{name} in {count} resource instances" for name, count in sorted(counts.items())]
    deletion = "; ".join(f"{entry.resource.plural}: {entry.error}" for entry in broken)
    findings = (
        ("NamespaceDeletionDiscoveryFailure", bool(failed), "DiscoveryFailed", "ResourcesDiscovered",
         f"Discovery failed for some groups, {len(failed)} failing: {'; '.join(failed)}",
         "All resources successfully discovered"),
        ("NamespaceDeletionGroupVersionParsingFailure", False, "GroupVersionParsingFailed", "ParsedGroupVersions",
         "", "All legacy kube types successfully parsed"),
        ("NamespaceDeletionContentFailure", bool(broken), "ContentDeletionFailed", "ContentDeleted",
         f"Failed to delete all resource types, {len(broken)} remaining: {deletion}",
         "All content successfully deleted, may be waiting on finalization"),
        ("NamespaceContentRemaining", bool(left), "SomeResourcesRemain", "ContentRemoved",
         f"Some resources are remaining: {', '.join(left)}", "All content successfully removed"),
        ("NamespaceFinalizersRemaining", bool(held), "SomeFinalizersRemain", "ContentHasNoFinalizers",
         f"Some content in the namespace has finalizers remaining: {', '.join(held)}",
         "All content-preserving finalizers finished"),
    )  # fmt: skip
    status = namespace.status or core.NamespaceStatus()
    conditions = {condition.type: condition for condition in status.conditions or ()}
    for type, bad, bad_reason, good_reason, bad_message, good_message in findings:
        value, reason = ("True", bad_reason) if bad else ("False", good_reason)
        message = bad_message if bad else good_message
        old = conditions.get(type)
        if old is not None and (old.status, old.reason, old.message) == (value, reason, message):
            continue
        since = old.lastTransitionTime if old is not None and old.status == value else format_time(now)
        conditions[type] = core.NamespaceCondition(
            type=type, status=value, reason=reason, message=message, lastTransitionTime=since
        )
    status = msgspec.structs.replace(status, conditions=[*conditions.values()])
    return msgspec.structs.replace(namespace, status=status)


def finalized(namespace: core.Namespace) -> core.Namespace:
    """The namespace without Kubernetes' own finalizer."""
    spec = namespace.spec or core.NamespaceSpec()
    kept = [name for name in spec.finalizers or () if name != FINALIZER]
    return msgspec.structs.replace(namespace, spec=msgspec.structs.replace(spec, finalizers=kept))


class NamespaceController:
    """Empties namespaces that are being deleted."""

    name = "namespace"

    def __init__(self, informers: Informers, client: Client, clock: Clock) -> None:
        self._namespaces = informers.of(core.Namespace)
        self._pods = informers.of(core.Pod)
        self._client = client
        self._clock = clock
        self.queue: WorkQueue[str] = WorkQueue(clock, Backoff(initial=0.05, maximum=15.0))

    @property
    def idle(self) -> bool:
        return self.queue.idle and self._namespaces.cache.synced

    async def run(self) -> None:
        unsubscribe = (self._namespaces.subscribe(self._changed), self._pods.subscribe(self._pod_changed))
        try:
            await self._namespaces.wait_synced()
            await self.queue.serve(self._work, most=_WORKERS, name=self.name)
        finally:
            for end in unsubscribe:
                end()
            self.queue.close()

    def _changed(self, event: Event[core.Namespace]) -> None:
        if event.new is not None and event.new.metadata.deletionTimestamp is not None:
            self.queue.add(event.new.metadata.name or "")

    def _pod_changed(self, event: Event[core.Pod]) -> None:
        """The last pod's end is what a namespace mostly waits for."""
        if event.new is None:
            namespace = self._namespaces.cache.get("", event.old.metadata.namespace or "")
            if namespace is not None and namespace.metadata.deletionTimestamp is not None:
                self.queue.add(namespace.metadata.name or "")

    async def _work(self, name: str) -> None:
        try:
            if await self._empty(name):
                self.queue.forget(name)
            else:
                self.queue.retry(name)
        except errors.NotFound:
            self.queue.forget(name)
        except (errors.StatusError, OSError, TimeoutError) as error:
            seconds = self.queue.retry(name)
            log.log(
                logging.DEBUG if isinstance(error, errors.Conflict) else logging.WARNING,
                "namespace %s: %s; again in %.3g s", name, error, seconds,
            )  # fmt: skip
        except Exception:
            self.queue.retry(name)
            log.exception("namespace %s", name)

    async def _empty(self, name: str) -> bool:
        """Delete the content; whether nothing more is to be done about this namespace."""
        cached = self._namespaces.cache.get("", name)
        if cached is None or cached.metadata.deletionTimestamp is None:
            return True
        namespace = await self._client.get(core.Namespace, name)
        because = (int(namespace.metadata.resourceVersion or 0),)
        if namespace.metadata.uid != cached.metadata.uid:
            return True
        if FINALIZER not in ((namespace.spec.finalizers if namespace.spec is not None else None) or ()):
            return True
        discovered = await discover(self._client)
        remaining = await self._delete_content(name, discovered, because)
        updated = conditions_of(namespace, discovered, remaining, self._clock.now())
        if updated != namespace:
            namespace = await self._client.update(updated, subresource="status", because=because)
        if discovered.failed or any(entry.count or entry.error for entry in remaining):
            return False
        await self._client.update(finalized(namespace), subresource="finalize", because=because)
        return True

    async def _delete_content(
        self, namespace: str, discovered: Discovered, because: tuple[int, ...]
    ) -> list[Remaining]:
        kinds = [r for r in discovered.resources if r.namespaced and {"list", "delete"} <= r.verbs]
        first = [r for r in kinds if (r.group, r.plural) == ("", "pods")]
        # Pods go before what they use (KEP-5080): config, policies and accounts hold while they stop.
        remaining = [await self._delete_all(namespace, resource, because) for resource in first]
        if any(entry.count or entry.error for entry in remaining):
            return remaining
        rest = [r for r in kinds if r not in first]
        for start in range(0, len(rest), _SIDE_BY_SIDE):
            part = rest[start : start + _SIDE_BY_SIDE]
            remaining += await asyncio.gather(*(self._delete_all(namespace, r, because) for r in part))
        return remaining

    async def _delete_all(self, namespace: str, resource: Resource, because: tuple[int, ...]) -> Remaining:
        path = resource.path(namespace)
        try:
            if not await self._items(path):
                return Remaining(resource)
            if "deletecollection" in resource.verbs:
                await self._client.call("DELETE", path, body=_BACKGROUND, because=because)
            else:
                for item in await self._items(path):
                    await self._delete_one(resource.path(namespace, item["metadata"]["name"]), because)
            items = await self._items(path)
        except (errors.NotFound, errors.MethodNotAllowed):
            return Remaining(resource)
        except errors.StatusError as error:
            return Remaining(resource, error=error.message)
        finalizers = tuple(name for item in items for name in item["metadata"].get("finalizers") or ())
        return Remaining(resource, len(items), finalizers)

    async def _delete_one(self, path: str, because: tuple[int, ...]) -> None:
        try:
            await self._client.call("DELETE", path, body=_BACKGROUND, because=because)
        except errors.NotFound:
            return

    async def _items(self, path: str) -> list[dict[str, Any]]:
        return list((await get_json(self._client, path)).get("items") or ())


_BACKGROUND = msgspec.json.encode(
    {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
)
