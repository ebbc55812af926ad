"""Simulated nodes under a whole control plane, in virtual time: losses, partitions, clocks, logs, events."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pinnace.api import errors, times
from pinnace.api.core import v1 as core
from pinnace.client.transport import Response
from pinnace.kubelet.simulated import Life, Lives, SimulatedNode
from pinnace.testing.cluster import Cluster
from pinnace.testing.loop import simulate

NODE = "pinnace-simulated-{}"
ONE, TWO = NODE.format(1), NODE.format(2)


def deployment(replicas: int = 4, **spec: Any) -> dict[str, Any]:
    containers = [{"name": "web", "image": "web:1"}]
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": containers, **spec}},
        },
    }  # fmt: skip


def pod(name: str = "web", node: str = "", **spec: Any) -> dict[str, Any]:
    spec.setdefault("containers", [{"name": "web", "image": "web:1"}])
    spec = {"nodeName": node, **spec} if node else spec
    metadata = {"name": name, "labels": {"app": name}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def play(test: Callable[[Cluster], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with Cluster(**{"nodes": 2, "seed": 3, **options}) as cluster:
            await test(cluster)

    simulate(main, seed=3)


async def ready(cluster: Cluster, name: str) -> str:
    node = await cluster.get("nodes", name)
    return next(c.status for c in node.status.conditions if c.type == "Ready")


async def on(cluster: Cluster, name: str) -> list[core.Pod]:
    return [p for p in await cluster.list("pods", "default") if p.spec.nodeName == name]


async def events(cluster: Cluster, reason: str) -> list[core.Event]:
    return [e for e in await cluster.list("events") if e.reason == reason]


# ------------------------------------------------------------------------------------------------- the nodes


def test_a_lost_node_is_given_up_and_its_pods_go_elsewhere() -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.apply(deployment())
        await cluster.wait_for("deployments", "web", condition="Available")
        before = {p.metadata.uid for p in await on(cluster, ONE)}
        boot = (await cluster.get("nodes", ONE)).status.nodeInfo.bootID
        assert before
        cluster.nodes.lose(ONE)
        await cluster.advance(seconds=30)
        assert await ready(cluster, ONE) == "True"
        await cluster.advance(seconds=40)
        assert await ready(cluster, ONE) == "Unknown"
        taints = {t.key for t in (await cluster.get("nodes", ONE)).spec.taints}
        assert "node.kubernetes.io/unreachable" in taints
        await cluster.advance(seconds=200)
        assert not any(p.metadata.deletionTimestamp for p in await on(cluster, ONE))
        await cluster.advance(seconds=120)     # the toleration of 300 s is over
        assert all(p.metadata.deletionTimestamp for p in await on(cluster, ONE))
        await cluster.wait_for("deployments", "web", condition=lambda d: d.status.availableReplicas == 4)
        assert len([p for p in await on(cluster, TWO) if p.status.phase == "Running"]) == 4

        cluster.nodes.restore(ONE)
        await cluster.advance(seconds=20)
        node = await cluster.get("nodes", ONE)
        assert await ready(cluster, ONE) == "True" and node.status.nodeInfo.bootID != boot
        assert not node.spec.taints
        assert not before & {p.metadata.uid for p in await cluster.list("pods", "default")}
        assert len(await events(cluster, "Rebooted")) == 1

    play(test)


def test_a_short_outage_restarts_the_containers_in_their_place() -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.apply(pod("stays", ONE), pod("once", ONE, restartPolicy="Never"))
        await cluster.advance(seconds=1)
        cluster.nodes.lose(ONE)
        await cluster.advance(seconds=5)
        assert (await cluster.get("pods", "stays")).status.containerStatuses[0].restartCount == 0
        cluster.nodes.restore(ONE)
        await cluster.advance(seconds=5)
        stays = (await cluster.get("pods", "stays")).status
        assert stays.phase == "Running" and stays.containerStatuses[0].restartCount == 1
        assert stays.containerStatuses[0].lastState.terminated.exitCode == 255
        assert (await cluster.get("pods", "once")).status.phase == "Failed"

    play(test, life=Life(run=100.0))


def test_containers_behind_a_partition_go_on() -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.apply(pod("once", ONE, restartPolicy="Never"), pod("stays", ONE))
        await cluster.advance(seconds=1)
        cluster.nodes.partition(ONE)
        await cluster.apply(pod("late", ONE))
        await cluster.advance(seconds=120)
        assert await ready(cluster, ONE) == "Unknown"
        assert (await cluster.get("pods", "once")).status.phase == "Running"     # as far as anybody knows
        assert (await cluster.get("pods", "late")).status.phase == "Pending"
        await cluster.delete("pods", "stays", wait=False)
        healed = cluster.clock.now()
        cluster.nodes.heal(ONE)
        await cluster.advance(seconds=5)
        assert await ready(cluster, ONE) == "True"
        once = (await cluster.get("pods", "once")).status
        assert once.phase == "Succeeded"
        ended = times.parse(once.containerStatuses[0].state.terminated.finishedAt)
        assert (healed - ended).total_seconds() > 60        # it tells when it was, not when it could say so
        assert (await cluster.get("pods", "late")).status.phase == "Running"
        assert "stays" not in {p.metadata.name for p in await cluster.list("pods")}

    play(test, life=Lives().on(name="once", run=30))


def test_a_node_whose_clock_is_off() -> None:
    async def test(cluster: Cluster) -> None:
        cluster.nodes.drift(ONE, 600)
        await cluster.apply(pod("there", ONE), pod("here", TWO))
        await cluster.advance(seconds=20)
        leases = {lease.metadata.name: lease for lease in await cluster.list("leases", "kube-node-lease")}
        ahead, right = (times.parse(leases[name].spec.renewTime) for name in (ONE, TWO))
        assert 585 < (ahead - right).total_seconds() < 615
        there, here = [
            times.parse((await cluster.get("pods", name)).status.containerStatuses[0].state.running.startedAt)
            for name in ("there", "here")
        ]
        assert 595 < (there - here).total_seconds() < 605
        # A lease counts from when the controller saw it: a clock that is off alone makes no node NotReady.
        await cluster.advance(seconds=120)
        assert await ready(cluster, ONE) == "True"

    play(test)


def test_nodes_come_and_go() -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.apply(pod("gpu", containers=[
            {"name": "a", "image": "a:1", "resources": {"limits": {"example.com/gpu": "2"}}},
        ]))  # fmt: skip
        await cluster.advance(seconds=5)
        assert (await cluster.get("pods", "gpu")).status.phase == "Pending"
        await cluster.nodes.add("big", SimulatedNode(resources={"example.com/gpu": "2"}, labels={"kind": "gpu"}))
        await cluster.wait_for("pods", "gpu", condition="Ready")
        assert (await cluster.get("pods", "gpu")).spec.nodeName == "big"
        await cluster.nodes.remove("big")
        assert "big" not in cluster.nodes.names
        await cluster.advance(minutes=3)      # the garbage collector of pods finds them
        assert await cluster.list("pods") == []

    play(test)


def test_a_day_costs_a_node_its_leases_and_little_else() -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.settle()
        first = await cluster.get("nodes", ONE)
        await cluster.advance(hours=1)
        last = await cluster.get("nodes", ONE)
        assert first.metadata.resourceVersion != last.metadata.resourceVersion      # each five minutes
        beats = {c.lastHeartbeatTime for c in last.status.conditions if c.type == "Ready"}
        age = cluster.clock.now() - times.parse(beats.pop() or "")
        assert age.total_seconds() <= 310
        now = await cluster.store.list("")
        assert now.revision < 1500, "a node renews 360 leases an hour"

    play(test, nodes=1)


def test_what_happened_while_the_server_was_down_is_told_afterwards() -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.apply(pod("web", ONE, restartPolicy="Never"))
        await cluster.advance(seconds=5)
        await cluster.control_plane.crash()
        await cluster.advance(seconds=60)
        await cluster.control_plane.start()
        await cluster.advance(seconds=30)
        web = await cluster.get("pods", "web")
        ended = times.parse(web.status.containerStatuses[0].state.terminated.finishedAt)
        assert web.status.phase == "Succeeded" and (cluster.clock.now() - ended).total_seconds() > 60
        assert await ready(cluster, ONE) == "True"

    play(test, life=Life(run=20.0))


# ------------------------------------------------------------------------------------------------------ pods


def test_an_image_that_is_pulled_again_is_no_news_of_the_node() -> None:
    async def test(cluster: Cluster) -> None:
        latest = [{"name": "web", "image": "web"}]          # :latest is pulled for every container
        await cluster.apply(pod("first", ONE, containers=latest))
        await cluster.wait_for("pods", "first", condition="Ready")
        await cluster.advance(seconds=15)
        before = (await cluster.get("nodes", ONE)).metadata.resourceVersion
        await cluster.apply(pod("second", ONE, containers=latest))
        await cluster.wait_for("pods", "second", condition="Ready")
        await cluster.advance(seconds=30)
        assert len(await events(cluster, "Pulling")) == 2
        assert (await cluster.get("nodes", ONE)).metadata.resourceVersion == before

    play(test)


def test_events_and_images_as_of_a_real_kubelet() -> None:
    async def test(cluster: Cluster) -> None:
        cluster.nodes.on(image="slow:*", pull=20)
        await cluster.apply(pod(containers=[{"name": "web", "image": "slow:1"}]))
        await cluster.advance(seconds=10)
        web = await cluster.get("pods", "web")
        assert web.status.phase == "Pending"
        assert web.status.containerStatuses[0].state.waiting.reason == "ContainerCreating"
        await cluster.wait_for("pods", "web", condition="Ready")
        await cluster.advance(seconds=11)
        node = await cluster.get("nodes", (await cluster.get("pods", "web")).spec.nodeName)
        assert [i.names for i in node.status.images] == [["slow:1"]]
        told = [e for e in await cluster.list("events", "default") if e.source.component == "kubelet"]
        assert [e.reason for e in sorted(told, key=lambda e: e.firstTimestamp)] == [
            "Pulling", "Pulled", "Created", "Started",
        ]  # fmt: skip
        assert {e.involvedObject.fieldPath for e in told} == {"spec.containers{web}"}
        assert {e.source.host for e in told} == {node.metadata.name}

    play(test)


def test_one_status_leads_from_pending_to_running() -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.apply(pod("web", ONE))
        watch = cluster.watch("pods", "default")
        seen = []
        async with asyncio.timeout(5):
            async for event in watch:
                seen.append((event.object.status.phase, len(event.object.status.containerStatuses or ())))
                if seen[-1][0] == "Running":
                    break
        await watch.aclose()
        assert seen == [("Pending", 0), ("Running", 1)]

    play(test)


def test_a_container_ends_when_it_is_told_to() -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.apply(pod("web", ONE))
        await cluster.advance(seconds=10)
        cluster.nodes.crash("web", exit_code=137, reason="OOMKilled")
        await cluster.advance(seconds=1)
        status = (await cluster.get("pods", "web")).status.containerStatuses[0]
        assert status.restartCount == 1 and status.lastState.terminated.reason == "OOMKilled"
        with pytest.raises(KeyError, match="container 'db' does not run"):
            cluster.nodes.crash("web", container="db")

    play(test)


def test_a_finished_job_and_one_that_gives_up() -> None:
    async def test(cluster: Cluster) -> None:
        def job(name: str) -> dict[str, Any]:
            template = {"metadata": {"labels": {"job": name}}, "spec": {
                "restartPolicy": "Never", "containers": [{"name": "main", "image": "main:1"}],
            }}  # fmt: skip
            spec = {"backoffLimit": 1, "template": template}
            return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}

        cluster.nodes.on(labels={"job": "bad"}, exit_code=1, run=5)
        await cluster.apply(job("good"), job("bad"))
        await cluster.wait_for("jobs", "good", condition="Complete")
        await cluster.wait_for("jobs", "bad", condition="Failed", timeout=300)

    play(test)


def test_a_pod_with_a_finalizer_says_how_it_ended() -> None:
    async def test(cluster: Cluster) -> None:
        manifest = pod("web", ONE)
        manifest["metadata"]["finalizers"] = ["example.com/wait"]
        await cluster.apply(manifest)
        await cluster.advance(seconds=1)
        await cluster.delete("pods", "web", wait=False)
        await cluster.advance(seconds=5)
        web = await cluster.get("pods", "web")
        assert web.status.phase == "Failed" and web.status.containerStatuses[0].state.terminated.exitCode == 143
        await cluster.client.patch(core.Pod, "web", "default", {"metadata": {"finalizers": None}})
        await cluster.advance(seconds=1)
        assert await cluster.list("pods", "default") == []

    play(test, life=Life(stop_code=143))


def test_the_same_seed_gives_the_same_run() -> None:
    def run() -> list[Any]:
        seen: list[Any] = []

        async def test(cluster: Cluster) -> None:
            cluster.nodes.on(labels={"app": "web"}, run=(20.0, 5.0), exit_code=1, ready=3)
            await cluster.apply(deployment())
            await cluster.advance(minutes=5)
            for p in await cluster.list("pods"):
                restarts = p.status.containerStatuses[0].restartCount
                seen.append((p.metadata.name, p.metadata.resourceVersion, p.status.podIP, restarts))

        play(test)
        return seen

    assert run() == run()


# ------------------------------------------------------------------------------------------------------ logs


async def log(cluster: Cluster, name: str, **query: str) -> str:
    response = await ask(cluster, name, "log", **query)
    assert response.stream is not None
    return b"".join([chunk async for chunk in response.stream]).decode()


async def ask(cluster: Cluster, name: str, subresource: str, method: str = "GET", **query: str) -> Response:
    path = f"/api/v1/namespaces/default/pods/{name}/{subresource}"
    return await cluster.client.call(method, path, query={key: (value,) for key, value in query.items()})


CHATTY = Lives().on(labels={"app": "web"}, log=["hello from {pod}", (5, "five\nsix")], log_every=(10, "tick {n}"))


def test_logs_come_from_the_pods_life() -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.apply(pod("web", ONE))
        await cluster.advance(seconds=25.1)
        assert await log(cluster, "web") == "hello from web\nfive\nsix\ntick 1\ntick 2\n"
        assert await log(cluster, "web", tailLines="2") == "tick 1\ntick 2\n"
        assert await log(cluster, "web", sinceSeconds="10") == "tick 2\n"
        assert await log(cluster, "web", limitBytes="7") == "hello f"
        stamped = await log(cluster, "web", timestamps="true", tailLines="1")
        assert stamped.startswith("2026-01-01T00:00:2") and stamped.endswith("000Z tick 2\n")

    play(test, life=CHATTY)


def test_a_log_is_followed_to_its_end() -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.apply(pod("web", ONE, restartPolicy="Never"))
        await cluster.advance(seconds=1)
        response = await ask(cluster, "web", "log", follow="true")
        assert response.stream is not None
        began = cluster.clock.monotonic()
        came = [(round(cluster.clock.monotonic() - began), chunk.decode()) async for chunk in response.stream]
        assert [text for _, text in came] == ["hello from web\n", "five\nsix\n", "tick 1\n", "tick 2\n"]
        assert [at for at, _ in came] == [0, 4, 9, 19]
        assert round(cluster.clock.monotonic() - began) == 25

    play(test, life=CHATTY.on(run=26))


def test_the_log_of_the_container_before() -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.apply(pod("web", ONE))
        await cluster.advance(seconds=1)
        with pytest.raises(errors.BadRequest, match='previous terminated container "web" in pod "web" not found'):
            await log(cluster, "web", previous="true")
        await cluster.advance(seconds=3)
        assert await log(cluster, "web") == "start 1\n"
        assert await log(cluster, "web", previous="true") == "start 0\nbye\n"

    play(test, life=Life(run=(3.0, 100.0), log=("start {attempt}", (2.5, "bye"))))


def test_what_cannot_be_asked_of_a_simulated_node() -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.apply(pod("web", ONE), pod("slow", ONE))
        await cluster.advance(seconds=1)
        with pytest.raises(errors.BadRequest, match='container "web" in pod "slow" is waiting to start: ContainerCr'):
            await log(cluster, "slow")
        with pytest.raises(errors.BadRequest, match="container db is not valid for pod web"):
            await log(cluster, "web", container="db")
        with pytest.raises(errors.BadRequest, match=f"{ONE} is a simulated node: its pods have no containers"):
            await ask(cluster, "web", "exec", "POST", command="ls", stdout="true")
        with pytest.raises(errors.BadRequest, match="is a simulated node"):
            await ask(cluster, "web", "portforward", "POST", ports="80")
        with pytest.raises(errors.ServiceUnavailable, match="no network"):
            await ask(cluster, "web", "proxy")
        cluster.nodes.partition(ONE)
        with pytest.raises(errors.InternalError, match="i/o timeout"):
            await log(cluster, "web")

    play(test, life=Lives().on(name="slow", start=60))
