"""How a person gets into a cluster of this machine: the administrator's certificate."""

from __future__ import annotations

from pinnace.base.errors import UserError
from pinnace.client.kubeconfig import Access
from pinnace.cluster.layout import Layout


def admin_access(layout: Layout) -> Access:
    """Raises UserError if the cluster has never run."""
    settings = layout.load()
    try:
        return Access(
            server=f"https://127.0.0.1:{settings.api_port}",
            ca=(layout.pki / "ca.crt").read_bytes(),
            certificate=(layout.pki / "admin.crt").read_bytes(),
            key=(layout.pki / "admin.key").read_bytes(),
        )
    except FileNotFoundError as error:
        raise UserError(f"cluster {layout.name!r} has never run", hint="pinnace up starts it") from error
