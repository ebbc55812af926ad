"""Who may approve and sign, and what nobody may ask for."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from pinnace.api.certificates import v1 as certificates
from pinnace.api.errors import Forbidden
from pinnace.api.rbac import v1 as rbac
from pinnace.apiserver.access import AnyOf
from pinnace.apiserver.admission.certificates import CertificateRequests
from pinnace.apiserver.admission.node_restriction import NodeRestriction
from pinnace.apiserver.authorization.rbac import RbacAuthorizer

from .test_credentials import KEY
from .test_rbac import bind, cluster_role
from .world import World, admission, named, node_user, rule, user

SIGNER = "example.com/own"
CLIENT = "kubernetes.io/kube-apiserver-client"


def request(
    signer: str = SIGNER, *groups: str, name: str = "ann", certificate: str = "", conditions: tuple[str, ...] = ()
) -> Any:
    names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    names.append(x509.NameAttribute(NameOID.COMMON_NAME, name))
    asked = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names)).sign(KEY, hashes.SHA256())
    text = base64.b64encode(asked.public_bytes(serialization.Encoding.PEM)).decode()
    listed = [certificates.CertificateSigningRequestCondition(type=word, status="True") for word in conditions]
    return certificates.CertificateSigningRequest(
        metadata=named("r"),
        spec=certificates.CertificateSigningRequestSpec(request=text, signerName=signer, usages=["client auth"]),
        status=certificates.CertificateSigningRequestStatus(certificate=certificate or None, conditions=listed or None),
    )


def may(verb: str, *signers: str) -> rbac.PolicyRule:
    return rule(verb, "certificates.k8s.io", "signers", " ".join(signers))


NEW = request()
SIGNED = request(certificate="eA==")
FAILED = request(conditions=("Failed",))
NOTED = request(conditions=("Other",))


@pytest.mark.parametrize(
    ("rights", "operation", "part", "new", "refusal"),
    [
        (may("approve", SIGNER), "UPDATE", "approval", NEW, ""),
        (may("approve", "example.com/*"), "UPDATE", "approval", NEW, ""),
        (may("approve"), "UPDATE", "approval", NEW, ""),
        (may("approve", "example.com/other"), "UPDATE", "approval", NEW, "not permitted to approve requests with"),
        (may("sign", SIGNER), "UPDATE", "approval", NEW, 'signerName "example.com/own"'),
        # The stored request's signer counts, not one that is sent.
        (may("approve", "easy.com/x"), "UPDATE", "approval", request("easy.com/x"), "not permitted to approve"),
        (may("sign", SIGNER), "UPDATE", "status", SIGNED, ""),
        (may("sign", "example.com/*"), "UPDATE", "status", FAILED, ""),
        (may("approve", SIGNER), "UPDATE", "status", SIGNED, "not permitted to sign"),
        (may("approve", SIGNER), "UPDATE", "status", FAILED, "not permitted to sign"),
        (may("approve", SIGNER), "UPDATE", "status", NOTED, ""),
        (may("x"), "CREATE", "", request(CLIENT, "staff"), ""),
        (may("x"), "CREATE", "", request(CLIENT, "staff", "system:masters"), "with system:masters group is not"),
        (may("x"), "CREATE", "", request(SIGNER, "system:masters"), ""),
        (may("x"), "UPDATE", "", NEW, ""),
    ],
)
async def test_certificate_requests(rights: rbac.PolicyRule, operation: str, part: str, new: Any, refusal: str) -> None:
    world = World(cluster_role("own", rights), bind("ClusterRole/own", "User/ann"))
    plugin = CertificateRequests(AnyOf([RbacAuthorizer(world)]))
    old = request() if operation == "UPDATE" else None
    resource = f"certificatesigningrequests/{part}" if part else ""
    write = admission(user("ann"), operation, new, old, resource=resource)
    if not refusal:
        await plugin.validate(write)
        return
    with pytest.raises(Forbidden, match=refusal):
        await plugin.validate(write)
    if part:
        await plugin.validate(admission(user("root", "system:masters"), operation, new, old, resource=resource))


@pytest.mark.parametrize(
    ("signer", "name", "allowed"),
    [
        ("kubernetes.io/kubelet-serving", "system:node:n1", True),
        ("kubernetes.io/kubelet-serving", "system:node:n2", False),
        ("kubernetes.io/kube-apiserver-client-kubelet", "system:node:n2", False),
        ("kubernetes.io/kube-apiserver-client-kubelet", "admin", False),
        ("example.com/own", "anything", True),
    ],
)
async def test_a_node_asks_for_itself(signer: str, name: str, allowed: bool) -> None:
    write = admission(node_user("n1"), "CREATE", request(signer, "system:nodes", name=name))
    if allowed:
        await NodeRestriction(World()).validate(write)
        return
    with pytest.raises(Forbidden, match="can only create a node CSR with CN=system:node:n1"):
        await NodeRestriction(World()).validate(write)
