"""Acting as somebody else: the Impersonate-* headers, each of which needs a right of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import unquote

from pinnace.api.errors import BadRequest
from pinnace.apiserver.access import ANONYMOUS, AUTHENTICATED, Attributes
from pinnace.client.transport import User

_ACCOUNT = "system:serviceaccount:"
_EXTRA = "impersonate-extra-"


def impersonate(user: User, headers: Mapping[str, str], authorize: Callable[[Attributes], None]) -> User:
    """The user to act as. Raises Forbidden (from `authorize`), BadRequest. Repeated headers are joined by commas."""
    name = headers.get("impersonate-user", "")
    groups = _many(headers.get("impersonate-group", ""))
    uid = headers.get("impersonate-uid", "")
    extra = {
        unquote(key.removeprefix(_EXTRA)): _many(value) for key, value in headers.items() if key.startswith(_EXTRA)
    }
    if not name:
        raise BadRequest("requested [{Group}] without impersonating a user")
    account = _service_account(name)
    if account is not None:
        namespace, short = account
        authorize(Attributes(user, "impersonate", "", "v1", "serviceaccounts", "", namespace, short))
        groups = groups or ("system:serviceaccounts", f"system:serviceaccounts:{namespace}")
    else:
        authorize(Attributes(user, "impersonate", "", "v1", "users", name=name))
    for group in _many(headers.get("impersonate-group", "")):
        authorize(Attributes(user, "impersonate", "", "v1", "groups", name=group))
    if uid:
        authorize(Attributes(user, "impersonate", "authentication.k8s.io", "v1", "uids", name=uid))
    for key, values in extra.items():
        for value in values:
            authorize(
                Attributes(user, "impersonate", "authentication.k8s.io", "v1", "userextras", key, name=value)
            )
    if name != ANONYMOUS.name and AUTHENTICATED not in groups and ANONYMOUS.groups[0] not in groups:
        groups = (*groups, AUTHENTICATED)
    return User(name, uid, groups or ANONYMOUS.groups, extra)


def _many(header: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in header.split(",") if word.strip())


def _service_account(name: str) -> tuple[str, str] | None:
    if not name.startswith(_ACCOUNT):
        return None
    namespace, _, short = name.removeprefix(_ACCOUNT).partition(":")
    return (namespace, short) if namespace and short and ":" not in short else None
