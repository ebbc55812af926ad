"""All ways to say who one is, in order; and who says nothing is anonymous."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pinnace.api.errors import Unauthorized
from pinnace.apiserver.access import ANONYMOUS, AUTHENTICATED, Authenticator
from pinnace.client.transport import Request, User


class AuthenticatorChain:
    """The first that knows the user wins; wrong credentials are refused even if others would do."""

    def __init__(self, authenticators: Sequence[Authenticator], *, anonymous: bool = True) -> None:
        self._authenticators = tuple(authenticators)
        self._anonymous = anonymous

    async def authenticate(self, request: Request) -> User | None:
        if request.user is not None:        # an in-process caller says who it is
            return _authenticated(request.user)
        for authenticator in self._authenticators:
            user = await authenticator.authenticate(request)
            if user is not None:
                return _authenticated(user)
        if not self._anonymous or request.headers.get("authorization"):
            raise Unauthorized()
        return ANONYMOUS


def _authenticated(user: User) -> User:
    if AUTHENTICATED in user.groups or user.name == ANONYMOUS.name:
        return user
    return replace(user, groups=(*user.groups, AUTHENTICATED))
