"""What a controller decides, as data: the vocabulary between `decide` and the runner that performs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from pinnace.api.errors import StatusError
from pinnace.client import informer as informers
from pinnace.client.client import PatchType

EventType = Literal["Normal", "Warning"]
NORMAL: EventType = "Normal"
WARNING: EventType = "Warning"


# Names an object of a controller's primary kind: namespace (empty for cluster-scoped kinds) and name.
Ref = informers.Key


class Emit(msgspec.Struct, frozen=True, gc=False):
    """An event about the primary object, or about another.

    As `then` or `otherwise` of an action the message may hold `{name}` (of the object acted on, as the server
    named it) and `{error}`.
    """

    type: EventType
    reason: str
    message: str
    about: Any = None


class Create(msgspec.Struct, frozen=True, gc=False):
    """Create an object. `then` and `otherwise` are emitted when that worked or failed."""

    object: Any
    then: Emit | None = None
    otherwise: Emit | None = None


class Update(msgspec.Struct, frozen=True, gc=False):
    """Replace an object, under its resourceVersion."""

    object: Any
    subresource: str = ""
    then: Emit | None = None
    otherwise: Emit | None = None


class Patch(msgspec.Struct, frozen=True, gc=False):
    """Patch an object; `patch` is plain dicts and lists."""

    kind: type[Any]
    namespace: str
    name: str
    patch: Any
    type: PatchType = "strategic"
    subresource: str = ""
    then: Emit | None = None
    otherwise: Emit | None = None


class Delete(msgspec.Struct, frozen=True, gc=False):
    """Delete an object, if it is still the one with that uid."""

    kind: type[Any]
    namespace: str
    name: str
    uid: str = ""
    grace_period: int | None = None
    propagation: Literal["", "Orphan", "Background", "Foreground"] = ""
    resource_version: str = ""
    then: Emit | None = None
    otherwise: Emit | None = None


Write = Create | Update | Patch | Delete
Action = Write | Emit


class Plan(msgspec.Struct, frozen=True, gc=False):
    """What should happen now, in order; neighbouring writes of the same sort are performed together.

    `status`: the primary object with its new status, written to the status subresource after the actions.
    `again`: ask again after this time even if nothing changes. `final`: once all of this is written there is nothing
    more to do, unless something else changes; without it, `decide` is asked again after each write.
    """

    actions: tuple[Action, ...] = ()
    status: Any = None
    again: timedelta | None = None
    final: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """An action that was refused."""

    action: Write
    error: StatusError


NOTHING = Plan()
_AT_ONCE = timedelta()

Seen = TypeVar("Seen")
Reported = TypeVar("Reported", contravariant=True)
Refs = Iterable[Ref]


Wake = Callable[[Ref, str | None], None]     # decide about an object, because of a resourceVersion


class Watch(Protocol):
    """Which primary objects a change of another kind concerns."""

    @property
    def informer(self) -> informers.Informer[Any]: ...

    def handler(self, wake: Wake) -> informers.Handler[Any]:
        """What the informer tells of each change: wakes the objects whose decision may be another one by it."""
        ...


@dataclass(frozen=True, slots=True)
class Related:
    """Changes of another kind, with a function that gives the objects that one concerns."""

    informer: informers.Informer[Any]
    refs: Callable[[informers.Event[Any]], Refs]

    def handler(self, wake: Wake) -> informers.Handler[Any]:
        refs = self.refs

        def changed(event: informers.Event[Any]) -> None:
            for ref in refs(event):
                obj: Any = event.old if event.new is None else event.new
                wake(ref, obj.metadata.resourceVersion)

        return changed


class Controller(Protocol[Seen]):
    """One kind's loop: what it sees, and what it decides. Made with an `Informers`, whose caches it reads.

    `pause`, where a controller has it, is the least number of seconds between two decisions about one object:
    for those that many others change.

    `concerns`, where a controller has it, is asked about each change of a primary object: for those whose business
    most objects are not. While other caches are being filled it must not say no for what it does not see there yet,
    unless a watch will wake the object when it comes.

    `since`, where a controller has it, gives the moment from which the wait that `decide` asks for counts (None: do not
    rely on it). If that has moved on when the wait is over, and nothing else has happened, it is prolonged by as much.

    `report`, where a controller has it, is asked instead of logging when actions were refused: it gives what to
    tell or to write then (its actions are performed, its failures are only logged).
    """

    @property
    def name(self) -> str: ...

    @property
    def primary(self) -> informers.Informer[Any]: ...

    @property
    def watches(self) -> tuple[Watch, ...]: ...

    def observe(self, ref: Ref) -> Seen | None:
        """What is known about the object, from caches; None if there is none."""
        ...

    def decide(self, seen: Seen, now: datetime) -> Plan:
        """What should happen: pure and synchronous. Must reach a fixed point."""
        ...


class Reporting(Protocol[Reported]):
    """A controller that turns refusals into conditions."""

    def report(self, seen: Reported, plan: Plan, failures: tuple[Failure, ...], now: datetime) -> Plan: ...


class Planner(msgspec.Struct, gc=False):
    """Collects actions while a decision is being made."""

    actions: list[Action] = msgspec.field(default_factory=list)
    again: timedelta | None = None

    def do(self, *actions: Action) -> None:
        self.actions.extend(actions)

    def after(self, wait: timedelta) -> None:
        """Ask again after this time (at once, if it is negative); of several the shortest counts."""
        if wait < _AT_ONCE:
            wait = _AT_ONCE
        if self.again is None or wait < self.again:
            self.again = wait

    def plan(self, status: Any = None, *, final: bool = False) -> Plan:
        return Plan(tuple(self.actions), status, self.again, final)


def written_kind(action: Write) -> type[Any]:
    return type(action.object) if isinstance(action, Create | Update) else action.kind


def alike(write: Write, action: Action) -> bool:
    """Whether both are writes of the same sort: such may be performed side by side."""
    return type(write) is type(action) and written_kind(write) is written_kind(action)
