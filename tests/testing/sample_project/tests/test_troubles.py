"""What goes wrong: pods that fail, nodes that go, a server that dies."""

import pytest


async def test_a_backup_that_fails_is_tried_again(cluster, manifests):
    cluster.nodes.on(labels={"app": "backup"}, run=30, exit_code=1, log=["the disk is full"])
    await cluster.apply(manifests / "cronjob.yaml")
    await cluster.advance(minutes=20)
    (job,) = await cluster.list("jobs")
    assert job.status.failed == 2 and {c.type for c in job.status.conditions} >= {"Failed"}
    pods = await cluster.list("pods", label_selector="app=backup")
    assert "the disk is full" in await cluster.logs(pods[0])
    story = await cluster.why(pods[0])
    assert story[-1].component.endswith("job-controller")


async def test_a_node_is_lost(cluster, shop):
    (lost,) = {p.spec.nodeName for p in await cluster.list("pods", label_selector="app=shop")} - {
        "pinnace-simulated-2"
    }
    cluster.nodes.lose(lost)
    await cluster.wait_for("node", lost, condition="Ready=Unknown", timeout=120)
    await cluster.advance(minutes=10)
    there = [p for p in await cluster.list("pods", label_selector="app=shop") if p.spec.nodeName != lost]
    assert [p.status.phase for p in there] == ["Running"] * 3


@pytest.mark.pinnace(faults=0.05)
async def test_whatever_happens(cluster, manifests):
    await cluster.apply(manifests)
    await cluster.rollout_status("deploy/shop")
    cluster.faults.stop()
    await cluster.settle()
    assert len(await cluster.list("pods", label_selector="app=shop")) == 3


def test_the_server_dies_in_the_middle(cluster, manifests):
    cluster.faults.crash_after_commit(component="kube-controller-manager", kind="replicasets", times=1, down=5)
    cluster.apply(manifests)
    assert cluster.rollout_status("deploy/shop").status.readyReplicas == 3
    assert [done.fault for done in cluster.faults.log] == ["crash_after_commit"]
