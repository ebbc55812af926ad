"""What the server must know of a kind. The server itself is one loop over a table of these.

A file in `resources/` makes one `Resource` a kind; everything generic (metadata, generation, deletion, patch,
lists, watches, discovery) is the server's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from pinnace.api.fields import FieldError
from pinnace.api.kinds import Kind
from pinnace.client.transport import Request, Response, User
from pinnace.store.store import Cause

if TYPE_CHECKING:
    from pinnace.apiserver.server import ApiServer

K = TypeVar("K")


class Context(msgspec.Struct, frozen=True):
    """What strategies may know of the request. All of it is data: no clock, no IO."""

    user: User
    now: datetime
    dry_run: bool = False
    subresource: str = ""


@dataclass(frozen=True, slots=True)
class Column(Generic[K]):
    """A column of the server-side printed table. `cell` returns str, int, bool or None; upstream's texts."""

    name: str
    cell: Callable[[K, datetime], Any]
    type: str = "string"
    format: str = ""
    description: str = ""
    priority: int = 0          # above 0: only with -o wide


class Action(msgspec.Struct, frozen=True):
    """One call of a subresource that is more than a part of the object (log, exec, binding, eviction, token). `sent`:
    what the request's body was decoded to, and admission has perhaps changed; None, if only the body is there."""

    request: Request
    server: ApiServer
    namespace: str
    name: str
    context: Context
    cause: Cause | None       # of what the action writes
    sent: Any = None


@dataclass(frozen=True, slots=True)
class Subresource(Generic[K]):
    """A path below an object.

    Either `part`: a named part of the object is read and written under its own rules ("status": everything
    else is kept from the stored object), with `prepare(new, old, context)` in place and `validate(new, old)`; or
    `act`: a function that answers the request, for the HTTP methods in `verbs` (verbs of discovery and RBAC:
    get, create, update, patch).
    """

    name: str
    verbs: tuple[str, ...] = ("get", "patch", "update")
    # What is sent and received where it is not the object's own kind (Scale, Eviction).
    kind: Kind | None = None
    prepare: Callable[[K, K, Context], None] | None = None
    validate: Callable[[K, K], Iterable[FieldError]] | None = None
    act: Callable[[Action], Awaitable[Response]] | None = None
    # Whether what it changes outside the status counts in metadata.generation (a binding does not).
    generation: bool = True


@dataclass(frozen=True, slots=True)
class Scale(Generic[K]):
    """How a kind is seen as autoscaling/v1 Scale."""

    replicas: Callable[[K], int]
    set_replicas: Callable[[K, int], None]        # in place
    status_replicas: Callable[[K], int]
    selector: Callable[[K], str]                  # as text


def nothing(*_: Any) -> None:
    return None


def _no_errors(*_: Any) -> Iterable[FieldError]:
    return ()


def no_warnings(*_: Any) -> Iterable[str]:
    return ()


def _never(*_: Any) -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource(Generic[K]):
    """One kind, as served. All functions are pure; those that return None change a fresh object in place."""

    kind: Kind
    verbs: tuple[str, ...] = (
        "create", "delete", "deletecollection", "get", "list", "patch", "update", "watch",
    )  # fmt: skip
    # Upstream's SetDefaults: applied to whatever was decoded, before anything else looks at it.
    default: Callable[[K], None] = nothing
    # Server-owned fields, on create and on update of the main resource (status is kept from `old`, …).
    prepare_create: Callable[[K, Context], None] = nothing
    prepare_update: Callable[[K, K, Context], None] = nothing       # (new, old, context)
    validate_create: Callable[[K], Iterable[FieldError]] = _no_errors
    validate_update: Callable[[K, K], Iterable[FieldError]] = _no_errors     # (new, old)
    warnings: Callable[[K, K | None], Iterable[str]] = no_warnings
    # metadata.name's own rule: messages for a bad name (the default is a DNS-1123 subdomain).
    validate_name: Callable[[str], Sequence[str]] | None = None
    columns: tuple[Column[K], ...] = ()
    # Field selectors beyond metadata.name and metadata.namespace: "spec.nodeName" -> its value.
    fields: Mapping[str, Callable[[K], str]] = field(default_factory=dict)
    subresources: tuple[Subresource[K], ...] = ()
    scale: Scale[K] | None = None
    # metadata.generation counts changes of everything but metadata and status.
    generation: bool = True
    allow_create_on_update: bool = False
    allow_unconditional_update: bool = True
    # Seconds that a deletion waits for the object's agent (pods); None: it is removed at once.
    grace: Callable[[K, int | None], int | None] | None = None         # (object, asked for) -> seconds
    # When a deletion begins and the object lives on for a while (a namespace becomes Terminating): changes in place.
    prepare_delete: Callable[[K, Context], None] = nothing
    # What else than metadata.finalizers and the grace period keeps an object that is being deleted (a namespace's
    # spec.finalizers). It is removed by the write after which this is false.
    held: Callable[[K], bool] = _never
    # An immediate deletion answers with the object, not with a Status (pods, services, …).
    returns_deleted: bool = False
    # What the server must reserve before a commit and may have to give back: cluster IPs, node ports.
    reserve: Callable[[ApiServer, K, K | None, Context], Awaitable[Callable[[], None]]] | None = None
    # Kinds that are answered and not stored (TokenReview, SubjectAccessReview …): create calls this.
    answer: Callable[[Action, K], Awaitable[K]] | None = None
    # A kind that is another view of what is stored under `stored_as` (events.k8s.io Event, autoscaling/v1).
    stored_as: Kind | None = None
    from_stored: Callable[[Any], K] | None = None
    to_stored: Callable[[K], Any] | None = None
    # Where upstream keeps it in etcd below /registry, e.g. "services/specs"; default: plural (with group if not core).
    storage_prefix: str = ""
