"""Signs the requests that are approved, for the four signers of kubernetes.io: upstream's csrsigning.

What is to be signed is decided purely (`order`), as a builder that lacks only a serial number, the issuer and its
signature. Sources: upstream's pkg/controller/certificates/signer and authority.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from pinnace.api import times
from pinnace.api.certificates import v1 as certificates
from pinnace.base.keys import serial_number
from pinnace.base.randomness import Randomness
from pinnace.client.informer import Informers
from pinnace.controllers.certificates.requests import FAILED, SIGNERS, Csr, alternatives, approved, has, parse
from pinnace.controllers.plan import NOTHING, Plan, Ref, Watch

BACKDATED = timedelta(minutes=5)      # clocks of others may be a little behind
SHORT = timedelta(hours=8)            # what is good for less is not shortened by it
SHORTEST = timedelta(minutes=10)      # whatever a request asks for
YEAR = timedelta(days=365)

_KEY_USAGES = {
    "signing": "digital_signature", "digital signature": "digital_signature",
    "content commitment": "content_commitment", "key encipherment": "key_encipherment",
    "data encipherment": "data_encipherment", "key agreement": "key_agreement", "cert sign": "key_cert_sign",
    "crl sign": "crl_sign", "encipher only": "encipher_only", "decipher only": "decipher_only",
}  # fmt: skip
# In the order in which Go writes them.
_PURPOSES = {
    "any": ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
    "server auth": ExtendedKeyUsageOID.SERVER_AUTH,
    "client auth": ExtendedKeyUsageOID.CLIENT_AUTH,
    "code signing": ExtendedKeyUsageOID.CODE_SIGNING,
    "email protection": ExtendedKeyUsageOID.EMAIL_PROTECTION,
    "s/mime": ExtendedKeyUsageOID.EMAIL_PROTECTION,
    "ipsec end system": ObjectIdentifier("1.3.6.1.5.5.7.3.5"),
    "ipsec tunnel": ObjectIdentifier("1.3.6.1.5.5.7.3.6"),
    "ipsec user": ObjectIdentifier("1.3.6.1.5.5.7.3.7"),
    "timestamping": ExtendedKeyUsageOID.TIME_STAMPING,
    "ocsp signing": ExtendedKeyUsageOID.OCSP_SIGNING,
    "microsoft sgc": ObjectIdentifier("1.3.6.1.4.1.311.10.3.3"),
    "netscape sgc": ObjectIdentifier("2.16.840.1.113730.4.1"),
}


class Authority(Protocol):
    """Whoever holds the cluster's key."""

    @property
    def not_after(self) -> datetime: ...

    def sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        """Add the issuer to what is to be signed, and sign it."""
        ...


@dataclass(frozen=True, slots=True)
class Signing:
    """What certificates are signed with. `authority` is asked for once there is something to sign: most clusters of
    tests never need one. `duration`: how long certificates last that ask for nothing else, and at the most."""

    authority: Callable[[], Authority]
    randomness: Randomness
    duration: timedelta = YEAR


class CsrSigner:
    name = "csrsigning"
    selective = True

    def __init__(self, informers: Informers, signing: Signing) -> None:
        self.primary = informers.of(Csr)
        self.watches: tuple[Watch, ...] = ()
        self._signing = signing

    def observe(self, ref: Ref) -> Csr | None:
        request = self.primary.cache.find(ref)
        return request if request is not None and awaited(request) else None

    def decide(self, seen: Csr, now: datetime) -> Plan:
        asked = parse(seen)
        if asked is None:
            return NOTHING
        wrong = SIGNERS[seen.spec.signerName](asked, seen.spec.usages or ())
        if wrong:
            return Plan(status=failed(seen, wrong, now))
        authority = self._signing.authority()
        if now >= authority.not_after:
            return NOTHING         # whatever it signed would have expired in the past
        life = lifetime(seen.spec.expirationSeconds, self._signing.duration)
        builder = order(asked, seen.spec.usages or (), now, life, authority.not_after)
        signed = authority.sign(builder.serial_number(serial_number(self._signing.randomness)))
        return Plan(status=issued(seen, signed))


def awaited(request: Csr) -> bool:
    """Whether a certificate of ours is still to come."""
    return (
        approved(request) and not has(request, FAILED) and not request.status.certificate
        and request.spec.signerName in SIGNERS
    )  # fmt: skip


def lifetime(asked: int | None, most: timedelta) -> timedelta:
    """How long a certificate is to last; `asked` in seconds."""
    if asked is None or timedelta(seconds=asked) > most:
        return most
    return max(timedelta(seconds=asked), SHORTEST)


def order(
    asked: x509.CertificateSigningRequest, usages: Collection[str], now: datetime, life: timedelta, end: datetime
) -> x509.CertificateBuilder:
    """What is to be signed. Of the request's extensions only the alternative names are taken over."""
    begin = now - BACKDATED
    builder = (
        x509.CertificateBuilder()
        .subject_name(asked.subject)
        .public_key(asked.public_key())
        .not_valid_before(begin)
        .not_valid_after(min((now if life < SHORT else begin) + life, end))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    bits = {bit for usage, bit in _KEY_USAGES.items() if usage in usages}
    if "key_agreement" not in bits:
        bits -= {"encipher_only", "decipher_only"}      # which say nothing without it
    if bits:
        flags = {bit: bit in bits for bit in _KEY_USAGES.values()}
        builder = builder.add_extension(x509.KeyUsage(**flags), critical=True)
    purposes = dict.fromkeys(purpose for usage, purpose in _PURPOSES.items() if usage in usages)
    if purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    names = alternatives(asked)
    if names is not None:
        builder = builder.add_extension(names, critical=not list(asked.subject))
    return builder


def issued(request: Csr, signed: x509.Certificate) -> Csr:
    text = base64.b64encode(signed.public_bytes(serialization.Encoding.PEM)).decode()
    return msgspec.structs.replace(request, status=msgspec.structs.replace(request.status, certificate=text))


def failed(request: Csr, why: str, now: datetime) -> Csr:
    condition = certificates.CertificateSigningRequestCondition(
        type=FAILED, status="True", reason="SignerValidationFailure", message=why, lastUpdateTime=times.format(now)
    )
    conditions = [*(request.status.conditions or ()), condition]
    return msgspec.structs.replace(request, status=msgspec.structs.replace(request.status, conditions=conditions))
