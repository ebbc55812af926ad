"""Events: what a component tells people about an object (`kubectl describe`).

Any part calls `EventRecorder.event`, which never waits; `run` sends what was recorded, in order for each object
and several objects' side by side. What is sent follows client-go's correlator: the same event again raises the count
of the first, many alike ones are combined, and a source that chatters about one object is held back by a token
bucket. The correlator itself is pure.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections import OrderedDict, deque
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, TypeVar

import msgspec

from pinnace.api import codec, errors
from pinnace.api.core import v1 as core
from pinnace.api.kinds import kind_of
from pinnace.api.meta import v1 as meta
from pinnace.api.times import format as format_time
from pinnace.base.clock import Clock
from pinnace.base.randomness import Randomness
from pinnace.client.client import Client

log = logging.getLogger("pinnace.events")

NORMAL: Literal["Normal"] = "Normal"
WARNING: Literal["Warning"] = "Warning"

_QUEUE = 8192            # events waiting to be sent; more are dropped
_LANES = 16              # events sent at a time; those about one object go one after the other
_REMEMBERED = 4096       # events, groups of alike events and sources that the correlator knows at a time
_ALIKE = 10              # so many events that differ only in their message within …
_ALIKE_SECONDS = 600.0   # … this time are combined into one
_BURST = 25.0            # events about one object from one source at once …
_REFILL = 1 / 300.0      # … and then one each five minutes
_ATTEMPTS = 4
_COMBINED = "(combined from similar events): "


def reference(obj: Any, field_path: str = "") -> core.ObjectReference:
    """The reference by which an event names its object; `field_path` e.g. `spec.containers{web}`."""
    if isinstance(obj, core.ObjectReference):
        return msgspec.structs.replace(obj, fieldPath=field_path) if field_path else obj
    kind, data = kind_of(obj), codec.metadata(obj)
    return core.ObjectReference(
        apiVersion=kind.api_version,
        kind=kind.kind,
        name=data.name,
        namespace=data.namespace or None,
        uid=data.uid,
        resourceVersion=data.resourceVersion,
        fieldPath=field_path or None,
    )


K = TypeVar("K")
V = TypeVar("V")


class _Recent(OrderedDict[K, V]):
    """What is known, the one used longest ago first; `keep` bounds it."""

    def keep(self, key: K, value: V) -> None:
        """Take in what is new."""
        self[key] = value
        if len(self) > _REMEMBERED:
            self.popitem(last=False)


class _Group(msgspec.Struct):
    """Events that differ only in their message."""

    messages: dict[str, None]     # the oldest first
    last: datetime


class _Bucket(msgspec.Struct):
    tokens: float
    filled: datetime


class Send(msgspec.Struct, frozen=True):
    """Create the event, or raise the count of the one that is there by name."""

    event: core.Event
    repeated: bool


_About = tuple[str | None, ...]


class Correlator:
    """Decides what becomes of an event: created, counted onto an earlier one, combined, or dropped."""

    def __init__(self) -> None:
        self._counted: _Recent[_About, core.Event] = _Recent()
        self._groups: _Recent[_About, _Group] = _Recent()
        self._buckets: _Recent[_About, _Bucket] = _Recent()

    def correlate(self, event: core.Event, now: datetime) -> Send | None:
        about = _about(event)
        if not self._admitted(about, now):
            return None
        key = (*about, event.type, event.reason)
        event, combined = self._combine(key, event, now)
        if not combined:
            key = (*key, event.message)
        earlier = self._counted.get(key)
        if earlier is None:
            self._counted.keep(key, event)
            return Send(event, repeated=False)
        event = msgspec.structs.replace(
            event,
            metadata=earlier.metadata,
            count=(earlier.count or 0) + 1,
            firstTimestamp=earlier.firstTimestamp,
        )
        self._counted[key] = event
        self._counted.move_to_end(key)
        return Send(event, repeated=True)

    def _admitted(self, about: _About, now: datetime) -> bool:
        bucket = self._buckets.get(about)
        if bucket is None:
            self._buckets.keep(about, _Bucket(_BURST - 1.0, now))
            return True
        self._buckets.move_to_end(about)
        elapsed = max(0.0, (now - bucket.filled).total_seconds())
        bucket.tokens = min(_BURST, bucket.tokens + elapsed * _REFILL)
        bucket.filled = now
        if bucket.tokens < 1.0:
            return False
        bucket.tokens -= 1.0
        return True

    def _combine(self, key: _About, event: core.Event, now: datetime) -> tuple[core.Event, bool]:
        group = self._groups.get(key)
        if group is None:
            self._groups.keep(key, _Group({event.message or "": None}, now))
            return event, False
        self._groups.move_to_end(key)
        messages = group.messages
        if (now - group.last).total_seconds() > _ALIKE_SECONDS:
            messages.clear()
        group.last = now
        messages[event.message or ""] = None
        if len(messages) < _ALIKE:
            return event, False
        del messages[next(iter(messages))]
        return msgspec.structs.replace(event, message=_COMBINED + (event.message or "")), True


def _about(event: core.Event) -> _About:
    """Source and object: what the token bucket is kept for."""
    source, obj = event.source or core.EventSource(), event.involvedObject
    return (
        source.component, source.host, obj.kind, obj.namespace, obj.name, obj.uid, obj.apiVersion, obj.fieldPath
    )


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
        # What waits, by lane; together at most _QUEUE. A lane has a sender once something was in it, which rests
        # (`_resting`) while it is empty.
        self._lanes: tuple[deque[tuple[core.Event, tuple[int, ...]]], ...] = tuple([deque() for _ in range(_LANES)])
        self._senders: dict[int, asyncio.Task[None]] = {}
        self._resting: dict[int, asyncio.Future[None]] = {}
        self._running = False
        self._unsent = 0
        self._dropped = 0
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
        event = self._make(reference(about, field_path), type, reason, message, annotations, host or self._host)
        if self._unsent >= _QUEUE:
            self._dropped += 1
            if self._dropped & (self._dropped - 1) == 0:     # the log is not flooded as well
                log.warning("too many events are waiting; %d dropped, now %s: %s", self._dropped, reason, message)
            return
        self._unsent += 1
        obj = event.involvedObject
        if not because and (obj.resourceVersion or "").isdecimal():
            because = (int(obj.resourceVersion or 0),)     # it tells of the object as it was then
        lane = zlib.crc32(f"{obj.namespace}/{obj.name}".encode()) % _LANES
        self._lanes[lane].append((event, because))
        if self._running:
            self._rouse(lane)

    async def run(self) -> None:
        """Send what is recorded until cancelled."""
        self._running = True
        try:
            for lane, waiting in enumerate(self._lanes):
                if waiting:
                    self._rouse(lane)
            await asyncio.get_running_loop().create_future()
        finally:
            self._running = False
            senders = tuple(self._senders.values())
            for sender in senders:
                sender.cancel()
            await asyncio.gather(*senders, return_exceptions=True)
            self._senders.clear()
            self._resting.clear()

    def _rouse(self, lane: int) -> None:
        resting = self._resting.pop(lane, None)
        if resting is not None:
            resting.set_result(None)
        elif lane not in self._senders:
            self._senders[lane] = asyncio.create_task(self._drain(lane), name=f"events of {self._component}")

    async def _drain(self, lane: int) -> None:
        waiting, loop = self._lanes[lane], asyncio.get_running_loop()
        while True:
            while waiting:
                event, because = waiting.popleft()
                try:
                    send = self._correlator.correlate(event, self._clock.now())
                    if send is not None:
                        await self._send(send, because)
                except Exception:
                    log.exception("event %s was not sent", event.reason)
                finally:
                    self._unsent -= 1
            resting = self._resting[lane] = loop.create_future()
            await resting

    def _make(
        self,
        about: core.ObjectReference,
        type: str,
        reason: str,
        message: str,
        annotations: Mapping[str, str] | None,
        host: str,
    ) -> core.Event:
        now = self._clock.now()
        # Upstream's names carry the nanosecond; ours must differ even where the clock stands still.
        self._last = max(self._last + 1, int(now.timestamp() * 1e6) * 1000)
        stamp = format_time(now)
        return core.Event(
            metadata=meta.ObjectMeta(
                name=f"{about.name}.{self._last:x}",
                namespace=about.namespace or "default",
                annotations=dict(annotations) if annotations else None,
            ),
            involvedObject=about,
            type=type,
            reason=reason,
            message=message[:1024],
            count=1,
            firstTimestamp=stamp,
            lastTimestamp=stamp,
            source=core.EventSource(component=self._component, host=host or None),
            reportingComponent=self._component,
            reportingInstance=host,
        )

    async def _send(self, send: Send, because: tuple[int, ...]) -> None:
        repeated = send.repeated
        for attempt in range(_ATTEMPTS):
            try:
                if repeated:
                    await self._count(send.event, because)
                else:
                    await self._client.create(send.event, because=because, giving=True)
                return
            except errors.NotFound as error:
                if not repeated:
                    log.debug("event %s was refused: %s", send.event.reason, error)
                    return
                repeated = False   # the earlier one has expired: this starts anew
            except errors.AlreadyExists:
                # Another component wrote of the object in the same instant, as it happens where time stands still.
                self._last += 1000
                send.event.metadata.name = f"{send.event.involvedObject.name}.{self._last:x}"
            except (errors.TooManyRequests, errors.ServiceUnavailable, OSError, TimeoutError) as error:
                if attempt == _ATTEMPTS - 1:
                    log.warning("event %s was not sent: %s", send.event.reason, error)
                    return
                await self._clock.sleep(self._randomness.jitter(0.5 * 4**attempt, 0.5))
            except errors.StatusError as error:
                log.debug("event %s was refused: %s", send.event.reason, error)
                return

    async def _count(self, event: core.Event, because: tuple[int, ...]) -> None:
        data = event.metadata
        patch = {"count": event.count, "lastTimestamp": event.lastTimestamp, "message": event.message}
        await self._client.patch(
            core.Event, data.name or "", data.namespace or "", patch, type="strategic", because=because
        )
