"""Informers: a local, always current copy of a kind, kept by list and watch.

Where this stands in the flow: the API server fans one event out to its watchers; here it becomes a change
of a `Cache` and a call of the handlers that wake a controller, the scheduler or a node. The protocol (list,
watch from there on, start over when history is gone) is one state machine: `advance` is its pure transition,
`Informer.run` the loop that performs what the state asks for.

A cache has one writer, its informer. Readers get the objects themselves: in-process they are the API
server's own, shared and never to be changed.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import heapq
import itertools
import logging
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, assert_never, cast

import msgspec

from pinnace.api import codec, errors
from pinnace.base.backoff import Backoff
from pinnace.base.clock import Clock
from pinnace.base.randomness import Randomness
from pinnace.base.supervisor import Supervisor
from pinnace.client.client import Client, WatchEvent

log = logging.getLogger("pinnace.informer")

K = TypeVar("K")

# The server is asked to end a watch after 5 to 10 minutes, as client-go does: a connection that died without
# saying so is then noticed. The client itself gives up so many seconds later.
_WATCH_SECONDS = 300
_WATCH_GRACE = 30.0
# A watch that ends sooner than this counts as a failure: a server that hangs up at once is not hammered.
_SHORT_WATCH = 1.0
_FAILURES = "failures"   # the one key of an informer's backoff


# ----------------------------------------------------------------------------------------- what handlers see


class Added(msgspec.Struct, Generic[K], frozen=True, gc=False):
    new: K
    old: None = None


class Updated(msgspec.Struct, Generic[K], frozen=True, gc=False):
    new: K
    old: K


class Deleted(msgspec.Struct, Generic[K], frozen=True, gc=False):
    """`old` is the object's last state; after a lost watch it may be older than its very last."""

    old: K
    new: None = None


Event = Added[K] | Updated[K] | Deleted[K]
Handler = Callable[[Event[K]], None]
Unsubscribe = Callable[[], None]
Index = Callable[[K], Iterable[Hashable]]


# ----------------------------------------------------------------------------------------- the state machine


@dataclass(frozen=True, slots=True)
class Listing:
    """Nothing is known, or history was lost: the whole must be listed."""


@dataclass(frozen=True, slots=True)
class Watching:
    """Everything up to `revision` is known; what follows comes from a watch."""

    revision: str


State = Listing | Watching


@dataclass(frozen=True, slots=True)
class Listed(Generic[K]):
    items: Sequence[K]
    revision: str


@dataclass(frozen=True, slots=True)
class Batch(Generic[K]):
    events: tuple[WatchEvent[K], ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """The watch came to its end; nothing is lost by going on where it stopped."""


@dataclass(frozen=True, slots=True)
class Failed:
    error: BaseException


Input = Listed[K] | Batch[K] | Ended | Failed


@dataclass(frozen=True, slots=True)
class Replace(Generic[K]):
    """The cache becomes exactly these objects."""

    items: Sequence[K]
    revision: str


@dataclass(frozen=True, slots=True)
class Apply(Generic[K]):
    """The cache takes in these events, in order."""

    events: tuple[WatchEvent[K], ...]
    revision: str


@dataclass(frozen=True, slots=True)
class Step(Generic[K]):
    """What follows from an input: the next state, what the cache does, whether to wait before going on."""

    state: State
    effect: Replace[K] | Apply[K] | None = None
    wait: bool = False


def advance(state: State, message: Input[K]) -> Step[K]:
    """The transition of the list-and-watch protocol."""
    match message:
        case Listed(items, revision):
            return Step(Watching(revision), Replace(items, revision))
        case Batch(events):
            revision = state.revision if isinstance(state, Watching) else ""
            for event in events:
                revision = codec.metadata(event.object).resourceVersion or revision
            return Step(Watching(revision), Apply(events, revision))
        case Ended():
            return Step(state)
        case Failed(error):
            lost = isinstance(state, Watching) and _history_lost(error)
            return Step(Listing() if lost else state, wait=not lost)
        case _:
            assert_never(message)


def _history_lost(error: BaseException) -> bool:
    """Whether watching from the known revision has no prospect: it is compacted, unknown, or refused."""
    if isinstance(error, errors.Expired | errors.Gone):
        return True
    if isinstance(error, errors.Timeout):   # "Too large resource version": the server's history was replaced
        return "resource version" in str(error).lower()
    return isinstance(error, errors.BadRequest | errors.Invalid)


# ------------------------------------------------------------------------------------------------- the cache


def revision_number(revision: str | None) -> int:
    """A resourceVersion as a comparable number; 0 for none."""
    try:
        return int(revision or 0)
    except ValueError:
        return 0


Key = tuple[str, str]


def key_of(obj: Any) -> Key:
    meta = codec.metadata(obj)
    return meta.namespace or "", meta.name or ""


class Cache(Generic[K]):
    """The read handle on what an informer knows. Objects are shared: never change one."""

    def __init__(self) -> None:
        self._objects: dict[Key, K] = {}
        self.find: Callable[[Key], K | None] = self._objects.get      # `get`, by a key as it stands
        self._namespaces: dict[str, dict[Key, None]] = {}
        self.namespaces: Container[str] = self._namespaces            # those that hold an object
        self._indexes: dict[str, _Indexed[K]] = {}
        self._kept: tuple[_Indexed[K], ...] = ()      # the same, as they are kept up
        self._revision = 0
        self._synced = asyncio.Event()
        self._waiting: builtins.list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._conditions: builtins.list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._awaited = False                         # by one of these

    @property
    def revision(self) -> int:
        """The newest revision that the cache has seen of its kind (bookmarks included)."""
        return self._revision

    @property
    def synced(self) -> bool:
        return self._synced.is_set()

    async def wait_synced(self) -> None:
        """Return once the first list has been taken in."""
        await self._synced.wait()

    async def wait_for_revision(self, revision: int) -> None:
        """Return once the cache shows that revision or a later one."""
        if self._revision >= revision:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (revision, next(self._order), future))
        self._awaited = True
        await future

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return once `condition` (looking at this cache) holds; it is asked after each batch of changes."""
        if condition():
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._conditions.append((condition, future))
        self._awaited = True
        await future

    def get(self, namespace: str, name: str) -> K | None:
        return self._objects.get((namespace, name))

    def list(self, namespace: str = "") -> builtins.list[K]:
        """All objects, or those of one namespace, the oldest known first."""
        if not namespace:
            return [*self._objects.values()]
        return [self._objects[key] for key in self._namespaces.get(namespace, ())]

    def __len__(self) -> int:
        return len(self._objects)

    def __iter__(self) -> Iterator[K]:
        return iter(self._objects.values())

    def by_index(self, name: str, value: Hashable) -> builtins.list[K]:
        """The objects for which the index gives this value. KeyError if there is no such index."""
        keys = self._indexes[name].keys
        if value not in keys:
            return []
        return [*map(self._objects.__getitem__, keys[value])]

    def index_values(self, name: str) -> builtins.list[Hashable]:
        """All values of an index that some object has."""
        return [*self._indexes[name].keys]

    # Below: for the informer only.

    def _add_index(self, name: str, index: Index[K]) -> None:
        if name in self._indexes:
            return
        made = self._indexes[name] = _Indexed(index)
        self._kept = tuple(self._indexes.values())
        for key, obj in self._objects.items():
            made.put(key, tuple(index(obj)))

    def _remove(self, key: Key) -> K | None:
        old = self._objects.pop(key, None)
        if old is None:
            return None
        _discard(self._namespaces, key[0], key)
        for index in self._kept:
            if key in index.values:
                index.put(key, ())
        return old

    def _seen(self, revision: int) -> None:
        self._revision = revision
        self._wake(revision)

    def _wake(self, revision: int) -> None:
        """Those who wait for a revision, or for what holds now."""
        while self._waiting and self._waiting[0][0] <= revision:
            future = heapq.heappop(self._waiting)[2]
            if not future.done():
                future.set_result(None)
        if self._conditions:
            waiting, self._conditions = self._conditions, []
            for condition, future in waiting:
                if future.done():
                    continue
                if condition():
                    future.set_result(None)
                else:
                    self._conditions.append((condition, future))
        self._awaited = bool(self._waiting or self._conditions)


class _Indexed(Generic[K]):
    """The keys of objects by the values that a function gives for them."""

    def __init__(self, of: Index[K]) -> None:
        self.of = of
        self.keys: dict[Hashable, dict[Key, None]] = {}
        self.values: dict[Key, tuple[Hashable, ...]] = {}      # of each object that has some

    def put(self, key: Key, values: tuple[Hashable, ...]) -> None:
        before = self.values.pop(key, ())
        for value in before:
            if value not in values:
                _discard(self.keys, value, key)
        for value in values:
            self.keys.setdefault(value, {})[key] = None
        if values:
            self.values[key] = values


def _discard(table: dict[Any, Any], value: Hashable, key: Key) -> None:
    entries = table.get(value)
    if entries is not None:
        entries.pop(key, None)
        if not entries:
            del table[value]


# ---------------------------------------------------------------------------------------------- the informer


@dataclass(eq=False)
class Informer(Generic[K]):
    """Keeps a `Cache` of a kind current while `run` runs, and tells subscribers about each change.

    Handlers are called synchronously, in the order of the changes, after the cache has taken the change in;
    they must be quick and must not raise (what they raise is logged, and the others go on).
    """

    client: Client
    kind: type[K]
    namespace: str = field(default="", kw_only=True)
    label_selector: str = field(default="", kw_only=True)
    field_selector: str = field(default="", kw_only=True)
    clock: Clock = field(kw_only=True)
    randomness: Randomness = field(kw_only=True)

    def __post_init__(self) -> None:
        self.cache: Cache[K] = Cache()
        self.state: State = Listing()
        self._handlers: dict[int, Handler[K]] = {}
        self._to_tell: tuple[Handler[K], ...] = ()      # the same; somebody may come or go meanwhile
        self._ids = itertools.count()
        self._backoff = Backoff(initial=0.2, maximum=30.0, reset_after=120.0)

    def add_index(self, name: str, index: Index[K]) -> None:
        """Group objects by what `index` gives for each. A name that is there already keeps its function."""
        self.cache._add_index(name, index)

    def subscribe(self, handler: Handler[K]) -> Unsubscribe:
        """Call `handler` for every change from now on, and at once with `Added` for what is there already."""
        number = next(self._ids)
        self._handlers[number] = handler
        self._to_tell = tuple(self._handlers.values())
        for obj in self.cache.list():
            self._call(handler, Added(obj))

        def unsubscribe() -> None:
            self._handlers.pop(number, None)
            self._to_tell = tuple(self._handlers.values())

        return unsubscribe

    async def wait_synced(self) -> None:
        await self.cache.wait_synced()

    async def run(self) -> None:
        """List and watch until cancelled."""
        self._stand()
        while True:
            match self.state:
                case Listing():
                    wait = await self._list()
                case Watching(revision):
                    wait = await self._watch(revision)
                case _:
                    assert_never(self.state)
            if wait:
                seconds = self._backoff.next(_FAILURES, self.clock.monotonic())
                await self.clock.sleep(self.randomness.jitter(seconds, 0.5))

    async def _list(self) -> bool:
        try:
            found = await self.client.list(
                self.kind,
                self.namespace,
                label_selector=self.label_selector,
                field_selector=self.field_selector,
            )
        except (errors.StatusError, OSError, TimeoutError) as error:
            log.warning("listing %s: %s", self.kind.__name__, error)
            return self._take(Failed(error))
        self._backoff.forget(_FAILURES)
        return self._take(Listed(found.items, found.resourceVersion))

    async def _watch(self, revision: str) -> bool:
        seconds = int(self.randomness.jitter(_WATCH_SECONDS, 1.0))
        started = self.clock.monotonic()
        try:
            async with asyncio.timeout(seconds + _WATCH_GRACE) as limit:
                watch = self.client.watch(
                    self.kind,
                    self.namespace,
                    resource_version=revision,
                    label_selector=self.label_selector,
                    field_selector=self.field_selector,
                    timeout_seconds=seconds,
                    directly=self._told,
                )
                async with contextlib.aclosing(watch) as batches:
                    async for batch in batches:
                        if batch:
                            self._take(Batch(batch))
                        else:
                            limit.reschedule(None)      # the source is in this process: it cannot die silently
        except (errors.StatusError, OSError, TimeoutError) as error:
            log.debug("watching %s: %s", self.kind.__name__, error)
            return self._take(Failed(error))
        return self._take(Ended()) or self.clock.monotonic() - started < _SHORT_WATCH

    def _told(self, type: str, obj: Any, revision: int) -> None:
        """Take in one event, in the call that made it. Whether an object is new is seen in the cache, not in the
        event. `revision`: where the cache stands then; 0 where others follow, and `_seen` behind them."""
        cache, after = self.cache, obj.metadata
        key = (after.namespace or "", after.name or "")
        old: Any = cache._objects.get(key)
        if type != "MODIFIED" and type != "ADDED":
            if type == "DELETED":
                self._delete(key, obj)
            elif type != "BOOKMARK":
                log.error("watching %s: event of unknown type %r", self.kind.__name__, type)
        elif old is None or old.metadata.resourceVersion != after.resourceVersion:
            event: Event[Any]
            if old is not None and old.metadata.uid == after.uid:
                event = Updated(obj, old)
            else:
                if old is not None:     # deleted and made anew while no watch was open
                    self._delete(key, None)
                cache._namespaces.setdefault(key[0], {})[key] = None
                event = Added(obj)
            cache._objects[key] = obj
            for index in cache._kept:
                values = tuple(index.of(obj))
                if values != index.values.get(key, ()):     # most changes are about something else
                    index.put(key, values)
            for handler in self._to_tell:
                try:
                    handler(event)
                except Exception:
                    self._failed()
        if revision:
            cache._revision = revision
            if cache._awaited:
                cache._wake(revision)

    def _stand(self) -> None:
        """Let the state say what was told directly: asked for when a watch ends, not with each event."""
        known = self.cache.revision
        if isinstance(self.state, Watching) and known > revision_number(self.state.revision):
            self.state = Watching(str(known))

    def _take(self, message: Input[K]) -> bool:
        """Advance by one input; whether to wait before the next request."""
        self._stand()
        step = advance(self.state, message)
        self.state = step.state
        match step.effect:
            case Replace(items, revision):
                self._replace(items, revision)
            case Apply(events, revision):
                for event in events:
                    self._told(event.type, event.object, 0)
                self.cache._seen(revision_number(revision))
            case None:
                pass
            case _:
                assert_never(step.effect)
        return step.wait

    def _replace(self, items: Sequence[K], revision: str) -> None:
        """Take in a list: tell of what changed since, deletions first."""
        present = {key_of(obj) for obj in items}
        for key in [key for key in self.cache._objects if key not in present]:
            self._delete(key, None)
        for obj in items:
            self._told("ADDED", obj, 0)
        self.cache._seen(revision_number(revision))
        self.cache._synced.set()

    def _delete(self, key: Key, last: K | None) -> None:
        old = self.cache._remove(key)
        if old is not None:
            event = Deleted(last if last is not None else old)
            for handler in self._to_tell:
                try:
                    handler(event)
                except Exception:
                    self._failed()

    def _call(self, handler: Handler[K], event: Event[K]) -> None:
        try:
            handler(event)
        except Exception:
            self._failed()

    def _failed(self) -> None:
        log.exception("a handler of %s failed", self.kind.__name__)


@dataclass(frozen=True, slots=True)
class _Scope:
    kind: type[Any]
    namespace: str
    label_selector: str
    field_selector: str

    def __str__(self) -> str:
        words = (self.namespace, self.label_selector, self.field_selector)
        return " ".join(("informer of", f"{self.kind.__module__}.{self.kind.__name__}", *filter(None, words)))


class Informers:
    """Informers shared by all parts of a process that use the same client: one for each kind and selection.

    Those asked for before or after `run` began are run alike, each supervised on its own.
    """

    def __init__(self, client: Client, clock: Clock, randomness: Randomness) -> None:
        self._client = client
        self._clock = clock
        self._randomness = randomness
        self._informers: dict[_Scope, Informer[Any]] = {}
        self._supervisor: Supervisor | None = None

    def of(
        self, kind: type[K], *, namespace: str = "", label_selector: str = "", field_selector: str = ""
    ) -> Informer[K]:
        """The informer of a kind (and selection); made on first use."""
        scope = _Scope(kind, namespace, label_selector, field_selector)
        informer = self._informers.get(scope)
        if informer is None:
            informer = Informer(
                self._client,
                kind,
                namespace=namespace,
                label_selector=label_selector,
                field_selector=field_selector,
                clock=self._clock,
                randomness=self._randomness.fork(),
            )
            self._informers[scope] = informer
            if self._supervisor is not None:
                self._supervisor.start(str(scope), informer.run)
        return cast("Informer[K]", informer)

    async def drop(self, kind: type[Any]) -> None:
        """End all informers of a kind, e.g. when its custom resource definition went away."""
        for scope in [scope for scope in self._informers if scope.kind is kind]:
            del self._informers[scope]
            if self._supervisor is not None:
                await self._supervisor.stop(str(scope))

    async def wait_synced(self) -> None:
        """Return once all informers asked for so far have taken in their first list."""
        for informer in tuple(self._informers.values()):
            await informer.wait_synced()

    async def run(self) -> None:
        """Run all informers until cancelled."""
        async with Supervisor(self._clock, together=True) as supervisor:
            self._supervisor = supervisor
            try:
                for scope, informer in self._informers.items():
                    supervisor.start(str(scope), informer.run)
                await asyncio.get_running_loop().create_future()
            finally:
                self._supervisor = None
