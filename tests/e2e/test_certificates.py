"""Certificates on a real cluster: a user's by kubectl, and a kubelet's that it has renewed."""

from __future__ import annotations

import base64
import json
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from pinnace.cluster.certificates import Authority, KeyPair
from pinnace.cluster.credentials import Identity, read
from pinnace.kubelet.certificates import CURRENT, Pair, store

from .conftest import Cluster, eventually

pytestmark = pytest.mark.real


def test_a_node_is_let_in_by_what_it_has_renewed(cluster: Cluster) -> None:
    """What the server handed over is over; a node process that starts anew shows the newer certificate."""
    node = f"{cluster.name}-node-1"
    pki, place = cluster.directory / "pki", cluster.directory / "nodes" / node
    authority = Authority(KeyPair((pki / "ca.crt").read_bytes(), (pki / "ca.key").read_bytes()))
    given = read(place / "node.json")
    assert given is not None

    def issue(begin: datetime, life: timedelta) -> KeyPair:
        return authority.issue(f"system:node:{node}", organizations=["system:nodes"], now=begin, life=life)

    now = datetime.now(UTC)
    over, fresh = issue(now - timedelta(hours=2), timedelta(hours=1)), issue(now, timedelta(days=400))
    kept = place / "kubelet" / "pki"
    try:
        identity = Identity(over.certificate.decode(), over.key.decode())
        msgspec.structs.replace(given, kubelet=identity).write(place / "node.json")
        store(kept, Pair(fresh.certificate, fresh.key))
        assert (kept / CURRENT).stat().st_mode & 0o777 == 0o600
        os.kill(int((cluster.directory / "run" / f"{node}.pid").read_text().split()[0]), signal.SIGKILL)
        killed = datetime.now(UTC).isoformat()[:26]
        eventually(lambda: renewed(cluster, node) > killed)
    finally:
        given.write(place / "node.json")


def renewed(cluster: Cluster, node: str) -> str:
    return str(cluster.get("lease", node, "-n", "kube-node-lease")["spec"]["renewTime"])


def test_a_user_by_certificate(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.x509.oid import NameOID

    from pinnace.base.keys import new_key, private_pem
    from pinnace.base.randomness import Randomness

    key, files = new_key(Randomness()), (tmp_path / "ann.key", tmp_path / "ann.crt")
    asked = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ann")])
    ).sign(key, hashes.SHA256())
    request = {
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": namespace},
        "spec": {
            "request": base64.b64encode(asked.public_bytes(serialization.Encoding.PEM)).decode(),
            "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"],
        },
    }  # fmt: skip
    cluster.apply(request)
    cluster.kubectl("certificate", "approve", namespace)
    signed = eventually(lambda: cluster.get("csr", namespace)["status"].get("certificate"))
    files[0].write_bytes(private_pem(key))
    files[1].write_bytes(base64.b64decode(signed))
    flags = f"--client-key={files[0]}", f"--client-certificate={files[1]}"
    cluster.kubectl("create", "rolebinding", "ann", "--clusterrole=view", "--user=ann")
    # The kubeconfig's own user would come first: a context without one.
    where = json.loads(cluster.kubectl("config", "view", "--raw", "-o", "json").out)["clusters"][0]["name"]
    cluster.kubectl("config", "set-context", "nobody", f"--cluster={where}", f"--namespace={namespace}")
    as_ann = "--context", "nobody", *flags
    assert "pods" in eventually(
        lambda: cluster.kubectl(*as_ann, "auth", "can-i", "list", "pods", check=False).out == "yes\n" and "pods"
    )
    assert cluster.kubectl(*as_ann, "get", "pods", check=False).code == 0
    assert "Forbidden" in cluster.kubectl(*as_ann, "get", "secrets", check=False).err
    cluster.kubectl("config", "delete-context", "nobody")
