"""The whole server with its security on: what reaches authorizer and admission of a request as it comes in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from pinnace.api import codec
from pinnace.api.core import v1 as core
from pinnace.api.kinds import kind_of
from pinnace.api.rbac import v1 as rbac
from pinnace.apiserver.authentication.tokens import TokenIssuer
from pinnace.apiserver.authorization.node import MIRROR
from pinnace.apiserver.resources.table import RESOURCES
from pinnace.apiserver.server import ApiServer
from pinnace.base.clock import ManualClock
from pinnace.base.randomness import Randomness
from pinnace.client.transport import Request, Response, User
from pinnace.cluster.security import secure
from pinnace.store import MemoryStore

from .test_credentials import KEY, URL, pem
from .test_rbac import bind, cluster_role, role
from .world import node_user, rule, user

ADMIN = user("admin", "system:masters")
N1 = node_user("n1")
ANN = user("ann")


class Door:
    """Requests as a client would make them, by whom."""

    def __init__(self) -> None:
        clock = ManualClock()
        self.server = ApiServer(MemoryStore(clock), RESOURCES, clock, Randomness(1))
        self.issuer = TokenIssuer(URL, pem(KEY), clock, Randomness(2))
        secure(self.server, self.issuer, clock, Randomness(3))

    async def ask(
        self, who: User | None, line: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        method, _, rest = line.partition(" ")
        path, _, query = rest.partition("?")
        pairs = [pair.partition("=") for pair in query.split("&") if pair]
        media = "application/merge-patch+json" if method == "PATCH" else "application/json"
        response: Response = await self.server.handle(
            Request(
                method, path, {name: (value,) for name, _, value in pairs}, {"content-type": media} | (headers or {}),
                codec.encode(body) if body is not None else b"", user=who,
            )
        )  # fmt: skip
        if response.watch is not None:
            await response.watch.aclose()  # type: ignore[attr-defined]
        return response.status, msgspec.json.decode(response.body) if response.body else {}

    async def make(self, obj: Any, namespace: str = "") -> dict[str, Any]:
        kind = kind_of(type(obj))
        base = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
        where = f"/namespaces/{namespace}" if namespace else ""
        obj.metadata.uid = None
        obj.metadata.namespace = namespace or None
        obj.metadata.resourceVersion = None
        status, made = await self.ask(ADMIN, f"POST {base}{where}/{kind.plural}", obj)
        assert status == 201, made
        return made


def pod(name: str, node: str, secret: str = "", **more: Any) -> core.Pod:
    volumes = [core.Volume(name="v", secret=core.SecretVolumeSource(secretName=secret))] if secret else None
    made = core.Pod(spec=core.PodSpec(
        nodeName=node, containers=[core.Container(name="c", image="i")], volumes=volumes, **more
    ))  # fmt: skip
    made.metadata.name = name
    return made


def named(kind: type[Any], name: str, **more: Any) -> Any:
    made = kind(**more)
    made.metadata.name = name
    return made


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    made = Door()
    await made.server.start()
    for namespace in ("default", "a"):
        await made.make(named(core.Namespace, namespace))
        await made.make(named(core.ServiceAccount, "default"), namespace)
    for node in ("n1", "n2"):
        await made.make(named(core.Node, node))
    for secret in ("mine", "other"):
        await made.make(named(core.Secret, secret, data={"k": "dg=="}), "a")
    await made.make(pod("p1", "n1", "mine"), "a")
    await made.make(pod("p2", "n2", "other"), "a")
    yield made
    await made.server.close()
    await made.server.store.close()


SECRETS = "/api/v1/namespaces/a/secrets"


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (f"GET {SECRETS}/mine", 200),
        (f"GET {SECRETS}/other", 403),
        (f"GET {SECRETS}?fieldSelector=metadata.name=mine", 200),
        (f"GET {SECRETS}?fieldSelector=metadata.name==mine", 200),
        (f"GET {SECRETS}?fieldSelector=metadata.name=mine&watch=true", 200),
        (f"GET {SECRETS}?fieldSelector=metadata.name=other", 403),
        (f"GET {SECRETS}?fieldSelector=metadata.name=other&watch=1", 403),
        (f"GET {SECRETS}?fieldSelector=metadata.name!=mine", 403),
        (f"GET {SECRETS}?watch=true", 403),
        (f"GET {SECRETS}", 403),
        ("GET /api/v1/secrets", 403),
        ("GET /api/v1/secrets?fieldSelector=metadata.name=mine", 403),
        ("GET /api/v1/watch/namespaces/a/secrets/mine", 200),
        ("GET /api/v1/watch/namespaces/a/secrets/other", 403),
        ("GET /api/v1/watch/namespaces/a/secrets", 403),
        ("GET /api/v1/pods?fieldSelector=spec.nodeName=n1", 200),
        ("GET /api/v1/pods?fieldSelector=spec.nodeName=n1&watch=true", 200),
        ("GET /api/v1/pods?fieldSelector=spec.nodeName=n2", 403),
        ("GET /api/v1/pods", 403),
        ("GET /api/v1/nodes/n1", 200),
        ("GET /api/v1/nodes?fieldSelector=metadata.name=n1", 200),
        ("GET /api/v1/nodes", 403),
        ("DELETE /api/v1/namespaces/a/pods", 403),
        ("DELETE /api/v1/namespaces/a/pods/p2", 403),
        ("DELETE /api/v1/nodes/n2", 403),
    ],
)  # fmt: skip
async def test_a_nodes_requests(door: Door, line: str, status: int) -> None:
    answered, body = await door.ask(N1, line)
    assert answered == status, body


@pytest.mark.parametrize(
    "selectors",
    [
        ("metadata.name=mine", "metadata.name=other"),
        ("metadata.name=other", "metadata.name=mine"),
        ("metadata.name=mine", ""),
        ("metadata.name=mine,metadata.name!=mine",),
        (r"metadata.name!=x\,metadata.name=mine",),
        (" metadata.name=mine",),
    ],
)
async def test_what_is_authorized_is_what_is_listed(door: Door, selectors: tuple[str, ...]) -> None:
    response = await door.server.handle(Request("GET", SECRETS, {"fieldSelector": selectors}, user=N1))
    found = msgspec.json.decode(response.body)
    assert response.status >= 400 or [item["metadata"]["name"] for item in found["items"]] in ([], ["mine"])


async def test_a_node_cannot_help_itself_to_secrets(door: Door) -> None:
    mirror = pod("static", "n1", "other")
    mirror.metadata.annotations = {MIRROR: "x"}
    status, body = await door.ask(N1, "POST /api/v1/namespaces/a/pods", mirror)
    assert status == 403, body
    mirror.spec.volumes = None
    status, body = await door.ask(N1, "POST /api/v1/namespaces/a/pods", mirror)
    assert status == 201 and "serviceAccountName" not in body["spec"], body
    tainted = {"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}
    status, body = await door.ask(N1, "PATCH /api/v1/nodes/n1", tainted)
    assert status == 403 and "not allowed to modify taints" in body["message"]
    status, body = await door.ask(N1, "PATCH /api/v1/nodes/n1", {"metadata": {"labels": {"kubernetes.io/os": "linux"}}})
    assert status == 200, body


async def test_tokens_from_request_to_use(door: Door) -> None:
    line = "POST /api/v1/namespaces/a/serviceaccounts/default/token"
    uid = (await door.ask(ADMIN, "GET /api/v1/namespaces/a/pods/p1"))[1]["metadata"]["uid"]
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
             "spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p1", "uid": uid}}}  # fmt: skip
    status, body = await door.ask(N1, line, asked | {"spec": {}})
    assert status == 403 and "not bound to a pod" in body["message"], body
    status, body = await door.ask(node_user("n2"), line, asked)
    assert status == 403, body
    status, body = await door.ask(N1, line, asked)
    assert status == 201, body
    header = {"authorization": f"Bearer {body['status']['token']}"}
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    await door.make(bind("ClusterRole/asker", "ServiceAccount/a/default"))
    await door.make(cluster_role("asker", rule("create", "authentication.k8s.io", "selfsubjectreviews")))
    status, body = await door.ask(None, "POST /apis/authentication.k8s.io/v1/selfsubjectreviews", review, header)
    assert status == 201 and body["status"]["userInfo"]["username"] == "system:serviceaccount:a:default", body
    await door.ask(ADMIN, "DELETE /api/v1/namespaces/a/pods/p1?gracePeriodSeconds=0")
    status, body = await door.ask(None, "POST /apis/authentication.k8s.io/v1/selfsubjectreviews", review, header)
    assert status == 401, body


async def test_nobody_and_somebody(door: Door) -> None:
    status, body = await door.ask(None, "GET /api/v1/pods")
    assert status == 403 and 'User "system:anonymous" cannot list resource "pods"' in body["message"]
    assert (await door.ask(None, "GET /api/v1/pods", headers={"authorization": "Bearer x"}))[0] == 401
    await door.make(cluster_role("reader", rule("get list", "-", "pods"), rule("get", "-", "secrets", "mine")))
    await door.make(bind("ClusterRole/reader", "User/ann", namespace="a"), "a")
    for line, expected in (
        ("GET /api/v1/namespaces/a/pods", 200),
        ("GET /api/v1/namespaces/default/pods", 403),
        ("GET /api/v1/pods", 403),
        (f"GET {SECRETS}/mine", 200),
        (f"GET {SECRETS}/mine?watch=true", 200),
        (f"GET {SECRETS}/other", 403),
        (f"GET {SECRETS}?fieldSelector=metadata.name=mine", 403),
        (f"DELETE {SECRETS}/mine", 403),
        ("GET /metrics", 403),
    ):
        answered, body = await door.ask(ANN, line)
        assert answered == expected, (line, body)


async def test_acting_as_somebody_else(door: Door) -> None:
    for headers, status in (
        ({"impersonate-user": "admin", "impersonate-group": "system:masters"}, 403),
        ({"impersonate-user": "ann"}, 403),
        ({"impersonate-group": "system:masters"}, 400),
    ):
        answered, body = await door.ask(user("eve"), "GET /api/v1/pods", headers=headers)
        assert answered == status, body
    await door.make(cluster_role("actor", rule("impersonate", "-", "users", "ann")))
    await door.make(bind("ClusterRole/actor", "User/eve"))
    answered, body = await door.ask(user("eve"), "GET /api/v1/pods", headers={"impersonate-user": "ann"})
    assert answered == 403 and 'User "ann" cannot list' in body["message"]
    masters = {"impersonate-user": "ann", "impersonate-group": "system:masters"}
    answered, body = await door.ask(user("eve"), "GET /api/v1/pods", headers=masters)
    assert answered == 403 and "impersonate" in body["message"]


async def test_rights_are_not_given_away(door: Door) -> None:
    await door.make(cluster_role("writer", rule("create patch update", rbac_group(), "*"), rule("get", "-", "pods")))
    await door.make(bind("ClusterRole/writer", "User/ann"))
    roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles"
    for made, status in (
        (cluster_role("good", rule("get", "-", "pods")), 201),
        (cluster_role("bad", rule("get", "-", "secrets")), 403),
    ):
        made.metadata.uid = None
        answered, body = await door.ask(ANN, f"POST {roles}", made)
        assert answered == status, body
    grab = {"rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]}
    assert (await door.ask(ANN, f"PATCH {roles}/writer", grab))[0] == 403
    gather = {"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}}
    assert (await door.ask(ANN, f"PATCH {roles}/writer", gather))[0] == 403
    assert (await door.ask(ANN, f"PATCH {roles}/writer", {"metadata": {"labels": {"a": "b"}}}))[0] == 200
    local = role("r", "a", rule("get", "-", "secrets"))
    local.metadata.uid = None
    assert (await door.ask(ANN, "POST /apis/rbac.authorization.k8s.io/v1/namespaces/a/roles", local))[0] == 403


def rbac_group() -> str:
    return kind_of(rbac.Role).group


async def test_namespaces_live_and_end(door: Door) -> None:
    status, body = await door.ask(ADMIN, "POST /api/v1/namespaces/none/pods", pod("p", "n1"))
    assert (status, body["message"]) == (404, 'namespaces "none" not found')
    status, body = await door.ask(ADMIN, "DELETE /api/v1/namespaces/default")
    assert status == 403 and "this namespace may not be deleted" in body["message"]
    assert (await door.ask(ADMIN, "DELETE /api/v1/namespaces/a"))[0] in (200, 202)
    status, body = await door.ask(ADMIN, "POST /api/v1/namespaces/a/configmaps", named(core.ConfigMap, "c"))
    assert status == 403 and body["details"]["causes"][0]["reason"] == "NamespaceTerminating"
