"""One cluster for all tests of this file, a namespace for each."""

import pytest

pytestmark = pytest.mark.pinnace(scope="module")


@pytest.fixture(scope="module")
def classes(pinnace_module_cluster):
    pinnace_module_cluster.apply(
        "{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: shop}, value: 1000}"
    )


@pytest.mark.parametrize("number", [1, 2])
async def test_each_has_its_own(cluster, classes, manifests, number):
    assert cluster.namespace.startswith("test-each-has-its-own-")
    assert await cluster.list("deploy") == []
    await cluster.apply(manifests)
    await cluster.rollout_status("deploy/shop")
    assert (await cluster.get("pc/shop")).value == 1000


def test_plainly(cluster, cluster_namespace):
    assert cluster.list("deploy") == [] and cluster.namespace == cluster_namespace
