"""Real containers: the kubelet over the built-in runtime and a fake API. Pods have a namespace with only `lo`."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from pinnace.api.core import v1 as core
from pinnace.base.clock import SystemClock
from pinnace.base.randomness import Randomness
from pinnace.kubelet.config import KubeletConfig
from pinnace.kubelet.kubelet import Kubelet
from pinnace.runtime.engine import BuiltinRuntime
from pinnace.runtime.images.build import build_busybox

from .fakes import FakeApi, make_pod

pytestmark = [pytest.mark.root, pytest.mark.real]
IMAGE = "pinnace.test/busybox:1"


class Loopback:
    """A pod network in which every pod has only its own 127.0.0.1."""

    async def add(self, netns: str, sandbox_id: str, pod: str = "", host_ports: Any = ()) -> tuple[str, ...]:
        return ("127.0.0.1",)

    async def remove(self, sandbox_id: str) -> None: ...

    async def sweep(self, live: Any) -> list[str]:
        return []

    async def check(self) -> str | None:
        return None


class Node:
    def __init__(self, directory: Path, images: Path) -> None:
        self.directory = directory
        self.images = images
        self.api = FakeApi()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.runtime = BuiltinRuntime(
            self.directory / "runtime", self.images, clock=SystemClock(), randomness=Randomness(),
            cgroup_root=f"/{self.directory.name}", egress=False,
        )  # fmt: skip
        await self.runtime.open()
        config = KubeletConfig(
            node_name="node-1", root=self.directory / "kubelet", log_root=self.directory / "logs",
            host_ips=("127.0.0.1",), cgroup_root=f"/{self.directory.name}", cluster_dns=("10.96.0.10",),
        )  # fmt: skip
        self.kubelet = Kubelet(
            config, self.api.client(), self.runtime, Loopback(), clock=SystemClock(), randomness=Randomness()
        )
        self._task = asyncio.create_task(self.kubelet.run())

    async def stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.runtime.close()

    async def close(self) -> None:
        await self.stop()
        await self.runtime.open()
        await self.runtime.destroy_all()
        await self.runtime.close()
        for uid in self.kubelet.services.volumes.known():
            await self.kubelet.services.volumes.unmount(uid)

    async def until(self, condition: Any, seconds: float = 10.0) -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not condition():
            assert loop.time() - began < seconds, (self.api.events(), self.api.pod())
            await asyncio.sleep(0.002)
        return loop.time() - began

    def status(self) -> core.PodStatus:
        pod = self.api.pod()
        assert pod is not None
        return pod.status

    def ready(self) -> bool:
        return any(c.type == "Ready" and c.status == "True" for c in self.status().conditions or ())

    def log(self, container: str = "app", attempt: int = 0) -> str:
        file = self.directory / "logs/default_web_uid-web" / container / f"{attempt}.log"
        return file.read_text() if file.exists() else ""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "busybox.tar"
    build_busybox(path, IMAGE)
    return path


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("pinnace-kubelet")
    yield path
    shutil.rmtree(path)


@contextlib.asynccontextmanager
async def node(directory: Path, archive: Path) -> AsyncIterator[Node]:
    made = Node(directory, directory / "images")
    await made.start()
    try:
        await made.runtime.images.load(str(archive))
        yield made
    finally:
        await made.close()


def shell(script: str, **more: Any) -> dict[str, Any]:
    return {"name": "app", "image": IMAGE, "command": ["sh", "-c", script], **more}


WAIT = "trap 'exit 0' TERM; while :; do sleep 0.05; done"


async def test_a_real_pod_lives_and_goes_quickly(directory: Path, archive: Path) -> None:
    async with node(directory, archive) as n:
        n.api.put("/api/v1/configmaps", "default", {"metadata": {"name": "cfg"}, "data": {"greeting": "hello"}})
        n.api.put("/api/v1/secrets", "default", {"metadata": {"name": "key"}, "data": {"k": "czNjcmV0"}})
        script = f"cat /cfg/greeting; echo; cat /key/k; echo; echo $GREETING $POD; hostname; cat /etc/hosts; {WAIT}"
        pod = make_pod(
            volumes=[
                {"name": "cfg", "configMap": {"name": "cfg"}}, {"name": "key", "secret": {"secretName": "key"}},
                {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            ],
            containers=[shell(
                script,
                env=[
                    {"name": "GREETING", "valueFrom": {"configMapKeyRef": {"name": "cfg", "key": "greeting"}}},
                    {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                ],
                volumeMounts=[
                    {"name": "cfg", "mountPath": "/cfg"}, {"name": "key", "mountPath": "/key"},
                    {"name": "tmp", "mountPath": "/scratch"},
                    {"name": "cfg", "mountPath": "/one/greeting", "subPath": "greeting"},
                ],
            )],
        )  # fmt: skip
        n.api.add_pod(pod)
        took = await n.until(n.ready)

        assert took < 2.0
        await n.until(lambda: "Kubernetes-managed" in n.log())
        log = n.log()
        for line in ("hello web", "web", "127.0.0.1\tweb"):
            assert f"stdout F {line}\n" in log
        assert " hello\n" in log and " s3cret\n" in log
        n.api.delete_pod("web", 30)
        took = await n.until(lambda: n.api.pod() is None)

        assert took < 2.0
        assert not (directory / "kubelet/pods/uid-web").exists()
        await n.until(lambda: not (directory / "logs/default_web_uid-web").exists())


async def test_containers_outlive_the_kubelet_and_are_adopted(directory: Path, archive: Path) -> None:
    async with node(directory, archive) as n:
        n.api.add_pod(make_pod(containers=[shell(WAIT)]))
        await n.until(n.ready)
        before = (n.status().containerStatuses or [])[0].containerID
        await n.stop()
        await n.start()
        await asyncio.sleep(0.3)
        status = (n.status().containerStatuses or [])[0]
        assert (status.containerID, status.restartCount, n.ready()) == (before, 0, True)
        (container,) = await n.runtime.containers()
        await n.runtime.stop(container.id, grace=0)
        await n.until(lambda: (n.status().containerStatuses or [])[0].restartCount == 1 and n.ready())


async def test_a_failing_command_leaves_its_message(directory: Path, archive: Path) -> None:
    async with node(directory, archive) as n:
        script = "echo to the log; echo -n why it failed > /dev/termination-log; exit 3"
        n.api.add_pod(make_pod(restartPolicy="Never", containers=[shell(script)]))
        await n.until(lambda: n.status().phase == "Failed")
        ended = (n.status().containerStatuses or [])[0].state.terminated
        assert ended is not None and (ended.exitCode, ended.message) == (3, "why it failed")


async def test_a_command_that_does_not_exist(directory: Path, archive: Path) -> None:
    async with node(directory, archive) as n:
        container = {"name": "app", "image": IMAGE, "command": ["/no/such"]}
        n.api.add_pod(make_pod(containers=[container]))

        def reason() -> str:
            statuses = n.status().containerStatuses
            waiting = statuses[0].state.waiting if statuses else None
            return (waiting.reason or "") if waiting is not None else ""

        await n.until(lambda: reason() == "RunContainerError")
        await n.until(lambda: reason() == "CrashLoopBackOff")


async def test_probes_of_a_real_container(directory: Path, archive: Path) -> None:
    async with node(directory, archive) as n:
        probe = {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1}
        script = f"mkdir -p /tmp; sleep 0.3; touch /tmp/ready; {WAIT}"
        n.api.add_pod(make_pod(containers=[shell(script, readinessProbe=probe)]))
        assert 0.3 < await n.until(n.ready) < 5.0
