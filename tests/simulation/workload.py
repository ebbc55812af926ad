"""What users do to a cluster in one run: drawn from the seed, in three namespaces, for some virtual minutes."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from typing import Any

from pinnace.api import codec, errors
from pinnace.api.apps import v1 as apps
from pinnace.api.batch import v1 as batch
from pinnace.api.core import v1 as core
from pinnace.api.kinds import KINDS
from pinnace.api.meta import v1 as meta
from pinnace.api.policy import v1 as policy
from pinnace.client.client import Client

STAYING = ("blue", "green")        # namespaces; a third one comes and goes
FILLER = "filler"                  # the deployment that gives way to others
_TRANSIENT = (errors.StatusError, OSError, TimeoutError)
_TYPES = {(kind.api_version, kind.kind): kind.type for kind in KINDS}


def template(app: str, image: str, cpu: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": image, "resources": {"requests": {"cpu": cpu, "memory": "64Mi"}}}
    return {
        "metadata": {"labels": {"app": app}},
        "spec": {"terminationGracePeriodSeconds": 5, "containers": [container], **spec},
    }


class Workload:
    """One user, who tries what failed again, a few times."""

    def __init__(self, client: Client, draw: random.Random) -> None:
        self._client = client
        self._draw = draw
        self._images = 0
        self._made: dict[str, int] = {}
        self.done: list[str] = []

    async def begin(self, sleep: Callable[[float], Coroutine[Any, Any, None]]) -> None:
        self._sleep = sleep
        for namespace in STAYING:
            await self._create("v1", "Namespace", "", namespace, {})
        for name, value in (("high", 1000), ("low", -10)):
            await self._create("scheduling.k8s.io/v1", "PriorityClass", "", name, {"value": value})
        await self.filler()
        for _ in range(self._draw.randint(2, 4)):
            await self._draw.choice((self.deployment, self.deployment, self.stateful_set, self.daemon_set,
                                     self.job, self.cron_job))()  # fmt: skip

    async def act(self) -> None:
        """One thing that users do."""
        await self._draw.choice((
            self.deployment, self.stateful_set, self.job, self.job, self.cron_job, self.passing_namespace,
            self.scale, self.scale, self.scale, self.roll, self.roll, self.roll, self.evict, self.evict, self.evict,
            self.delete_pod, self.delete_pod, self.delete_workload, self.urgent, self.daemon_set,
        ))()  # fmt: skip

    async def end(self) -> None:
        """Let the cluster come to rest: nothing starts by itself any more, and everything fits."""
        for _ in range(20):
            try:
                found = await self._client.list(batch.CronJob)
                for cron in found.items:
                    await self._client.patch(
                        batch.CronJob, cron.metadata.name or "", cron.metadata.namespace or "",
                        {"spec": {"suspend": True}},
                    )  # fmt: skip
                await self._client.delete(apps.Deployment, FILLER, STAYING[0])
            except errors.NotFound:
                return
            except _TRANSIENT:
                pass
            await self._sleep(1.0)
        raise AssertionError("the user could not end its work")

    # What there is

    async def filler(self) -> None:
        """Takes what room there is, at the lowest priority."""
        spec = {
            "replicas": 6, "selector": {"matchLabels": {"app": FILLER}},
            "template": template(FILLER, "filler:1", "900m", priorityClassName="low"),
        }  # fmt: skip
        await self._create("apps/v1", "Deployment", STAYING[0], FILLER, {"spec": spec})

    async def deployment(self) -> None:
        if not self._room("web", 5):
            return
        draw, name, namespace = self._draw, self._name("web"), self._namespace()
        strategy: dict[str, Any] = {"type": "RollingUpdate", "rollingUpdate": {
            "maxSurge": draw.choice((0, 1, 2, "50%")), "maxUnavailable": draw.choice((1, 1, 2, "34%"))}}
        if draw.random() < 0.15:
            strategy = {"type": "Recreate"}
        spec = {
            "replicas": draw.randint(1, 4), "selector": {"matchLabels": {"app": name}}, "strategy": strategy,
            "template": template(name, self._image(), "200m"),
        }  # fmt: skip
        await self._create("apps/v1", "Deployment", namespace, name, {"spec": spec})
        if draw.random() < 0.6:
            await self._budget(name, namespace)
        if draw.random() < 0.6:
            service = {"selector": {"app": name}, "ports": [{"port": 80}]}
            await self._create("v1", "Service", namespace, name, {"spec": service})

    async def stateful_set(self) -> None:
        if not self._room("db", 4):
            return
        name, namespace = self._name("db"), self._namespace()
        spec = {
            "replicas": self._draw.randint(1, 3), "selector": {"matchLabels": {"app": name}}, "serviceName": name,
            "podManagementPolicy": self._draw.choice(("OrderedReady", "OrderedReady", "Parallel")),
            "template": template(name, self._image(), "200m"),
        }  # fmt: skip
        await self._create("apps/v1", "StatefulSet", namespace, name, {"spec": spec})
        if self._draw.random() < 0.6:
            await self._budget(name, namespace)

    async def daemon_set(self) -> None:
        if not self._room("agent", 3):
            return
        name = self._name("agent")
        spec = {"selector": {"matchLabels": {"app": name}}, "template": template(name, self._image(), "50m")}
        await self._create("apps/v1", "DaemonSet", self._namespace(), name, {"spec": spec})

    async def job(self) -> None:
        if not self._room("job", 25):
            return
        draw, name = self._draw, self._name("job")
        code = draw.choice(("0", "0", "0", "1"))
        pod_template = template(name, self._image(), "100m", restartPolicy="Never")
        pod_template["metadata"]["annotations"] = {
            "pinnace.dev/run-seconds": str(draw.choice((1, 5, 20))), "pinnace.dev/exit-code": code,
        }  # fmt: skip
        spec: dict[str, Any] = {
            "parallelism": draw.randint(1, 3), "completions": draw.randint(1, 5), "backoffLimit": draw.randint(0, 2),
            "template": pod_template,
        }  # fmt: skip
        if draw.random() < 0.3:
            spec["completionMode"] = "Indexed"
        if draw.random() < 0.3:
            spec["ttlSecondsAfterFinished"] = 20
        await self._create("batch/v1", "Job", self._namespace(), name, {"spec": spec})

    async def cron_job(self) -> None:
        if not self._room("cron", 4):
            return
        draw, name = self._draw, self._name("cron")
        pod_template = template(name, self._image(), "50m", restartPolicy="Never")
        pod_template["metadata"]["annotations"] = {"pinnace.dev/run-seconds": str(draw.choice((2, 90)))}
        spec = {
            "schedule": "* * * * *", "concurrencyPolicy": draw.choice(("Forbid", "Forbid", "Allow", "Replace")),
            "successfulJobsHistoryLimit": 2, "jobTemplate": {"spec": {"template": pod_template}},
        }  # fmt: skip
        await self._create("batch/v1", "CronJob", self._namespace(), name, {"spec": spec})

    async def urgent(self) -> None:
        """Pods that push others aside."""
        if not self._room("urgent", 2):
            return
        name = self._name("urgent")
        spec = {
            "replicas": 2, "selector": {"matchLabels": {"app": name}},
            "template": template(name, self._image(), "700m", priorityClassName="high"),
        }  # fmt: skip
        await self._create("apps/v1", "Deployment", self._namespace(), name, {"spec": spec})

    async def passing_namespace(self) -> None:
        """A namespace with something in it, deleted soon after."""
        name = self._name("passing")
        await self._create("v1", "Namespace", "", name, {})
        spec = {"replicas": 2, "selector": {"matchLabels": {"app": "x"}}, "template": template("x", "x:1", "50m")}
        await self._create("apps/v1", "Deployment", name, "x", {"spec": spec})
        await self._create("v1", "ConfigMap", name, "settings", {"data": {"a": "b"}})
        await self._sleep(self._draw.choice((0.0, 0.5, 4.0)))
        await self._try(f"delete namespace {name}", lambda: self._client.delete(core.Namespace, name))

    async def _budget(self, name: str, namespace: str) -> None:
        field = self._draw.choice(("minAvailable", "maxUnavailable"))
        spec = {field: 1, "selector": {"matchLabels": {"app": name}}}
        await self._create("policy/v1", "PodDisruptionBudget", namespace, name, {"spec": spec})

    # What is done to it

    async def scale(self) -> None:
        kind: Any = self._draw.choice((apps.Deployment, apps.StatefulSet))
        obj = await self._some(kind)
        if obj is not None and not obj.metadata.name.startswith("urgent"):
            await self._patch(kind, obj, {"spec": {"replicas": self._draw.randint(0, 4)}})

    async def roll(self) -> None:
        kind: Any = self._draw.choice((apps.Deployment, apps.Deployment, apps.StatefulSet, apps.DaemonSet))
        obj = await self._some(kind)
        if obj is not None:
            container = {"name": "main", "image": self._image()}
            await self._patch(kind, obj, {"spec": {"template": {"spec": {"containers": [container]}}}})

    async def evict(self) -> None:
        pod = await self._some(core.Pod)
        if pod is None:
            return
        data = pod.metadata
        body = policy.Eviction(metadata=meta.ObjectMeta(name=data.name, namespace=data.namespace))

        async def work() -> None:
            await self._client.create_subresource(core.Pod, data.name, data.namespace, "eviction", body)

        await self._try(f"evict {data.namespace}/{data.name}", work, tries=1)

    async def delete_pod(self) -> None:
        pod = await self._some(core.Pod)
        if pod is not None:
            data, grace = pod.metadata, self._draw.choice((None, None, 0))
            await self._try(
                f"delete pod {data.namespace}/{data.name}",
                lambda: self._client.delete(core.Pod, data.name, data.namespace, uid=data.uid, grace_period=grace),
            )

    async def delete_workload(self) -> None:
        kind: Any = self._draw.choice((apps.Deployment, apps.StatefulSet, apps.DaemonSet, batch.Job, batch.CronJob))
        obj = await self._some(kind)
        if obj is not None:
            data, how = obj.metadata, self._draw.choice(("Background", "Foreground", "Foreground"))
            await self._try(
                f"delete {kind.__name__} {data.namespace}/{data.name} {how}",
                lambda: self._client.delete(kind, data.name, data.namespace, uid=data.uid, propagation=how),
            )

    # How

    def _room(self, prefix: str, most: int) -> bool:
        """Not so many of a sort that they do not all fit."""
        self._made[prefix] = self._made.get(prefix, 0) + 1
        return self._made[prefix] <= most

    def _name(self, prefix: str) -> str:
        return f"{prefix}-{self._draw.randrange(10**4):04}"

    def _namespace(self) -> str:
        return self._draw.choice(STAYING)

    def _image(self) -> str:
        self._images += 1
        return f"image:{self._images}"

    async def _some(self, kind: Any) -> Any:
        try:
            found = (await self._client.list(kind)).items
        except _TRANSIENT:
            return None
        found = [obj for obj in found if obj.metadata.namespace in STAYING and obj.metadata.name != FILLER]
        return self._draw.choice(found) if found else None

    async def _create(self, api_version: str, kind: str, namespace: str, name: str, rest: dict[str, Any]) -> None:
        data = {"name": name} | ({"namespace": namespace} if namespace else {})
        obj = codec.from_dict(_TYPES[api_version, kind], {"metadata": data, **rest})
        await self._try(f"create {kind} {namespace}/{name}", lambda: self._client.create(obj))

    async def _patch(self, kind: Any, obj: Any, patch: dict[str, Any]) -> None:
        data = obj.metadata
        await self._try(
            f"patch {kind.__name__} {data.namespace}/{data.name} {patch}",
            lambda: self._client.patch(kind, data.name, data.namespace, patch, type="strategic"),
        )

    async def _try(self, what: str, work: Callable[[], Coroutine[Any, Any, Any]], *, tries: int = 5) -> None:
        for attempt in range(tries):
            try:
                await work()
            except (errors.AlreadyExists, errors.NotFound):
                break
            except _TRANSIENT as error:
                if attempt == tries - 1:
                    self.done.append(f"could not {what}: {error}")
                    return
                await self._sleep(0.5 * 2**attempt)
            else:
                break
        self.done.append(what)
