"""The kubelet as a whole over a fake API and a fake runtime, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from pinnace.api.core import v1 as core
from pinnace.base.clock import LoopClock
from pinnace.base.randomness import Randomness
from pinnace.kubelet.config import KubeletConfig
from pinnace.kubelet.kubelet import Kubelet
from pinnace.runtime.cri import ExecResult, ImagePullFault, SandboxState

from .fakes import FakeApi, FakeMounter, FakeNetwork, FakeRuntime, make_pod
from .virtual import simulate


class Bench:
    """One node with everything around it."""

    def __init__(self, clock: LoopClock, root: Path) -> None:
        self.clock = clock
        self.api = FakeApi()
        self.runtime = FakeRuntime(clock)
        self.network = FakeNetwork()
        self.mounter = FakeMounter()
        self.root = root
        self._task: asyncio.Task[None] | None = None
        self.kubelet = self._make()

    def _make(self) -> Kubelet:
        config = KubeletConfig(
            node_name="node-1", root=self.root / "kubelet", log_root=self.root / "logs", host_ips=("10.0.0.1",),
            cluster_dns=("10.96.0.10",),
        )  # fmt: skip
        runtime: Any = self.runtime
        return Kubelet(
            config, self.api.client(), runtime, self.network, clock=self.clock, randomness=Randomness(1),
            mounter=self.mounter,
        )  # fmt: skip

    async def start(self) -> None:
        self._task = asyncio.create_task(self.kubelet.run())

    async def stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def restart(self) -> None:
        await self.stop()
        self.kubelet = self._make()
        await self.start()

    async def until(self, condition: Callable[[], Any], seconds: float = 60.0) -> float:
        """Wait in virtual time; how long it took."""
        began = self.clock.monotonic()
        while not condition():
            assert self.clock.monotonic() - began < seconds, (self.runtime.log, self.api.events(), self.api.pod())
            await asyncio.sleep(0.005)
        return self.clock.monotonic() - began

    def status(self, name: str = "web") -> core.PodStatus:
        pod = self.api.pod(name)
        assert pod is not None
        return pod.status

    def ready(self, name: str = "web") -> bool:
        return any(c.type == "Ready" and c.status == "True" for c in self.status(name).conditions or ())

    def waiting(self, container: int = 0) -> str:
        statuses = self.status().containerStatuses or []
        state = statuses[container].state.waiting if statuses else None
        return (state.reason or "") if state is not None else ""


@contextlib.asynccontextmanager
async def bench(clock: LoopClock, root: Path) -> AsyncIterator[Bench]:
    made = Bench(clock, root)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def run(root: Path, test: Callable[[Bench], Any]) -> None:
    async def whole(clock: LoopClock) -> None:
        async with bench(clock, root) as made:
            await test(made)

    simulate(whole)


def test_a_pod_becomes_ready_and_goes_without_trace(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        b.api.add_pod(make_pod(volumes=[{"name": "tmp", "emptyDir": {}}]))
        took = await b.until(b.ready)
        assert took < 0.1
        status = b.status()
        assert status.phase == "Running"
        assert status.podIP == "127.9.0.2"
        assert status.hostIP == "10.0.0.1"
        assert status.qosClass == "BestEffort"
        container = (status.containerStatuses or [])[0]
        assert (container.imageID, container.started, container.restartCount) == ("app@sha256:bb", True, 0)
        assert (container.containerID or "").startswith("pinnace://app-")
        assert (b.root / "kubelet/pods/uid-web/volumes/kubernetes.io~empty-dir/tmp").is_dir()
        b.api.delete_pod("web", 30)
        took = await b.until(lambda: b.api.pod() is None)
        assert took < 0.15
        await b.until(lambda: not b.kubelet.workers)
        assert not b.runtime.boxes and not b.network.connected
        assert not (b.root / "kubelet/pods/uid-web").exists()
        assert {"Pulled", "Created", "Started", "Killing"} <= set(b.api.reasons())

    run(tmp_path, test)


def test_a_crashing_container_backs_off_longer_each_time(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        b.runtime.life["app"] = (1.0, 3)
        b.api.add_pod(make_pod())
        await b.until(lambda: b.waiting() == "CrashLoopBackOff")
        status = (b.status().containerStatuses or [])[0]
        assert status.state.waiting is not None
        assert status.state.waiting.message == (
            "back-off 10s restarting failed container=app pod=web_default(uid-web)"
        )
        assert status.lastState.terminated is not None
        assert (status.lastState.terminated.exitCode, status.restartCount) == (3, 1)
        starts = []
        for attempt in range(2, 5):
            await b.until(lambda attempt=attempt: f"start app/{attempt}" in b.runtime.log, 400)
            starts.append(b.clock.monotonic())
        gaps = [later - sooner for sooner, later in itertools.pairwise(starts)]
        assert gaps == pytest.approx([21, 41], abs=0.5)
        assert "Back-off restarting failed container app in pod web_default(uid-web)" in b.api.messages()
        assert len(b.runtime.cells) <= 2      # older ones are removed

    run(tmp_path, test)


def test_init_containers_run_in_order_before_the_others(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        b.runtime.life |= {"one": (2.0, 0), "two": (3.0, 0)}
        inits = [
            {"name": "one", "image": "app:1"},
            {"name": "proxy", "image": "app:1", "restartPolicy": "Always"},
            {"name": "two", "image": "app:1"},
        ]
        b.api.add_pod(make_pod(initContainers=inits))
        await b.until(lambda: b.waiting() == "PodInitializing")
        took = await b.until(b.ready)
        assert took == pytest.approx(5.0, abs=0.2)
        starts = [entry for entry in b.runtime.log if entry.startswith("start")]
        assert starts == ["start one/0", "start proxy/0", "start two/0", "start app/0"]
        b.api.delete_pod("web", 30)
        await b.until(lambda: b.api.pod() is None)
        ends = [entry.split()[1] for entry in b.runtime.log if entry.startswith("term")]
        assert ends == ["app", "proxy"]      # sidecars end last

    run(tmp_path, test)


def test_a_job_like_pod_succeeds_and_keeps_its_container_for_logs(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        b.runtime.life["app"] = (1.0, 0)
        b.api.add_pod(make_pod(restartPolicy="Never"))
        await b.until(lambda: b.status().phase == "Succeeded")
        await b.until(lambda: all(s.state is SandboxState.NOTREADY for s in b.runtime.boxes.values()))
        conditions = {c.type: (c.status, c.reason) for c in b.status().conditions or ()}
        assert conditions["Ready"] == ("False", "PodCompleted")
        assert b.status().podIP == "127.9.0.2"
        assert len(b.runtime.cells) == 1
        await b.restart()
        await asyncio.sleep(5)
        assert [e for e in b.runtime.log if e.startswith("start")] == ["start app/0"]
        b.api.delete_pod("web", 0)
        await b.until(lambda: not b.runtime.boxes)

    run(tmp_path, test)


def test_a_failing_pod_that_never_restarts_fails(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        b.runtime.life["app"] = (1.0, 7)
        b.api.add_pod(make_pod(restartPolicy="Never"))
        await b.until(lambda: b.status().phase == "Failed")
        terminated = (b.status().containerStatuses or [])[0].state.terminated
        assert terminated is not None and (terminated.exitCode, terminated.reason) == (7, "Error")

    run(tmp_path, test)


def test_restart_of_the_kubelet_adopts_what_runs(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        probe = {"exec": {"command": ["true"]}, "periodSeconds": 5}
        b.api.add_pod(make_pod(containers=[{"name": "app", "image": "app:1", "readinessProbe": probe}]))
        await b.until(b.ready)
        before = list(b.runtime.log)
        await b.restart()
        for _ in range(100):
            await asyncio.sleep(0.1)
            assert b.ready()
        assert b.runtime.log == before
        assert (b.status().containerStatuses or [])[0].restartCount == 0

    run(tmp_path, test)


def test_a_pod_deleted_while_the_kubelet_was_away_is_ended(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        b.api.add_pod(make_pod())
        await b.until(b.ready)
        await b.stop()
        b.api.delete_pod("web", 0)
        b.kubelet = b._make()
        await b.start()
        await b.until(lambda: not b.runtime.boxes)
        assert not b.network.connected
        await b.until(lambda: not (b.root / "kubelet/pods/uid-web").exists())

    run(tmp_path, test)


def test_stubborn_containers_are_killed_when_the_grace_period_is_over(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        b.runtime.heeds = 1000.0
        b.api.add_pod(make_pod())
        await b.until(b.ready)
        b.api.delete_pod("web", 30)
        await asyncio.sleep(5)
        assert b.api.pod() is not None
        b.api.delete_pod("web", 3)       # impatience shortens it
        took = await b.until(lambda: b.api.pod() is None)
        assert took == pytest.approx(3.0, abs=0.3)
        assert "exit app/0 137" in b.runtime.log

    run(tmp_path, test)


def test_the_pre_stop_hook_runs_before_the_signal(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        lifecycle = {"preStop": {"sleep": {"seconds": 4}}, "postStart": {"exec": {"command": ["hello"]}}}
        b.api.add_pod(make_pod(containers=[{"name": "app", "image": "app:1", "lifecycle": lifecycle}]))
        await b.until(b.ready)
        assert [command for _, command in b.runtime.execs] == [("hello",)]
        b.api.delete_pod("web", 30)
        took = await b.until(lambda: b.api.pod() is None)
        assert took == pytest.approx(4.0, abs=0.2)
        assert "term app 26" in b.runtime.log

    run(tmp_path, test)


def test_an_image_that_is_not_there(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        b.runtime.images.fault = ImagePullFault("no route to registry")
        b.api.add_pod(make_pod(containers=[{"name": "app", "image": "nope:2"}]))
        await b.until(lambda: b.waiting() == "ErrImagePull")
        took = await b.until(lambda: b.waiting() == "ImagePullBackOff")
        assert took == pytest.approx(2.0, abs=0.3)
        state = (b.status().containerStatuses or [])[0].state.waiting
        assert state is not None
        assert state.message == 'Back-off pulling image "nope:2": ErrImagePull: no route to registry'
        assert b.status().phase == "Pending"
        messages = [m for _, _, m in b.api.events()]
        assert 'Failed to pull image "nope:2": no route to registry' in messages
        assert "Error: ErrImagePull" in messages and 'Back-off pulling image "nope:2"' in messages
        b.runtime.images.fault = None
        await b.until(b.ready)
        assert b.runtime.images.pulled == ["nope:2", "nope:2"]

    run(tmp_path, test)


def test_a_deletion_does_not_wait_for_a_pull(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        b.runtime.images.pulling = asyncio.Event()
        b.api.add_pod(make_pod(containers=[{"name": "app", "image": "slow:2"}]))
        await b.until(lambda: b.runtime.images.pulled)
        b.api.delete_pod("web", 30)
        assert await b.until(lambda: b.api.pod() is None) < 0.2

    run(tmp_path, test)


def test_pull_policy_never(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        container = {"name": "app", "image": "nope:2", "imagePullPolicy": "Never"}
        b.api.add_pod(make_pod(containers=[container]))
        await b.until(lambda: b.waiting() == "ErrImageNeverPull")
        assert not b.runtime.images.pulled

    run(tmp_path, test)


def test_a_config_map_that_comes_later_starts_the_container_at_once(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        env = [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cfg", "key": "a"}}}]
        b.api.add_pod(make_pod(containers=[{"name": "app", "image": "app:1", "env": env}]))
        await b.until(lambda: b.waiting() == "CreateContainerConfigError")
        state = (b.status().containerStatuses or [])[0].state.waiting
        assert state is not None and state.message == 'configmap "cfg" not found'
        b.api.put("/api/v1/configmaps", "default", {"metadata": {"name": "cfg"}, "data": {"a": "1"}})
        assert await b.until(b.ready) < 0.1
        running = b.runtime.running("app")
        assert running is not None and ("A", "1") in b.runtime.specs[running.id].env

    run(tmp_path, test)


def test_volumes_follow_their_config_map(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        volumes = [{"name": "cfg", "configMap": {"name": "cfg"}}]
        container = {"name": "app", "image": "app:1", "volumeMounts": [{"name": "cfg", "mountPath": "/cfg"}]}
        b.api.add_pod(make_pod(volumes=volumes, containers=[container]))
        await b.until(lambda: "FailedMount" in b.api.reasons())
        assert 'MountVolume.SetUp failed for volume "cfg" : configmap "cfg" not found' in b.api.messages()
        assert b.waiting() == "ContainerCreating"
        b.api.put("/api/v1/configmaps", "default", {"metadata": {"name": "cfg"}, "data": {"a": "1", "b": "x"}})
        assert await b.until(b.ready) < 0.1
        directory = b.root / "kubelet/pods/uid-web/volumes/kubernetes.io~configmap/cfg"
        assert (directory / "a").read_text() == "1" and (directory / "a").is_symlink()
        b.api.put("/api/v1/configmaps", "default", {"metadata": {"name": "cfg"}, "data": {"a": "2"}})
        await b.until(lambda: (directory / "a").read_text() == "2")
        assert not (directory / "b").exists()

    run(tmp_path, test)


def test_a_liveness_probe_restarts_the_container(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        b.runtime.exec_result = ExecResult(1, b"no\n", b"")
        probe = {"exec": {"command": ["check"]}, "periodSeconds": 2, "failureThreshold": 3}
        b.api.add_pod(make_pod(containers=[{"name": "app", "image": "app:1", "livenessProbe": probe}]))
        took = await b.until(lambda: "start app/1" in b.runtime.log)
        assert took == pytest.approx(4.0, abs=0.5)
        messages = b.api.messages()
        assert "Liveness probe failed: no\n" in messages
        assert "Container app failed liveness probe, will be restarted" in messages

    run(tmp_path, test)


def test_readiness_comes_and_goes(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        probe = {"exec": {"command": ["check"]}, "periodSeconds": 2, "failureThreshold": 2}
        b.api.add_pod(make_pod(containers=[{"name": "app", "image": "app:1", "readinessProbe": probe}]))
        await b.until(b.ready)
        b.runtime.exec_result = ExecResult(1, b"", b"")
        await b.until(lambda: not b.ready())
        condition = next(c for c in b.status().conditions or () if c.type == "Ready")
        assert condition.message == "containers with unready status: [app]"
        b.runtime.exec_result = ExecResult(0, b"", b"")
        await b.until(b.ready)
        assert "start app/1" not in b.runtime.log

    run(tmp_path, test)


def test_a_command_that_cannot_run(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        b.runtime.start_fault = 'exec: "nope": executable file not found in $PATH'
        b.api.add_pod(make_pod())
        await b.until(lambda: b.waiting() == "RunContainerError")
        await b.until(lambda: b.waiting() == "CrashLoopBackOff")
        last = (b.status().containerStatuses or [])[0].lastState.terminated
        assert last is not None and (last.exitCode, last.reason) == (128, "StartError")

    run(tmp_path, test)


def test_a_network_fault_is_told_and_tried_again(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        b.network.fault = "no address left"
        b.api.add_pod(make_pod())
        await b.until(lambda: "FailedCreatePodSandBox" in b.api.reasons())
        b.network.fault = ""
        await b.until(b.ready)
        assert len(b.runtime.boxes) == 1

    run(tmp_path, test)


def test_a_lost_sandbox_is_made_anew(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        b.api.add_pod(make_pod())
        await b.until(b.ready)
        first = next(iter(b.runtime.boxes))
        await b.runtime.stop_sandbox(first)
        await b.until(lambda: "start app/1" in b.runtime.log)
        await b.until(b.ready)
        assert b.status().podIP == "127.9.0.3"
        assert "SandboxChanged" in b.api.reasons()
        assert [ip.ip for ip in b.status().podIPs or ()] == ["127.9.0.3"]

    run(tmp_path, test)


def test_a_pod_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        container = {"name": "app", "image": "app:1", "resources": {"requests": {"cpu": "1000"}}}
        b.api.add_pod(make_pod(containers=[container]))
        await b.until(lambda: b.status().phase == "Failed")
        assert b.status().reason == "OutOfcpu"
        assert not b.runtime.boxes
        b.api.delete_pod("web", 30)
        await b.until(lambda: b.api.pod() is None)

    run(tmp_path, test)


def test_the_active_deadline_ends_a_pod(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        b.api.add_pod(make_pod(activeDeadlineSeconds=20))
        await b.until(b.ready)
        await b.until(lambda: b.status().phase == "Failed")
        assert b.status().reason == "DeadlineExceeded"
        assert 19 < b.clock.monotonic() < 22
        assert b.runtime.running("app") is None

    run(tmp_path, test)


def test_the_node_registers_and_renews_its_lease(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        key = ("/api/v1/nodes", "", "node-1")
        await b.until(lambda: key in b.api.objects)
        node = b.api.objects[key]
        conditions = {c["type"]: c["status"] for c in node["status"]["conditions"]}
        assert conditions["Ready"] == "True"
        assert node["metadata"]["labels"]["kubernetes.io/hostname"] == "node-1"
        lease = ("/apis/coordination.k8s.io/v1/leases", "kube-node-lease", "node-1")
        await b.until(lambda: lease in b.api.objects)
        first = b.api.objects[lease]["spec"]["renewTime"]
        await asyncio.sleep(25)
        assert b.api.objects[lease]["spec"]["renewTime"] > first
        patches = [r for r in b.api.requests if r == ("PATCH", "/api/v1/nodes/node-1/status")]
        assert len(patches) <= 1
        assert {"Starting", "NodeReady", "NodeHasSufficientMemory"} <= set(b.api.reasons())

    run(tmp_path, test)


def test_a_node_that_was_deleted_registers_again_with_its_subnet(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        key = ("/api/v1/nodes", "", "node-1")
        await b.until(lambda: key in b.api.objects)
        node = b.api.objects[key]
        b.api.put("/api/v1/nodes", "", {**node, "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"]}})
        await asyncio.sleep(1)
        b.api.put("/api/v1/nodes", "", b.api.objects[key], type="DELETED")
        assert await b.until(lambda: key in b.api.objects) < 1
        assert b.api.objects[key]["spec"]["podCIDRs"] == ["10.1.0.0/24"]
        assert b.api.objects[key]["status"]["conditions"]

    run(tmp_path, test)


def test_a_restarted_kubelet_goes_on_backing_off(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        b.api.add_pod(make_pod())
        for _ in range(4):
            await b.until(lambda: b.runtime.running("app"), 120)
            running = b.runtime.running("app")
            assert running is not None
            b.runtime.exit(running.id, 1)
        await b.until(lambda: b.waiting() == "CrashLoopBackOff" and "back-off 40s" in str(b.status()))
        await b.restart()
        assert 30 < await b.until(lambda: b.runtime.running("app")) < 41

    run(tmp_path, test)


def test_a_runtime_class_that_the_node_does_not_have(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        path = "/apis/node.k8s.io/v1/runtimeclasses"
        b.api.put(path, "", {"metadata": {"name": "vm"}, "handler": "kata"})
        b.api.put(path, "", {"metadata": {"name": "plain"}, "handler": "runc"})
        b.api.add_pod(make_pod(runtimeClassName="vm"))
        b.api.add_pod(make_pod("lost", runtimeClassName="nope"))
        b.api.add_pod(make_pod("fine", runtimeClassName="plain"))
        await b.until(lambda: b.ready("fine"))
        words = b.api.messages()
        assert any('no runtime for "kata" is configured' in word for word in words)
        assert any('runtimeclass.node.k8s.io "nope" not found' in word for word in words)
        assert b.runtime.running("app") is not None and b.status().phase in ("", "Pending")

    run(tmp_path, test)


def test_an_idle_node_does_nothing_but_renew(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        b.api.add_pod(make_pod())
        await b.until(b.ready)
        await asyncio.sleep(1)
        before = len(b.api.requests)
        await asyncio.sleep(60)
        assert len(b.api.requests) - before <= 7      # six leases, and perhaps a status

    run(tmp_path, test)


def test_a_pod_whose_volumes_never_come_can_be_deleted(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        b.api.add_pod(make_pod(volumes=[{"name": "cfg", "configMap": {"name": "never"}}]))
        await b.until(lambda: "FailedMount" in b.api.reasons())
        await asyncio.sleep(30)
        b.api.delete_pod("web", 30)
        assert await b.until(lambda: b.api.pod() is None) < 0.2
        await b.until(lambda: not b.kubelet.workers)

    run(tmp_path, test)


def test_a_pod_on_the_hosts_network(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        b.api.add_pod(make_pod(hostNetwork=True))
        await b.until(b.ready)
        assert (b.status().podIP, b.network.connected) == ("10.0.0.1", {})

    run(tmp_path, test)


def test_a_pod_under_the_same_name_does_not_wait_for_the_old_one(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        b.runtime.heeds = 1000.0
        b.api.add_pod(make_pod())
        await b.until(b.ready)
        b.api.delete_pod("web", 0)
        b.api.add_pod(make_pod(uid="uid-second"))
        assert await b.until(b.ready) < 0.2
        await b.until(lambda: len(b.runtime.boxes) == 1)
        (left,) = b.runtime.boxes.values()
        assert left.identity.uid == "uid-second"

    run(tmp_path, test)


def test_a_token_is_renewed_before_it_expires(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        source = {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}
        b.api.add_pod(make_pod(volumes=[{"name": "t", "projected": {"sources": [source]}}]))
        await b.until(b.ready)
        file = b.root / "kubelet/pods/uid-web/volumes/kubernetes.io~projected/t/token"
        first = file.read_text()
        assert b.mounter.mounts[str(file.parent)][0] == "tmpfs"      # never on disk
        await asyncio.sleep(2860)
        assert file.read_text() == first
        await b.until(lambda: file.read_text() != first, 40)

    run(tmp_path, test)


def test_an_api_server_that_is_away_for_a_while(tmp_path: Path) -> None:
    async def test(b: Bench) -> None:
        b.api.add_pod(make_pod())
        await b.until(b.ready)
        b.api.away = True
        running = b.runtime.running("app")
        assert running is not None
        b.runtime.exit(running.id, 1)
        await b.until(lambda: b.runtime.running("app") is not None)     # containers do not need the API
        await asyncio.sleep(30)
        b.api.away = False
        await b.until(lambda: (b.status().containerStatuses or [])[0].restartCount == 1)

    run(tmp_path, test)
