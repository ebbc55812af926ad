"""A kubelet's client certificate: asked for by the kubelet itself, renewed in good time, kept in a file.

At 70 % to 90 % of a certificate's life the kubelet makes a new key and a CertificateSigningRequest under its present
identity, waits until it is approved and signed, keeps the new pair and lets new connections show it. While that does
not succeed, it tries again. Sources: the documentation page "TLS bootstrapping", and upstream's
client-go/util/certificate.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pinnace.api import errors
from pinnace.api.certificates import v1 as certificates
from pinnace.api.meta import v1 as meta
from pinnace.base.clock import Clock
from pinnace.base.keys import REPEATABLE, new_key, private_pem
from pinnace.base.randomness import Randomness
from pinnace.client.client import Client
from pinnace.client.transport import TIMER

log = logging.getLogger("pinnace.kubelet")

SIGNER = "kubernetes.io/kube-apiserver-client-kubelet"
CURRENT = "kubelet-client-current.pem"
_USAGES = ("digital signature", "client auth")      # RSA keys would want key encipherment too
_EARLIEST, _LATEST = 0.7, 0.9                       # of a certificate's life, when it is renewed
_PATIENCE = 900.0                                   # seconds that one request is waited for
_FIRST, _DOUBLINGS, _JITTER, _LAST = 2.0, 4, 0.1, 32.0     # seconds between attempts
_LONGEST = 3600.0                                   # seconds; then the clock is looked at again: it may have been set
_BETWEEN = 1.0                                      # seconds from the end of a watch to the next


class Refused(Exception):
    """A request came to nothing: denied, failed, or deleted."""


FAILURES = (errors.StatusError, Refused, OSError, TimeoutError)


class Pair(NamedTuple):
    """A certificate and its key, PEM."""

    certificate: bytes
    key: bytes

    def parsed(self) -> x509.Certificate:
        """Raises ValueError."""
        return x509.load_pem_x509_certificate(self.certificate)


def rotation_deadline(begin: datetime, end: datetime, randomness: Randomness) -> datetime:
    """When a certificate is to be renewed. Drawn, so that nodes that were made together do not ask together."""
    return begin + (end - begin) * randomness.uniform(_EARLIEST, _LATEST)


def pauses(randomness: Randomness) -> Iterator[float]:
    """Seconds to wait between attempts, without end."""
    for n in range(_DOUBLINGS):
        yield randomness.jitter(_FIRST * 2**n, _JITTER)
    while True:
        yield _LAST


def subject(node: str) -> x509.Name:
    return x509.Name([
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes"),
        x509.NameAttribute(NameOID.COMMON_NAME, f"system:node:{node}"),
    ])  # fmt: skip


def signing_request(node: str, key: ec.EllipticCurvePrivateKey) -> certificates.CertificateSigningRequest:
    asked = x509.CertificateSigningRequestBuilder().subject_name(subject(node)).sign(
        key, hashes.SHA256(), ecdsa_deterministic=REPEATABLE
    )
    text = base64.b64encode(asked.public_bytes(serialization.Encoding.PEM)).decode()
    return certificates.CertificateSigningRequest(
        metadata=meta.ObjectMeta(generateName="csr-"),
        spec=certificates.CertificateSigningRequestSpec(request=text, signerName=SIGNER, usages=list(_USAGES)),
    )


async def request_pair(client: Client, node: str, clock: Clock, randomness: Randomness) -> Pair:
    """Ask for a certificate and wait for it. Raises TimeoutError, Refused, and what the client raises."""
    key = new_key(randomness)
    async with asyncio.timeout(_PATIENCE):
        made = await client.create(signing_request(node, key), because=(TIMER,))
        return Pair(await _issued(client, clock, made), private_pem(key))


async def _issued(client: Client, clock: Clock, made: certificates.CertificateSigningRequest) -> bytes:
    kind, name = certificates.CertificateSigningRequest, made.metadata.name or ""
    while True:
        watch = client.watch(kind, field_selector=f"metadata.name={name}", send_initial_events=True)
        async with aclosing(watch) as batches:
            async for batch in batches:
                for event in batch:
                    if event.type == "BOOKMARK":
                        continue
                    if event.type == "DELETED" or event.object.metadata.uid != made.metadata.uid:
                        raise Refused(f"certificate signing request {name} was deleted")
                    if (certificate := _answer(event.object)) is not None:
                        return certificate
        await clock.sleep(_BETWEEN)


def _answer(request: certificates.CertificateSigningRequest) -> bytes | None:
    """The certificate in PEM, None as long as there is none. Raises Refused."""
    approved = False
    for condition in request.status.conditions or ():
        if condition.type in ("Denied", "Failed"):
            word = "is denied" if condition.type == "Denied" else "failed"
            raise Refused(
                f"certificate signing request {word}, reason: {condition.reason}, message: {condition.message}"
            )
        approved = approved or condition.type == "Approved"
    certificate = request.status.certificate
    return base64.b64decode(certificate) if approved and certificate else None


class CertificateManager:
    """`run` renews a node's pair in good time, until cancelled.

    `client` shows `current`, the pair in use; `directory` is where it is kept; `use` lets new connections show another,
    and has old ones closed. `over` is called when the pair has expired and the server does not take it any more:
    upstream's kubelet ends then, so that it may be started with another.
    """

    def __init__(
        self, client: Client, node: str, current: Pair, directory: Path, use: Callable[[Pair], Awaitable[None]],
        over: Callable[[], None], *, clock: Clock, randomness: Randomness,
    ) -> None:  # fmt: skip
        self.client = client
        self.current = current
        self._node = node
        self._directory = directory
        self._use = use
        self._over = over
        self._clock = clock
        self._randomness = randomness

    async def run(self) -> None:
        while True:
            certificate = self.current.parsed()
            end = certificate.not_valid_after_utc
            deadline = rotation_deadline(certificate.not_valid_before_utc, end, self._randomness)
            log.info("certificate expires at %s and is renewed at %s", end, deadline)
            while (left := (deadline - self._clock.now()).total_seconds()) > 0:
                await self._clock.sleep(min(left, _LONGEST))
            self.current = await self._renewed(end)
            store(self._directory, self.current)
            await self._use(self.current)

    async def _renewed(self, end: datetime) -> Pair:
        """A new pair, after as many attempts as it takes."""
        for pause in pauses(self._randomness):
            try:
                return await request_pair(self.client, self._node, self._clock, self._randomness)
            except FAILURES as error:
                log.warning("the certificate was not renewed: %s; again in %.3g s", error or "timeout", pause)
                if isinstance(error, errors.Unauthorized) and self._clock.now() > end:
                    log.error("the client certificate has expired, and the server is responsive")
                    self._over()
            await self._clock.sleep(pause)
        raise AssertionError("pauses do not end")


def store(directory: Path, pair: Pair) -> None:
    """Keep the pair (0600), whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = directory / f".{CURRENT}.tmp"
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pair.certificate + pair.key)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(directory / CURRENT)


def stored(directory: Path) -> Pair | None:
    """None if there is none, or none that can be read."""
    try:
        whole = (directory / CURRENT).read_bytes()
        certificate = x509.load_pem_x509_certificate(whole)
        key = serialization.load_pem_private_key(whole, None)
    except (OSError, ValueError):
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        return None
    return Pair(certificate.public_bytes(serialization.Encoding.PEM), private_pem(key))


def newest(given: Pair, kept: Pair | None) -> Pair:
    """Of two pairs of the same node, from the same authority, the one that lasts longer: a node that starts again
    was perhaps handed what it has renewed since."""
    if kept is None:
        return given
    ours, theirs = given.parsed(), kept.parsed()
    same = ours.issuer == theirs.issuer and ours.subject == theirs.subject
    return kept if same and theirs.not_valid_after_utc > ours.not_valid_after_utc else given

