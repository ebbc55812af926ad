"""Tokens and certificates: who gets in, and above all who does not."""

from __future__ import annotations

import base64
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pinnace.api import times
from pinnace.api.core import v1 as core
from pinnace.api.errors import Unauthorized
from pinnace.apiserver.access import ANONYMOUS
from pinnace.apiserver.authentication.certificates import CertificateAuthenticator
from pinnace.apiserver.authentication.chain import AuthenticatorChain
from pinnace.apiserver.authentication.tokens import Bound, TokenAuthenticator, TokenIssuer
from pinnace.base.clock import ManualClock
from pinnace.base.randomness import Randomness
from pinnace.client.transport import Request, User

from .world import World, named

URL = "https://kubernetes.default.svc"
KEY = ec.generate_private_key(ec.SECP256R1())
ACCOUNT = core.ServiceAccount(metadata=named("robot", "a"))
POD = core.Pod(metadata=named("p", "a"), spec=core.PodSpec(nodeName="n"))
SECRET = core.Secret(metadata=named("s", "a"))
NODE = core.Node(metadata=named("n"))


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class Gate:
    """An issuer and an authenticator over one world."""

    def __init__(self, key: ec.EllipticCurvePrivateKey = KEY, url: str = URL) -> None:
        self.clock = ManualClock()
        self.world = World(ACCOUNT, POD, SECRET, NODE)
        self.issuer = TokenIssuer(url, pem(key), self.clock, Randomness(1))
        self.tokens = TokenAuthenticator(self.issuer, self.world, self.clock, {"static": User("admin")})

    def issue(self, **more: Any) -> str:
        given = {"audiences": (), "seconds": 3600} | more
        return self.issuer.issue("a", Bound("robot", "uid-robot"), **given).text

    async def enter(self, token: str) -> User | None:
        return await self.tokens.authenticate(Request("GET", "/", headers={"authorization": f"Bearer {token}"}))

    async def refuses(self, token: str) -> None:
        for _ in range(2):        # what is remembered is no shortcut
            with pytest.raises(Unauthorized):
                await self.enter(token)


async def test_a_pods_token() -> None:
    gate = Gate()
    token = gate.issue(pod=Bound("p", "uid-p"), node=Bound("n", "uid-n"))
    user = await gate.enter(token)
    assert user is not None
    assert (user.name, user.uid) == ("system:serviceaccount:a:robot", "uid-robot")
    assert user.groups == ("system:serviceaccounts", "system:serviceaccounts:a")
    assert user.extra["authentication.kubernetes.io/pod-name"] == ("p",)
    assert user.extra["authentication.kubernetes.io/node-uid"] == ("uid-n",)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["kubernetes.io"] == {
        "namespace": "a",
        "serviceaccount": {"name": "robot", "uid": "uid-robot"},
        "pod": {"name": "p", "uid": "uid-p"},
        "node": {"name": "n", "uid": "uid-n"},
    }
    assert (claims["sub"], claims["aud"], claims["iss"]) == ("system:serviceaccount:a:robot", [URL], URL)
    assert claims["exp"] - claims["iat"] == 3600


async def test_a_token_lives_as_long_as_it_says() -> None:
    gate = Gate()
    token = gate.issue(seconds=600)
    gate.clock.advance(599)
    assert await gate.enter(token)
    gate.clock.advance(1)
    await gate.refuses(token)
    late = gate.issue()
    gate.clock.advance(-10)
    await gate.refuses(late)              # not before it was issued


async def test_audiences() -> None:
    gate = Gate()
    await gate.refuses(gate.issue(audiences=("vault",)))
    both = gate.issue(audiences=("vault", URL))
    assert await gate.enter(both)
    assert gate.tokens.check(both, ("x", "vault"))[1] == ("vault",)
    with pytest.raises(Unauthorized):
        gate.tokens.check(both, ("x",))


@pytest.mark.parametrize("what", ["pod", "secret", "node"])
async def test_a_token_dies_with_what_it_is_bound_to(what: str) -> None:
    gate = Gate()
    thing: Any = {"pod": POD, "secret": SECRET, "node": NODE}[what]
    token = gate.issue(**{what: Bound(thing.metadata.name, thing.metadata.uid)})
    assert await gate.enter(token)
    gate.world.drop(thing)
    await gate.refuses(token)
    again: Any = type(thing)(metadata=named(thing.metadata.name, thing.metadata.namespace, uid="another"))
    gate.world.put(again)
    await gate.refuses(token)


async def test_a_token_dies_with_its_account() -> None:
    gate = Gate()
    token = gate.issue()
    assert await gate.enter(token)
    gate.world.put(core.ServiceAccount(metadata=named("robot", "a", uid="another")))
    await gate.refuses(token)
    gate.world.drop(ACCOUNT)
    await gate.refuses(token)


async def test_a_pod_on_its_way_out_has_a_minute() -> None:
    gate = Gate()
    due = times.format(gate.clock.now())
    gate.world.put(core.Pod(metadata=named("p", "a", deletionTimestamp=due), spec=core.PodSpec()))
    token = gate.issue(pod=Bound("p", "uid-p"))
    gate.clock.advance(60)
    assert await gate.enter(token)
    gate.clock.advance(1)
    await gate.refuses(token)


def forged(token: str, *, header: dict[str, Any] | None = None, claims: dict[str, Any] | None = None) -> str:
    """The token with other contents under the old signature."""
    head, body, signature = token.split(".")

    def changed(part: str, changes: dict[str, Any] | None) -> str:
        content = json.loads(base64.urlsafe_b64decode(part + "=="))
        return base64.urlsafe_b64encode(json.dumps(content | (changes or {})).encode()).rstrip(b"=").decode()

    return ".".join((changed(head, header), changed(body, claims), signature))


def confused(token: str, public: bytes) -> str:
    """The public key taken for a shared secret."""
    _, body, _ = token.split(".")
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=").decode()
    signature = hmac.digest(public, f"{head}.{body}".encode(), "sha256")
    return f"{head}.{body}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


async def test_what_is_not_signed_by_us() -> None:
    gate = Gate()
    good = gate.issue()
    assert await gate.enter(good)
    head, body, signature = good.split(".")
    claims = jwt.decode(good, options={"verify_signature": False})
    public = gate.issuer.public_key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for bad in (
        forged(good, claims={"exp": 9999999999}),
        forged(good, claims={"sub": "system:serviceaccount:kube-system:admin"}),
        forged(good, header={"alg": "none"}),
        forged(good, header={"alg": "HS256"}),
        f"{head}.{body}.",
        f"{head}.{body}.{'A' * len(signature)}",
        jwt.encode(claims, "", algorithm="none"),
        confused(good, public),
        Gate(ec.generate_private_key(ec.SECP256R1())).issue(),      # somebody else's key under our name
        Gate(url="https://elsewhere").issue(audiences=(URL,)),      # our key, another issuer
        "x", "a.b.c", "\udcff", good + "x",
    ):  # fmt: skip
        await gate.refuses(bad)


@pytest.mark.parametrize("left_out", ["exp", "iat", "nbf", "iss", "sub", "aud", "kubernetes.io"])
async def test_every_claim_is_needed(left_out: str) -> None:
    gate = Gate()
    claims = jwt.decode(gate.issue(), options={"verify_signature": False})
    del claims[left_out]
    await gate.refuses(jwt.encode(claims, KEY, algorithm="ES256"))


async def test_the_key_set_verifies_our_tokens() -> None:
    gate = Gate()
    token = gate.issue()
    (entry,) = gate.issuer.jwks()["keys"]
    assert jwt.get_unverified_header(token)["kid"] == entry["kid"]
    jwt.decode(token, jwt.PyJWK(entry).key, algorithms=["ES256"], audience=URL, options={"verify_exp": False})
    assert gate.issuer.discovery()["issuer"] == URL


@pytest.mark.parametrize(("header", "name"), [
    ("Bearer static", "admin"), ("bearer  static ", "admin"), ("Basic static", None), ("Bearer ", None), ("", None),
])  # fmt: skip
async def test_headers(header: str, name: str | None) -> None:
    user = await Gate().tokens.authenticate(Request("GET", "/", headers={"authorization": header} if header else {}))
    assert (user.name if user else None) == name


# ------------------------------------------------------------------------------------------------- certificates


def certificate(
    name: str | None, *groups: str, usage: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.CLIENT_AUTH
) -> bytes:
    subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    subject += [] if name is None else [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    start = datetime(2026, 1, 1, tzinfo=UTC)
    builder = (
        x509.CertificateBuilder().subject_name(x509.Name(subject)).issuer_name(x509.Name([]))
        .public_key(KEY.public_key()).serial_number(1)
        .not_valid_before(start).not_valid_after(start + timedelta(days=1))
    )  # fmt: skip
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def shown(der: bytes | None) -> Request:
    return Request("GET", "/", peer_certificate=der)


async def test_a_certificate_names_user_and_groups() -> None:
    gate = CertificateAuthenticator(ManualClock())
    assert await gate.authenticate(shown(None)) is None
    for _ in range(2):
        user = await gate.authenticate(shown(certificate("system:node:n", "system:nodes", "more")))
        assert user == User("system:node:n", groups=("system:nodes", "more"))


@pytest.mark.parametrize(
    "der",
    [
        certificate(None, "system:masters"),
        certificate("server", usage=ExtendedKeyUsageOID.SERVER_AUTH),
        certificate("plain", usage=None),
        b"not a certificate",
    ],
)
async def test_certificates_that_are_not_for_clients(der: bytes) -> None:
    with pytest.raises(Unauthorized):
        await CertificateAuthenticator(ManualClock()).authenticate(shown(der))


async def test_a_connection_does_not_outlive_its_certificate() -> None:
    clock = ManualClock()
    gate, der = CertificateAuthenticator(clock), certificate("ann")
    clock.advance(86400)
    assert await gate.authenticate(shown(der))
    clock.advance(1)
    with pytest.raises(Unauthorized):
        await gate.authenticate(shown(der))
    with pytest.raises(Unauthorized):
        early = ManualClock(datetime(2025, 12, 31, tzinfo=UTC))
        await CertificateAuthenticator(early).authenticate(shown(der))


# -------------------------------------------------------------------------------------------------------- chain


async def test_the_chain() -> None:
    gate = Gate()
    chain = AuthenticatorChain((CertificateAuthenticator(gate.clock), gate.tokens))
    known = await chain.authenticate(shown(certificate("ann", "staff")))
    assert known == User("ann", groups=("staff", "system:authenticated"))
    assert await chain.authenticate(Request("GET", "/")) == ANONYMOUS
    inside = await chain.authenticate(Request("GET", "/", user=User("scheduler")))
    assert inside == User("scheduler", groups=("system:authenticated",))
    for header in ("Bearer wrong", "Basic YTpi", "Bearer"):
        with pytest.raises(Unauthorized):
            await chain.authenticate(Request("GET", "/", headers={"authorization": header}))
    with pytest.raises(Unauthorized):
        await AuthenticatorChain((gate.tokens,), anonymous=False).authenticate(Request("GET", "/"))
