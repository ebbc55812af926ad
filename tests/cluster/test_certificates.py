"""The cluster's authority: what it issues is verified by a TLS stack that is not ours."""

from __future__ import annotations

import ipaddress
import os
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from pinnace.cluster.certificates import (
    Authority,
    KeyPair,
    load_or_create_authority,
    load_or_create_signing_key,
    write_secret,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def parsed(pair: KeyPair) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pair.certificate)


def names(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> list[str]:
    return [str(name.value) for name in certificate.subject.get_attributes_for_oid(oid)]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority(Authority.create("test-ca", NOW))


def test_a_clients_certificate(authority: Authority) -> None:
    pair = authority.issue("system:node:n", organizations=["system:nodes", "more"], now=NOW)
    certificate = parsed(pair)
    assert names(certificate, NameOID.COMMON_NAME) == ["system:node:n"]
    assert names(certificate, NameOID.ORGANIZATION_NAME) == ["system:nodes", "more"]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificate.not_valid_before_utc < NOW < certificate.not_valid_after_utc
    key = serialization.load_pem_private_key(pair.key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.public_key() == certificate.public_key()


def verify(authority: Authority, pair: KeyPair, host: str, at: datetime) -> None:
    """Raises VerificationError."""
    subject = x509.DNSName(host) if host[0].isalpha() else x509.IPAddress(ipaddress.ip_address(host))
    store = Store([x509.load_pem_x509_certificate(authority.certificate)])
    PolicyBuilder().store(store).time(at).build_server_verifier(subject).verify(parsed(pair), [])


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "kubernetes.default.svc"])
def test_a_servers_certificate(authority: Authority, host: str) -> None:
    hosts = ["127.0.0.1", "::1", "kubernetes.default.svc", "127.0.0.1"]
    pair = authority.issue("kube-apiserver", hosts=hosts, now=NOW, server=True, client=False)
    verify(authority, pair, host, NOW)
    verify(authority, pair, host, NOW + timedelta(days=364))
    for wrong in ("10.0.0.1", "elsewhere.svc"):
        with pytest.raises(VerificationError):
            verify(authority, pair, wrong, NOW)
    with pytest.raises(VerificationError):
        verify(authority, pair, host, NOW + timedelta(days=366))
    with pytest.raises(VerificationError):
        verify(Authority(Authority.create("test-ca", NOW)), pair, host, NOW)
    with pytest.raises(VerificationError):      # a client's is no server's
        verify(authority, authority.issue("ann", hosts=hosts, now=NOW), host, NOW)


def test_no_certificate_outlives_its_authority(authority: Authority) -> None:
    late = parsed(authority.issue("ann", now=NOW + timedelta(days=3600)))
    assert late.not_valid_after_utc == x509.load_pem_x509_certificate(authority.certificate).not_valid_after_utc


def test_python_and_openssl_take_them(authority: Authority, tmp_path: Path) -> None:
    """A whole handshake, in memory, both sides showing a certificate."""
    now = datetime.now(UTC)
    living = Authority(Authority.create("living", now))
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=living.certificate.decode())
    server.verify_mode = ssl.CERT_REQUIRED
    issued = living.issue("server", hosts=["a.svc"], now=now, server=True, client=False)
    server.load_cert_chain(*issued.write(tmp_path, "server"))
    client = ssl.create_default_context(cadata=living.certificate.decode())
    client.load_cert_chain(*living.issue("ann", now=now).write(tmp_path, "ann"))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(to_client, to_server, server_hostname="a.svc"),
            server.wrap_bio(to_server, to_client, server_side=True)]  # fmt: skip
    for end in ends * 3:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    peer = ends[1].getpeercert()
    assert peer is not None and (("commonName", "ann"),) in peer["subject"]


def test_the_authority_is_made_once(tmp_path: Path) -> None:
    directory = tmp_path / "pki"
    first = load_or_create_authority(directory, "ca", NOW)
    again = load_or_create_authority(directory, "other", NOW)
    assert again.certificate == first.certificate
    (directory / "ca.key").unlink()         # the start was interrupted: half an authority is none
    assert load_or_create_authority(directory, "ca", NOW).certificate != first.certificate
    key = load_or_create_signing_key(directory / "sa.key")
    assert load_or_create_signing_key(directory / "sa.key") == key
    assert {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()} == {
        "ca.crt": 0o600, "ca.key": 0o600, "sa.key": 0o600,
    }  # fmt: skip
    assert directory.stat().st_mode & 0o777 == 0o700


def test_a_secret_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret"
    write_secret(path, b"first")

    def fails(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="no space"):
        write_secret(path, b"second")
    assert path.read_bytes() == b"first"
    monkeypatch.undo()
    write_secret(path, b"third")
    assert path.read_bytes() == b"third" and path.stat().st_mode & 0o777 == 0o600
