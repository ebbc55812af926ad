"""ServiceAccounts, and the tokens they are given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pinnace.api import times
from pinnace.api.authentication import v1 as authentication
from pinnace.api.core import v1 as core
from pinnace.api.errors import BadRequest, Conflict, NotFound, ServiceUnavailable
from pinnace.api.fields import FieldError, invalid
from pinnace.api.kinds import Kind, kind_of
from pinnace.apiserver.authentication.tokens import Bound
from pinnace.apiserver.resource import Action, Column, Resource, Subresource
from pinnace.apiserver.resources import actions
from pinnace.apiserver.resources.columns import AGE, NAME, column
from pinnace.client.transport import Response

TOKEN_REQUEST = Kind("authentication.k8s.io", "v1", "TokenRequest", "", "", module="authentication/v1")
HOUR = 3600
_BOUND: dict[tuple[str, str], type[Any]] = {
    ("v1", "Pod"): core.Pod,
    ("v1", "Secret"): core.Secret,
    ("v1", "Node"): core.Node,
}


def default_request(request: authentication.TokenRequest) -> None:
    if request.spec.expirationSeconds is None:
        request.spec.expirationSeconds = HOUR


def validate_request(request: authentication.TokenRequest) -> Iterator[FieldError]:
    seconds = request.spec.expirationSeconds or 0
    if seconds < 600:
        yield invalid("spec.expirationSeconds", seconds, "may not specify a duration less than 10 minutes")
    if seconds > 1 << 32:
        yield invalid("spec.expirationSeconds", seconds, "may not specify a duration larger than 2^32 seconds")


async def _token(action: Action) -> Response:
    request = actions.body(action, authentication.TokenRequest)
    account = actions.registry(action, core.ServiceAccount).get(action.namespace, action.name)
    if request.metadata.name and request.metadata.name != action.name:
        raise BadRequest("name in URL does not match name in TokenRequest object")
    if request.metadata.namespace and request.metadata.namespace != action.namespace:
        raise BadRequest("namespace in URL does not match namespace in TokenRequest object")
    request.metadata.name, request.metadata.namespace = action.name, action.namespace
    default_request(request)
    actions.refuse(TOKEN_REQUEST, action.name, validate_request(request))
    bound = _bound(action, request)
    issuer = action.server.token_issuer
    if issuer is None:
        raise ServiceUnavailable("this server issues no tokens")
    own = Bound(action.name, account.metadata.uid or "")
    token = issuer.issue(
        action.namespace,
        own,
        audiences=request.spec.audiences or (),
        seconds=request.spec.expirationSeconds or HOUR,
        **_bound_to(action, bound),
    )
    request.spec.audiences = list(request.spec.audiences or issuer.audiences)
    request.status = authentication.TokenRequestStatus(
        token=token.text, expirationTimestamp=times.format(token.expires)
    )
    return actions.answer(request, 201)


def _bound_to(action: Action, found: Any) -> dict[str, Bound]:
    """A token for a pod names the pod's node, too."""
    if found is None:
        return {}
    own = Bound(found.metadata.name, found.metadata.uid)
    if isinstance(found, core.Secret):
        return {"secret": own}
    if isinstance(found, core.Node):
        return {"node": own}
    bound = {"pod": own}
    if found.spec.nodeName:
        node = actions.registry(action, core.Node).find("", found.spec.nodeName)
        bound["node"] = Bound(found.spec.nodeName, node.object.metadata.uid if node is not None else "")
    return bound


def _bound(action: Action, request: authentication.TokenRequest) -> Any:
    """The object that the token is to die with. Raises NotFound, Conflict, BadRequest."""
    reference = request.spec.boundObjectRef
    if reference is None:
        return None
    what = _BOUND.get((reference.apiVersion or "v1", reference.kind or ""))
    if what is None:
        raise BadRequest(f"cannot bind token to object of type {reference.apiVersion}, Kind={reference.kind}")
    kind = kind_of(what)
    registry = actions.registry(action, what)
    name = reference.name or ""
    entry = registry.find(action.namespace if kind.namespaced else "", name)
    if entry is None:
        raise NotFound.of(kind.plural, kind.group, name)
    found = entry.object
    if reference.uid and reference.uid != found.metadata.uid:
        raise Conflict.of(
            kind.plural, kind.group, name,
            f"the UID in the bound object reference ({reference.uid}) does not match the UID in record. The object "
            "might have been deleted and then recreated",
        )  # fmt: skip
    if isinstance(found, core.Pod) and found.spec.serviceAccountName != action.name:
        raise BadRequest(
            f'cannot bind token for serviceaccount "{action.name}" to pod running with different serviceaccount name.'
        )
    return found


COLUMNS: tuple[Column[Any], ...] = (
    NAME,
    column("Secrets", lambda a: len(a.secrets or ()), "Number of secrets that name it."),
    AGE,
)
SERVICE_ACCOUNT: Resource[core.ServiceAccount] = Resource(
    kind=kind_of(core.ServiceAccount),
    columns=COLUMNS,
    subresources=(Subresource("token", verbs=("create",), kind=TOKEN_REQUEST, act=_token),),
    generation=False,
    returns_deleted=True,
)
RESOURCES = (SERVICE_ACCOUNT,)
