"""The fixture `kind_cluster`, as users of pytest-kind know it, over a cluster in real time.

Where pytest-kind is installed its own fixture is used, and this module is not loaded.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from pinnace.testing import compat


class KindCluster:
    """The interface of pytest-kind's KindCluster. It is session-scoped: tests share it, with all that lies in it."""

    def __init__(self, name: str = "pytest-kind") -> None:
        self.name = name
        self._real = compat.RealCluster()

    def create(self, config_file: str | Path | None = None) -> None:
        """Start the cluster, if it does not run. What a file says of kind's nodes changes nothing."""
        self._real.cluster()

    def delete(self) -> None:
        self._real.close()

    @property
    def kubeconfig_path(self) -> Path:
        return self._real.cluster().kubeconfig

    @property
    def kubectl_path(self) -> Path:
        return compat.kubectl_path()

    @property
    def api(self) -> Any:
        """A client of pykube-ng, which must be installed."""
        import pykube  # type: ignore[import-not-found]  # only its users have it

        return pykube.HTTPClient(pykube.KubeConfig.from_file(self.kubeconfig_path))

    def kubectl(self, *args: str, **kwargs: Any) -> str:
        """kubectl's output. Raises subprocess.CalledProcessError."""
        return compat.kubectl(self.kubeconfig_path, args, **{"stdin": subprocess.DEVNULL, **kwargs}).stdout

    def load_docker_image(self, docker_image: str) -> None:
        """Simulated nodes have every image."""

    def port_forward(
        self, service_or_pod_name: str, remote_port: int, *args: str, local_port: int | None = None, retries: int = 10
    ) -> NoReturn:
        raise RuntimeError(compat.NO_NETWORK)


@pytest.fixture(scope="session")
def kind_cluster() -> Iterator[KindCluster]:
    """One cluster for the whole session."""
    cluster = KindCluster()
    cluster.create()
    yield cluster
    cluster.delete()
