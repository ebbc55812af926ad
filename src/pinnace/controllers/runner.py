"""Drives a controller: events wake a key, `observe` collects, `decide` plans, and this performs the plan.

Before `decide` is asked about a key again, the caches have seen everything that its last plan wrote. That is
what makes deciding from caches safe, and stands where upstream's controllers keep expectations by hand.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar, assert_never, cast

import msgspec

from pinnace.api import codec, errors
from pinnace.base.backoff import Backoff
from pinnace.base.clock import Clock
from pinnace.base.deadline import within
from pinnace.base.workqueue import WorkQueue
from pinnace.client import informer as informers
from pinnace.client.client import Client
from pinnace.client.events import EventRecorder
from pinnace.client.transport import TIMER
from pinnace.controllers.dispatch import Dispatch, Primary
from pinnace.controllers.plan import (
    Action,
    Controller,
    Create,
    Delete,
    Emit,
    Failure,
    Patch,
    Plan,
    Ref,
    Reporting,
    Update,
    Write,
    alike,
)  # fmt: skip

log = logging.getLogger("pinnace.controllers")

Seen = TypeVar("Seen")

_WORKERS = 8
_SIDE_BY_SIDE = 64       # writes of one plan under way at a time
_CAUSES = 16             # revisions remembered for a key that waits
_CLIENTS = 1000          # acting for an object, that are kept
_CATCH_UP_SECONDS = 30.0 # safety net: a cache that does not show a write by then is no longer waited for


class _Deleted(msgspec.Struct, frozen=True):
    cache: informers.Cache[Any]
    namespace: str
    name: str
    uid: str

    def shown(self) -> bool:
        """Whether the cache shows that the object is gone or on its way out."""
        obj = self.cache.get(self.namespace, self.name)
        if obj is None:
            return True
        meta = codec.metadata(obj)
        return bool(meta.deletionTimestamp) or bool(self.uid and meta.uid != self.uid)


class _Deed(msgspec.Struct):
    """A plan while it is carried out: for which object and because of what, what it wrote, what was refused."""

    client: Client
    primary: Any
    because: tuple[int, ...]
    written: dict[informers.Cache[Any], int] = {}   # the last revision, by where it will be seen
    revisions: set[int] = set()                     # of everything written
    behind: bool = False                            # a cache did not show it at once
    deleted: list[_Deleted] = []                    # … nor these deletions
    failures: list[Failure] = []
    overtaken: errors.Conflict | None = None        # a deletion met another object of that name, or lost a race
    unsure: dict[tuple[type[Any], str], None] = {}  # kind and namespace of lost creations
    wrote: bool = False


class Runner(Generic[Seen]):
    """Runs one controller until cancelled. `dispatch` is shared by the controllers of a process."""

    def __init__(
        self,
        controller: Controller[Seen],
        client: Client,
        recorder: EventRecorder,
        *,
        clock: Clock,
        dispatch: Dispatch | None = None,
        workers: int = _WORKERS,
    ) -> None:
        self.controller = controller
        self._since: Callable[[Ref], datetime | None] | None = getattr(controller, "since", None)
        self.queue: WorkQueue[Ref] = WorkQueue(
            clock,
            Backoff(initial=0.005, maximum=1000.0),
            put_off=self._put_off if self._since is not None else None,
        )
        self._client = client
        self._recorder = recorder
        self._clock = clock
        self._dispatch = dispatch or Dispatch()
        self._workers = workers
        self._because: dict[Ref, list[int]] = {}
        # When `decide` wants to be asked again, on the monotonic clock, and what had made it say so.
        self._alarms: dict[Ref, tuple[float, tuple[int, ...]]] = {}
        self._counted: dict[Ref, tuple[float, datetime]] = {}     # what it last said, and what that counts from
        self._unsure: dict[Ref, dict[tuple[type[Any], str], None]] = {}
        self._pause: float = getattr(controller, "pause", 0.0)
        self._acting: dict[Ref, Client] = {}
        self._started = False
        self._resting: dict[Ref, float] = {}   # until when, on the monotonic clock
        watched = [controller.primary, *(watch.informer for watch in controller.watches)]
        self._informers = list(dict.fromkeys(watched))
        self._caches = {
            informer.kind: informer.cache
            for informer in self._informers
            if not (informer.namespace or informer.label_selector or informer.field_selector)
        }

    @property
    def name(self) -> str:
        return self.controller.name

    @property
    def idle(self) -> bool:
        """Everything is synced and nothing waits to be decided now (timers do not count)."""
        return self.queue.idle and all(informer.cache.synced for informer in self._informers)

    async def run(self) -> None:
        controller = self.controller
        primary = Primary(controller.primary, self._primary_changed, getattr(controller, "concerns", None))
        unsubscribe = [self._dispatch.watch(watch, self.wake) for watch in (primary, *controller.watches)]
        try:
            for informer in self._informers:
                await informer.wait_synced()
            self._started = True
            await self.queue.serve(self._work, most=self._workers, name=self.name)
        finally:
            self._started = False
            for end in unsubscribe:
                end()
            self.queue.close()

    def wake(self, ref: Ref, revision: str | None) -> None:
        """Decide about an object soon, because of a resourceVersion."""
        because = informers.revision_number(revision)
        causes = self._because.get(ref)
        if causes is None:
            self._because[ref] = [because]
        elif because not in causes and len(causes) < _CAUSES:
            causes.append(because)
        if self._pause:
            self._add(ref)
        else:
            self.queue.add(ref)

    def _add(self, ref: Ref) -> None:
        if self._pause:
            self.queue.add_after(ref, self._resting.get(ref, 0.0) - self._clock.monotonic())
        else:
            self.queue.add(ref)

    def _remember(self, ref: Ref, revisions: Iterable[int]) -> None:
        causes = self._because.get(ref)
        if causes is None:
            causes = self._because[ref] = []
        for revision in revisions:
            if revision not in causes and len(causes) < _CAUSES:
                causes.append(revision)

    def _primary_changed(self, event: informers.Event[Any]) -> None:
        obj: Any = event.old if event.new is None else event.new
        meta = obj.metadata
        ref = (meta.namespace or "", meta.name or "")
        if event.new is None and self._started and self.controller.observe(ref) is None:
            self._let_go(ref)      # nothing is left of it to be looked at
        else:
            self.wake(ref, meta.resourceVersion)

    def _let_go(self, ref: Ref) -> None:
        self.queue.forget(ref)
        self._because.pop(ref, None)
        self._resting.pop(ref, None)
        self._alarms.pop(ref, None)
        self._counted.pop(ref, None)

    async def _work(self, ref: Ref) -> None:
        because: tuple[int, ...] = ()
        done = False
        try:
            if ref in self._unsure:
                await self._find_out(ref)
            causes = self._because.pop(ref, ())
            seen = self.controller.observe(ref)
            if seen is None:
                self._let_go(ref)
            else:
                because = tuple(causes) if causes and ref not in self._alarms else self._causes_of(ref, causes)
                await self._reconcile(ref, seen, because)
            done = True
        except (errors.StatusError, OSError, TimeoutError) as error:
            seconds = self.queue.retry(ref)
            log.log(_severity(error), "%s: %s/%s: %s; again in %.3g s", self.name, *ref, error, seconds)
        except Exception:
            self.queue.retry(ref)
            log.exception("%s: %s/%s", self.name, *ref)
        finally:
            if not done:
                self._remember(ref, because)     # whenever it is tried again, it is for the same reasons

    async def _reconcile(self, ref: Ref, seen: Seen, because: tuple[int, ...]) -> None:
        if self._pause:
            self._resting[ref] = self._clock.monotonic() + self._pause
        now = self._clock.now()
        plan = self.controller.decide(seen, now)
        if not plan.actions and plan.status is None:
            if plan.again is not None:
                self._set_alarm(ref, plan.again, because)
            if ref in self.queue.failed:
                self.queue.forget(ref)
            return
        primary = self.controller.primary.cache.find(ref)
        deed = _Deed(self._acting.get(ref) or self._client_for(ref, primary), primary, because)
        try:
            if plan.actions:
                await self._perform(plan.actions, deed)
            if deed.failures:
                # The plan's status spoke of what was to be done; only a report may speak of what was refused.
                plan = self._reported(seen, plan, deed, now)
                await self._perform(plan.actions, _Deed(deed.client, primary, because))
            if plan.status is not None:
                await self._write(Update(plan.status, subresource="status"), deed)
        finally:
            if deed.unsure:
                self._unsure[ref] = deed.unsure
            if deed.behind or deed.deleted:
                await self._caught_up(ref, deed)
        if plan.again is not None:
            self._set_alarm(ref, plan.again, because)
        if deed.failures or deed.overtaken is not None:
            self._raise_refused(deed)
        if ref in self.queue.failed:
            self.queue.forget(ref)
        if deed.wrote:
            self._follow_up(ref, deed, plan.final)

    def _client_for(self, ref: Ref, primary: Any) -> Client:
        """One whose writes are recorded as made for the object: what it is called is put together once."""
        client = self._client.acting_for(primary)
        if len(self._acting) >= _CLIENTS:
            self._acting.clear()
        if primary is not None:
            self._acting[ref] = client
        return client

    def _causes_of(self, ref: Ref, revisions: Sequence[int]) -> tuple[int, ...]:
        """Why an object is decided about now: what woke it; an alarm that was due; else the object as it is."""
        alarm = self._alarms.get(ref)
        if alarm is not None and alarm[0] <= self._clock.monotonic():
            del self._alarms[ref]
            revisions = tuple(dict.fromkeys((TIMER, *revisions, *alarm[1])))[:_CAUSES]
        elif revisions:
            return tuple(revisions)
        if not any(revisions):
            primary = self.controller.primary.cache.find(ref)
            if primary is not None:
                revisions = (*revisions, informers.revision_number(codec.metadata(primary).resourceVersion))
        return tuple(revisions)

    def _is_due(self, ref: Ref) -> bool:
        """Whether the time has come that `decide` wanted to be asked again."""
        alarm = self._alarms.get(ref)
        return alarm is not None and alarm[0] <= self._clock.monotonic()

    def _set_alarm(self, ref: Ref, again: timedelta, because: tuple[int, ...]) -> None:
        seconds = again.total_seconds()
        due = self._clock.monotonic() + seconds
        self.queue.add_at(ref, due)
        if ref not in self._alarms or due < self._alarms[ref][0]:
            self._alarms[ref] = due, because
        since = self._since(ref) if self._since is not None else None
        if since is not None:
            self._counted[ref] = due, since

    def _put_off(self, ref: Ref, due: float) -> float | None:
        """When an alarm that is due goes off instead, as what it counts from has moved on."""
        since = self._since(ref) if self._since is not None else None
        if since is None or ref not in self._counted or ref not in self._alarms or self._alarms[ref][0] != due:
            return None
        said, counted = self._counted[ref]
        later = said + (since - counted).total_seconds()
        if later <= self._clock.monotonic():
            return None
        self._counted[ref] = later, since
        self._alarms[ref] = later, self._alarms[ref][1]
        return later

    def _reported(self, seen: Seen, plan: Plan, deed: _Deed, now: datetime) -> Plan:
        if not hasattr(self.controller, "report"):
            return Plan(again=plan.again)
        reporting = cast("Reporting[Seen]", self.controller)
        report = reporting.report(seen, plan, tuple(deed.failures), now)
        return Plan(report.actions, report.status, report.again or plan.again)

    def _raise_refused(self, deed: _Deed) -> None:
        """Have it tried again later, if that has any prospect."""
        refused: list[errors.StatusError] = [f.error for f in deed.failures if not _final(f.error)]
        if deed.overtaken is not None:
            refused.append(deed.overtaken)
        if refused:
            raise next((e for e in refused if not isinstance(e, errors.Conflict)), refused[0])

    def _follow_up(self, ref: Ref, deed: _Deed, final: bool) -> None:
        """Have the key decided again after what was written, if need be."""
        if final and not (ref in self._alarms and self._is_due(ref)):
            woken = self._because.pop(ref, None)
            # Of more than are remembered there may be others among them.
            if woken is None or (len(woken) < _CAUSES and deed.revisions.issuperset(woken)):
                self.queue.dismiss(ref)      # nothing is left to be done, and nothing has happened but this
                return
            self._because[ref] = woken
        # What is decided next follows from what was just written, or from what that followed from.
        self._remember(ref, sorted(deed.written.values()) or deed.because)
        self._add(ref)

    async def _perform(self, actions: Sequence[Action], deed: _Deed) -> None:
        last = len(actions)
        batch: list[Write] = []
        for number, action in enumerate(actions, 1):
            if isinstance(action, Emit):
                self._emit(action, deed)
                continue
            if number < last and alike(action, actions[number]):
                batch.append(action)
                continue
            if batch:
                await self._side_by_side((*batch, action), deed)
                batch.clear()
            else:
                await self._attempt(action, deed)
            if deed.failures:
                return

    async def _side_by_side(self, writes: Sequence[Write], deed: _Deed) -> None:
        # Upstream's slow start: creations that a quota or a webhook refuses are not tried a thousand times.
        size = 1 if isinstance(writes[0], Create) else _SIDE_BY_SIDE
        start = 0
        while start < len(writes) and not deed.failures:
            await _together([self._attempt(write, deed) for write in writes[start : start + size]])
            start += size
            size = min(size * 2, _SIDE_BY_SIDE)

    async def _attempt(self, write: Write, deed: _Deed) -> None:
        try:
            await self._write(write, deed)
        except errors.StatusError as error:
            if isinstance(error, errors.NotFound) and not isinstance(write, Create):
                return   # gone already: the caches will show it
            if isinstance(error, errors.Conflict) and isinstance(write, Delete) and write.uid:
                deed.overtaken = error     # another object of that name, or too many changes at once
                return
            deed.failures.append(Failure(write, error))
            if write.otherwise is not None and not _final(error):
                self._emit(write.otherwise, deed, error=error)

    async def _write(self, write: Write, deed: _Deed) -> None:
        client, because = deed.client, deed.because
        result: Any = None
        match write:
            case Create(obj):
                try:
                    # Its template belongs to others.
                    result = await client.create(codec.copy(obj), because=because, giving=True)
                except (OSError, TimeoutError, errors.Timeout):
                    deed.unsure[type(obj), codec.metadata(obj).namespace or ""] = None
                    raise
            case Update(obj, subresource):
                # A new status is the controller's own; what else it writes may share parts with what others have.
                giving = subresource == "status"
                result = await client.update(obj, subresource=subresource, because=because, giving=giving)
            case Patch(kind, namespace, name, patch, patch_type, subresource):
                result = await client.patch(
                    kind, name, namespace, patch, type=patch_type, subresource=subresource, because=because
                )
            case Delete(kind, namespace, name, uid):
                await client.delete(
                    kind, name, namespace, uid=uid, grace_period=write.grace_period,
                    propagation=write.propagation, resource_version=write.resource_version, because=because,
                )  # fmt: skip
                if kind in self._caches:
                    deleted = _Deleted(self._caches[kind], namespace, name, uid)
                    if not deleted.shown():
                        deed.deleted.append(deleted)
            case _:
                assert_never(write)
        deed.wrote = True
        if result is not None:
            revision = informers.revision_number(result.metadata.resourceVersion)
            deed.revisions.add(revision)
            cache = self._caches.get(type(result))
            if cache is not None:
                if revision > deed.written.get(cache, 0):
                    deed.written[cache] = revision
                if cache.revision < revision:
                    deed.behind = True
        if write.then is not None:
            name = write.name if isinstance(write, (Delete, Patch)) else result.metadata.name or ""
            self._emit(write.then, deed, name=name)

    def _emit(self, emit: Emit, deed: _Deed, *, name: str = "", error: object = "") -> None:
        about = deed.primary if emit.about is None else emit.about
        if about is None:
            return
        message = emit.message
        if "{" in message:
            message = message.replace("{name}", name).replace("{error}", str(error))
        self._recorder.event(about, emit.type, emit.reason, message, because=deed.because)

    async def _find_out(self, ref: Ref) -> None:
        """After creations whose answer was lost: return when the caches show those that were made all the same, so
        that none is made a second time under another generated name. Raises what the server answers."""
        for kind, namespace in tuple(self._unsure[ref]):
            cache = self._caches.get(kind)
            if cache is not None:
                found = (await self._client.list(kind, namespace)).items
                made = [informers.revision_number(codec.metadata(obj).resourceVersion) for obj in found]
                async with asyncio.timeout(_CATCH_UP_SECONDS):
                    await cache.wait_for_revision(max(made, default=0))
            self._unsure[ref].pop((kind, namespace), None)
        self._unsure.pop(ref, None)

    async def _caught_up(self, ref: Ref, deed: _Deed) -> None:
        """Return when the caches show what was written: the next decision rests on it."""
        try:
            await within(_CATCH_UP_SECONDS, _shown(deed))
        except TimeoutError:
            log.warning("%s: %s/%s: the caches do not show what was written; going on", self.name, *ref)


async def _shown(deed: _Deed) -> None:
    for cache, revision in deed.written.items():
        await cache.wait_for_revision(revision)
    for deleted in deed.deleted:
        await deleted.cache.wait_until(deleted.shown)


def _final(error: errors.StatusError) -> bool:
    """Whether trying again is pointless: the namespace is going away."""
    causes = error.details.causes if error.details is not None else ()
    return any(cause.reason == "NamespaceTerminating" for cause in causes)


def _severity(error: BaseException) -> int:
    """A stale write is everyday, and so is an object that went meanwhile; the rest is worth a line."""
    everyday = isinstance(error, errors.Conflict | errors.AlreadyExists | errors.NotFound)
    return logging.DEBUG if everyday else logging.WARNING


async def _together(attempts: Sequence[Awaitable[None]]) -> None:
    """Wait for all, then raise the first error there was."""
    if len(attempts) == 1:
        await attempts[0]
        return
    for result in await asyncio.gather(*attempts, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
