"""Watches: where they begin, what each watcher sees of an event, and how they end.

Joining a cache and looking at its past happen in one step without a turn of the loop between, so that a watcher
misses nothing and sees nothing twice. Lines are put together once an event; a watcher's buffer holds references.
A watcher in this process may take the objects directly instead, without buffer and lines (`Watch.subscribe`).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

from pinnace.api import codec, errors, fields
from pinnace.api.fields import FieldError
from pinnace.apiserver.cache import Entry, Event
from pinnace.apiserver.listing import candidates, parse_revision
from pinnace.apiserver.options import Query, flag, number, text
from pinnace.apiserver.registry import Registry
from pinnace.apiserver.selection import Selection
from pinnace.client.transport import DirectWatch, Tell, WatchLine

log = logging.getLogger("pinnace.apiserver")

# Events that wait for one watcher; who falls further behind is cut off and has to come again.
_MOST_WAITING = 20_000
_BATCH = 500
_BOOKMARK_SECONDS = 60.0
_SHORTEST_SECONDS = 1800
INITIAL_EVENTS_END = "k8s.io/initial-events-end"

Render = Callable[[str, Entry], WatchLine]      # how an event looks as a table or as metadata only


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """`initial`: begin with what is there, as ADDED events. `marked`: say when that is done."""

    revision: int = 0
    initial: bool = True
    marked: bool = False
    bookmarks: bool = False
    seconds: int | None = None


def watch_options(query: Query) -> WatchOptions:
    """Raises Invalid, BadRequest."""
    revision, match = parse_revision(text(query, "resourceVersion")), text(query, "resourceVersionMatch")
    asked = flag(query, "sendInitialEvents") if "sendInitialEvents" in query else None
    findings: list[FieldError] = []
    path = "resourceVersionMatch"
    if asked is None and match:
        findings.append(
            fields.forbidden(path, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")
        )
    if asked is not None and match != "NotOlderThan":
        findings.append(
            fields.forbidden(path, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
        )
    if findings:
        raise errors.Invalid.of("ListOptions", "meta.k8s.io", "", findings)
    seconds = number(query, "timeoutSeconds")
    return WatchOptions(
        revision or 0,
        initial=asked if asked is not None else not revision,
        marked=bool(asked),
        bookmarks=flag(query, "allowWatchBookmarks"),
        seconds=seconds if seconds and seconds > 0 else None,
    )


class Watch:
    """One watcher. Made and joined in one step; `batches` is what it gets."""

    def __init__(
        self,
        registry: Registry,
        namespace: str,
        selection: Selection,
        options: WatchOptions,
        *,
        current: Callable[[], int],
        seconds: float,
        bookmarks: Bookmarks,
        render: Render | None = None,
    ) -> None:
        self.registry = registry
        self._view = registry.view
        self._match = selection.match
        self._options = options
        self._current = current
        self._seconds = seconds
        self._bookmarks = bookmarks
        self._render = render
        self._buffer: deque[WatchLine] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._ended = False
        self._tick = False
        self._after = 0
        self._shown = 0                          # newest revision that the watcher was told of
        self._tell: Tell | None = None           # a direct subscriber, and what it waits for
        self._over: asyncio.Future[None] | None = None
        self._initial: list[Entry] = []
        self._join(namespace, selection)

    def _join(self, namespace: str, selection: Selection) -> None:
        options, cache = self._options, self.registry.cache
        if options.initial:
            self._initial = candidates(self.registry, namespace, selection)
            self._after = self._current()
        else:
            self._after = options.revision or self._current()
            try:
                past = cache.since(self._after)
            except errors.Expired as error:
                past = []
                self._buffer.append(error_line(error))
                self._ended = True
            for event in past:
                if not namespace or event.entry.object.metadata.namespace == namespace:
                    self._see(event)
        self._namespace = namespace
        self._shown = 0 if options.initial and not options.marked else self._after
        self._joined = cache.join(_scope(cache.indexed, namespace, selection), self._sink, self._failed)

    def _sink(self, event: Event) -> None:
        if self._ended or event.revision <= self._after:
            return
        if self._namespace and event.entry.object.metadata.namespace != self._namespace:
            return
        if self._tell is not None:
            self._give(self._tell, event)
            return
        if len(self._buffer) >= _MOST_WAITING:
            self.end()
            return
        self._see(event)
        self._rouse()

    def _type_for(self, event: Event) -> str:
        """What the event is for this watcher's selectors; "" if it is nothing to it."""
        if self._match is None:
            return event.type
        before = event.previous is not None and self._match(self._view.entry(event.previous).object)
        after = event.type != "DELETED" and self._match(self._view.entry(event.entry).object)
        if before and after:
            return "MODIFIED"
        return "ADDED" if after else "DELETED" if before else ""

    def _see(self, event: Event) -> None:
        """Put the event into the buffer."""
        type = event.type if self._match is None else self._type_for(event)
        if not type:
            return
        self._shown = event.revision
        if self._render is not None:
            self._buffer.append(self._render(type, self._view.entry(event.state(type))))
        else:
            self._buffer.append(event.line(self._view, type))

    def _give(self, tell: Tell, event: Event) -> None:
        type = self._type_for(event)
        if not type:
            return
        try:
            tell(type, self._view.entry(event.state(type)).object, event.revision)
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        log.exception("a watcher in this process failed; its watch ends", exc_info=error)
        self.end(errors.InternalError.of(error))

    def end(self, error: errors.StatusError | None = None) -> None:
        """Close the stream, with an ERROR event if there is a reason to give."""
        if error is not None and not self._ended:
            self._buffer.clear()
            self._buffer.append(error_line(error))
        self._joined.tell = None
        if self._over is not None and not self._over.done():
            if error is None:
                self._over.set_result(None)
            else:
                _fail(self._over, error)
        self._ended = True
        self._rouse()

    def subscribe(self, tell: Tell) -> asyncio.Future[None]:
        """See `client.transport.DirectWatch`."""
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entries, self._initial = self._initial, []
        for stored in entries:
            entry = self._view.entry(stored)
            if self._match is None or self._match(entry.object):
                tell("ADDED", entry.object, entry.revision)
        if self._options.initial and self._options.marked and self._options.bookmarks:
            tell("BOOKMARK", self._mark(INITIAL_EVENTS_END)[0].object, self._after)
        for line in self._buffer:
            if line.type == "ERROR":
                _fail(over, errors.from_status(json.loads(line.line)["object"]))
                return over
            tell(line.type, line.object, int(codec.metadata(line.object).resourceVersion or 0))
        self._buffer.clear()
        if self._ended:
            over.set_result(None)
            return over
        self._tell, self._over = tell, over
        # Without selectors, what it has joined is just what it wants.
        if self._match is None and not self._view.converts and self._after <= self._current():
            self._joined.tell = tell
        return over

    def redirect(self, tell: Tell) -> None:
        """See `client.transport.DirectWatch`."""
        if self._tell is not None:
            self._tell = tell
        if self._joined.tell is not None:
            self._joined.tell = tell

    async def batches(self) -> AsyncGenerator[tuple[WatchLine, ...], None]:
        """Until the time is up, the watcher is too slow, or the server ends it."""
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._seconds, self.end)
        if self._options.bookmarks:
            self._bookmarks.join(self)
        try:
            async for batch in self._beginning():
                yield batch
            while True:
                if self._buffer:
                    lines = tuple(self._buffer)
                    self._buffer.clear()
                    yield lines
                    continue
                if self._ended:
                    return
                if self._tick:
                    self._tick = False
                    self._shown = self._current()
                    entry, line = self._view.bookmark(self._shown)
                    yield (line if self._render is None else self._render("BOOKMARK", entry),)
                    continue
                self._wake = loop.create_future()
                await self._wake
        finally:
            timer.cancel()
            self.close()

    def close(self) -> None:
        """Leave the cache; `batches` does it by itself once it has begun."""
        self._ended = True
        self._tell = self._joined.tell = None
        self._bookmarks.leave(self)
        self._joined.leave()

    def remind(self) -> None:
        """Tell the watcher where the server stands, if it does not know."""
        if self._current() > self._shown:
            self._tick = True
            self._rouse()

    async def _beginning(self) -> AsyncGenerator[tuple[WatchLine, ...], None]:
        entries, self._initial = self._initial, []
        match, view, form = self._match, self._view, self._view.form
        for start in range(0, len(entries), _BATCH):
            lines = []
            for stored in entries[start : start + _BATCH]:
                entry = view.entry(stored)
                if match is not None and not match(entry.object):
                    continue
                if self._render is not None:
                    lines.append(self._render("ADDED", entry))
                else:
                    lines.append(WatchLine("ADDED", entry.object, form.line("ADDED", entry.item)))
            if lines:
                yield tuple(lines)
        if self._options.marked and self._options.bookmarks:
            entry, line = self._mark(INITIAL_EVENTS_END)
            yield (line if self._render is None else self._render("BOOKMARK", entry),)

    def _mark(self, annotation: str) -> tuple[Entry, WatchLine]:
        return self._view.marked(self._after, {annotation: "true"})

    def _rouse(self) -> None:
        wake = self._wake
        if wake is not None and not wake.done():
            wake.set_result(None)


class Bookmarks:
    """Reminds the watchers that asked for it about once a minute, all with one timer, which runs only while there are
    some. Who has been told of the newest revision is left in peace."""

    def __init__(self) -> None:
        self._watches: dict[Watch, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def join(self, watch: Watch) -> None:
        self._watches[watch] = None
        self._arm()

    def leave(self, watch: Watch) -> None:
        if self._watches.pop(watch, watch) is None and not self._watches and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._timer is None and self._watches:
            self._timer = asyncio.get_running_loop().call_later(_BOOKMARK_SECONDS, self._remind)

    def _remind(self) -> None:
        self._timer = None
        for watch in self._watches:
            watch.remind()
        self._arm()


class Stream(DirectWatch):
    """A watch as the answer to a request: iterated, or subscribed to (`client.transport.DirectWatch`). It is one of
    the server's `watches` while it lasts."""

    def __init__(self, watch: Watch, watches: dict[Watch, None]) -> None:
        self._watch = watch
        self._watches = watches
        self._batches = watch.batches()
        watches[watch] = None

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> tuple[WatchLine, ...]:
        try:
            return await anext(self._batches)
        except BaseException:
            self._leave()
            raise

    def subscribe(self, tell: Tell) -> asyncio.Future[None]:
        return self._watch.subscribe(tell)

    def redirect(self, tell: Tell) -> None:
        self._watch.redirect(tell)

    async def aclose(self) -> None:
        await self._batches.aclose()
        self._leave()

    def _leave(self) -> None:
        self._watch.close()
        self._watches.pop(self._watch, None)


def _fail(future: asyncio.Future[None], error: errors.StatusError) -> None:
    future.set_exception(error)
    future.exception()              # a subscriber that went away does not make it "never retrieved"


def error_line(error: errors.StatusError) -> WatchLine:
    return WatchLine("ERROR", None, json.dumps({"type": "ERROR", "object": error.status()}).encode() + b"\n")


def duration(options: WatchOptions, jitter: Callable[[float, float], float]) -> float:
    """Seconds that a watch lasts: what the client asked for, else half an hour to an hour, so that many watches
    that began together do not end together."""
    return float(options.seconds) if options.seconds else jitter(_SHORTEST_SECONDS, 1.0)


def _scope(indexed: Any, namespace: str, selection: Selection) -> tuple[str, str]:
    for field, value in selection.equals:
        if field in indexed:
            return field, value
    return ("namespace", namespace) if namespace else ("", "")
