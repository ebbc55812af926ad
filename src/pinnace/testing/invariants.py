"""What must hold whatever goes wrong: looked at after every single commit of the store.

`Invariants` lies around a store as an engine of its own. After each commit, before its caller hears of it, the new
state is shown to every law (`laws.py`). A broken law is a `Violation`: which law, at which revision, what is wrong,
and the story so far of the objects it is about. Violations are collected; `check` raises the first.

```python
invariants = Invariants(MemoryStore(clock), clock)
plane = ControlPlane(invariants, settings, clock, randomness)
…
invariants.check()            # AssertionError with the story, if a law was broken
await invariants.check_rest() # when all is quiet: nothing lost, nothing left behind
```
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pinnace.api import codec
from pinnace.api.kinds import Kind
from pinnace.apiserver.resources.table import RESOURCES
from pinnace.base.clock import Clock
from pinnace.store.over import StoreOver
from pinnace.store.store import Cause, Store
from pinnace.testing.laws import every_law
from pinnace.testing.world import Law, Step, World, controller_uid

_ROOT = "/registry/"
_MOST_VIOLATIONS = 100        # kept; more say nothing new
_STORY = 4000                 # commits remembered for stories
_TOLD = 25                    # of them in one story
# Written all the time without anybody deciding anything.
HEARTBEATS = ("/registry/coordination.k8s.io/leases/kube-node-lease/",)
_EVENTS = "/registry/events/"


def _prefixes() -> dict[str, Kind]:
    found: dict[str, Kind] = {}
    for resource in RESOURCES:
        stored = resource.stored_as or resource.kind
        place = f"{stored.group}/{stored.plural}" if stored.group else stored.plural
        found.setdefault(f"{_ROOT}{resource.storage_prefix or place}/", stored)
    return found


_KINDS: Mapping[str, Kind] = _prefixes()
# What the laws look at. Everything else is kept as bytes.
_READ = frozenset({
    ("", "pods"), ("", "nodes"), ("apps", "deployments"), ("apps", "replicasets"), ("apps", "statefulsets"),
    ("apps", "daemonsets"), ("batch", "jobs"), ("batch", "cronjobs"), ("policy", "poddisruptionbudgets"),
})  # fmt: skip


def kind_at(key: str) -> Kind | None:
    """The kind of the object under a key, by the longest prefix."""
    end = key.rfind("/")
    while end > 0:
        kind = _KINDS.get(key[: end + 1])
        if kind is not None:
            return kind
        end = key.rfind("/", 0, end)
    return None


@dataclass(frozen=True, slots=True)
class Violation:
    """A law that was broken: what is wrong, from which revision on, and how it came to that."""

    law: str
    what: str
    revision: int
    at: float
    story: tuple[str, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        told = "".join(f"\n    {line}" for line in self.story)
        return f"{self.law}: {self.what} (revision {self.revision}, at {self.at:.3f} s){told}"


class Invariants(StoreOver):
    """A store around a store. `laws`: what is checked; by default everything in `laws.py`."""

    def __init__(self, store: Store, clock: Clock, laws: Sequence[Law] | None = None) -> None:
        super().__init__(store)
        self.world = World()
        self.violations: list[Violation] = []
        self.written: dict[str, int] = {}          # commits by plural
        self.last_change = 0.0                     # when something other than a heartbeat was written
        self._clock = clock
        self._laws = tuple(laws) if laws is not None else every_law()
        self._story: deque[tuple[str, str, str]] = deque(maxlen=_STORY)     # key, controller's uid, line
        self._seen = store.revision
        self._waiting: dict[int, tuple[str, bytes | None, Cause | None]] = {}

    def check(self) -> None:
        """Raises AssertionError with the first violation."""
        if self.violations:
            more = len(self.violations) - 1
            raise AssertionError(f"{self.violations[0]}" + (f"\n  and {more} more" if more else ""))

    async def check_rest(self) -> None:
        """To be called when the cluster rests: everything acknowledged is there, and nothing is left behind.
        Raises AssertionError."""
        page = await self.inner.list("")
        there = {entry.key: (entry.modified, entry.value) for entry in page.entries}
        for key, (revision, _) in self.world.values.items():
            found = there.get(key)
            if found is None:
                self._violate("nothing acknowledged is lost", f"{key}, written at {revision}, is gone", revision, key)
            elif found != self.world.values[key]:
                self._violate("nothing acknowledged is lost", f"{key} is not as it was written", revision, key)
        for key in there.keys() - self.world.values.keys():
            self._violate("nothing acknowledged is lost", f"{key} was deleted and is there", there[key][0], key)
        for key, what in left_behind({key: value for key, (_, value) in there.items()}):
            self._violate("nothing is left behind", what, there[key][0], key)
        self.check()

    # Store

    async def commit(
        self, key: str, value: bytes | None, *, expect: int | None = None, cause: Cause | None = None
    ) -> int:
        revision = await self.inner.commit(key, value, expect=expect, cause=cause)
        if revision <= self._seen or revision in self._waiting:
            self._violate("revisions rise", f"revision {revision} was given twice, now for {key}", revision, key)
            return revision
        # An engine may tell several callers at once, in any order: they are looked at in the order of revisions.
        self._waiting[revision] = (key, value, cause)
        while (found := self._waiting.pop(self._seen + 1, None)) is not None:
            self._seen += 1
            self._take(self._seen, *found)
        if len(self._waiting) > 10_000:
            self._violate("revisions rise", f"revision {self._seen + 1} was never given", revision, key)
        return revision

    # The laws

    def _take(self, revision: int, key: str, value: bytes | None, cause: Cause | None) -> None:
        if value is None:
            self.world.values.pop(key, None)
        else:
            self.world.values[key] = (revision, value)
        now = self._clock.monotonic()
        if not key.startswith(HEARTBEATS):
            self.last_change = now
        kind = kind_at(key)
        plural = kind.plural if kind is not None else ""
        self.written[plural] = self.written.get(plural, 0) + 1
        if kind is None or (kind.group, kind.plural) not in _READ:
            return
        new = codec.decode(kind.type, value) if value is not None else None
        if new is not None:
            new.metadata.resourceVersion = str(revision)
        old = self.world.put(plural, key, new)
        actor, verb = (cause.actor, cause.verb) if cause is not None else ("", "")
        step = Step(revision, now, actor, verb, plural, key, old, new)
        self._story.append((key, controller_uid(step.object), _line(step)))
        for law in self._laws:
            for what in law.broken(self.world, step):
                self._violate(law.name, what, revision, key)

    def _violate(self, law: str, what: str, revision: int, key: str) -> None:
        if len(self.violations) < _MOST_VIOLATIONS:
            now = self._clock.monotonic()
            self.violations.append(Violation(law, what, revision, now, self._told(key)))

    def _told(self, key: str) -> tuple[str, ...]:
        """The last commits of the object and of those that have the same controller."""
        owner = next((uid for k, uid, _ in reversed(self._story) if k == key), "")
        lines = [line for k, uid, line in self._story if k == key or (owner and uid == owner)]
        return tuple(lines[-_TOLD:])


def _line(step: Step) -> str:
    who = step.actor.rpartition(":")[2] or "the server"
    what = "deleted" if step.new is None else "created" if step.old is None else "changed"
    return f"{step.revision:6} {step.at:10.3f} {who} {what} {step.key.removeprefix(_ROOT)}{_state(step.new)}"


def _state(obj: Any) -> str:
    """What of an object most stories turn on."""
    if obj is None:
        return ""
    words = []
    spec, status, meta = getattr(obj, "spec", None), getattr(obj, "status", None), obj.metadata
    for place, names in ((spec, ("nodeName", "replicas", "parallelism")), (status, ("phase", "readyReplicas"))):
        for name in names:
            value = getattr(place, name, None)
            if value not in (None, ""):
                words.append(f"{name}={value}")
    true = [c.type for c in getattr(status, "conditions", None) or () if c.status == "True"]
    words += [f"[{','.join(true)}]"] if true else []
    words += ["deleting"] if meta.deletionTimestamp else []
    return " " + " ".join(words) if words else ""


def left_behind(values: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """(key, what is wrong) for what must not be there when a cluster rests: objects that were to be deleted, objects
    in no namespace, and objects none of whose owners exists. Pods on nodes that are gone count too."""
    parsed = {key: json.loads(value) for key, value in values.items() if not key.startswith(_EVENTS)}
    uids = {obj["metadata"].get("uid") for obj in parsed.values()}
    namespaces = {obj["metadata"]["name"] for key, obj in parsed.items() if key.startswith(f"{_ROOT}namespaces/")}
    for key, obj in parsed.items():
        meta = obj["metadata"]
        if meta.get("deletionTimestamp"):
            yield key, f"{key} was to be deleted and is still there (finalizers: {meta.get('finalizers') or []})"
        if meta.get("namespace") and meta["namespace"] not in namespaces:
            yield key, f"{key} lies in a namespace that does not exist"
        owners = meta.get("ownerReferences") or []
        if owners and not any(owner.get("uid") in uids for owner in owners):
            yield key, f"{key} has none of its owners left"
