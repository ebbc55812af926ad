"""Who may approve and sign certificate requests, and what nobody may ask for: upstream's CertificateApproval,
CertificateSigning and CertificateSubjectRestriction.

Both rights are given by signer: the verbs `approve` and `sign` on the resource `signers`, by the signer's name or
by its whole domain ("example.com/*").
"""

from __future__ import annotations

import base64
import binascii

from cryptography import x509
from cryptography.x509.oid import NameOID

from pinnace.api.certificates import v1 as certificates
from pinnace.api.errors import Forbidden
from pinnace.apiserver.access import MASTERS, Admission, AdmissionPlugin, Attributes, Authorizer, Concern

_GROUP = "certificates.k8s.io"
_CLIENT_SIGNER = "kubernetes.io/kube-apiserver-client"


class CertificateRequests(AdmissionPlugin):
    """Validates writes of CertificateSigningRequests; changes nothing."""

    mutates = None
    validates = Concern(("CREATE", "UPDATE"), ("certificatesigningrequests.certificates.k8s.io",))

    def __init__(self, authorizer: Authorizer) -> None:
        self._authorizer = authorizer

    async def validate(self, admission: Admission) -> None:
        new, old = admission.object, admission.old_object
        if not isinstance(new, certificates.CertificateSigningRequest):
            return
        match admission.operation, admission.subresource:
            case "CREATE", "":
                _check_subject(admission, new)
            case "UPDATE", "approval":
                self._demand(admission, old, "approve")
            case "UPDATE", "status":
                if isinstance(old, certificates.CertificateSigningRequest) and not _signs(new, old):
                    return
                self._demand(admission, old, "sign")

    def _demand(self, admission: Admission, old: object, verb: str) -> None:
        # By the signer that is stored: what is sent could name another.
        signer = old.spec.signerName if isinstance(old, certificates.CertificateSigningRequest) else ""
        domain, _, _ = signer.partition("/")
        for name in (signer, f"{domain}/*"):
            question = Attributes(admission.user, verb, _GROUP, "*", "signers", name=name)
            if self._authorizer.authorize(question).allowed:
                return
        raise _forbidden(admission, f'user not permitted to {verb} requests with signerName "{signer}"')


def _signs(new: certificates.CertificateSigningRequest, old: certificates.CertificateSigningRequest) -> bool:
    """Whether an update of the status gives a certificate, or says that there will be none."""
    return new.status.certificate != old.status.certificate or _failures(new) != _failures(old)


def _failures(request: certificates.CertificateSigningRequest) -> list[certificates.CertificateSigningRequestCondition]:
    return [condition for condition in request.status.conditions or () if condition.type == "Failed"]


def _check_subject(admission: Admission, request: certificates.CertificateSigningRequest) -> None:
    """A certificate for the group that stands above all rules could never be taken back."""
    if request.spec.signerName != _CLIENT_SIGNER:
        return
    if MASTERS in asked_for(admission, request, NameOID.ORGANIZATION_NAME):
        raise _forbidden(admission, f"use of {_CLIENT_SIGNER} signer with {MASTERS} group is not allowed")


def asked_for(
    admission: Admission, request: certificates.CertificateSigningRequest, oid: x509.ObjectIdentifier
) -> list[str]:
    """The values of one attribute of the subject. Raises Forbidden if the request cannot be read."""
    try:
        asked = x509.load_pem_x509_csr(base64.b64decode(request.spec.request))
        return [str(name.value) for name in asked.subject.get_attributes_for_oid(oid)]
    except (ValueError, binascii.Error) as error:
        raise _forbidden(admission, f"failed to parse CSR: {error}") from error


def _forbidden(admission: Admission, why: str) -> Forbidden:
    return Forbidden.to(admission.resource, admission.group, admission.name, why)
