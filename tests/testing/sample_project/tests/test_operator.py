"""The operator, unmodified, in simulated time: its back-offs and timers take no time."""

import asyncio

import kopf
import pytest
from shop.operator import registry

from pinnace.testing.wallclock import wall_clock


@pytest.fixture
async def operator(cluster):
    access = (await cluster.serve()).admin

    @kopf.on.login(registry=registry)
    async def login(**_):
        return kopf.ConnectionInfo(
            server=access.server, ca_data=access.ca, certificate_data=access.certificate, private_key_data=access.key
        )

    with wall_clock(cluster.clock, "kopf"):
        ready, stop = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(
            kopf.operator(registry=registry, standalone=True, clusterwide=True, ready_flag=ready, stop_flag=stop)
        )
        await ready.wait()
        yield task
        stop.set()
        await task


async def test_it_opens_and_counts(cluster, operator, manifests):
    text = (manifests / "deployment.yaml").read_text()
    await cluster.apply(text.replace("  name: shop\n", "  name: shop\n  labels: {shop: corner}\n", 1))
    opened = await cluster.wait_for(
        "deploy/shop", condition=lambda d: "shop/state" in (d.metadata.annotations or {}), timeout=3600
    )
    assert opened.metadata.annotations["shop/state"] == "open"
    assert cluster.elapsed >= 600                         # after the landlord has called back
    await cluster.advance(hours=4)
    assert int((await cluster.get("deploy/shop")).metadata.annotations["shop/counted"]) == 4
    await cluster.delete("deploy/shop")                   # kopf takes its finalizer off
