"""Service account tokens bound to pods (KEP-1205), kept until four fifths of their life are over."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pinnace.api.authentication import v1 as authentication
from pinnace.api.core import v1 as core
from pinnace.base.clock import Clock
from pinnace.base.randomness import Randomness
from pinnace.client.client import Client

DAY = 86_400.0
_CAPACITY = 10_000


@dataclass(frozen=True, slots=True)
class Token:
    text: str
    refresh_at: float          # epoch seconds


@dataclass(frozen=True, slots=True)
class _Key:
    uid: str
    audience: str
    seconds: int


def refresh_time(issued: float, expires: float, jitter: float) -> float:
    """When to ask for the next token: at 80 % of its life and at the latest after a day, a little earlier at random."""
    life = expires - issued
    return issued + min(life * 0.8, DAY) - jitter


class Tokens:
    """Asks the API server for tokens and remembers them."""

    def __init__(self, client: Client, clock: Clock, randomness: Randomness) -> None:
        self._client = client
        self._clock = clock
        self._randomness = randomness
        self._tokens: dict[_Key, Token] = {}

    async def get(self, pod: core.Pod, audience: str, seconds: int) -> Token:
        """Raises the errors of the API."""
        meta, now = pod.metadata, self._clock.now().timestamp()
        key = _Key(meta.uid or "", audience, seconds)
        known = self._tokens.get(key)
        if known is not None and now < known.refresh_at:
            return known
        answer = await self._client.create_subresource(
            core.ServiceAccount, pod.spec.serviceAccountName or "default", meta.namespace or "", "token",
            authentication.TokenRequest(
                spec=authentication.TokenRequestSpec(
                    audiences=[audience] if audience else None,
                    expirationSeconds=seconds,
                    boundObjectRef=authentication.BoundObjectReference(
                        kind="Pod", apiVersion="v1", name=meta.name, uid=meta.uid
                    ),
                )
            ),
        )  # fmt: skip
        expires = datetime.fromisoformat(answer.status.expirationTimestamp or "").timestamp()
        token = Token(
            answer.status.token or "", refresh_time(now, expires, self._randomness.uniform(0.0, 10.0))
        )
        if len(self._tokens) >= _CAPACITY:
            self._tokens.pop(next(iter(self._tokens)))
        self._tokens[key] = token
        return token

    def forget(self, uid: str) -> None:
        for key in [key for key in self._tokens if key.uid == uid]:
            del self._tokens[key]
