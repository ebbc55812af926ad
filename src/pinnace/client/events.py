"""Events: what a component tells people about an object (`kubectl describe`).

Any part calls `EventRecorder.event`, which never waits; `run` sends what was recorded, in order for each object
and several objects' side by side. What is sent follows client-go's correlator: the same event again raises the count
of the first, many alike ones are combined, and a source that chatters about one object is held back by a token
bucket. The correlator itself is pure.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec

from pinnace.api import codec, errors
from pinnace.api.core import v1 as core
from pinnace.api.kinds import kind_of_type
from pinnace.api.meta import v1 as meta
from pinnace.api.times import format as format_time
from pinnace.base.clock import Clock
from pinnace.base.crew import Crew
from pinnace.base.randomness import Randomness
from pinnace.client.client import Client

log = logging.getLogger("pinnace.events")

NORMAL: Literal["Normal"] = "Normal"
WARNING: Literal["Warning"] = "Warning"

_QUEUE = 8192              # events waiting to be sent; more are dropped
_SENDERS = 16              # events sent at a time; those about one object go one after the other
_REMEMBERED = 3 * 4096     # events that the correlator knows at a time, and no more groups of alike ones and subjects
_ALIKE = 10                # so many events that differ only in their message within …
_ALIKE_FOR = timedelta(minutes=10)       # … this time are combined into one
_BURST = 25.0              # events about one object from one source at once …
_REFILL = 1 / 300.0        # … and then one each five minutes
_ATTEMPTS = 4
_SECOND = timedelta(seconds=1)
_COMBINED = "(combined from similar events): "


def reference(obj: Any, field_path: str = "") -> core.ObjectReference:
    """The reference by which an event names its object; `field_path` e.g. `spec.containers{web}`."""
    if isinstance(obj, core.ObjectReference):
        return msgspec.structs.replace(obj, fieldPath=field_path) if field_path else obj
    cls: Any = type(obj)
    kind, data = kind_of_type(cls), codec.metadata(obj)
    return core.ObjectReference(
        apiVersion=kind.api_version,
        kind=kind.kind,
        name=data.name,
        namespace=data.namespace or None,
        uid=data.uid,
        resourceVersion=data.resourceVersion,
        fieldPath=field_path or None,
    )


class Known(msgspec.Struct, gc=False):
    """An event that was sent, or is going to be."""

    name: str
    count: int
    first: str | None


class _Group(msgspec.Struct, gc=False):
    """Events that differ only in their message, or the container that they tell of."""

    last: datetime
    messages: dict[str, None]                               # of late, the oldest first
    known: dict[tuple[str | None, str] | None, Known]       # by field path and message; None: the combined one


class _Subject(msgspec.Struct, gc=False):
    """An object, as far as one source tells of it."""

    tokens: float
    filled: datetime
    groups: dict[tuple[str | None, str | None], _Group]     # by type and reason


class Send(msgspec.Struct, gc=False):
    """Create the event, or raise the count of the one that is there by the name that is known."""

    event: core.Event
    known: Known
    repeated: bool
    because: tuple[int, ...] = ()


class Correlator:
    """Decides what becomes of an event: created, counted onto an earlier one, combined, or dropped."""

    def __init__(self) -> None:
        self._subjects: OrderedDict[tuple[str | None, ...], _Subject] = OrderedDict()     # told of longest ago first
        self._size = 0                                                                    # events known of them all

    def correlate(self, event: core.Event, now: datetime) -> Send | None:
        """The event becomes what is to be sent."""
        source, about = event.source, event.involvedObject
        who = source.component, source.host, about.kind, about.namespace, about.name, about.uid, about.apiVersion
        subject = self._subjects.get(who)
        if subject is None:
            subject = self._subjects[who] = _Subject(_BURST, now, {})
        else:
            self._subjects.move_to_end(who)
            if now > subject.filled:
                tokens = subject.tokens + (now - subject.filled) / _SECOND * _REFILL
                subject.tokens, subject.filled = tokens if tokens < _BURST else _BURST, now
        if subject.tokens < 1.0:
            return None
        subject.tokens -= 1.0
        alike, message = (event.type, event.reason), event.message or ""
        group = subject.groups.get(alike)
        if group is None:
            group = subject.groups[alike] = _Group(now, {}, {})
        elif now - group.last > _ALIKE_FOR:
            group.messages.clear()
        group.last = now
        group.messages[message] = None
        key = None if len(group.messages) >= _ALIKE else (about.fieldPath, message)
        if key is None:
            del group.messages[next(iter(group.messages))]
            event.message = _COMBINED + message
        known = group.known.get(key)
        if known is not None:
            known.count += 1
            event.count, event.firstTimestamp = known.count, known.first
            return Send(event, known, repeated=True)
        known = group.known[key] = Known(event.metadata.name or "", 1, event.firstTimestamp)
        self._size += 1
        if self._size > _REMEMBERED:
            self._forget()
        return Send(event, known, repeated=False)

    def _forget(self) -> None:
        """What was told of longest ago."""
        _, subject = self._subjects.popitem(last=False)
        self._size -= sum(len(group.known) for group in subject.groups.values())


_Object = tuple[str | None, str | None, str | None]      # kind, namespace, name


class EventRecorder:
    """Records events of one component. `host` is the node's name where the component belongs to one."""

    def __init__(
        self, client: Client, component: str, host: str = "", *, clock: Clock, randomness: Randomness
    ) -> None:
        self._client = client
        self._component = component
        self._host = host
        self._clock = clock
        self._randomness = randomness
        self._correlator = Correlator()
        # What waits, together at most _QUEUE: in the order of recording, and what has come to its turn, but waits
        # behind an event about the same object that is being sent.
        self._waiting: deque[tuple[_Object, Send]] = deque()
        self._behind: dict[_Object, deque[Send]] = {}
        self._senders = Crew(self._send_all, most=_SENDERS, name=f"events of {component}")
        self._running = False
        self._unsent = 0
        self._dropped = 0
        # The moment of the last event, as people and as names write it.
        self._now: datetime | None = None
        self._stamp = ""
        self._last = 0

    @property
    def idle(self) -> bool:
        """Nothing recorded waits to be sent."""
        return self._unsent == 0

    def event(
        self,
        about: Any,
        type: Literal["Normal", "Warning"],
        reason: str,
        message: str,
        *,
        field_path: str = "",
        annotations: Mapping[str, str] | None = None,
        because: tuple[int, ...] = (),
        host: str = "",
    ) -> None:
        """Tell about an object (or an ObjectReference). Never waits; dropped when too many are waiting. `host`: of
        a recorder that speaks for several nodes, which of them."""
        if self._unsent >= _QUEUE:
            self._drop(reason, message)
            return
        now = self._clock.now()
        if now != self._now:
            self._now, self._stamp = now, format_time(now)
            self._last = max(self._last, int(now.timestamp() * 1e6) * 1000 - 1)
        # Upstream's names carry the nanosecond; ours must differ even where the clock stands still.
        self._last += 1
        obj, host = reference(about, field_path), host or self._host
        event = core.Event(
            kind="Event",
            apiVersion="v1",
            metadata=meta.ObjectMeta(
                name=f"{obj.name}.{self._last:x}",
                namespace=obj.namespace or "default",
                annotations=dict(annotations) if annotations else None,
            ),
            involvedObject=obj,
            type=type,
            reason=reason,
            message=message[:1024],
            count=1,
            firstTimestamp=self._stamp,
            lastTimestamp=self._stamp,
            source=core.EventSource(component=self._component, host=host or None),
            reportingComponent=self._component,
            reportingInstance=host,
        )
        send = self._correlator.correlate(event, now)
        if send is None:
            return
        if because:
            send.because = because
        elif obj.resourceVersion and obj.resourceVersion.isdecimal():
            send.because = (int(obj.resourceVersion),)     # it tells of the object as it was then
        self._unsent += 1
        self._waiting.append(((obj.kind, obj.namespace, obj.name), send))
        if self._running:
            self._senders.rouse()

    async def run(self) -> None:
        """Send what is recorded until cancelled."""
        self._running = True
        try:
            if self._waiting:
                self._senders.rouse()
            await asyncio.get_running_loop().create_future()
        finally:
            self._running = False
            await asyncio.gather(*self._senders.dismiss(), return_exceptions=True)
            for obj, behind in self._behind.items():      # for the next `run`
                self._waiting.extendleft((obj, send) for send in reversed(behind))
            self._behind.clear()

    async def _send_all(self) -> None:
        """What one sender does."""
        waiting = self._waiting
        while waiting:
            obj, send = waiting.popleft()
            if obj in self._behind:
                self._behind[obj].append(send)
                continue
            behind = self._behind[obj] = deque()
            while waiting and waiting[0][0] == obj:
                behind.append(waiting.popleft()[1])
            if waiting:
                self._senders.rouse()
            await self._send(send)
            while behind:
                await self._send(behind.popleft())
            del self._behind[obj]

    def _drop(self, reason: str, message: str) -> None:
        self._dropped += 1
        if self._dropped & (self._dropped - 1) == 0:     # the log is not flooded as well
            log.warning("too many events are waiting; %d dropped, now %s: %s", self._dropped, reason, message)

    async def _send(self, send: Send) -> None:
        event, known = send.event, send.known
        try:
            for attempt in range(_ATTEMPTS):
                try:
                    if send.repeated:
                        await self._count(send)
                    else:
                        await self._client.create(event, because=send.because, giving=True)
                    return
                except errors.NotFound as error:
                    if not send.repeated:
                        log.debug("event %s was refused: %s", event.reason, error)
                        return
                    # The earlier one has expired: this starts anew.
                    send.repeated, event.metadata.name = False, known.name
                except errors.AlreadyExists:
                    # Another component wrote of the object in the same instant, as it happens where time stands still.
                    self._last += 1000
                    known.name = event.metadata.name = f"{event.involvedObject.name}.{self._last:x}"
                except (errors.TooManyRequests, errors.ServiceUnavailable, OSError, TimeoutError) as error:
                    if attempt == _ATTEMPTS - 1:
                        log.warning("event %s was not sent: %s", event.reason, error)
                        return
                    await self._clock.sleep(self._randomness.jitter(0.5 * 4**attempt, 0.5))
        except errors.StatusError as error:
            log.debug("event %s was refused: %s", event.reason, error)
        except Exception:
            log.exception("event %s was not sent", event.reason)
        finally:
            self._unsent -= 1

    async def _count(self, send: Send) -> None:
        event = send.event
        patch = {"count": event.count, "lastTimestamp": event.lastTimestamp, "message": event.message}
        await self._client.patch(
            core.Event, send.known.name, event.metadata.namespace or "", patch, type="strategic", because=send.because
        )
