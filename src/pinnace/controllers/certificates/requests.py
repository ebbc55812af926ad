"""What a CertificateSigningRequest asks for, what became of it, and whether its signer may give that: all pure.

Sources: the documentation page "Certificates and Certificate Signing Requests", and upstream's
pkg/apis/certificates/helpers.go.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Collection, Mapping
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from pinnace.api.certificates import v1 as certificates

Csr = certificates.CertificateSigningRequest

APPROVED, DENIED, FAILED = "Approved", "Denied", "Failed"
CLIENT = "kubernetes.io/kube-apiserver-client"
KUBELET_CLIENT = "kubernetes.io/kube-apiserver-client-kubelet"
KUBELET_SERVING = "kubernetes.io/kubelet-serving"
LEGACY_UNKNOWN = "kubernetes.io/legacy-unknown"

_NODE = "system:node:"
_NODES = ["system:nodes"]
_SIGNATURE, _ENCIPHERMENT = "digital signature", "key encipherment"
_CLIENT_AUTH, _SERVER_AUTH = "client auth", "server auth"
_UNREADABLE = (ValueError, TypeError, binascii.Error, UnsupportedAlgorithm, x509.DuplicateExtension)


def parse(request: Csr) -> x509.CertificateSigningRequest | None:
    """What lies in `spec.request`; None if it cannot be read, or was not signed by the key that it names."""
    try:
        asked = x509.load_pem_x509_csr(base64.b64decode(request.spec.request))
        return asked if asked.is_signature_valid else None
    except _UNREADABLE:
        return None


def expiry(certificate: str) -> datetime | None:
    """Of `status.certificate`; None if it cannot be read, as a foreign signer's might."""
    try:
        return x509.load_pem_x509_certificate(base64.b64decode(certificate)).not_valid_after_utc
    except _UNREADABLE:
        return None


def has(request: Csr, *types: str) -> bool:
    """Whether one of these conditions is there. The server takes no decision whose status is not True."""
    return any(condition.type in types for condition in request.status.conditions or ())


def approved(request: Csr) -> bool:
    return has(request, APPROVED) and not has(request, DENIED)


def common_name(asked: x509.CertificateSigningRequest) -> str:
    found = _names(asked, NameOID.COMMON_NAME)
    return found[-1] if found else ""


def alternatives(asked: x509.CertificateSigningRequest) -> x509.SubjectAlternativeName | None:
    """The names beside the subject that are asked for; None if there are none, or none that can be read."""
    try:
        return asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, *_UNREADABLE):
        return None


def kubelet_client(asked: x509.CertificateSigningRequest, usages: Collection[str]) -> str:
    """Why this is no request of a kubelet for its client certificate, in upstream's words; "" if it is one."""
    if _names(asked, NameOID.ORGANIZATION_NAME) != _NODES:
        return "subject organization is not system:nodes"
    names = alternatives(asked)
    for kind, word in ((x509.DNSName, "DNS"), (x509.RFC822Name, "Email"), (x509.IPAddress, "IP"),
                       (x509.UniformResourceIdentifier, "URI")):  # fmt: skip
        if _count(names, kind):
            return f"{word} subjectAltNames are not allowed"
    if not common_name(asked).startswith(_NODE):
        return "subject common name does not begin with system:node:"
    return _usages_differ(usages, _CLIENT_AUTH)


def kubelet_serving(asked: x509.CertificateSigningRequest, usages: Collection[str]) -> str:
    """The same of its serving certificate."""
    if _names(asked, NameOID.ORGANIZATION_NAME) != _NODES:
        return "subject organization is not system:nodes"
    names = alternatives(asked)
    if not _count(names, x509.DNSName) and not _count(names, x509.IPAddress):
        return "DNS or IP subjectAltName is required"
    for kind, word in ((x509.RFC822Name, "Email"), (x509.UniformResourceIdentifier, "URI")):
        if _count(names, kind):
            return f"{word} subjectAltNames are not allowed"
    wrong = _usages_differ(usages, _SERVER_AUTH)
    if wrong:
        return wrong
    return "" if common_name(asked).startswith(_NODE) else "subject common name does not begin with system:node:"


def api_client(_: x509.CertificateSigningRequest, usages: Collection[str]) -> str:
    """Why a certificate with these usages is none for clients of the API server."""
    for usage in usages:
        if usage not in (_SIGNATURE, _ENCIPHERMENT, _CLIENT_AUTH):
            return f"invalid usage for client certificate: {usage}"
    return "" if _CLIENT_AUTH in usages else f"missing required usage for client certificate: {_CLIENT_AUTH}"


def anything(_: x509.CertificateSigningRequest, __: Collection[str]) -> str:
    return ""


# The signers there are, and what each refuses to sign.
SIGNERS: Mapping[str, Callable[[x509.CertificateSigningRequest, Collection[str]], str]] = {
    CLIENT: api_client,
    KUBELET_CLIENT: kubelet_client,
    KUBELET_SERVING: kubelet_serving,
    LEGACY_UNKNOWN: anything,
}


def _names(asked: x509.CertificateSigningRequest, oid: x509.ObjectIdentifier) -> list[str]:
    return [str(name.value) for name in asked.subject.get_attributes_for_oid(oid)]


def _count(names: x509.SubjectAlternativeName | None, kind: type[x509.GeneralName]) -> int:
    return sum(isinstance(name, kind) for name in names or ())


def _usages_differ(usages: Collection[str], purpose: str) -> str:
    given, least = set(usages), {_SIGNATURE, purpose}
    most = least | {_ENCIPHERMENT}          # which only RSA keys need
    return "" if given in (least, most) else f"usages did not match [{' '.join(sorted(most))}]"
