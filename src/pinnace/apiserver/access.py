"""Who asks, may they, and on what terms: the seams between the server and its security.

`authentication/`, `authorization/` and `admission/` fill these in. The server calls them in this order for every
request: Authenticator → impersonation → Authorizer → (for writes) every Admission plugin's `mutate`, then the
kind's own validation, then every plugin's `validate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol

import msgspec

from pinnace.api.errors import Forbidden, StatusDetails, qualified
from pinnace.api.kinds import Kind
from pinnace.client.transport import Request, User

ANONYMOUS = User(name="system:anonymous", groups=("system:unauthenticated",))
AUTHENTICATED = "system:authenticated"
NODES = "system:nodes"
MASTERS = "system:masters"

Operation = Literal["CREATE", "UPDATE", "DELETE", "CONNECT"]


class Authenticator(Protocol):
    """Finds out who makes a request. Runs on every request that did not come in with a user."""

    async def authenticate(self, request: Request) -> User | None:
        """The user, or None if the request shows nothing of this kind. Raises Unauthorized if what it shows
        is wrong."""
        ...


class Attributes(msgspec.Struct, frozen=True):
    """What an authorizer decides about.

    A resource request has `resource`; any other has only `path` ("/healthz"). `verb` is RBAC's: get, list, watch,
    create, update, patch, delete, deletecollection, impersonate …; for paths the HTTP method in lower case.
    The selectors are the query's texts: list and watch may be allowed for one field value only.
    """

    user: User
    verb: str
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""
    field_selector: str = ""
    label_selector: str = ""


class Decision(msgspec.Struct, frozen=True):
    """`reason` is shown to the user when nothing allowed the request. `until`: the decision is the same for every
    object that the path may name in that namespace, until an object of one of these kinds is written; None: it is for
    this request alone."""

    allowed: bool
    reason: str = ""
    until: tuple[type[Any], ...] | None = None


ALLOWED = Decision(True)
_ALWAYS = Decision(True, until=())
NO_OPINION = Decision(False)


class Authorizer(Protocol):
    """Decides from what it holds in memory, at once: it is asked for every request."""

    def authorize(self, attributes: Attributes) -> Decision: ...


class Admission(msgspec.Struct):
    """One write on its way in.

    `object` may be changed in place by `mutate` (it is this request's own copy); `old_object` is what is stored
    and must not be changed. On DELETE `object` is None; on CONNECT (exec, attach, portforward, proxy) it is the
    options object if there is one. `request` is there for plugins that look at headers. `warnings` go out as Warning
    headers.
    """

    user: User
    operation: Operation
    verb: str                     # create, update, patch, delete, deletecollection, connect …
    kind: Kind                    # of `object`: for a subresource the kind that is sent (Binding, Scale …)
    group: str
    version: str
    resource: str
    subresource: str
    namespace: str
    name: str
    object: Any = None
    old_object: Any = None
    dry_run: bool = False
    request: Request | None = None
    warnings: list[str] = msgspec.field(default_factory=list)

    def look_at(self, new: Any, old: Any) -> None:
        """What the plugins get to see next."""
        self.object, self.old_object = new, old
        if new is not None and not self.name:
            self.name = new.metadata.name or ""


class Concern(msgspec.Struct, frozen=True):
    """Which writes an admission plugin looks at, before there is an object to look at. Empty words cover everything.

    `resources` as in "pods" and "roles.rbac.authorization.k8s.io"; `whole`: only the objects themselves, none of their
    subresources; `nodes`: only what nodes write."""

    operations: tuple[Operation, ...] = ()
    resources: tuple[str, ...] = ()
    whole: bool = False
    nodes: bool = False

    def covers(self, operation: Operation, resource: str, subresource: str) -> bool:
        return (
            (not self.operations or operation in self.operations)
            and (not self.resources or resource in self.resources)
            and not (self.whole and subresource)
        )


EVERYTHING = Concern()


class AdmissionPlugin:
    """One rule about writes. `mutate` and `validate` raise Forbidden (or another StatusError) to refuse, and are called
    for the writes that `mutates` and `validates` cover; None: for none."""

    mutates: ClassVar[Concern | None] = EVERYTHING
    validates: ClassVar[Concern | None] = EVERYTHING

    async def mutate(self, admission: Admission) -> None:
        """May change the object in place."""

    async def validate(self, admission: Admission) -> None:
        """Looks at the object as it will be stored."""


class Unguarded:
    """No credentials are asked for: in-process callers say who they are, everybody else is anonymous."""

    async def authenticate(self, request: Request) -> User | None:
        return request.user or ANONYMOUS


class AllowAll:
    """Everything is allowed: for tests and for a server that only its own process can reach."""

    def authorize(self, attributes: Attributes) -> Decision:
        return _ALWAYS


class AnyOf:
    """Allowed if one of several authorizers allows it; the reasons of all that say one are joined."""

    def __init__(self, authorizers: Sequence[Authorizer]) -> None:
        self._authorizers = tuple(authorizers)

    def authorize(self, attributes: Attributes) -> Decision:
        # Upstream's superuser group passes before any rule is read, so that nobody can lock it out.
        if MASTERS in attributes.user.groups:
            return _ALWAYS
        reasons = []
        for authorizer in self._authorizers:
            decision = authorizer.authorize(attributes)
            if decision.allowed:
                return decision
            if decision.reason:
                reasons.append(decision.reason)
        return Decision(False, ", ".join(reasons))


def forbidden(attributes: Attributes, reason: str = "") -> Forbidden:
    """`pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "default"`."""
    user = attributes.user.name
    if not attributes.resource:
        text = f'User "{user}" cannot {attributes.verb} path "{attributes.path}"'
        text += f": {reason}" if reason else ""
        return Forbidden(f"forbidden: {text}", StatusDetails())
    resource = attributes.resource + (f"/{attributes.subresource}" if attributes.subresource else "")
    text = f'User "{user}" cannot {attributes.verb} resource "{resource}" in API group "{attributes.group}"'
    text += f' in the namespace "{attributes.namespace}"' if attributes.namespace else " at the cluster scope"
    text += f": {reason}" if reason else ""
    what = qualified(attributes.resource, attributes.group)
    message = f'{what} "{attributes.name}" is forbidden: {text}' if attributes.name else f"{what} is forbidden: {text}"
    return Forbidden(message, StatusDetails(name=attributes.name, group=attributes.group, kind=attributes.resource))
