"""On simulated time: the whole chart, in milliseconds, deterministic."""

import asyncio
import json

import pytest

from pinnace.api import errors
from pinnace.api.core import v1 as core
from pinnace.testing import Cluster, SyncCluster


async def test_the_service_finds_its_pods(cluster, shop):
    assert shop.status.availableReplicas == 3
    await cluster.settle()
    (slice_,) = await cluster.list("endpointslices", label_selector="kubernetes.io/service-name=shop")
    pods = await cluster.list(core.Pod, label_selector="app=shop")
    assert sorted(a for e in slice_.endpoints for a in e.addresses) == sorted(p.status.podIP for p in pods)
    assert {p.spec.nodeName for p in pods} == {n.metadata.name for n in await cluster.list("nodes")}


async def test_an_upgrade_keeps_the_shop_open(cluster, shop, manifests):
    text = (manifests / "deployment.yaml").read_text()
    fewest = 3

    async def look():
        nonlocal fewest
        async for event in cluster.watch("deploy"):
            fewest = min(fewest, event.object.status.availableReplicas or 0)

    looking = asyncio.create_task(look())
    await cluster.apply(text.replace("shop:1.0", "shop:2.0"))
    await cluster.rollout_status("deploy/shop")
    looking.cancel()
    await cluster.settle()
    assert fewest >= 2
    pods = await cluster.list("pods", label_selector="app=shop")
    assert {p.spec.containers[0].image for p in pods} == {"registry.example/shop:2.0"}


async def test_what_the_chart_drops_goes(cluster, shop, manifests):
    text = (manifests / "deployment.yaml").read_text()
    (after,) = await cluster.apply(text.replace("          envFrom: [{configMapRef: {name: shop}}]\n", ""))
    assert after.spec.template.spec.containers[0].envFrom is None


async def test_backups_run_and_old_ones_are_cleared_away(cluster, manifests):
    await cluster.apply(manifests / "cronjob.yaml")
    await cluster.advance(hours=2, minutes=1)
    jobs = await cluster.list("jobs")
    assert [job.status.succeeded for job in jobs] == [1, 1]
    assert "SuccessfulCreate" in {event.reason for event in await cluster.events("cronjob/backup")}


async def test_the_budget_holds(cluster, shop):
    pods = await cluster.list("pods", label_selector="app=shop")
    await cluster.wait_for("pdb/shop", condition="jsonpath={.status.disruptionsAllowed}=1")
    evicted = 0
    for pod in pods:
        name = pod.metadata.name
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
        try:
            await cluster.client.call(
                "POST", f"/api/v1/namespaces/default/pods/{name}/eviction", body=json.dumps(eviction).encode()
            )
            evicted += 1
        except errors.TooManyRequests as refused:
            assert "disruption budget" in str(refused)
    assert evicted == 1


def test_without_await(cluster, manifests):
    assert isinstance(cluster, SyncCluster)
    cluster.apply(manifests)
    assert cluster.rollout_status("deploy/shop").status.readyReplicas == 3
    cluster.scale("deploy/shop", replicas=1)
    cluster.settle()
    assert len(cluster.list("pods", label_selector="app=shop")) == 1


@pytest.mark.pinnace(nodes=5, seed=7)
async def test_marked(cluster):
    assert isinstance(cluster, Cluster) and cluster.seed == 7
    assert len(await cluster.list("nodes")) == 5


async def test_two_clusters_share_a_clock(cluster_factory):
    east, west = await cluster_factory(), await cluster_factory(nodes=1)
    await east.advance(minutes=5)
    assert west.elapsed >= 300


def test_a_typo_is_no_secret(cluster, manifests):
    with pytest.raises(errors.BadRequest, match=r'unknown field "spec\.replicaz"'):
        cluster.apply((manifests / "deployment.yaml").read_text().replace("replicas", "replicaz"))


def test_the_shop_account_may_not_delete(cluster):
    with pytest.raises(errors.Forbidden):
        cluster.as_user("system:serviceaccount:default:default").delete("cm/shop")
