"""Requests for certificates: what is approved, what is signed and how, when they go; each rule by itself."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pinnace.api import times
from pinnace.api.certificates import v1 as certificates
from pinnace.api.meta import v1 as meta
from pinnace.base.keys import new_key
from pinnace.base.randomness import Randomness
from pinnace.cluster.certificates import Authority
from pinnace.controllers.certificates import approver, cleaner, requests, signer
from pinnace.controllers.plan import Delete

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
NODE, NODES = "system:node:n1", ("system:nodes",)
CLIENT = ("digital signature", "client auth")
SERVING = ("digital signature", "server auth")
KEY = new_key(Randomness(1))
AUTHORITY = Authority(Authority.create("test", NOW, randomness=Randomness(2)))
DNS, IP = x509.DNSName("n1"), x509.IPAddress(ipaddress.ip_address("192.0.2.1"))
MAIL, URI = x509.RFC822Name("a@example.com"), x509.UniformResourceIdentifier("https://example.com")


def asked(
    name: str = NODE, groups: Sequence[str] = NODES, names: Sequence[x509.GeneralName] = (), key: Any = KEY
) -> x509.CertificateSigningRequest:
    subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    subject.append(x509.NameAttribute(NameOID.COMMON_NAME, name))
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256())


def request(
    what: x509.CertificateSigningRequest | None = None, *conditions: str, signer: str = requests.KUBELET_CLIENT,
    usages: Sequence[str] = CLIENT, user: str = NODE, certificate: bytes = b"", seconds: int | None = None,
    decided: datetime = NOW,
) -> certificates.CertificateSigningRequest:  # fmt: skip
    pem = (what or asked()).public_bytes(serialization.Encoding.PEM)
    return certificates.CertificateSigningRequest(
        metadata=meta.ObjectMeta(name="r", uid="u", creationTimestamp=times.format(NOW)),
        spec=certificates.CertificateSigningRequestSpec(
            request=base64.b64encode(pem).decode(), signerName=signer, usages=list(usages), username=user,
            groups=["system:nodes"], expirationSeconds=seconds,
        ),
        status=certificates.CertificateSigningRequestStatus(
            certificate=base64.b64encode(certificate).decode() or None,
            conditions=[
                certificates.CertificateSigningRequestCondition(
                    type=word, status="True", lastUpdateTime=times.format(decided)
                )
                for word in conditions
            ] or None,
        ),
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------------- recognized


@pytest.mark.parametrize(
    ("what", "usages", "wrong"),
    [
        (asked(), CLIENT, ""),
        (asked(), (*CLIENT, "key encipherment"), ""),
        (asked(groups=()), CLIENT, "subject organization is not system:nodes"),
        (asked(groups=("system:nodes", "system:masters")), CLIENT, "subject organization is not system:nodes"),
        (asked(names=[DNS]), CLIENT, "DNS subjectAltNames are not allowed"),
        (asked(names=[MAIL]), CLIENT, "Email subjectAltNames are not allowed"),
        (asked(names=[IP]), CLIENT, "IP subjectAltNames are not allowed"),
        (asked(names=[URI]), CLIENT, "URI subjectAltNames are not allowed"),
        (asked(name="ann"), CLIENT, "subject common name does not begin with system:node:"),
        (asked(), ("client auth",), "usages did not match [client auth digital signature key encipherment]"),
        (asked(), (*CLIENT, "server auth"), "usages did not match [client auth digital signature key encipherment]"),
    ],
)
def test_a_kubelets_client(what: x509.CertificateSigningRequest, usages: Sequence[str], wrong: str) -> None:
    assert requests.kubelet_client(what, usages) == wrong


@pytest.mark.parametrize(
    ("what", "usages", "wrong"),
    [
        (asked(names=[DNS, IP]), SERVING, ""),
        (asked(names=[IP]), (*SERVING, "key encipherment"), ""),
        (asked(), SERVING, "DNS or IP subjectAltName is required"),
        (asked(groups=("other",), names=[DNS]), SERVING, "subject organization is not system:nodes"),
        (asked(names=[DNS, MAIL]), SERVING, "Email subjectAltNames are not allowed"),
        (asked(names=[DNS, URI]), SERVING, "URI subjectAltNames are not allowed"),
        (asked(names=[DNS]), CLIENT, "usages did not match [digital signature key encipherment server auth]"),
        (asked(name="n1", names=[DNS]), SERVING, "subject common name does not begin with system:node:"),
    ],
)
def test_a_kubelets_server(what: x509.CertificateSigningRequest, usages: Sequence[str], wrong: str) -> None:
    assert requests.kubelet_serving(what, usages) == wrong


@pytest.mark.parametrize(
    ("usages", "wrong"),
    [
        (("client auth",), ""),
        (("client auth", "digital signature", "key encipherment"), ""),
        (("client auth", "server auth"), "invalid usage for client certificate: server auth"),
        (("digital signature",), "missing required usage for client certificate: client auth"),
    ],
)
def test_a_client_of_the_api(usages: Sequence[str], wrong: str) -> None:
    assert requests.api_client(asked("ann", ()), usages) == wrong


def test_what_cannot_be_read_is_nothing() -> None:
    broken = request()
    broken.spec.request = base64.b64encode(b"nothing").decode()
    assert requests.parse(broken) is None
    forged = asked().public_bytes(serialization.Encoding.DER)
    der = forged.replace(b"system:node:n1", b"system:node:n2")       # signed for somebody else
    broken.spec.request = base64.b64encode(
        x509.load_der_x509_csr(der).public_bytes(serialization.Encoding.PEM)
    ).decode()
    assert requests.parse(broken) is None
    assert requests.expiry("nothing") is None


# ------------------------------------------------------------------------------------------------------------- approved


@pytest.mark.parametrize(
    ("seen", "questions"),
    [
        (request(), ["selfnodeclient", "nodeclient"]),
        (request(user="system:bootstrap:abc"), ["nodeclient"]),
        (request(usages=SERVING), []),
        (request(asked(names=[DNS])), []),
    ],
)
def test_what_is_asked_about_a_request(seen: Any, questions: list[str]) -> None:
    assert [permission.subresource for permission in approver.permissions(seen)] == questions


@pytest.mark.parametrize(
    ("seen", "undecided"),
    [
        (request(), True),
        (request(None, "Failed"), True),
        (request(None, "Approved"), False),
        (request(None, "Denied"), False),
        (request(certificate=b"x"), False),
        (request(signer=requests.CLIENT), False),
        (request(signer=requests.KUBELET_SERVING), False),
    ],
)
def test_what_is_looked_at(seen: Any, undecided: bool) -> None:
    assert approver.undecided(seen) is undecided


def test_the_question_and_the_approval() -> None:
    question = approver.question(request(), approver.SELF).spec
    assert (question.user, question.groups) == (NODE, ["system:nodes"])
    about = question.resourceAttributes
    assert about is not None
    assert (about.verb, about.group, about.resource, about.subresource) == (
        "create", "certificates.k8s.io", "certificatesigningrequests", "selfnodeclient",
    )  # fmt: skip
    (condition,) = approver.approval(request(), approver.SELF).status.conditions or ()
    assert (condition.type, condition.status, condition.reason, condition.message) == (
        "Approved", "True", "AutoApproved",
        "Auto approving self kubelet client certificate after SubjectAccessReview.",
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- signed


@pytest.mark.parametrize(
    ("seen", "awaited"),
    [
        (request(None, "Approved"), True),
        (request(None, "Approved", signer="example.com/other"), False),
        (request(), False),
        (request(None, "Denied"), False),
        (request(None, "Approved", "Failed"), False),
        (request(None, "Approved", certificate=b"x"), False),
    ],
)
def test_what_is_signed(seen: Any, awaited: bool) -> None:
    assert signer.awaited(seen) is awaited


@pytest.mark.parametrize(
    ("seconds", "hours"), [(None, 4), (3600, 1), (4 * 3600, 4), (86400, 4), (600, 1 / 6), (60, 1 / 6)]
)
def test_how_long_it_lasts(seconds: int | None, hours: float) -> None:
    assert signer.lifetime(seconds, timedelta(hours=4)) == timedelta(hours=hours)


def sign(what: x509.CertificateSigningRequest, usages: Sequence[str], life: timedelta) -> x509.Certificate:
    builder = signer.order(what, usages, NOW, life, AUTHORITY.not_after)
    return AUTHORITY.sign(builder.serial_number(7))


def test_the_limits_of_a_certificate() -> None:
    """Backdated by five minutes, which a long life includes and a short one does not; never beyond its authority."""
    begin = NOW - timedelta(minutes=5)
    for life, end in (
        (timedelta(hours=1), NOW + timedelta(hours=1)),
        (timedelta(hours=8), NOW + timedelta(hours=8, minutes=-5)),
        (timedelta(days=100_000), AUTHORITY.not_after),
    ):
        made = sign(asked(), CLIENT, life)
        assert (made.not_valid_before_utc, made.not_valid_after_utc) == (begin, end)


def test_what_a_certificate_says() -> None:
    usages = ("signing", "key encipherment", "server auth", "client auth", "ipsec user", "encipher only")
    made = sign(asked(names=[DNS, IP]), usages, timedelta(hours=1))
    assert made.subject == asked().subject and made.public_key() == KEY.public_key()
    assert made.serial_number == 7
    constraints = made.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical and not constraints.value.ca
    usage = made.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical and usage.value.digital_signature and usage.value.key_encipherment
    assert not usage.value.key_agreement and not usage.value.key_cert_sign
    purposes = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [purpose.dotted_string for purpose in purposes] == [
        ExtendedKeyUsageOID.SERVER_AUTH.dotted_string, ExtendedKeyUsageOID.CLIENT_AUTH.dotted_string,
        "1.3.6.1.5.5.7.3.7",
    ]  # fmt: skip
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [DNS, IP]
    made.verify_directly_issued_by(x509.load_pem_x509_certificate(AUTHORITY.certificate))


def test_keys_of_other_kinds_are_signed_too() -> None:
    key = rsa.generate_private_key(65537, 2048)
    made = sign(asked("ann", ("dev",), key=key), ("client auth",), timedelta(days=1))
    assert made.public_key() == key.public_key()
    with pytest.raises(x509.ExtensionNotFound):
        made.extensions.get_extension_for_class(x509.KeyUsage)


def test_a_refusal_is_a_condition() -> None:
    refused = signer.failed(request(None, "Approved"), "no", NOW)
    assert [condition.type for condition in refused.status.conditions or ()] == ["Approved", "Failed"]
    condition = (refused.status.conditions or ())[1]
    assert (condition.reason, condition.message, condition.lastUpdateTime) == (
        "SignerValidationFailure", "no", times.format(NOW),
    )  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- cleared


def certificate(life: timedelta) -> bytes:
    return sign(asked(), CLIENT, life).public_bytes(serialization.Encoding.PEM)


LONG, SHORT = certificate(timedelta(hours=6)), certificate(timedelta(minutes=20))


@pytest.mark.parametrize(
    ("seen", "lasts"),
    [
        (request(), timedelta(hours=24)),
        (request(None, "Denied"), timedelta(hours=1)),
        (request(None, "Approved", "Failed"), timedelta(hours=1)),
        (request(None, "Approved", certificate=LONG), timedelta(hours=1)),
        (request(None, "Approved", certificate=SHORT), timedelta(minutes=20)),
        (request(None, "Approved", certificate=b"nothing"), timedelta(hours=1)),
        (request(None, "Approved"), timedelta(hours=24)),
        (request(None, "Denied", decided=NOW + timedelta(hours=3)), timedelta(hours=4)),
    ],
)
def test_when_it_goes(seen: Any, lasts: timedelta) -> None:
    assert cleaner.over_at(seen) == NOW + lasts
    early = cleaner.decide(seen, NOW + lasts - timedelta(seconds=1))
    assert early.again == timedelta(seconds=1) and not early.actions
    (action,) = cleaner.decide(seen, NOW + lasts).actions
    assert isinstance(action, Delete) and (action.name, action.uid) == ("r", "u")


def test_other_conditions_keep_it() -> None:
    assert cleaner.decide(request(None, "Other"), NOW + timedelta(days=99)).again is None
