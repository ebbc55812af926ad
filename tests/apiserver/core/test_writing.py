"""Create, update, patch and delete: names, locks, generations, finalizers, grace, dry run, subresources."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from pinnace.api.core import v1 as core
from pinnace.apiserver.access import Admission, AdmissionPlugin, Attributes, Decision
from pinnace.client.client import Client
from pinnace.client.transport import Request, User

from .conftest import CONFIGS, DEPLOYMENTS, PODS, Api, config, pod

MERGE = {"content_type": "application/merge-patch+json"}


def deployment(name: str = "web") -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            },
        },
    }


async def test_created_objects_are_the_servers(api: Api) -> None:
    sent = deployment()
    sent["metadata"] |= {"uid": "mine", "creationTimestamp": "1999-01-01T00:00:00Z", "generation": 7}
    response = await api.ask("POST", DEPLOYMENTS, sent)
    assert response.status == 201
    got = json.loads(response.body)
    assert (got["kind"], got["apiVersion"]) == ("Deployment", "apps/v1")
    meta = got["metadata"]
    assert meta["uid"] != "mine" and meta["creationTimestamp"] == "2026-01-01T00:00:00Z" and meta["generation"] == 1
    assert meta["namespace"] == "default"
    assert got["spec"]["replicas"] == 1, "defaults are applied"
    assert await api.json("GET", f"{DEPLOYMENTS}/web") == got


async def test_generated_names(api: Api) -> None:
    sent = config(metadata={"name": None, "generateName": "job-"})
    found = {(await api.json("POST", CONFIGS, sent))["metadata"]["name"] for _ in range(5)}
    assert len(found) == 5 and all(name.startswith("job-") and len(name) == 9 for name in found)


async def test_generation_counts_the_spec_only(api: Api) -> None:
    await api.ask("POST", DEPLOYMENTS, deployment())
    steps: list[tuple[str, dict[str, Any], int]] = [
        ("", {"spec": {"replicas": 3}}, 2),
        ("", {"metadata": {"labels": {"a": "b"}}}, 2),
        ("/status", {"status": {"replicas": 3}, "spec": {"replicas": 9}}, 2),
        ("", {"spec": {"replicas": 3}}, 2),
        ("", {"status": {"replicas": 8}}, 2),
    ]
    for part, patch, generation in steps:
        got = await api.json("PATCH", f"{DEPLOYMENTS}/web{part}", patch, **MERGE)
        assert got["metadata"]["generation"] == generation, patch
    assert got["status"]["replicas"] == 3 and got["spec"]["replicas"] == 3


async def test_an_update_that_changes_nothing_writes_nothing(api: Api) -> None:
    got = await api.json("POST", CONFIGS, config("a", data={"x": "1"}))
    again = await api.json("PUT", f"{CONFIGS}/a", got)
    assert again["metadata"]["resourceVersion"] == got["metadata"]["resourceVersion"]


async def test_patches_at_once_all_arrive(api: Api) -> None:
    await api.ask("POST", CONFIGS, config("a"))
    answers = await asyncio.gather(
        *(api.ask("PATCH", f"{CONFIGS}/a", {"data": {f"k{n}": "v"}}, **MERGE) for n in range(8))
    )
    assert {answer.status for answer in answers} == {200}
    assert len((await api.json("GET", f"{CONFIGS}/a"))["data"]) == 8


async def test_a_patch_for_an_old_revision_conflicts(api: Api) -> None:
    first = await api.json("POST", CONFIGS, config("a"))
    await api.ask("PATCH", f"{CONFIGS}/a", {"data": {"x": "1"}}, **MERGE)
    stale = {"metadata": {"resourceVersion": first["metadata"]["resourceVersion"]}, "data": {"x": "2"}}
    assert (await api.refused("PATCH", f"{CONFIGS}/a", stale, **MERGE))[:2] == (409, "Conflict")


async def test_three_kinds_of_patch(api: Api) -> None:
    await api.ask("POST", DEPLOYMENTS, deployment())
    strategic = {"spec": {"template": {"spec": {"containers": [{"name": "d", "image": "j"}]}}}}
    got = await api.json(
        "PATCH", f"{DEPLOYMENTS}/web", strategic, content_type="application/strategic-merge-patch+json"
    )
    assert {c["name"] for c in got["spec"]["template"]["spec"]["containers"]} == {"c", "d"}
    got = await api.json("PATCH", f"{DEPLOYMENTS}/web", strategic, **MERGE)
    assert [c["name"] for c in got["spec"]["template"]["spec"]["containers"]] == ["d"]
    step = [{"op": "replace", "path": "/spec/replicas", "value": 4}]
    got = await api.json("PATCH", f"{DEPLOYMENTS}/web", step, content_type="application/json-patch+json")
    assert got["spec"]["replicas"] == 4
    step = [{"op": "test", "path": "/spec/replicas", "value": 5}]
    code, reason, _ = await api.refused(
        "PATCH", f"{DEPLOYMENTS}/web", step, content_type="application/json-patch+json"
    )
    assert (code, reason) == (422, "Invalid")


async def test_dry_run_leaves_nothing(api: Api) -> None:
    before = api.server.store.revision
    assert (await api.ask("POST", f"{CONFIGS}?dryRun=All", config("a"))).status == 201
    assert (await api.ask("GET", f"{CONFIGS}/a")).status == 404
    await api.ask("POST", CONFIGS, config("a"))
    assert (await api.ask("DELETE", f"{CONFIGS}/a?dryRun=All")).status == 200
    got = await api.json("PATCH", f"{CONFIGS}/a?dryRun=All", {"data": {"x": "1"}}, **MERGE)
    assert got["data"] == {"x": "1"}
    assert "data" not in await api.json("GET", f"{CONFIGS}/a")
    assert api.server.store.revision == before + 1


async def test_deleting_at_once_answers_with_a_status(api: Api) -> None:
    got = await api.json("POST", CONFIGS, config("a"))
    status = await api.json("DELETE", f"{CONFIGS}/a")
    assert status["status"] == "Success"
    assert status["details"] == {"name": "a", "kind": "configmaps", "uid": got["metadata"]["uid"]}


async def test_preconditions(api: Api) -> None:
    await api.ask("POST", CONFIGS, config("a"))
    code, reason, message = await api.refused("DELETE", f"{CONFIGS}/a", {"preconditions": {"uid": "other"}})
    assert (code, reason) == (409, "Conflict") and "UID in precondition: other" in message


async def test_finalizers_hold_an_object(api: Api) -> None:
    await api.ask("POST", CONFIGS, config("a", metadata={"finalizers": ["x.io/y"]}))
    got = await api.json("DELETE", f"{CONFIGS}/a")
    assert got["metadata"]["deletionTimestamp"] == "2026-01-01T00:00:00Z"
    assert got["metadata"]["deletionGracePeriodSeconds"] == 0
    code, _, message = await api.refused(
        "PATCH", f"{CONFIGS}/a", {"metadata": {"finalizers": ["x.io/y", "x.io/z"]}}, **MERGE
    )
    assert code == 422 and "no new finalizers can be added if the object is being deleted" in message
    code, reason, message = await api.refused("POST", CONFIGS, config("a"))
    assert (code, reason) == (409, "AlreadyExists") and message.startswith("object is being deleted")
    assert (await api.ask("PATCH", f"{CONFIGS}/a", {"metadata": {"finalizers": None}}, **MERGE)).status == 200
    assert (await api.ask("GET", f"{CONFIGS}/a")).status == 404


@pytest.mark.parametrize(
    ("policy", "finalizers"), [("Foreground", ["foregroundDeletion"]), ("Orphan", ["orphan"]), ("Background", None)]
)
async def test_propagation_policies(api: Api, policy: str, finalizers: list[str] | None) -> None:
    await api.ask("POST", DEPLOYMENTS, deployment())
    got = await api.json("DELETE", f"{DEPLOYMENTS}/web", {"propagationPolicy": policy})
    if finalizers is None:
        assert got["status"] == "Success"
    else:
        assert got["metadata"]["finalizers"] == finalizers


async def test_pods_get_their_grace(api: Api) -> None:
    await api.ask("POST", PODS, pod("a"))
    await api.ask("POST", f"{PODS}/a/binding", {"metadata": {"name": "a"}, "target": {"name": "n"}})
    got = await api.json("DELETE", f"{PODS}/a")
    assert got["metadata"]["deletionTimestamp"] == "2026-01-01T00:00:30Z"
    got = await api.json("DELETE", f"{PODS}/a", {"gracePeriodSeconds": 5})
    assert got["metadata"]["deletionGracePeriodSeconds"] == 5, "it can be shortened"
    got = await api.json("DELETE", f"{PODS}/a", {"gracePeriodSeconds": 60})
    assert got["metadata"]["deletionGracePeriodSeconds"] == 5, "and not lengthened"
    await api.ask("DELETE", f"{PODS}/a", {"gracePeriodSeconds": 0})
    assert (await api.ask("GET", f"{PODS}/a")).status == 404


async def test_namespaces_wait_for_their_finalizer(api: Api) -> None:
    got = await api.json("DELETE", "/api/v1/namespaces/default")
    assert got["status"]["phase"] == "Terminating" and got["metadata"]["deletionTimestamp"]
    got["spec"]["finalizers"] = []
    assert (await api.ask("PUT", "/api/v1/namespaces/default/finalize", got)).status == 200
    assert (await api.ask("GET", "/api/v1/namespaces/default")).status == 404


async def test_collections_are_deleted_by_selector(api: Api) -> None:
    for name, value in (("a", "x"), ("b", "x"), ("c", "y")):
        await api.ask("POST", CONFIGS, config(name, metadata={"labels": {"k": value}}))
    gone = await api.json("DELETE", f"{CONFIGS}?labelSelector=k=x")
    assert [item["metadata"]["name"] for item in gone["items"]] == ["a", "b"]
    assert [item["metadata"]["name"] for item in (await api.json("GET", CONFIGS))["items"]] == ["c"]


async def test_scale(api: Api) -> None:
    await api.ask("POST", DEPLOYMENTS, deployment())
    scale = await api.json("GET", f"{DEPLOYMENTS}/web/scale")
    assert scale["kind"] == "Scale" and scale["spec"]["replicas"] == 1
    assert scale["status"]["selector"] == "app=web"
    scale["spec"]["replicas"] = 4
    assert (await api.json("PUT", f"{DEPLOYMENTS}/web/scale", scale))["spec"]["replicas"] == 4
    assert (await api.refused("PUT", f"{DEPLOYMENTS}/web/scale", scale))[0] == 409
    got = await api.json("PATCH", f"{DEPLOYMENTS}/web/scale", {"spec": {"replicas": 2}}, **MERGE)
    assert got["spec"]["replicas"] == 2
    assert (await api.json("GET", f"{DEPLOYMENTS}/web"))["metadata"]["generation"] == 3


async def test_admission_sees_and_changes(api: Api) -> None:
    seen: list[tuple[str, str, str, str]] = []

    class Plugin(AdmissionPlugin):
        async def mutate(self, admission: Admission) -> None:
            if admission.object is not None and admission.resource == "configmaps":
                admission.object.data = {"by": "admission"}

        async def validate(self, admission: Admission) -> None:
            seen.append((admission.operation, admission.resource, admission.namespace, admission.name))

    api.server.admission = (Plugin(),)
    got = await api.json("POST", CONFIGS, config("a"))
    assert got["data"] == {"by": "admission"}
    await api.ask("DELETE", f"{CONFIGS}/a")
    assert seen == [("CREATE", "configmaps", "default", "a"), ("DELETE", "configmaps", "default", "a")]


async def test_admission_that_is_set_later_meets_those_who_have_written_before(api: Api) -> None:
    class Plugin(AdmissionPlugin):
        async def mutate(self, admission: Admission) -> None:
            admission.object.data = {"by": "admission"}

    def made(name: str) -> core.ConfigMap:
        return core.ConfigMap(metadata=core.meta.ObjectMeta(name=name, namespace="default"))

    assert (await api.client.create(made("a"))).data is None
    api.server.admission = (Plugin(),)
    assert (await api.client.create(made("b"))).data == {"by": "admission"}


async def test_causes_are_recorded(api: Api) -> None:
    client = Client(api.client.transport, user=User("system:kube-scheduler"))
    made = await client.create(
        core.ConfigMap(metadata=core.meta.ObjectMeta(name="a", namespace="default")), because=(1, 5)
    )
    cause = await api.server.store.cause(int(made.metadata.resourceVersion or 0))
    assert cause is not None
    assert (cause.actor, cause.verb, cause.because) == ("system:kube-scheduler", "create", (1, 5))


async def test_forbidden_in_upstreams_words_and_impersonation(api: Api) -> None:
    asked: list[Attributes] = []

    class Only:
        def authorize(self, attributes: Attributes) -> Decision:
            asked.append(attributes)
            return Decision(attributes.verb == "impersonate", "")

    api.server.authorizer = Only()
    request = Request("GET", PODS, {}, {"impersonate-user": "jane"}, user=User("root"))
    status = json.loads((await api.server.handle(request)).body)
    assert status["message"] == (
        'pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default"'
    )
    assert [(a.user.name, a.verb, a.resource, a.name) for a in asked] == [
        ("root", "impersonate", "users", "jane"),
        ("jane", "list", "pods", ""),
    ]
    status = json.loads((await api.server.handle(Request("GET", "/metrics", user=User("joe")))).body)
    assert status["message"] == 'forbidden: User "joe" cannot get path "/metrics"'
