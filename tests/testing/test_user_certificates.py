"""A user by certificate, as the documentation page "Issue a Certificate for a Kubernetes API Client" makes one: with
kubectl over real HTTPS, and with any client in simulated time."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from pinnace.api import errors
from pinnace.api.core import v1 as core
from pinnace.client import kubeconfig
from pinnace.client.client import Client
from pinnace.client.https import HttpsTransport, client_context
from pinnace.testing import SyncCluster
from pinnace.testing.authority import simulated
from pinnace.testing.cluster import Cluster
from pinnace.testing.loop import simulate

KEY = rsa.generate_private_key(65537, 2048)
SIGNER = "kubernetes.io/kube-apiserver-client"


def signing_request(signer: str = SIGNER, *usages: str, seconds: int = 86400) -> dict[str, Any]:
    subject = x509.Name([
        x509.NameAttribute(NameOID.COMMON_NAME, "myuser"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "dev"),
    ])  # fmt: skip
    asked = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(KEY, hashes.SHA256())
    pem = asked.public_bytes(serialization.Encoding.PEM)
    return {
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": "myuser"},
        "spec": {
            "request": base64.b64encode(pem).decode(), "signerName": signer, "expirationSeconds": seconds,
            "usages": list(usages) or ["client auth"],
        },
    }  # fmt: skip


RIGHTS = """
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: developer}
rules: [{apiGroups: [""], resources: [pods], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: developer-binding-myuser}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: developer}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: myuser}]
"""


@pytest.fixture
def real(request: pytest.FixtureRequest) -> Iterator[SyncCluster]:
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl on the PATH")
    with SyncCluster(nodes=0, time="real") as cluster:
        yield cluster


def kubectl(cluster: SyncCluster, *args: str, stdin: str = "", code: int = 0) -> str:
    done = subprocess.run(
        ["kubectl", "--kubeconfig", str(cluster.kubeconfig), *args], input=stdin, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_a_user_logs_in(real: SyncCluster, tmp_path: Path) -> None:
    key, certificate = tmp_path / "myuser.key", tmp_path / "myuser.crt"
    key.write_bytes(KEY.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ))  # fmt: skip
    kubectl(real, "apply", "-f", "-", stdin=json.dumps(signing_request()))
    assert kubectl(real, "get", "csr").splitlines()[1].split()[2:] == [SIGNER, "kubernetes-admin", "24h", "Pending"]
    assert "myuser approved" in kubectl(real, "certificate", "approve", "myuser")
    kubectl(real, "wait", "csr/myuser", "--for=jsonpath={.status.certificate}", "--timeout=30s")
    assert kubectl(real, "get", "csr").splitlines()[1].split()[-1] == "Approved,Issued"
    certificate.write_bytes(
        base64.b64decode(kubectl(real, "get", "csr", "myuser", "-o", "jsonpath={.status.certificate}"))
    )
    files = f"--client-key={key}", f"--client-certificate={certificate}"
    kubectl(real, "config", "set-credentials", "myuser", *files, "--embed-certs=true")
    kubectl(real, "config", "set-context", "myuser", "--cluster=pinnace", "--user=myuser")
    who = kubectl(real, "--context", "myuser", "auth", "whoami", "-o", "json")
    assert json.loads(who)["status"]["userInfo"] == {"username": "myuser", "groups": ["dev", "system:authenticated"]}
    refused = kubectl(real, "--context", "myuser", "get", "pods", code=1)
    assert 'pods is forbidden: User "myuser" cannot list resource "pods"' in refused
    kubectl(real, "apply", "-f", "-", stdin=RIGHTS)
    assert "No resources found" in kubectl(real, "--context", "myuser", "get", "pods")


def test_refusals(real: SyncCluster) -> None:
    kubectl(real, "apply", "-f", "-", stdin=json.dumps(signing_request()))
    assert "myuser denied" in kubectl(real, "certificate", "deny", "myuser")
    assert kubectl(real, "get", "csr").splitlines()[1].split()[-1] == "Denied"
    kubectl(real, "delete", "csr", "myuser")
    kubectl(real, "apply", "-f", "-", stdin=json.dumps(signing_request(SIGNER, "client auth", "server auth")))
    kubectl(real, "certificate", "approve", "myuser")
    kubectl(real, "wait", "csr/myuser", "--for=condition=Failed", "--timeout=30s")
    failed = kubectl(real, "get", "csr", "myuser", "-o", "jsonpath={.status.conditions[?(@.type=='Failed')]}")
    assert json.loads(failed)["reason"] == "SignerValidationFailure"
    assert json.loads(failed)["message"] == "invalid usage for client certificate: server auth"
    assert kubectl(real, "get", "csr").splitlines()[1].split()[-1] == "Approved,Failed"


def test_a_user_in_simulated_time(tmp_path: Path) -> None:
    """As long as the certificate is good by the cluster's clock, whatever the machine's says."""

    async def day() -> None:
        async with Cluster(nodes=0) as cluster:
            served = await cluster.serve()
            (made,) = await cluster.create(signing_request(seconds=3600))
            condition = {"type": "Approved", "status": "True", "reason": "ByHand"}
            body = {"status": {"conditions": [condition]}}
            await cluster.patch("csr", made.metadata.name, body, subresource="approval", type="merge")
            signed = await cluster.wait_for("csr", "myuser", condition=lambda r: bool(r.status.certificate))
            await cluster.apply(RIGHTS)
            certificate, key = tmp_path / "u.crt", tmp_path / "u.key"
            certificate.write_bytes(base64.b64decode(signed.status.certificate))
            key.write_bytes(KEY.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ))  # fmt: skip
            context = client_context(ca=simulated().certificate, certificate=certificate, key=key)
            transport = HttpsTransport(served.url, context)
            user = Client(transport, agent="myuser")
            assert (await user.list(core.Pod, "default")).items == []
            with pytest.raises(errors.Forbidden):
                await user.list(core.Secret, "default")
            await cluster.advance(hours=1, seconds=1)
            with pytest.raises(errors.Unauthorized):
                await user.list(core.Pod, "default")
            await transport.close()

    simulate(day)


def test_what_is_refused_at_once() -> None:
    with SyncCluster(nodes=0) as cluster:
        forged = signing_request()
        pem = base64.b64decode(forged["spec"]["request"])
        der = x509.load_pem_x509_csr(pem).public_bytes(serialization.Encoding.DER).replace(b"myuser", b"urseym")
        other = x509.load_der_x509_csr(der).public_bytes(serialization.Encoding.PEM)
        forged["spec"]["request"] = base64.b64encode(other).decode()
        with pytest.raises(errors.Invalid, match="signature"):
            cluster.create(forged)
        with pytest.raises(errors.Invalid, match="the legacy signerName is not allowed via this API version"):
            cluster.create(signing_request("kubernetes.io/legacy-unknown"))
        with pytest.raises(errors.Invalid, match="may not specify a duration less than 600 seconds"):
            cluster.create(signing_request(seconds=599))


def test_the_kubeconfigs_of_clusters_in_real_time_are_no_use_elsewhere() -> None:
    """Each has an authority of its own, which nobody can foretell."""
    with SyncCluster(nodes=0, time="real") as one, SyncCluster(nodes=0, time="real") as two:
        first, second = kubeconfig.load(one.kubeconfig), kubeconfig.load(two.kubeconfig)
    assert first.ca != second.ca and first.ca != simulated().certificate
