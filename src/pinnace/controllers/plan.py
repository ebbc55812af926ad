"""What a controller decides, as data: the vocabulary between `decide` and the runner that performs it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import msgspec

from pinnace.api.errors import StatusError
from pinnace.client import informer as informers
from pinnace.client.client import PatchType

EventType = Literal["Normal", "Warning"]
NORMAL: EventType = "Normal"
WARNING: EventType = "Warning"


class Ref(NamedTuple):
    """Names an object of a controller's primary kind; `namespace` is empty for cluster-scoped kinds."""

    namespace: str
    name: str


class Emit(msgspec.Struct, frozen=True):
    """An event about the primary object, or about another.

    As `then` or `otherwise` of an action the message may hold `{name}` (of the object acted on, as the server
    named it) and `{error}`.
    """

    type: EventType
    reason: str
    message: str
    about: Any = None


class Create(msgspec.Struct, frozen=True):
    """Create an object. `then` and `otherwise` are emitted when that worked or failed."""

    object: Any
    then: Emit | None = None
    otherwise: Emit | None = None


class Update(msgspec.Struct, frozen=True):
    """Replace an object, under its resourceVersion."""

    object: Any
    subresource: str = ""
    then: Emit | None = None
    otherwise: Emit | None = None


class Patch(msgspec.Struct, frozen=True):
    """Patch an object; `patch` is plain dicts and lists."""

    kind: type[Any]
    namespace: str
    name: str
    patch: Any
    type: PatchType = "strategic"
    subresource: str = ""
    then: Emit | None = None
    otherwise: Emit | None = None


class Delete(msgspec.Struct, frozen=True):
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


class Plan(msgspec.Struct, frozen=True):
    """What should happen now, in order; neighbouring writes of the same sort are performed together.

    `status`: the primary object with its new status, written to the status subresource after the actions.
    `again`: ask again after this time even if nothing changes.
    """

    actions: tuple[Action, ...] = ()
    status: Any = None
    again: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """An action that was refused."""

    action: Write
    error: StatusError


NOTHING = Plan()

Seen = TypeVar("Seen")
Reported = TypeVar("Reported", contravariant=True)
Refs = Iterable[Ref]


@dataclass(frozen=True, slots=True)
class Watch:
    """Which primary objects a change of another kind concerns."""

    informer: informers.Informer[Any]
    refs: Callable[[informers.Event[Any]], Refs]


class Controller(Protocol[Seen]):
    """One kind's loop: what it sees, and what it decides. Made with an `Informers`, whose caches it reads.

    `pause`, where a controller has it, is the least number of seconds between two decisions about one object:
    for those that many others change.

    `selective`, where a controller has it and it is true: most objects are none of its business. Once the caches are
    filled, `observe` is asked as soon as an object changes, and only what it gives something for is decided about.

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


@dataclass(slots=True)
class Planner:
    """Collects actions while a decision is being made."""

    actions: list[Action] = field(default_factory=list)
    again: timedelta | None = None

    def do(self, *actions: Action) -> None:
        self.actions.extend(actions)

    def after(self, seconds: float) -> None:
        """Ask again in so many seconds; of several the shortest counts."""
        wait = timedelta(seconds=max(0.0, seconds))
        self.again = wait if self.again is None else min(self.again, wait)

    def plan(self, status: Any = None) -> Plan:
        return Plan(tuple(self.actions), status, self.again)


def written_kind(action: Write) -> type[Any]:
    return type(action.object) if isinstance(action, Create | Update) else action.kind


def sort_of(action: Action) -> Hashable:
    """Writes of the same sort may be performed side by side."""
    return type(action), None if isinstance(action, Emit) else written_kind(action)
