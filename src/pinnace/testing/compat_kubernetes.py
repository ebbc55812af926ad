"""The fixtures `k8s` and `k8s_manager`, as users of pytest-kubernetes know them, over a cluster in real time.

Where pytest-kubernetes is installed its own fixtures are used, and this module is not loaded.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest

from pinnace.testing import compat

_kept = pytest.StashKey["dict[str, ClusterManager]"]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "k8s(cluster_name, keep): as pytest-kubernetes has it; what names a provider changes nothing"
    )
    config.stash[_kept] = {}


def pytest_sessionfinish(session: pytest.Session) -> None:
    for manager in session.config.stash.get(_kept, {}).values():
        manager.delete()


class ClusterManager:
    """The interface of pytest-kubernetes' AClusterManager. `create` need not be called: whatever needs the cluster
    starts it. Failures are RuntimeErrors, as there."""

    context = None

    def __init__(self, cluster_name: str | None = None, provider_config: Any = None, kubeconfig: Any = None) -> None:
        if kubeconfig is not None:
            raise RuntimeError("Pinnace starts clusters, and does not connect to others: leave k8s_kubeconfig out")
        name = cluster_name or "pytest"
        self.cluster_name = name if name.startswith("pytest") else f"pytest-{name}"
        self._real = compat.RealCluster()

    @classmethod
    def get_binary_name(cls) -> str:
        return "pinnace"

    @property
    def kubeconfig(self) -> Path | None:
        """None while there is no cluster."""
        return self._real.cluster().kubeconfig if self._real.runs else None

    def create(self, cluster_options: Any = None, timeout: int = 20, **_: Any) -> None:
        """What the options say of other providers changes nothing."""
        self._real.cluster()

    def delete(self) -> None:
        self._real.close()

    def reset(self) -> None:
        self.delete()
        self.create()

    def ready(self, timeout: int = 20) -> bool:
        return self._real.runs

    def kubectl(self, args: list[str], as_dict: bool = True, timeout: int = 60) -> Any:
        """A dictionary of kubectl's JSON, or its text. Arguments may be quoted as for a shell."""
        words = shlex.split(" ".join([*args, *(["-o", "json"] if as_dict else [])]))
        try:
            done = compat.kubectl(
                self._real.cluster().kubeconfig, words, timeout, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
        except subprocess.CalledProcessError as error:
            raise RuntimeError(error.stderr) from None
        return json.loads(done.stdout) if as_dict else done.stdout

    def apply(self, input: Path | str | Mapping[str, Any]) -> None:
        """A file, a directory, or a dictionary."""
        if not isinstance(input, str | Path | Mapping):
            raise RuntimeError(f"Input must be of type Path or dict, was {type(input)}")
        self._checked(lambda cluster: cluster.apply(Path(input) if isinstance(input, str) else input))

    def wait(self, name: str, waitfor: str, timeout: int = 90, namespace: str = "default") -> None:
        """`name` is "deployments/web", `waitfor` what `kubectl wait --for` takes."""
        self._checked(
            lambda cluster: cluster.wait_for(name, namespace=namespace, condition=waitfor, timeout=float(timeout))
        )

    def logs(self, pod: str, container: str | None = None, namespace: str | None = None) -> str:
        name = pod.removeprefix("pod/").removeprefix("pods/")
        return str(self._checked(lambda cluster: cluster.logs(name, namespace, container=container or "")))

    def version(self) -> tuple[int, int]:
        """Major and minor."""
        server = self.kubectl(["version"])["serverVersion"]
        return int(server["major"]), int(server["minor"])

    def load_image(self, image: str) -> None:
        """Simulated nodes have every image."""

    def port_forwarding(
        self, target: str, source_port: int, target_port: int, namespace: str = "default", timeout: int = 90
    ) -> NoReturn:
        raise RuntimeError(compat.NO_NETWORK)

    def _checked(self, work: Callable[[Any], Any]) -> Any:
        from pinnace.api.errors import StatusError

        try:
            return work(self._real.cluster())
        except (StatusError, TimeoutError, OSError, ValueError) as error:
            raise RuntimeError(str(error)) from error


@pytest.fixture(scope="session")
def k8s_manager() -> Callable[..., type[ClusterManager]]:
    """The class of clusters, whichever provider is named: `k8s_manager("kind")("my-cluster")`."""

    def choose(name: str | None = None) -> type[ClusterManager]:
        return ClusterManager

    return choose


@pytest.fixture
def k8s(request: pytest.FixtureRequest) -> Iterator[ClusterManager]:
    """A cluster for this test, or with `@pytest.mark.k8s(keep=True)` for all that name the same."""
    marker = request.node.get_closest_marker("k8s")
    given = marker.kwargs if marker is not None else {}
    name, kept = given.get("cluster_name") or "pytest", request.config.stash[_kept]
    manager = kept.get(name) or ClusterManager(name, kubeconfig=given.get("k8s_kubeconfig"))
    if given.get("keep"):
        kept[name] = manager
    yield manager
    if name not in kept:
        manager.delete()
