"""The fixtures that users of pytest-kubernetes and pytest-kind know."""

from __future__ import annotations

import shutil

import pytest

import pinnace.testing.compat_kind
import pinnace.testing.compat_kubernetes
import pinnace.testing.endpoint
import pinnace.testing.running  # noqa: F401

pytest_plugins = ["pytester"]

_QUIET = ("-pno:cacheprovider", "-pno:hypothesispytest", "-pno:asyncio", "-Werror", "--strict-markers")
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl on the PATH")


@needs_kubectl
def test_users_of_pytest_kubernetes(pytester: pytest.Pytester) -> None:
    pytester.makefile(".yaml", hello="""
apiVersion: apps/v1
kind: Deployment
metadata: {name: hello}
spec:
  selector: {matchLabels: {app: hello}}
  template:
    metadata: {labels: {app: hello}}
    spec: {containers: [{name: nginx, image: nginx}]}
""")  # fmt: skip
    pytester.makepyfile("""
from pathlib import Path
import pytest

def test_their_readme(k8s):
    k8s.create()
    k8s.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "app-config"}, "data": {"A": "it's"}})
    k8s.apply(Path("./hello.yaml"))
    k8s.apply("./hello.yaml")
    k8s.wait("deployments/hello", "condition=Available=True", timeout=60)
    data = k8s.kubectl(["get", "deployments", "-o", "json"])
    assert data["items"][0]["metadata"]["name"] == "hello"
    assert k8s.kubectl(["get", "pods"])["items"]
    assert "hello" in k8s.kubectl(["get", "pods", "--selector='app=hello'"], as_dict=False)
    assert k8s.version() == (1, 36)
    assert k8s.ready() and k8s.kubeconfig.exists()
    k8s.load_image("nginx")
    with pytest.raises(RuntimeError, match="absent"):
        k8s.kubectl(["get", "cm", "absent"])
    with pytest.raises(RuntimeError, match="not condition=Available"):
        k8s.wait("deployments/absent", "condition=Available", timeout=0)
    with pytest.raises(RuntimeError, match="nothing to forward"):
        k8s.port_forwarding("svc/hello", 8080, 80)
    k8s.reset()
    assert k8s.kubectl(["get", "deployments"])["items"] == []
    k8s.delete()
    assert k8s.kubeconfig is None

@pytest.mark.k8s(cluster_name="kept", keep=True)
def test_keeps(k8s):
    k8s.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept"}})

@pytest.mark.k8s(provider="kind", cluster_name="kept", keep=True)
def test_finds(k8s):
    assert k8s.cluster_name == "pytest-kept"
    assert k8s.kubectl(["get", "cm", "kept"])

def test_manager(k8s_manager):
    cluster = k8s_manager("k3d")("analytics")
    assert not cluster.ready(timeout=2)
    cluster.create()
    assert cluster.kubectl(["get", "nodes"])["items"]
    cluster.delete()
""")
    pytester.runpytest_inprocess(*_QUIET).assert_outcomes(passed=4)


@needs_kubectl
def test_users_of_pytest_kind(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
import subprocess
import pytest

def test_their_readme(kind_cluster):
    kind_cluster.load_docker_image("myapp")
    kind_cluster.kubectl("create", "configmap", "made")
    assert "configmap/made" in kind_cluster.kubectl("get", "cm", "-o", "name")
    assert kind_cluster.name == "pytest-kind" and kind_cluster.kubeconfig_path.exists()
    with pytest.raises(subprocess.CalledProcessError):
        kind_cluster.kubectl("get", "cm", "absent", stderr=subprocess.DEVNULL)
    with pytest.raises(RuntimeError, match="nothing to forward"):
        with kind_cluster.port_forward("service/myapp", 80):
            pass

def test_it_is_shared(kind_cluster):
    assert kind_cluster.kubectl("get", "cm", "made")
""")
    pytester.runpytest_inprocess(*_QUIET).assert_outcomes(passed=2)


@pytest.mark.parametrize(("name", "fixture"), [("pytest-kubernetes", "k8s"), ("pytest-kind", "kind_cluster")])
def test_theirs_win(pytester: pytest.Pytester, name: str, fixture: str) -> None:
    class Theirs:
        @pytest.fixture(name=fixture)
        def given(self) -> str:
            return "theirs"

        def pytest_configure(self, config: pytest.Config) -> None:
            if name == "pytest-kubernetes":
                config.addinivalue_line("markers", "k8s: theirs")

    class Named:
        """As an entry point of that name: registered before anything is configured."""

        def pytest_addoption(self, pluginmanager: pytest.PytestPluginManager) -> None:
            if not pluginmanager.has_plugin(name):
                pluginmanager.register(Theirs(), name)

    pytester.makepyfile(f"def test_it({fixture}): assert {fixture} == 'theirs'")
    pytester.inline_run(*_QUIET, plugins=[Named()]).assertoutcome(passed=1)
