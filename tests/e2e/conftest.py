"""One real cluster of two nodes for all tests in this folder, driven from outside: processes, kubectl, HTTP."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"
IMAGE = "pinnace.local/busybox:1"
# For what resolves names: Debian's static busybox cannot outside Debian (its resolver wants glibc's plug-ins).
PYTHON = "pinnace.local/python:1"
PATIENCE = 60.0


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@dataclass
class Cluster:
    """A cluster of its own home, and ways to reach it."""

    name: str
    home: Path
    kubeconfig: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PINNACE_HOME": str(self.home),
            "KUBECONFIG": str(self.kubeconfig),
            "PYTHONPATH": str(SOURCE),
        }

    @property
    def directory(self) -> Path:
        return self.home / "clusters" / self.name

    def pinnace(self, *arguments: str, check: bool = True, timeout: float = 120) -> Done:
        return self._run([sys.executable, "-m", "pinnace", *arguments], check=check, timeout=timeout)

    def kubectl(self, *arguments: str, check: bool = True, stdin: str | None = None, timeout: float = 60) -> Done:
        return self._run(["kubectl", *arguments], check=check, stdin=stdin, timeout=timeout)

    def start_kubectl(self, *arguments: str, **more: Any) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(["kubectl", *arguments], env=self.environment, text=True, **pipes, **more)

    def get(self, *arguments: str) -> Any:
        return json.loads(self.kubectl("get", *arguments, "-o", "json").out)

    def apply(self, *documents: dict[str, Any]) -> None:
        whole = {"apiVersion": "v1", "kind": "List", "items": documents}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(whole))

    def wait_pod(self, name: str, condition: str = "Ready") -> None:
        """In the kubeconfig's current namespace."""
        self.kubectl("wait", f"--for=condition={condition}", f"pod/{name}", f"--timeout={PATIENCE}s")

    def _run(self, command: list[str], *, check: bool, timeout: float, stdin: str | None = None) -> Done:
        result = subprocess.run(
            command, env=self.environment, text=True, capture_output=True, timeout=timeout, input=stdin, check=False
        )
        done = Done(result.returncode, result.stdout, result.stderr)
        if check and done.code:
            raise AssertionError(f"{' '.join(command)} -> {done.code}\n{done.out}\n{done.err}\n{self._logs()}")
        return done

    def _logs(self) -> str:
        logs = sorted((self.directory / "logs").glob("*.log"))
        tails = {log.name: log.read_text(errors="replace").splitlines()[-40:] for log in logs}
        return "\n".join(f"--- {name}\n" + "\n".join(lines) for name, lines in tails.items())


def eventually(check: Callable[[], Any], *, within: float = PATIENCE) -> Any:
    """The first true answer of `check`; its last exception or answer is told when the time is over."""
    deadline = time.monotonic() + within
    while True:
        problem: object
        try:
            found = check()
            if found:
                return found
            problem = found
        except AssertionError as error:
            problem = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {problem}")
        time.sleep(0.05)


def pod(name: str, *command: str, **spec: Any) -> dict[str, Any]:
    """A pod of one busybox container."""
    container: dict[str, Any] = {"name": "main", "image": IMAGE, "imagePullPolicy": "IfNotPresent"}
    if command:
        container["command"] = list(command)
    container |= spec.pop("container", {})
    labels = spec.pop("labels", {"app": name})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1, **spec},
    }


def sleeper(name: str, **spec: Any) -> dict[str, Any]:
    """A pod that runs until it is told to end."""
    return pod(name, "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done", **spec)


def deployment(name: str, replicas: int = 1) -> dict[str, Any]:
    """A deployment of pods that run until they are told to end, and then end at once."""
    labels = {"app": name}
    spec = sleeper(name)["spec"]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def caller(name: str, **spec: Any) -> dict[str, Any]:
    """A pod with Python, to call others from."""
    wait = ["python3", "-c", "import signal; signal.signal(signal.SIGTERM, lambda *_: exit(0)); signal.pause()"]
    return pod(name, container={"image": PYTHON, "command": wait}, **spec)


def server_pod(name: str, **spec: Any) -> dict[str, Any]:
    """A pod that answers HTTP on 8080 with its own name."""
    script = "mkdir -p /www && hostname > /www/index.html && exec httpd -f -p 8080 -h /www"
    probe = {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}
    container = {"ports": [{"containerPort": 8080}], "readinessProbe": probe}
    return pod(name, "sh", "-c", script, container=container, **spec)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if os.geteuid() != 0:
        pytest.skip("real containers need root")
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on PATH")
    base = tmp_path_factory.mktemp("cluster")
    made = Cluster(f"e2e-{os.getpid()}", base / "home", base / "kubeconfig")
    try:
        made.pinnace("image", "build-busybox")
        made.pinnace("image", "build-python")
        made.pinnace("up", "--name", made.name, "--nodes", "2", "--no-egress")
        eventually(lambda: made.kubectl("get", "serviceaccount", "default", check=False).code == 0)
        yield made
    finally:
        made.pinnace("down", "--name", made.name, "--purge", check=False)


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace for one test, the current one of the kubeconfig meanwhile."""
    name = "t-" + "".join(c if c.isalnum() else "-" for c in request.node.name.lower())[:50].strip("-")
    cluster.kubectl("create", "namespace", name)
    cluster.kubectl("config", "set-context", "--current", f"--namespace={name}")
    eventually(lambda: cluster.kubectl("get", "serviceaccount", "default", check=False).code == 0)
    try:
        yield name
    finally:
        cluster.kubectl("config", "set-context", "--current", "--namespace=default")
        cluster.kubectl("delete", "namespace", name, "--wait=false")
