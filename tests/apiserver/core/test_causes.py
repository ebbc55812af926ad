"""What is recorded of a write, and who gets to hear of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinnace.api.apps import v1 as apps
from pinnace.api.core import v1 as core
from pinnace.apiserver.access import AllowAll, Attributes, Decision
from pinnace.apiserver.calls import agent, printable
from pinnace.apiserver.causes import Causes, named
from pinnace.apiserver.changes import differences
from pinnace.apiserver.expiry import EVENT_SECONDS
from pinnace.client.client import Client
from pinnace.client.transport import TIMER, Request, User
from pinnace.client.why import ROOT, FieldChange, Named, decode, render
from pinnace.store.store import CLOCK, Cause

from .conftest import CONFIGS, DEPLOYMENTS, PODS, Api, config, pod

ANN = User("ann", groups=("system:authenticated",))


def deployment(replicas: int = 1) -> dict[str, Any]:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"a": "b"}}, "template": template},
    }  # fmt: skip


async def why(api: Api, path: str, query: str = "", who: User | None = None) -> Any:
    pairs = {name: (value,) for name, _, value in (word.partition("=") for word in query.split("&") if word)}
    response = await api.server.handle(Request("GET", ROOT + path, pairs, {}, user=who))
    body = json.loads(response.body)
    assert (response.status == 200) is (body["kind"] == "Why"), body
    return decode(response.body) if response.status == 200 else (response.status, body["reason"], body["message"])


async def revision(api: Api, path: str) -> int:
    return int((await api.json("GET", path))["metadata"]["resourceVersion"])


class Only:
    """May do what a function says."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def authorize(self, attributes: Attributes) -> Decision:
        return Decision(attributes.verb == "get" and attributes.name in self.names, "no rule")


# ----------------------------------------------------------------------------------------------- what is recorded


async def test_everything_that_is_known_is_recorded(api: Api) -> None:
    headers = {
        "user_agent": "kubectl/v1.36.0 (linux/amd64) kubernetes/abc", "pinnace_because": "1, 0,x,7",
        "pinnace_about": "Job.batch/default/backup",
    }  # fmt: skip
    await api.json("POST", DEPLOYMENTS, deployment(), **headers)
    await api.json("PUT", f"{DEPLOYMENTS}/web/scale", {
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"replicas": 3},
    })  # fmt: skip
    now = int(api.server.clock.now().timestamp() * 1000)
    store, last = api.server.store, api.server.store.revision
    assert await store.cause(last - 1) == Cause(
        "system:anonymous", "create", (1, TIMER, 7), "kubectl", "Job.batch/default/backup", "", now
    )
    assert await store.cause(last) == Cause("system:anonymous", "update", subresource="scale", at=now)


async def test_actions_and_evictions_carry_their_cause(api: Api) -> None:
    await api.json("POST", PODS, pod())
    binding = {"kind": "Binding", "apiVersion": "v1", "metadata": {"name": "web"}, "target": {"name": "n1"}}
    await api.ask("POST", f"{PODS}/web/binding", binding, user_agent="kube-scheduler")
    cause = await api.server.store.cause(api.server.store.revision)
    assert cause is not None and (cause.agent, cause.verb, cause.subresource) == ("kube-scheduler", "create", "binding")
    evicted = {"kind": "Eviction", "apiVersion": "policy/v1", "metadata": {"name": "web"}}
    assert (await api.ask("POST", f"{PODS}/web/eviction", evicted, user_agent="kubectl/v1")).status == 201
    cause = await api.server.store.cause(api.server.store.revision)
    assert cause is not None and (cause.agent, cause.subresource) == ("kubectl", "eviction")


async def test_a_dry_run_records_nothing(api: Api) -> None:
    before = api.server.store.revision
    await api.json("POST", f"{CONFIGS}?dryRun=All", config())
    assert api.server.store.revision == before and await api.server.store.cause(before + 1) is None


async def test_what_expires_does_so_by_the_clock(api: Api) -> None:
    await api.client.create(core.Event(metadata=core.meta.ObjectMeta(name="e", namespace="default")))
    api.server.clock.advance(EVENT_SECONDS + 60)  # type: ignore[attr-defined]  # the fixture's is a ManualClock
    await api.server.expiry.sweep()
    cause = await api.server.store.cause(api.server.store.revision)
    assert cause is not None and cause.because == (CLOCK,)


@pytest.mark.parametrize(("header", "name"), [
    ("kubectl/v1.36.0 (linux/amd64) kubernetes/abc", "kubectl"),
    ("kube-controller-manager/job-controller", "kube-controller-manager/job-controller"),
    ("Helm/3.15.1", "Helm"),
    ("Mozilla/5.0 (X11)", "Mozilla"),
    ("OpenAPI-Generator/31.0.0/python", "OpenAPI-Generator"),
    ("controller/version-2", "controller/version-2"),
    ("kubelet", "kubelet"),
    ("", ""),
    ("\x1b[31mred\x07", "?[31mred?"),
    ("é" * 200, "?" * 64),
])  # fmt: skip
def test_a_component_is_the_first_word_of_its_agent(header: str, name: str) -> None:
    assert agent(header) == name


@given(st.text(max_size=80))
def test_what_a_client_says_is_fit_for_a_terminal(text: str) -> None:
    shown = printable(text)
    assert len(shown) == len(text) and shown.isascii() and (shown.isprintable() or not shown)


async def test_claims_are_bounded(api: Api) -> None:
    more = {"pinnace_because": ",".join(map(str, range(1, 99))), "pinnace_about": "x" * 9999 + "\t"}
    await api.json("POST", CONFIGS, config(), **more, user_agent="a" * 9999)
    cause = await api.server.store.cause(api.server.store.revision)
    assert cause is not None
    assert (len(cause.because), len(cause.about), len(cause.agent)) == (16, 330, 64)


# --------------------------------------------------------------------------------------------------- what is told


async def test_the_chain_back_to_a_request(api: Api) -> None:
    kubectl = Client(api.client.transport, agent="kubectl/v1.36.0", user=User("kubernetes-admin"))
    await kubectl.call("POST", DEPLOYMENTS, body=json.dumps(deployment(2)).encode())
    await kubectl.call("PATCH", f"{DEPLOYMENTS}/web", body=b'{"spec":{"replicas":3}}',
                       content_type="application/merge-patch+json")  # fmt: skip
    asked = await revision(api, f"{DEPLOYMENTS}/web")
    account = User("system:serviceaccount:kube-system:replicaset-controller")
    controller = Client(api.client.transport, agent="kube-controller-manager/replicaset-controller", user=account)
    owner = core.meta.ObjectMeta(name="web", namespace="default")
    acting = controller.acting_for(apps.Deployment(metadata=owner))
    made = await acting.call("POST", PODS, body=json.dumps(pod("web-1")).encode(), because=(asked, 99_999))
    found = await why(api, "/api/v1/namespaces/default/pods/web-1")
    [write] = found.writes
    assert (write.action, write.user, write.verb) == ("created", account.name, "create")
    assert write.claimed.component == "kube-controller-manager/replicaset-controller"
    assert write.claimed.actingFor == Named("Deployment", "web", "default", "apps/v1")
    assert write.claimed.because == [asked]            # nothing reacts to what comes later
    [scaled] = found.causes
    assert scaled.revision == asked and scaled.changes == [FieldChange("spec.replicas", "2", "3")]
    assert found.exists and made.status == 201
    assert render(found).splitlines() == [
        "pod/web-1 in namespace default",
        "  created 0s ago by replicaset-controller (for Deployment web)",
        "    because deployment/web spec.replicas 2 → 3, 0s ago by kubernetes-admin (kubectl)",
    ]


async def test_a_deleted_object_is_told_of_and_an_unknown_one_is_not_found(api: Api) -> None:
    await api.json("POST", CONFIGS, config())
    await api.ask("DELETE", f"{CONFIGS}/a", user_agent="kubectl/v1")
    path = "/api/v1/namespaces/default/configmaps"
    found = await why(api, f"{path}/a")
    assert not found.exists and [write.action for write in found.writes] == ["deleted", "created"]
    assert "which is no more" in render(found)
    before = await why(api, f"{path}/a", f"revision={found.writes[-1].revision}")
    assert [write.action for write in before.writes] == ["created"]
    assert await why(api, f"{path}/b") == (404, "NotFound", 'configmaps "b" not found')
    assert await why(api, f"{path}/a", "revision=1") == (404, "NotFound", 'configmaps "a" not found')


@pytest.mark.parametrize(("path", "query", "code"), [
    ("/api/v1/namespaces/default/configmaps", "", 404),
    ("/api/v1/namespaces/default/configmaps/a/status", "", 404),
    ("/api/v1/configmaps/a", "", 404),
    ("/api/v1/namespaces/default/nothings/a", "", 404),
    ("/healthz", "", 404),
    ("/", "", 404),
    ("/api/v1/namespaces/default/configmaps/a", "revision=x", 400),
    ("/api/v1/namespaces/default/configmaps/a", "revision=-1", 400),
    ("/api/v1/namespaces/default/configmaps/a", "depth=many", 400),
])  # fmt: skip
async def test_bad_questions(api: Api, path: str, query: str, code: int) -> None:
    await api.json("POST", CONFIGS, config())
    assert (await why(api, path, query))[0] == code


async def test_only_get(api: Api) -> None:
    await api.json("POST", CONFIGS, config())
    asked = Request("DELETE", f"{ROOT}/api/v1/namespaces/default/configmaps/a", {}, {})
    assert (await api.server.handle(asked)).status == 405


async def test_whoever_may_not_get_the_object_may_not_ask(api: Api) -> None:
    await api.json("POST", CONFIGS, config("a"))
    await api.json("POST", CONFIGS, config("b", data={"word": "kept quiet"}))
    hidden = await revision(api, f"{CONFIGS}/b")
    await api.json("PUT", f"{CONFIGS}/a", config("a", data={"x": "y"}), pinnace_because=str(hidden),
                   pinnace_about="ConfigMap/default/b")  # fmt: skip
    api.server.authorizer = Only("a")
    path = "/api/v1/namespaces/default/configmaps"
    status, reason, message = await why(api, f"{path}/b", who=ANN)
    assert (status, reason) == (403, "Forbidden") and 'cannot get resource "configmaps"' in message
    assert (await why(api, f"{path}/never", who=ANN))[0] == 403     # nor whether it is there
    found = await why(api, f"{path}/a", who=ANN)
    [link] = found.causes
    assert link.revision == hidden and link.object is None and not (link.user or link.changes or link.time)
    assert found.writes[0].claimed.actingFor is None
    assert "an object you may not see" in render(found) and "quiet" not in render(found)
    api.server.authorizer = AllowAll()
    [link] = (await why(api, f"{path}/a")).causes
    assert link.object == Named("ConfigMap", "b", "default", "v1")


async def test_secrets_are_never_shown(api: Api) -> None:
    path = "/api/v1/namespaces/default/secrets"
    copy = {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": '{"data":{"password":"c2VzYW1l"}}'}}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"password": "b2xk"}}
    await api.json("POST", path, secret)
    await api.json("PUT", f"{path}/s", {**secret, "metadata": {"name": "s", **copy}, "data": {"password": "c2VzYW1l"}})
    found = await why(api, f"{path}/s")
    assert found.writes[0].changes == [FieldChange("data.password", "(hidden)", "(hidden)")]
    response = await api.server.handle(Request("GET", f"{ROOT}{path}/s", {}, {}))
    assert b"c2VzYW1l" not in response.body and b"b2xk" not in response.body


async def test_depth_and_breadth_are_bounded(api: Api) -> None:
    await api.json("POST", CONFIGS, config("a"))
    for n in range(90):
        before = await revision(api, f"{CONFIGS}/a")
        await api.json("PUT", f"{CONFIGS}/a", config("a", data={"n": str(n)}), pinnace_because=str(before))
    path = "/api/v1/namespaces/default/configmaps/a"
    found = await why(api, path, "depth=9999")
    assert len(found.writes) == 64 and len(found.causes) <= 32 and found.truncated
    flat = await why(api, path, "depth=0")
    assert flat.causes == [] and flat.truncated
    assert "… there is more than one answer holds" in render(flat)


async def test_large_objects_are_not_compared_for_ever(api: Api) -> None:
    await api.json("POST", CONFIGS, config("a"))
    for n in range(4):
        await api.json("PUT", f"{CONFIGS}/a", config("a", data={"n": str(n) * 900_000}))
    found = await why(api, "/api/v1/namespaces/default/configmaps/a")
    assert [(write.action, write.forgotten) for write in found.writes] == [
        ("changed", False), ("changed", False), ("changed", True), ("changed", True), ("created", True),
    ]  # fmt: skip


async def test_what_a_node_has_against_a_pod_is_for_those_who_may_list_nodes(api: Api) -> None:
    await api.json("POST", PODS, pod())
    refusals: dict[str, Sequence[str]] = {"n2": ("Insufficient cpu",), "n1": ("Insufficient cpu", "a taint"), "n3": ()}
    api.server.causes.refusals = lambda pod: refusals
    path = "/api/v1/namespaces/default/pods/web"
    found = (await why(api, path)).scheduling
    assert found.message == "1/3 nodes are available: 2 Insufficient cpu, 1 a taint."
    assert [node.node for node in found.nodes] == ["n1", "n2", "n3"] and found.nodes[2].reasons == []
    assert "n3: takes the pod" in render(await why(api, path))
    api.server.authorizer = Only("web")
    found = (await why(api, path, who=ANN)).scheduling
    assert found.nodes == [] and found.message.startswith("1/3 nodes")


async def test_who_made_a_live_object_is_told_when_its_history_is_gone(api: Api) -> None:
    await api.json("POST", CONFIGS, config("a"), user_agent="kubectl/v1")
    for n in range(3):
        await api.json("PUT", f"{CONFIGS}/a", config("a", data={"n": str(n)}), user_agent="Helm/3")
    await api.server.store.compact(api.server.store.revision)
    found = await why(api, "/api/v1/namespaces/default/configmaps/a")
    assert [(w.action, w.claimed.component, w.forgotten) for w in found.writes] == [
        ("changed", "Helm", True), ("changed", "Helm", True), ("changed", "Helm", True), ("created", "kubectl", True),
    ]  # fmt: skip
    assert "changed (how is not known any more), 0s ago by system:anonymous (Helm)" in render(found)


# ----------------------------------------------------------------------------------------------------- pure parts


@pytest.mark.parametrize(("about", "found"), [
    ("Job.batch/default/backup", Named("Job", "backup", "default", "batch")),
    ("Node/n1", Named("Node", "n1")),
    ("", None),
    ("Job", None),
    ("a/b/c/d", None),
])  # fmt: skip
def test_names_of_objects_acted_for(about: str, found: Named | None) -> None:
    assert named(about) == found


def test_paths_that_ask() -> None:
    assert Causes.asked("/api/v1/nodes/n1") is None and Causes.asked(ROOT) is None
    target = Causes.asked(f"{ROOT}/apis/apps/v1/namespaces/a/deployments/b")
    assert target is not None and (target.group, target.namespace, target.name) == ("apps", "a", "b")


CONTAINER = {"name": "web", "image": "web:1"}
READY = {"type": "Ready", "status": "True", "lastTransitionTime": "x"}


@pytest.mark.parametrize(("old", "new", "changes"), [
    ({}, {}, []),
    ({"spec": {"replicas": 2}}, {"spec": {"replicas": 3}}, [FieldChange("spec.replicas", "2", "3")]),
    ({"spec": {"containers": [CONTAINER]}}, {"spec": {"containers": [{**CONTAINER, "image": "web:2"}]}},
     [FieldChange("spec.containers[web].image", "web:1", "web:2")]),
    ({"status": {}}, {"status": {"conditions": [READY]}}, [FieldChange("status.conditions[Ready].status", "", "True")]),
    ({"status": {"conditions": [READY]}},
     {"status": {"conditions": [{**READY, "status": "False", "reason": "R", "lastTransitionTime": "y"}]}},
     [FieldChange("status.conditions[Ready].status", "True", "False")]),
    ({"status": {"conditions": [READY]}}, {"status": {"conditions": [{**READY, "message": "M"}]}},
     [FieldChange("status.conditions[Ready].message", "", "M")]),
    ({"metadata": {"labels": {"a": "b"}}}, {"metadata": {"labels": {"a": "b", "x.y/z": "c"}}},
     [FieldChange("metadata.labels[x.y/z]", "", "c")]),
    ({"metadata": {"generation": 1}}, {"metadata": {"generation": 2}}, []),
    ({"data": {"a": "b" * 99}}, {"data": {}}, [FieldChange("data.a", "b" * 59 + "…", "")]),
    ({"data": {"a": "b\x1b[2J"}}, {"data": {"a": "c\n"}}, [FieldChange("data.a", "b?[2J", "c?")]),
    ({"kind": "Secret"}, {"kind": "Secret", "data": {"a": "b"}}, [FieldChange("data", "", "(hidden)")]),
])  # fmt: skip
def test_differences(old: Any, new: Any, changes: list[FieldChange]) -> None:
    assert differences(old, new) == (changes, 0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "type", "a", "b.c"]), inner),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["spec", "status", "data", "kind"]), JSON), JSON)
def test_differences_never_fail(old: Any, value: Any) -> None:
    changes, more = differences(old, {**old, "spec": value})
    assert len(changes) <= 8 and more >= 0
    assert all(len(change.old) <= 60 and len(change.new) <= 60 for change in changes)
