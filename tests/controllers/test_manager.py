"""All controllers together on a small server: the stories that users know."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from pinnace.api import errors
from pinnace.api.apps import v1 as apps
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta

from .conftest import World


def template(image: str = "nginx:1") -> core.PodTemplateSpec:
    return core.PodTemplateSpec(
        metadata=meta.ObjectMeta(labels={"app": "web"}),
        spec=core.PodSpec(containers=[core.Container(name="web", image=image)]),
    )


def deployment(replicas: int, image: str = "nginx:1") -> apps.Deployment:
    return apps.Deployment(
        metadata=meta.ObjectMeta(name="web", namespace="default"),
        spec=apps.DeploymentSpec(
            replicas=replicas,
            progressDeadlineSeconds=600,
            revisionHistoryLimit=10,
            selector=meta.LabelSelector(matchLabels={"app": "web"}),
            strategy=apps.DeploymentStrategy(
                type="RollingUpdate",
                rollingUpdate=apps.RollingUpdateDeployment(maxSurge="25%", maxUnavailable="25%"),
            ),
            template=template(image),
        ),
    )


async def make_ready(world: World) -> int:
    """Every pod that is not ready becomes so; how many."""
    count = 0
    for pod in world.objects("pods"):
        if pod["status"].get("phase") == "Pending":
            status = {
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            }
            data = pod["metadata"]
            await world.client.patch(
                core.Pod, data["name"], data["namespace"], {"status": status}, subresource="status"
            )
            count += 1
    return count


async def roll_out(world: World) -> None:
    await world.settle()
    while await make_ready(world):
        await world.settle()


def condition(obj: dict[str, Any], type: str) -> dict[str, Any]:
    return next(c for c in obj["status"]["conditions"] if c["type"] == type)


async def test_every_namespace_gets_its_account_and_certificate(world: World) -> None:
    await world.client.create(core.Namespace(metadata=meta.ObjectMeta(name="blue")))
    await world.settle()
    assert world.names("serviceaccounts", "blue") == {"default"}
    assert world.names("configmaps", "blue") == {"kube-root-ca.crt"}
    assert world.objects("configmaps")[0]["data"] == {"ca.crt": "PEM"}
    await world.client.delete(core.ServiceAccount, "default", "blue")
    await world.settle()
    assert world.names("serviceaccounts", "blue") == {"default"}


async def test_a_deployment_becomes_pods(world: World) -> None:
    await world.client.create(deployment(3))
    await roll_out(world)
    (rs,) = world.objects("replicasets")
    assert len(world.objects("pods")) == 3
    assert rs["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "1"
    (web,) = world.objects("deployments")
    assert web["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "1"
    assert web["status"]["availableReplicas"] == 3
    assert condition(web, "Available")["reason"] == "MinimumReplicasAvailable"
    assert condition(web, "Progressing")["reason"] == "NewReplicaSetAvailable"
    assert condition(web, "Progressing")["message"] == (
        f'ReplicaSet "{rs["metadata"]["name"]}" has successfully progressed.'
    )
    assert world.events("ScalingReplicaSet") == [f"Scaled up replica set {rs['metadata']['name']} from 0 to 3"]
    assert len(world.events("SuccessfulCreate")) == 3


async def test_a_new_image_rolls_and_undo_brings_the_old_one_back(world: World) -> None:
    await world.client.create(deployment(4))
    await roll_out(world)
    old = world.objects("replicasets")[0]["metadata"]["name"]
    web = await world.client.get(apps.Deployment, "web", "default")
    await world.client.update(
        msgspec.structs.replace(web, spec=msgspec.structs.replace(web.spec, template=template("nginx:2")))
    )
    await roll_out(world)
    sizes = {rs["metadata"]["name"]: rs["spec"]["replicas"] for rs in world.objects("replicasets")}
    assert sizes.pop(old) == 0
    assert list(sizes.values()) == [4]
    assert {pod["spec"]["containers"][0]["image"] for pod in world.objects("pods")} == {"nginx:2"}
    web = await world.client.get(apps.Deployment, "web", "default")
    assert (web.metadata.annotations or {})["deployment.kubernetes.io/revision"] == "2"

    await world.client.update(
        msgspec.structs.replace(web, spec=msgspec.structs.replace(web.spec, template=template("nginx:1")))
    )
    await roll_out(world)
    assert {pod["spec"]["containers"][0]["image"] for pod in world.objects("pods")} == {"nginx:1"}
    back = await world.client.get(apps.ReplicaSet, old, "default")
    assert (back.metadata.annotations or {})["deployment.kubernetes.io/revision"] == "3"
    assert (back.metadata.annotations or {})["deployment.kubernetes.io/revision-history"] == "1"


async def test_fifty_pods_take_a_moment(world: World) -> None:
    loop = asyncio.get_running_loop()
    await world.client.create(deployment(50))
    started = loop.time()
    await world.until(lambda: len(world.objects("pods")) == 50)
    assert loop.time() - started < 2.0   # generous: the machine is shared
    await world.settle()
    assert len(world.objects("pods")) == 50


async def test_refused_pods_become_a_condition(world: World) -> None:
    world.server.refuse["POST", "pods"] = errors.Forbidden.to("pods", "", "web-x", "exceeded quota")
    await world.client.create(deployment(2))
    await world.until(lambda: bool(world.events("FailedCreate")))
    await world.until(lambda: any("conditions" in (d.get("status") or {}) for d in world.objects("deployments")))
    await world.until(
        lambda: any(c["type"] == "ReplicaFailure" for c in world.objects("deployments")[0]["status"]["conditions"])
    )
    assert world.events("FailedCreate")[0] == 'Error creating: pods "web-x" is forbidden: exceeded quota'
    assert not world.objects("pods")
    world.server.refuse.clear()
    await world.until(lambda: len(world.objects("pods")) == 2)
    await roll_out(world)
    rs = world.objects("replicasets")[0]
    assert not rs["status"].get("conditions")


async def test_deleting_a_deployment_takes_everything_along(world: World) -> None:
    await world.client.create(deployment(3))
    await roll_out(world)
    await world.client.delete(apps.Deployment, "web", "default", propagation="Background")
    await world.settle()
    assert not world.objects("replicasets")
    assert not world.objects("pods")


async def test_foreground_deletion_waits_for_the_pods(world: World) -> None:
    await world.client.create(deployment(2))
    await roll_out(world)
    gone: list[str] = []
    await world.client.delete(apps.Deployment, "web", "default", propagation="Foreground")
    await world.until(lambda: bool(gone.append("") or not world.objects("deployments")))
    await world.settle()
    assert not world.objects("replicasets")
    assert not world.objects("pods")


async def test_orphans_stay_and_are_adopted_again(world: World) -> None:
    await world.client.create(deployment(2))
    await roll_out(world)
    pods = world.names("pods")
    await world.client.delete(apps.Deployment, "web", "default", propagation="Orphan")
    await world.settle()
    assert not world.objects("deployments")
    (rs,) = world.objects("replicasets")
    assert not rs["metadata"].get("ownerReferences")
    assert world.names("pods") == pods
    await world.client.create(deployment(2))
    await world.settle()
    (rs,) = world.objects("replicasets")
    assert rs["metadata"]["ownerReferences"][0]["kind"] == "Deployment"
    assert world.names("pods") == pods


async def test_a_namespace_is_emptied_and_let_go(world: World) -> None:
    await world.client.create(core.Namespace(metadata=meta.ObjectMeta(name="default")))
    await world.client.create(deployment(2))
    await roll_out(world)
    await world.client.delete(core.Namespace, "default")
    await world.until(lambda: not world.objects("namespaces"))
    for plural in ("deployments", "replicasets", "pods", "serviceaccounts", "configmaps"):
        assert not world.objects(plural), plural


async def test_an_absent_owner_means_the_end(world: World) -> None:
    owner = meta.OwnerReference(apiVersion="v1", kind="ConfigMap", name="none", uid="0-0")
    data = meta.ObjectMeta(name="child", namespace="default", ownerReferences=[owner])
    await world.client.create(core.ConfigMap(metadata=data))
    await world.settle()
    assert "child" not in world.names("configmaps")
