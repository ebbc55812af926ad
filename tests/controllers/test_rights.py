"""Each controller does only what upstream's own role for it allows."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from pinnace.api.batch import v1 as batch
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta

from .build import pod
from .conftest import World
from .test_cronjob import cron_job
from .test_daemonset import budget, daemon_set
from .test_endpoints import service
from .test_job import job
from .test_manager import deployment, make_ready, roll_out
from .test_nodes import node
from .test_statefulset import stateful

ROLES = Path(__file__).resolve().parents[3] / "shared" / "reference" / "rbac" / "controller-roles.yaml"


def allowed() -> dict[str, list[dict[str, Any]]]:
    documents = list(yaml.safe_load_all(ROLES.read_text()))
    roles = [role for document in documents for role in document.get("items", [document])]
    prefix = "system:controller:"
    return {role["metadata"]["name"].removeprefix(prefix): role["rules"] for role in roles}


def permits(rules: list[dict[str, Any]], verb: str, group: str, resource: str) -> bool:
    return any(
        (verb in rule["verbs"] or "*" in rule["verbs"])
        and (group in rule.get("apiGroups", ()) or "*" in rule.get("apiGroups", ()))
        and (resource in rule.get("resources", ()) or "*" in rule.get("resources", ()))
        for rule in rules
    )


@pytest.mark.skipif(not ROLES.exists(), reason="the reference data of Kubernetes 1.36 is not here")
async def test_nobody_oversteps(world: World) -> None:
    client = world.client
    await client.create(core.Namespace(metadata=meta.ObjectMeta(name="default")))
    await client.create(core.Namespace(metadata=meta.ObjectMeta(name="kube-system")))
    dns = msgspec.structs.replace(
        service(selector=None), metadata=meta.ObjectMeta(name="kube-dns", namespace="kube-system")
    )
    for obj in (node(), dns, service(), deployment(2), stateful(2), daemon_set(), budget(minAvailable=1)):
        await client.create(obj)
    for obj in (job(), cron_job(jobTemplate=batch.JobTemplateSpec(spec=job().spec)), pod("lost", node="nowhere")):
        await client.create(obj)
    status = {"conditions": [{"type": "Ready", "status": "True"}],
              "addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]}   # fmt: skip
    await client.patch(core.Node, "n1", "", {"status": status}, subresource="status")
    await roll_out(world)
    for item in world.objects("pods"):
        if item["metadata"]["name"].startswith("work-"):
            data = item["metadata"]
            done = {"status": {"phase": "Succeeded"}}
            await client.patch(core.Pod, data["name"], data["namespace"], done, subresource="status")
    await world.settle()
    await client.delete(batch.Job, "work", "default", propagation="Foreground")
    await asyncio.sleep(0.5)   # the node falls silent
    await make_ready(world)
    await client.delete(core.Namespace, "default")
    for _ in range(3):
        await world.settle()
    rules = allowed()
    prefix = "system:serviceaccount:kube-system:"
    acts = {(who.removeprefix(prefix), *what) for who, *what in world.server.acts}
    # Discovery is open to everyone.
    overstepped = sorted(
        act for act in acts if act[3] and not permits(rules[act[0]], *act[1:]) and act[0] in rules
    )
    assert overstepped == []
    assert {who for who, *_ in acts} <= set(rules)
    assert len({who for who, *_ in acts}) >= 12
