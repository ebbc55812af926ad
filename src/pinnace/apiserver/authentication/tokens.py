"""Service account tokens: JWTs (ES256) bound to an audience, a lifetime and, mostly, a pod.

The issuer signs what TokenRequest asks for; the authenticator takes a token back, and looks whether the account
and the pod that it is bound to still exist. Claims are upstream's (KEP-1205, KEP-4193).
"""

from __future__ import annotations

import base64
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pinnace.api import times
from pinnace.api.core import v1 as core
from pinnace.api.errors import Unauthorized
from pinnace.apiserver.authentication.objects import Objects
from pinnace.base.clock import Clock
from pinnace.base.randomness import Randomness
from pinnace.client.transport import Request, User

SHORTEST_LIFE = 600                    # seconds; upstream refuses less
LONGEST_LIFE = 1 << 32
_MOST_CACHED = 10_000
_GONE_GRACE = timedelta(seconds=60)    # a pod may use its token so long after its deletion was due
_CLAIM = "kubernetes.io"


@dataclass(frozen=True, slots=True)
class Bound:
    """The object that a token lives and dies with, beside its account."""

    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Token:
    text: str
    expires: datetime


class TokenIssuer:
    """Signs tokens. `url` is the issuer's name, and where its discovery documents are served."""

    def __init__(self, url: str, key: bytes, clock: Clock, randomness: Randomness) -> None:
        loaded = serialization.load_pem_private_key(key, None)
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            raise ValueError("the service account key must be an elliptic curve key")
        self.url = url
        self.audiences: tuple[str, ...] = (url,)
        self._clock = clock
        self._randomness = randomness
        self._key = loaded
        self.public_key = loaded.public_key()
        der = self.public_key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.key_id = base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode()

    def issue(
        self,
        namespace: str,
        account: Bound,
        *,
        audiences: Sequence[str],
        seconds: int,
        pod: Bound | None = None,
        node: Bound | None = None,
        secret: Bound | None = None,
    ) -> Token:
        """A token for an account. No audiences: the API server's own."""
        now = self._clock.now()
        issued = int(now.timestamp())
        private: dict[str, Any] = {
            "namespace": namespace,
            "serviceaccount": {"name": account.name, "uid": account.uid},
        }
        for name, bound in (("pod", pod), ("node", node), ("secret", secret)):
            if bound is not None:
                private[name] = {"name": bound.name, "uid": bound.uid}
        claims = {
            "aud": list(audiences or self.audiences),
            "exp": issued + seconds,
            "iat": issued,
            "iss": self.url,
            "jti": self._randomness.uid(),
            _CLAIM: private,
            "nbf": issued,
            "sub": f"system:serviceaccount:{namespace}:{account.name}",
        }
        text = jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self.key_id})
        return Token(text, times.from_timestamp(issued + seconds))

    def jwks(self) -> dict[str, Any]:
        """The key set, as /openid/v1/jwks serves it."""
        numbers = self.public_key.public_numbers()
        return {
            "keys": [
                {
                    "use": "sig",
                    "kty": "EC",
                    "kid": self.key_id,
                    "crv": "P-256",
                    "alg": "ES256",
                    "x": _coordinate(numbers.x),
                    "y": _coordinate(numbers.y),
                }
            ]
        }

    def discovery(self) -> dict[str, Any]:
        """As /.well-known/openid-configuration serves it."""
        return {
            "issuer": self.url,
            "jwks_uri": f"{self.url}/openid/v1/jwks",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        }


@dataclass(frozen=True, slots=True)
class _Verified:
    claims: dict[str, Any]
    user: User
    expires: float
    not_before: float


class TokenAuthenticator:
    """Users by bearer token: static ones, and those of our issuer."""

    def __init__(
        self, issuer: TokenIssuer, objects: Objects, clock: Clock, static: dict[str, User] | None = None
    ) -> None:
        self._issuer = issuer
        self._objects = objects
        self._clock = clock
        self._static = {hashlib.sha256(token.encode()).digest(): user for token, user in (static or {}).items()}
        # Signatures are checked once; what can change (existence of the bound objects, time) every time.
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()

    async def authenticate(self, request: Request) -> User | None:
        """None without a bearer token; raises Unauthorized for a wrong one."""
        header = request.headers.get("authorization", "")
        scheme, _, text = header.partition(" ")
        if scheme.lower() != "bearer" or not text.strip():
            return None
        return self.check(text.strip(), self._issuer.audiences)[0]

    def check(self, text: str, audiences: Sequence[str]) -> tuple[User, tuple[str, ...]]:
        """The token's user, and which of the audiences it is for. Raises Unauthorized."""
        digest = hashlib.sha256(text.encode(errors="surrogateescape")).digest()
        if digest in self._static:
            return self._static[digest], tuple(audiences)
        verified = self._verified.get(digest) or self._verify(digest, text)
        now = self._clock.now().timestamp()
        if not verified.not_before - 1 <= now < verified.expires:
            raise Unauthorized()
        shared = tuple(audience for audience in audiences if audience in verified.claims["aud"])
        if not shared:
            raise Unauthorized()
        self._check_bound(verified.claims[_CLAIM])
        return verified.user, shared

    def _verify(self, digest: bytes, text: str) -> _Verified:
        try:
            claims = jwt.decode(
                text,
                self._issuer.public_key,
                algorithms=["ES256"],
                issuer=self._issuer.url,
                # Times are checked against our clock, audiences against the caller's.
                options={"verify_aud": False, "verify_exp": False, "verify_nbf": False, "verify_iat": False,
                         "require": ["exp", "iat", "nbf", "iss", "sub", "aud"]},
            )
            if isinstance(claims["aud"], str):
                claims["aud"] = [claims["aud"]]
            verified = _Verified(claims, _user(claims), float(claims["exp"]), float(claims["nbf"]))
        except (jwt.PyJWTError, KeyError, TypeError, ValueError) as error:
            raise Unauthorized() from error
        self._verified[digest] = verified
        if len(self._verified) > _MOST_CACHED:
            self._verified.popitem(last=False)
        return verified

    def _check_bound(self, private: dict[str, Any]) -> None:
        namespace = private["namespace"]
        account = private["serviceaccount"]
        found = self._objects.get(core.ServiceAccount, namespace, account["name"])
        self._check_alive(found, account)
        if "pod" in private:
            self._check_alive(self._objects.get(core.Pod, namespace, private["pod"]["name"]), private["pod"])
        elif "secret" in private:
            self._check_alive(self._objects.get(core.Secret, namespace, private["secret"]["name"]), private["secret"])
        elif "node" in private:
            self._check_alive(self._objects.get(core.Node, "", private["node"]["name"]), private["node"])

    def _check_alive(
        self, found: core.ServiceAccount | core.Pod | core.Secret | core.Node | None, claim: dict[str, Any]
    ) -> None:
        if found is None or found.metadata.uid != claim["uid"]:
            raise Unauthorized()
        if found.metadata.deletionTimestamp:
            due = times.parse(found.metadata.deletionTimestamp)
            if self._clock.now() > due + _GONE_GRACE:
                raise Unauthorized()


def _user(claims: dict[str, Any]) -> User:
    private = claims[_CLAIM]
    namespace, account = private["namespace"], private["serviceaccount"]
    extra = {"authentication.kubernetes.io/credential-id": (f"JTI={claims.get('jti', '')}",)}
    for sort in ("pod", "node"):
        if sort in private:
            extra[f"authentication.kubernetes.io/{sort}-name"] = (private[sort]["name"],)
            extra[f"authentication.kubernetes.io/{sort}-uid"] = (private[sort]["uid"],)
    return User(
        name=f"system:serviceaccount:{namespace}:{account['name']}",
        uid=account["uid"],
        groups=("system:serviceaccounts", f"system:serviceaccounts:{namespace}"),
        extra=extra,
    )


def _coordinate(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(32, "big")).rstrip(b"=").decode()
