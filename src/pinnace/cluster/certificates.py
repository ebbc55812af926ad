"""The cluster's keys and certificates.

One certificate authority a cluster (P-256), made once and kept (0600); leaf certificates are issued anew at
every start, so that none of a machine that is restarted now and then ever expires. Service account tokens
have a key of their own.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pinnace.base.keys import REPEATABLE, new_key, private_pem, serial_number
from pinnace.base.randomness import Randomness
from pinnace.cluster.files import write_secret

_CA_LIFE = timedelta(days=3650)
_LEAF_LIFE = timedelta(days=365)
_SKEW = timedelta(minutes=5)      # clocks of joining machines may be a little behind


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its key, PEM."""

    certificate: bytes
    key: bytes

    def write(self, directory: Path, name: str, *, durable: bool = False) -> tuple[Path, Path]:
        """Store as NAME.crt and NAME.key (0600); returns the two paths. Leaves are made again at each start."""
        certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
        write_secret(certificate, self.certificate, durable=durable)
        write_secret(key, self.key, durable=durable)
        return certificate, key


class Authority:
    """A certificate authority that can sign."""

    def __init__(self, pair: KeyPair) -> None:
        self.certificate = pair.certificate
        self._certificate = x509.load_pem_x509_certificate(pair.certificate)
        key = serialization.load_pem_private_key(pair.key, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("the authority's key is not an elliptic curve key")
        self._key = key
        self.not_after = self._certificate.not_valid_after_utc

    @classmethod
    def create(
        cls, name: str, now: datetime, *, life: timedelta = _CA_LIFE, randomness: Randomness | None = None
    ) -> KeyPair:
        """A new self-signed authority, drawn from the system unless a seed is given."""
        randomness = randomness or Randomness()
        key = new_key(randomness)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = _usage(sign_certificates=True)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(serial_number(randomness))
            .not_valid_before(now - _SKEW)
            .not_valid_after(now + life)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256(), ecdsa_deterministic=REPEATABLE)
        )
        return KeyPair(certificate.public_bytes(serialization.Encoding.PEM), private_pem(key))

    def issue(
        self,
        common_name: str,
        *,
        organizations: Iterable[str] = (),
        hosts: Iterable[str] = (),
        now: datetime,
        server: bool = False,
        client: bool = True,
        life: timedelta = _LEAF_LIFE,
        randomness: Randomness | None = None,
    ) -> KeyPair:
        """A certificate for a user (`common_name`, with `organizations` as groups) or a server of `hosts`."""
        randomness = randomness or Randomness()
        key = new_key(randomness)
        names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in organizations]
        names.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH] if server else []
        if client:
            purposes.append(ExtendedKeyUsageOID.CLIENT_AUTH)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(names))
            .public_key(key.public_key())
            .serial_number(serial_number(randomness))
            .not_valid_before(now - _SKEW)
            .not_valid_after(min(now + life, self.not_after))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        )
        alternatives = [_general_name(host) for host in dict.fromkeys(hosts)]
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        return KeyPair(self.sign(builder).public_bytes(serialization.Encoding.PEM), private_pem(key))

    def sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        """What lacks but the issuer and its signature."""
        own = self._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        whose = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)
        builder = builder.issuer_name(self._certificate.subject).add_extension(whose, critical=False)
        return builder.sign(self._key, hashes.SHA256(), ecdsa_deterministic=REPEATABLE)


class NodeCertificates:
    """The first certificates of simulated nodes, made by whichever authority there is once one is asked for. Its
    keys and serial numbers come from the randomness."""

    def __init__(self, authority: Callable[[], Authority], life: timedelta, randomness: Randomness) -> None:
        self.randomness = randomness
        self._authority = authority
        self._life = life

    def validity(self, since: datetime) -> tuple[datetime, datetime]:
        since = since.replace(microsecond=0)       # as certificates have it
        return since - _SKEW, since + self._life

    def issue(self, node: str, since: datetime) -> tuple[bytes, bytes]:
        pair = self._authority().issue(
            f"system:node:{node}", organizations=["system:nodes"], now=since.replace(microsecond=0), life=self._life,
            randomness=self.randomness,
        )
        return pair.certificate, pair.key


def load_or_create_authority(directory: Path, name: str, now: datetime) -> Authority:
    """The authority kept in the directory as ca.crt and ca.key, made if it is not there."""
    certificate, key = directory / "ca.crt", directory / "ca.key"
    # The key is written last, so that both being there means both are whole.
    if not (certificate.exists() and key.exists()):
        Authority.create(name, now).write(directory, "ca", durable=True)
    return Authority(KeyPair(certificate.read_bytes(), key.read_bytes()))


def load_or_create_signing_key(path: Path) -> bytes:
    """The P-256 key (PEM) that service account tokens are signed with."""
    if not path.exists():
        write_secret(path, private_pem(new_key(Randomness())))
    return path.read_bytes()


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=sign_certificates, crl_sign=sign_certificates, encipher_only=False,
        decipher_only=False,
    )  # fmt: skip


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
