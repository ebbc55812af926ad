"""Watches: where they begin, what each watcher sees of an event, and how they end.

Joining a cache and looking at its past happen in one step without a turn of the loop between, so that a watcher
misses nothing and sees nothing twice. Lines are put together once an event; a watcher's buffer holds references.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

from pinnace.api import errors, fields
from pinnace.api.fields import FieldError
from pinnace.api.meta import v1 as meta
from pinnace.apiserver.cache import Entry, Event
from pinnace.apiserver.listing import candidates, parse_revision
from pinnace.apiserver.options import Query, flag, number, text
from pinnace.apiserver.registry import Registry
from pinnace.apiserver.selection import Selection
from pinnace.client.transport import WatchLine

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
        render: Render | None = None,
    ) -> None:
        self._registry = registry
        self._view = registry.view
        self._match = selection.match
        self._options = options
        self._current = current
        self._seconds = seconds
        self._render = render
        self._buffer: deque[WatchLine] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._ended = False
        self._tick = False
        self._after = 0
        self._initial: list[Entry] = []
        self._join(namespace, selection)

    def _join(self, namespace: str, selection: Selection) -> None:
        options, cache = self._options, self._registry.cache
        if options.initial:
            self._initial = candidates(self._registry, namespace, selection)
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
        self._leave = cache.join(_scope(cache.indexed, namespace, selection), self._sink)

    def _sink(self, event: Event) -> None:
        if self._ended or event.revision <= self._after:
            return
        if self._namespace and event.entry.object.metadata.namespace != self._namespace:
            return
        if len(self._buffer) >= _MOST_WAITING:
            self.end()
            return
        self._see(event)
        self._rouse()

    def _see(self, event: Event) -> None:
        """Put the event into the buffer, as what it is for this watcher's selectors."""
        type = event.type
        if self._match is not None:
            before = event.previous is not None and self._match(self._view.entry(event.previous).object)
            after = event.type != "DELETED" and self._match(self._view.entry(event.entry).object)
            if not before and not after:
                return
            type = "MODIFIED" if before and after else "ADDED" if after else "DELETED"
        if self._render is not None:
            self._buffer.append(self._render(type, self._view.entry(event.state(type))))
        else:
            self._buffer.append(event.line(self._view, type))

    def end(self, error: errors.StatusError | None = None) -> None:
        """Close the stream, with an ERROR event if there is a reason to give."""
        if error is not None and not self._ended:
            self._buffer.clear()
            self._buffer.append(error_line(error))
        self._ended = True
        self._rouse()

    async def batches(self) -> AsyncGenerator[tuple[WatchLine, ...], None]:
        """Until the time is up, the watcher is too slow, or the server ends it."""
        loop = asyncio.get_running_loop()
        timers = [loop.call_later(self._seconds, self.end)]
        if self._options.bookmarks:
            timers.append(loop.call_later(_BOOKMARK_SECONDS, self._remind, timers))
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
                    yield (self._bookmark(self._current()),)
                    continue
                self._wake = loop.create_future()
                await self._wake
        finally:
            for timer in timers:
                timer.cancel()
            self.close()

    def close(self) -> None:
        """Leave the cache; `batches` does it by itself once it has begun."""
        self._ended = True
        self._leave()

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
            yield (self._bookmark(self._after, {INITIAL_EVENTS_END: "true"}),)

    def _bookmark(self, revision: int, annotations: dict[str, str] | None = None) -> WatchLine:
        form = self._view.form
        obj = form.type(metadata=meta.ObjectMeta(annotations=annotations))
        item = form.item(form.value(obj), revision)
        obj.metadata.resourceVersion = str(revision)
        if self._render is not None:
            return self._render("BOOKMARK", Entry("", obj, item, revision, revision))
        return WatchLine("BOOKMARK", obj, form.line("BOOKMARK", item))

    def _remind(self, timers: list[asyncio.TimerHandle]) -> None:
        self._tick = True
        timers[1] = asyncio.get_running_loop().call_later(_BOOKMARK_SECONDS, self._remind, timers)
        self._rouse()

    def _rouse(self) -> None:
        wake = self._wake
        if wake is not None and not wake.done():
            wake.set_result(None)


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
