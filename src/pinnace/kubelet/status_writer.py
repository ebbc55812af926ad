"""Sends pod statuses: what changed, the newest only, until it is there.

`patch_of` is the pure part. One writer a pod, owned by its worker; several changes while a request is under way
become one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from itertools import compress
from operator import ne
from typing import Any, TypeVar

from msgspec.structs import astuple

from pinnace.api import codec, errors
from pinnace.api.core import v1 as core
from pinnace.base.backoff import Backoff
from pinnace.base.clock import Clock
from pinnace.client.client import Client
from pinnace.client.informer import revision_number

log = logging.getLogger("pinnace.kubelet.status")

S = TypeVar("S", core.PodStatus, core.NodeStatus)
_MERGED = frozenset({"podIPs", "hostIPs", "addresses"})     # lists that a strategic patch would merge


def patch_of(old: S, new: S) -> dict[str, Any]:
    """A strategic merge patch of a pod's or node's status: only what differs; conditions by type."""
    changed: dict[str, Any] = {}
    was: Any
    now: Any
    before, after = astuple(old), astuple(new)
    # Most fields are as they were.
    for name, was, now in compress(zip(new.__struct_fields__, before, after, strict=True), map(ne, before, after)):
        if name == "conditions":
            if turned := _conditions(was or (), now or ()):
                changed[name] = turned
        elif name in _MERGED and was and now:
            changed[name] = [{"$patch": "replace"}, *now]
        else:
            changed[name] = now
    patch: dict[str, Any] = codec.to_dict(changed) if changed else changed
    return patch


def _conditions(before: Sequence[Any], after: Sequence[Any]) -> list[Any]:
    known = {condition.type: condition for condition in before}
    changed: list[Any] = []
    for condition in after:
        was = known.pop(condition.type, None)
        if was == condition:
            continue
        if was and ((was.reason and not condition.reason) or (was.message and not condition.message)):
            condition = _without(was, condition)
        changed.append(condition)
    changed += [{"$patch": "delete", "type": type} for type in known]
    return changed


def _without(before: Any, after: Any) -> dict[str, Any]:
    """A condition with fields that are no longer set: these are said to be null, or they would stay."""
    lost = {name: None for name in ("reason", "message") if getattr(before, name) and not getattr(after, name)}
    return {**codec.to_dict(after), **lost}


class StatusWriter:
    def __init__(self, client: Client, clock: Clock, pod: core.Pod) -> None:
        self._client = client
        self._clock = clock
        self._base = pod
        self._wanted: core.PodStatus | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self._backoff = Backoff(initial=0.2, maximum=10.0)
        self.gone = False

    def seen(self, pod: core.Pod) -> None:
        """The API's newest state of the pod."""
        if revision_number(pod.metadata.resourceVersion) >= revision_number(self._base.metadata.resourceVersion):
            self._base = pod

    def put(self, status: core.PodStatus) -> None:
        """Make this the pod's status. Does not wait."""
        if self.gone or (self._wanted is None and not patch_of(self._base.status, status)):
            return
        self._wanted = status
        self._idle.clear()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._send(), name=f"status of {self._base.metadata.name}")

    @property
    def base(self) -> core.Pod:
        """The pod with the newest status that the API is known to have."""
        return self._base

    async def flush(self) -> None:
        """Return when the newest status is there (or the pod is gone)."""
        await self._idle.wait()

    def close(self) -> None:
        self.gone = True
        self._wanted = None
        self._idle.set()
        if self._task is not None:
            self._task.cancel()

    async def _send(self) -> None:
        meta, failed = self._base.metadata, False
        while self._wanted is not None:
            wanted = self._wanted
            patch = patch_of(self._base.status, wanted)
            if patch and not await self._patch(meta.name or "", meta.namespace or "", patch):
                failed = True
                continue
            if patch and failed:
                # What failed may have been written all the same: only this answer tells what there is now.
                failed = False
                continue
            if self._wanted is wanted:
                self._wanted = None
        self._idle.set()

    async def _patch(self, name: str, namespace: str, patch: dict[str, Any]) -> bool:
        body = {"metadata": {"uid": self._base.metadata.uid}, "status": patch}
        because = (revision_number(self._base.metadata.resourceVersion),)
        try:
            pod = await self._client.patch(
                core.Pod, name, namespace, body, type="strategic", subresource="status", because=because
            )
        except (errors.NotFound, errors.Conflict) as error:
            # Deleted, or made anew under the same name: nobody is interested in this status any more.
            log.debug("status of pod %s/%s: %s", namespace, name, error)
            self.gone, self._wanted = True, None
            return True
        except (errors.StatusError, OSError, TimeoutError) as error:
            log.warning("status of pod %s/%s was not taken: %s", namespace, name, error)
            await self._clock.sleep(self._backoff.next("patch", self._clock.monotonic()))
            return False
        self._backoff.forget("patch")
        self.seen(pod)
        return True
