"""What the actions of subresources need of the server: registries, writes, answers. The one file that knows how."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from pinnace.api import codec
from pinnace.api.errors import Invalid
from pinnace.api.fields import FieldError
from pinnace.api.kinds import Kind
from pinnace.apiserver.registry import Registry, Write
from pinnace.apiserver.resource import Action
from pinnace.client.transport import Response

K = TypeVar("K")
JSON = {"content-type": "application/json"}
_SUCCESS = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
_DONE = codec.encode(_SUCCESS)


def registry(action: Action, what: type[Any]) -> Registry:
    return action.server.objects.registries[what]


def write(action: Action) -> Write:
    """A write on behalf of whoever asked."""
    context = action.context
    return Write(context.user, context.now, context.dry_run, context.subresource, action.cause)


def body(action: Action, kind: type[K]) -> K:
    """What was sent. Raises BadRequest."""
    return action.sent if isinstance(action.sent, kind) else codec.decode(kind, action.request.body or b"{}")


def refuse(kind: Kind | str, name: str, findings: Iterable[FieldError], group: str = "") -> None:
    """Raises Invalid if there are findings."""
    found = list(findings)
    if found:
        if isinstance(kind, Kind):
            raise Invalid.of(kind.kind, kind.group, name, found)
        raise Invalid.of(kind, group, name, found)


def answer(thing: Any, status: int = 200) -> Response:
    return Response(status, JSON, codec.encode(thing), thing)


def success() -> Response:
    """The Status of an action that has no object to show."""
    return Response(201, JSON, _DONE, _SUCCESS)
