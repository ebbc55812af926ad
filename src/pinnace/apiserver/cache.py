"""The watch cache of one kind: every object decoded and serialized once, and the events that changed it.

The feed (`feed.py`) is the only writer. Readers take entries out (never changing them); watchers join and get
every later event, whose line is put together once for all of them.
"""

from __future__ import annotations

import operator
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from pinnace.api import codec
from pinnace.api.errors import Expired
from pinnace.api.kinds import Kind
from pinnace.api.meta import v1 as meta
from pinnace.client.transport import Tell, WatchLine
from pinnace.store.keys import SortedKeys

# Events that a resuming watch can still get; above it has to list again. Each keeps two states of an object alive, so
# that of what is older than the feed wants to keep only the fewest stay. Looked at after so many changes.
_FEWEST_EVENTS = 128
_MOST_EVENTS = 4096
_LOOK = 64


class Form:
    """How objects of a kind are written. Kind and apiVersion come first in the JSON, then metadata: so the
    revision can be put in, and the type left out (as in lists), at fixed places."""

    __slots__ = ("head", "kind", "type", "typed")

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.type: type[Any] = kind.type
        self.typed = f'{{"kind":"{kind.kind}","apiVersion":"{kind.api_version}",'.encode()
        self.head = self.typed + b'"metadata":{'

    def value(self, obj: Any) -> bytes:
        """What the store keeps: everything but the revision, which the store itself knows."""
        metadata = obj.metadata
        kept, metadata.resourceVersion = metadata.resourceVersion, None
        obj.kind, obj.apiVersion = self.kind.kind, self.kind.api_version
        try:
            return codec.encode(obj)
        finally:
            metadata.resourceVersion = kept

    def item(self, value: bytes, revision: int) -> bytes:
        """The object as lists show it, from what the store keeps; without a revision if that is 0."""
        if not revision:
            return b"{" + value[len(self.typed) :]
        rest = value[len(self.head) :]
        comma = b"," if rest[:1] != b"}" else b""
        return b'{"metadata":{"resourceVersion":"%d"%b%b' % (revision, comma, rest)

    def whole(self, item: bytes) -> bytes:
        """The object with its kind and apiVersion."""
        return self.typed + item[1:]

    def line(self, type: str, item: bytes) -> bytes:
        """The line of a watch event."""
        return b'{"type":"%b","object":%b%b}\n' % (type.encode(), self.typed, item[1:])


class Entry(msgspec.Struct, eq=False, gc=False):
    """An object at one revision. `value` is what the store keeps of it, under the kind's `form`."""

    key: str
    object: Any
    value: bytes
    revision: int
    created: int
    form: Form
    views: dict[str, Entry] | None = None     # the same in other versions, when asked for
    _item: bytes | None = None

    @property
    def item(self) -> bytes:
        """Its JSON without kind and apiVersion; put together when it is first asked for."""
        item = self._item
        if item is None:
            item = self._item = self.form.item(self.value, self.revision)
        return item


class Event(msgspec.Struct, eq=False, gc=False):
    """One change. `entry` is the state after it; of a deletion the last one, as it was."""

    type: str
    revision: int
    entry: Entry
    previous: Entry | None
    _last: Entry | None = None
    _lines: dict[tuple[str, str], WatchLine] | None = None

    def state(self, type: str) -> Entry:
        """What a watcher to whom the event is of the given type gets to see: when the object was deleted, or has left
        what the watcher selects, its last state under the revision of that."""
        if type != "DELETED" or self.previous is None:
            return self.entry
        if self._last is None:
            self._last = at_revision(self.previous, self.revision)
        return self._last

    def line(self, view: View, type: str) -> WatchLine:
        """The event as seen by watchers of that version, to whom it is of the given type."""
        key = (view.name, type)
        if self._lines is None:
            self._lines = {}
        line = self._lines.get(key)
        if line is None:
            seen = view.entry(self.state(type))
            line = self._lines[key] = WatchLine(type, seen.object, view.form.line(type, seen.item))
        return line


class View:
    """One version of what a cache holds. Most kinds have a single one, which costs nothing."""

    __slots__ = ("_convert", "_mark", "form", "name")

    def __init__(self, form: Form, convert: Callable[[Any], Any] | None = None) -> None:
        self.form = form
        self.name = form.kind.api_version
        self._convert = convert
        self._mark: tuple[int, Entry, WatchLine] | None = None

    @property
    def converts(self) -> bool:
        """Whether it shows something else than what is stored."""
        return self._convert is not None

    def entry(self, stored: Entry) -> Entry:
        """The entry in this version; shared like the stored one."""
        if self._convert is None:
            return stored
        if stored.views is None:
            stored.views = {}
        seen = stored.views.get(self.name)
        if seen is None:
            obj = self._convert(stored.object)
            obj.metadata = msgspec.structs.replace(stored.object.metadata)
            seen = Entry(stored.key, obj, self.form.value(obj), stored.revision, stored.created, self.form)
            stored.views[self.name] = seen
        return seen

    def bookmark(self, revision: int) -> tuple[Entry, WatchLine]:
        """The bookmark of a revision: one for all watchers of this version."""
        if self._mark is None or self._mark[0] != revision:
            self._mark = (revision, *self.marked(revision, None))
        return self._mark[1], self._mark[2]

    def marked(self, revision: int, annotations: dict[str, str] | None) -> tuple[Entry, WatchLine]:
        """A bookmark with annotations."""
        obj = self.form.type(metadata=meta.ObjectMeta(annotations=annotations))
        value = self.form.value(obj)
        obj.metadata.resourceVersion = str(revision)
        entry = Entry("", obj, value, revision, revision, self.form)
        return entry, WatchLine("BOOKMARK", obj, self.form.line("BOOKMARK", entry.item))


def at_revision(entry: Entry, revision: int) -> Entry:
    """The same state under another revision."""
    metadata = msgspec.structs.replace(entry.object.metadata, resourceVersion=str(revision))
    obj = msgspec.structs.replace(entry.object, metadata=metadata)
    return Entry(entry.key, obj, entry.value, revision, entry.created, entry.form)


Sink = Callable[[Event], None]
_EVERYTHING = ("", "")


class Joined:
    """A watcher's place in a cache. Its `sink` gets each event. While `tell` is set, that gets what
    `client.transport.Tell` says instead; `failed` gets what it raises."""

    __slots__ = ("_cache", "failed", "scope", "sink", "tell")

    def __init__(
        self, cache: WatchCache, scope: tuple[str, str], sink: Sink, failed: Callable[[Exception], None] | None
    ) -> None:
        self._cache = cache
        self.scope = scope
        self.sink = sink
        self.tell: Tell | None = None
        self.failed = failed

    def leave(self) -> None:
        self._cache.left(self)


class WatchCache:
    """Objects of one kind by key, in key order, with indexes by namespace and by chosen fields."""

    def __init__(self, form: Form, prefix: str, indexed: Mapping[str, Callable[[Any], str]] | None = None) -> None:
        self.form = form
        self.prefix = prefix
        self.indexed = dict(indexed or {})
        self.entries: dict[str, Entry] = {}
        self.version = 0                      # rises with every change
        self.changed = 0                      # revision of the last change
        self._keys = SortedKeys()
        self._index: dict[tuple[str, str], dict[str, None]] = {}      # keys by field and value
        self._events: list[Event] = []
        self._oldest = 0                      # a watch may resume after this revision
        self._joined: dict[tuple[str, str], dict[Joined, None]] = {}
        self._of_all: tuple[Joined, ...] = ()   # those of everything
        self._choosy = False                    # there are others

    def key(self, namespace: str, name: str) -> str:
        return f"{self.prefix}{namespace}/{name}" if self.form.kind.namespaced else f"{self.prefix}{name}"

    def get(self, namespace: str, name: str) -> Entry | None:
        return self.entries.get(self.key(namespace, name))

    def range(self, namespace: str = "", after: str = "") -> list[Entry]:
        """Entries in key order, of one namespace or of all, behind a key."""
        keys = self._keys.sorted()
        if namespace:
            start = f"{self.prefix}{namespace}/"
            low, high = bisect_left(keys, start), bisect_left(keys, start[:-1] + "0")    # "0" follows "/"
        else:
            low, high = 0, len(keys)
        if after:
            low = max(low, bisect_left(keys, after + "\0"))
        entries = self.entries
        return [entries[key] for key in keys[low:high]]

    def indexed_by(self, field: str, value: str) -> list[Entry]:
        """Entries whose indexed field has that value, in key order."""
        found = self._index.get((field, value))
        return [self.entries[key] for key in sorted(found)] if found else []

    def load(self, entries: Iterator[Entry], revision: int) -> None:
        """Start over with what the store holds at a revision."""
        self.entries = {entry.key: entry for entry in entries}
        self._keys = SortedKeys(self.entries)
        self._index.clear()
        for entry in self.entries.values():
            self._reindex(entry.key, entry, None)
        self._events.clear()
        self._oldest = self.changed = revision
        self.version += 1

    def apply(self, type: str, revision: int, entry: Entry, previous: Entry | None, kept: int = 0) -> None:
        """Take in one change (see `Event`) and tell the watchers whom it concerns. Events up to revision `kept` are
        old."""
        key, obj = entry.key, entry.object
        event = Event(type, revision, entry, previous)
        if type == "DELETED":
            obj = None                        # of many nobody wants to know
            del self.entries[key]
            self._keys.remove(key)
        else:
            if previous is None:
                self._keys.new[key] = None
            self.entries[key] = entry
        if self.indexed:
            self._reindex(key, None if type == "DELETED" else entry, previous)
        self._events.append(event)
        self.changed = revision
        self.version += 1
        if not self.version % _LOOK:
            self._forget(kept)
        # In a fixed order, so that equal runs stay equal.
        for joined in self._concerned(event) if self._choosy else self._of_all:
            tell = joined.tell
            if tell is None:
                joined.sink(event)
                continue
            if obj is None:
                obj = event.state(type).object
            try:
                tell(type, obj, revision)
            except Exception as error:
                if joined.failed is None:
                    raise
                joined.failed(error)

    def _forget(self, kept: int) -> None:
        events = self._events
        spare = max(0, len(events) - _FEWEST_EVENTS)
        old = bisect_right(events, kept, 0, spare, key=operator.attrgetter("revision"))
        old = max(old, len(events) - _MOST_EVENTS)
        if old:
            self._oldest = events[old - 1].revision
            del events[:old]

    def since(self, revision: int) -> list[Event]:
        """Every event after a revision. Raises Expired if some of them are forgotten."""
        if revision < self._oldest:
            raise Expired(f"too old resource version: {revision} ({self._oldest})")
        events = self._events
        if not events or events[-1].revision <= revision:
            return []
        found = []
        for event in reversed(events):
            if event.revision <= revision:
                break
            found.append(event)
        found.reverse()
        return found

    def join(
        self, scope: tuple[str, str], sink: Sink, failed: Callable[[Exception], None] | None = None
    ) -> Joined:
        """Give every later event to `sink`. The scope is ("", "") for all, ("namespace", NAME), or an indexed field
        and its value."""
        joined = Joined(self, scope, sink, failed)
        self._joined.setdefault(scope, {})[joined] = None
        self._recount()
        return joined

    def left(self, joined: Joined) -> None:
        """For `Joined.leave`."""
        among = self._joined.get(joined.scope, {})
        among.pop(joined, None)
        if not among:
            self._joined.pop(joined.scope, None)
        self._recount()

    def _recount(self) -> None:
        self._of_all = tuple(self._joined.get(_EVERYTHING, ()))
        self._choosy = len(self._joined) > (_EVERYTHING in self._joined)

    @property
    def watchers(self) -> int:
        return sum(map(len, self._joined.values()))

    def _concerned(self, event: Event) -> list[Joined]:
        """The watchers of everything, of its namespace, and of the values that it has or had."""
        namespace = event.entry.object.metadata.namespace or ""
        found = [*self._of_all, *self._joined.get(("namespace", namespace), ())]
        for field, value in self.indexed.items():
            after = value(event.entry.object)
            before = value(event.previous.object) if event.previous is not None else after
            found += self._joined.get((field, after), ())
            if before != after:
                found += self._joined.get((field, before), ())
        return found

    def _reindex(self, key: str, entry: Entry | None, previous: Entry | None) -> None:
        """Most changes leave the indexed fields as they were."""
        for field, value in self.indexed.items():
            before = value(previous.object) if previous is not None else None
            after = value(entry.object) if entry is not None else None
            if before == after:
                continue
            if before is not None and (found := self._index.get((field, before))) is not None:
                found.pop(key, None)
                if not found:
                    del self._index[field, before]
            if after is not None:
                self._index.setdefault((field, after), {})[key] = None
