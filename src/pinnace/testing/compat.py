"""What the fixtures with familiar names have in common: a cluster in real time, and kubectl on it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pinnace.testing.sync import SyncCluster

NO_NETWORK = "pods of this cluster are simulated: there is nothing to forward a port to"


class RealCluster:
    """Starts a cluster when it is first needed, ends it, starts another."""

    def __init__(self, nodes: int = 1) -> None:
        self._nodes = nodes
        self._running: SyncCluster | None = None

    def cluster(self) -> SyncCluster:
        if self._running is None:
            from pinnace.testing.sync import SyncCluster

            self._running = SyncCluster(nodes=self._nodes, time="real").__enter__()
        return self._running

    @property
    def runs(self) -> bool:
        return self._running is not None

    def close(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.__exit__(None, None, None)


def kubectl_path() -> Path:
    """Raises RuntimeError where there is none."""
    found = shutil.which("kubectl")
    if found is None:
        raise RuntimeError("there is no kubectl on the PATH")
    return Path(found)


def kubectl(
    kubeconfig: Path, arguments: Sequence[str], timeout: float | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Raises subprocess.CalledProcessError, TimeoutExpired."""
    return subprocess.run(
        [str(kubectl_path()), *arguments], env={**os.environ, "KUBECONFIG": str(kubeconfig)}, check=True,
        stdout=subprocess.PIPE, encoding="utf-8", timeout=timeout, **options,
    )  # fmt: skip
