"""Every write has a cause that leads back to a request, a node or a timer; and the story of an object tells it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pinnace.api import errors
from pinnace.api.core import v1 as core
from pinnace.client.transport import TIMER
from pinnace.client.why import FieldChange, Named
from pinnace.store.store import Cause
from pinnace.testing.cluster import Cluster
from pinnace.testing.loop import simulate
from pinnace.testing.story import render, story

TEMPLATE = "template: {metadata: {labels: {app: %s}}, spec: {containers: [{name: c, image: %s}]}}"
WEB = f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec: {{replicas: 3, selector: {{matchLabels: {{app: web}}}}, {TEMPLATE % ("web", "one")}}}
"""
OTHERS = f"""
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: db}}
spec: {{serviceName: db, replicas: 2, selector: {{matchLabels: {{app: db}}}}, {TEMPLATE % ("db", "db")}}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: agent}}
spec: {{selector: {{matchLabels: {{app: agent}}}}, {TEMPLATE % ("agent", "agent")}}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{selector: {{app: web}}, ports: [{{port: 80}}]}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {{name: web}}
spec: {{minAvailable: 1, selector: {{matchLabels: {{app: web}}}}}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {{name: backup}}
spec:
  schedule: "* * * * *"
  successfulJobsHistoryLimit: 1
  jobTemplate:
    spec:
      ttlSecondsAfterFinished: 30
      template: {{spec: {{restartPolicy: Never, containers: [{{name: c, image: c}}]}}}}
---
apiVersion: v1
kind: Namespace
metadata: {{name: short}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: kept, namespace: short}}
"""
BIG = WEB.replace("name: web", "name: big").replace("image: one", "image: one, resources: {requests: {cpu: 900}}")
PATIENT = "{key: node.kubernetes.io/unreachable, effect: NoExecute, operator: Exists, tolerationSeconds: 20}"
TAINT = {"key": "trouble", "effect": "NoExecute"}


@asynccontextmanager
async def recorded(cluster: Cluster) -> AsyncIterator[dict[int, tuple[str, Cause | None]]]:
    """Every commit with its cause, from the first on."""
    found: dict[int, tuple[str, Cause | None]] = {}

    async def follow() -> None:
        async for batch in cluster.store.watch("", after=0):
            for change in batch:
                found[change.revision] = change.key, await cluster.store.cause(change.revision)

    task = asyncio.create_task(follow())
    try:
        yield found
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def is_beginning(key: str, cause: Cause) -> bool:
    """A user's request, what every cluster begins with, or a node that comes."""
    if cause.agent in ("pinnace-testing", "pinnace"):
        return True
    return cause.verb == "create" and ("/minions/" in key or "/leases/" in key)


def without_end(commits: dict[int, tuple[str, Cause | None]]) -> list[tuple[int, str, Cause | None]]:
    """The commits from which no chain leads to a beginning or a timer."""
    ends: dict[int, bool] = {}
    for revision, (key, cause) in sorted(commits.items()):
        ends[revision] = cause is not None and (
            is_beginning(key, cause) or TIMER in cause.because or any(ends.get(r, False) for r in cause.because)
        )
    return [(revision, *commits[revision]) for revision, well in ends.items() if not well]


def test_every_write_leads_back_to_a_request_a_node_or_a_timer() -> None:
    async def run() -> None:
        async with Cluster(nodes=2, seed=3) as cluster, recorded(cluster) as commits:
            await cluster.apply(WEB, OTHERS)
            await cluster.advance(seconds=90)
            await cluster.apply(WEB.replace("image: one", "image: two"))
            await cluster.advance(seconds=60)
            node = (await cluster.list("nodes"))[0].metadata.name
            await cluster.client.patch(core.Node, node, "", {"spec": {"taints": [TAINT]}})
            await cluster.advance(seconds=60)
            await cluster.delete("nodes", node)
            await cluster.delete("deployments", "web")
            await cluster.delete("namespaces", "short")
            await cluster.apply(BIG)
            cluster.nodes.lose((await cluster.list("nodes"))[-1].metadata.name)
            await cluster.advance(hours=1, minutes=10)
            assert without_end(commits) == []
            assert len(commits) == cluster.store.revision
            writers = {cause.agent for _, cause in commits.values() if cause is not None}
            wanted = {"deployment", "replicaset", "daemon-set", "statefulset", "job", "cronjob", "endpointslice",
                      "disruption", "namespace", "node", "ttl-after-finished"}  # fmt: skip
            assert {f"kube-controller-manager/{name}-controller" for name in wanted} <= writers
            assert {"kube-scheduler", "kube-apiserver", "kube-controller-manager/generic-garbage-collector"} <= writers
            times = [cause.at for _, (_, cause) in sorted(commits.items()) if cause is not None]
            assert times == sorted(times) and times[0] > 0

    simulate(run, seed=3)


def test_the_story_of_a_pod_ends_at_the_request() -> None:
    async def run() -> None:
        async with Cluster(nodes=1) as cluster:
            await cluster.apply(WEB.replace("replicas: 3", "replicas: 2"))
            await cluster.settle()
            before = {pod.metadata.name for pod in await cluster.list("pods", "default")}
            await cluster.apply(WEB)
            await cluster.settle()
            [pod] = [pod for pod in await cluster.list("pods", "default") if pod.metadata.name not in before]
            told = await story(cluster.client, pod)
            assert [write.action for write in told] == ["changed", "changed", "created"]
            assert [write.subresource for write in told] == ["status", "binding", ""]
            created = told[-1]
            assert created.component == "kube-controller-manager/replicaset-controller"
            assert created.acting_for is not None and created.acting_for.kind == "ReplicaSet"
            asked = told[0].origin
            assert (asked.object, asked.component, asked.verb) == (
                Named("Deployment", "web", "default", "apps/v1"), "pinnace-testing", "patch",
            )  # fmt: skip
            assert FieldChange("spec.replicas", "2", "3") in asked.changes
            text = str(told)
            assert text == render(told) and text.startswith(f"pod/{pod.metadata.name} in namespace default\n")
            assert "because deployment/web spec.replicas 2 → 3, 4s ago by system:apiserver (pinnace-testing)" in text

    simulate(run)


def test_the_story_of_what_is_gone_says_who_deleted_it() -> None:
    async def run() -> None:
        async with Cluster(nodes=1) as cluster:
            await cluster.apply(WEB)
            await cluster.settle()
            pod = (await cluster.list("pods", "default"))[0]
            await cluster.delete("deployments", "web")
            await cluster.settle()
            told = await story(cluster.client, pod)
            assert told.why.exists is False and told[0].action == "deleted"
            assert told[0].origin.verb == "delete" and told[0].origin.component == "pinnace-testing"
            assert told[0].origin.object == Named("Deployment", "web", "default", "apps/v1")
            assert "which is no more" in str(told) and "deployment/web deleted" in str(told)
            never: Any = core.Pod(metadata=core.meta.ObjectMeta(name="never", namespace="default"))
            with pytest.raises(errors.NotFound):
                await story(cluster.client, never)

    simulate(run)


def test_a_timer_is_a_cause_and_leads_to_who_set_it() -> None:
    async def run() -> None:
        async with Cluster(nodes=1) as cluster:
            await cluster.apply(OTHERS)
            await cluster.advance(seconds=62)
            job = (await cluster.list("jobs", "default"))[0]
            told = await story(cluster.client, job)
            created = told[-1]
            assert created.timer and created.component.endswith("cronjob-controller")
            assert created.origin.object == Named("CronJob", "backup", "default", "batch/v1")
            text = str(told)
            assert "because its time had come" in text and "as asked: cronjob/backup created" in text
            cron_job = await story(cluster.client, await cluster.get("cronjobs", "backup"))
            assert cron_job.why.state[1:] == ["active: " + job.metadata.name, "scheduled next for 2026-01-01T00:02:00Z"]

    simulate(run)


def test_an_eviction_is_told_by_the_timer_the_taint_and_the_request() -> None:
    async def run() -> None:
        async with Cluster(nodes=2) as cluster:
            await cluster.apply(WEB.replace("spec: {containers:", f"spec: {{tolerations: [{PATIENT}], containers:"))
            await cluster.settle()
            pod = (await cluster.list("pods", "default"))[0]
            lost = pod.spec.nodeName
            cluster.nodes.lose(lost)
            await cluster.advance(seconds=90)
            told = await story(cluster.client, pod)
            ending = told[0]
            assert ending.action == "deleting" and ending.timer and ending.component.endswith("/node-controller")
            taint = ending.because[0]
            assert taint.object == Named("Node", lost, "", "v1")
            assert any(change.field.startswith("spec.taints") for change in taint.changes)
            assert ending.origin.object == Named("Deployment", "web", "default", "apps/v1")
            lines = str(told).splitlines()
            first = next(n for n, line in enumerate(lines) if "was told to end" in line)
            assert lines[first + 1] == "    because its time had come"
            assert f"node/{lost} spec.taints" in lines[first + 2]
            assert any("as asked: " in line for line in lines[first:])

    simulate(run)


def test_a_pending_pod_is_told_what_each_node_has_against_it() -> None:
    async def run() -> None:
        async with Cluster(nodes=2) as cluster:
            await cluster.apply(BIG)
            await cluster.settle()
            first, second = [node.metadata.name for node in await cluster.list("nodes")]
            await cluster.client.patch(core.Node, second, "", {"spec": {"unschedulable": True}})
            await cluster.settle()
            told = await story(cluster.client, (await cluster.list("pods", "default"))[0])
            scheduling = told.why.scheduling
            assert scheduling is not None
            assert {node.node: node.reasons for node in scheduling.nodes} == {
                first: ["Insufficient cpu"], second: ["node(s) were unschedulable"],
            }  # fmt: skip
            assert f"    {first}: Insufficient cpu\n" in str(told)

    simulate(run)


def test_the_documentation_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parents[2] / "docs" / "why.md"
    [block] = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    exec(compile(block, str(page), "exec"), {"__name__": "documentation"})
    assert capsys.readouterr().out.startswith("pod/web-")
