# ruff: noqa: E501  (tables of whole texts, one row a line)
"""The table behind a real ApiServer on the memory store: what needs registries, reservations and actions."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pinnace.apiserver.authentication.tokens import TokenIssuer
from pinnace.apiserver.inprocess import ADMIN
from pinnace.apiserver.resources.table import RESOURCES
from pinnace.apiserver.server import ApiServer
from pinnace.base.clock import SystemClock
from pinnace.base.randomness import Randomness
from pinnace.client.transport import Request
from pinnace.store.memory import MemoryStore


class Caller:
    """JSON in, (status code, JSON) out."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server

    async def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        raw = json.dumps(body).encode() if body is not None else b""
        given = {"content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
        base, _, query = path.partition("?")
        parameters = {}
        for pair in filter(None, query.split("&")):
            name, _, value = pair.partition("=")
            parameters[name] = (value,)
        response = await self.server.handle(Request(method, base, parameters, given, raw, ADMIN))
        content = response.body
        if response.stream is not None:
            content = b"".join([chunk async for chunk in response.stream])
        return response.status, json.loads(content) if content else None


@pytest.fixture
async def call() -> AsyncIterator[Caller]:
    clock = SystemClock()
    server = ApiServer(MemoryStore(clock), RESOURCES, clock, Randomness(1))
    await server.start()
    caller = Caller(server)
    await caller("POST", "/api/v1/namespaces", {"metadata": {"name": "default"}})
    yield caller
    await server.close()


PODS = "/api/v1/namespaces/default/pods"
SERVICES = "/api/v1/namespaces/default/services"


def pod(name: str, **labels: str) -> dict[str, Any]:
    spec = {"containers": [{"name": "c", "image": "busybox:1"}]}
    return {"metadata": {"name": name, "labels": labels}, "spec": spec}


async def test_a_pod_is_created_bound_and_reported(call: Caller) -> None:
    code, made = await call("POST", PODS, pod("a"))
    assert code == 201 and made["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    binding = {"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n1"}}
    code, answer = await call("POST", f"{PODS}/a/binding", binding)
    assert code == 201 and answer["status"] == "Success"
    code, answer = await call("POST", f"{PODS}/a/binding", binding)
    assert code == 409 and 'pod a is already assigned to node "n1"' in answer["message"]
    _, bound = await call("GET", f"{PODS}/a")
    assert bound["spec"]["nodeName"] == "n1" and bound["status"]["conditions"][0]["type"] == "PodScheduled"
    assert bound["metadata"]["generation"] == 1, "a binding is no change of what was asked for"
    bound["status"] |= {"phase": "Running", "podIP": "10.1.0.3"}
    bound["spec"]["nodeName"] = "n2"
    code, reported = await call("PUT", f"{PODS}/a/status", bound)
    assert code == 200 and reported["spec"]["nodeName"] == "n1"
    assert reported["status"]["podIPs"] == [{"ip": "10.1.0.3"}]


async def test_the_older_binding_path_works_too(call: Caller) -> None:
    await call("POST", PODS, pod("a"))
    binding = {"metadata": {"name": "a"}, "target": {"name": "n1"}}
    code, _ = await call("POST", "/api/v1/namespaces/default/bindings", binding)
    assert code == 201
    _, bound = await call("GET", f"{PODS}/a")
    assert bound["spec"]["nodeName"] == "n1"


async def test_a_refusal_has_upstreams_form(call: Caller) -> None:
    code, status = await call("POST", PODS, {"metadata": {"name": "a"}, "spec": {"containers": []}})
    assert code == 422
    assert status["message"] == 'Pod "a" is invalid: spec.containers: Required value'
    assert status["details"]["causes"] == [
        {"reason": "FieldValueRequired", "message": "Required value", "field": "spec.containers"}
    ]


async def test_deleting_a_scheduled_pod_waits_for_its_node(call: Caller) -> None:
    await call("POST", PODS, pod("a"))
    await call("POST", f"{PODS}/a/binding", {"metadata": {"name": "a"}, "target": {"name": "n1"}})
    code, dying = await call("DELETE", f"{PODS}/a")
    assert code == 200 and dying["metadata"]["deletionGracePeriodSeconds"] == 30
    code, _ = await call("DELETE", f"{PODS}/a", {"gracePeriodSeconds": 0})
    assert code == 200 and (await call("GET", f"{PODS}/a"))[0] == 404


async def test_services_get_addresses_and_give_them_back(call: Caller) -> None:
    port = {"ports": [{"port": 80}]}
    _, first = await call("POST", SERVICES, {"metadata": {"name": "a"}, "spec": {**port, "type": "NodePort"}})
    address, node_port = first["spec"]["clusterIP"], first["spec"]["ports"][0]["nodePort"]
    assert address.startswith("10.96.") and 30000 <= node_port <= 32767
    taken = {"metadata": {"name": "b"}, "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": node_port}]}}
    code, status = await call("POST", SERVICES, taken)
    assert code == 422 and status["message"] == (
        f'Service "b" is invalid: spec.ports[0].nodePort: Invalid value: {node_port}: provided port is already allocated'
    )
    await call("DELETE", f"{SERVICES}/a")
    code, second = await call("POST", SERVICES, taken)
    assert code == 201 and second["spec"]["ports"][0]["nodePort"] == node_port
    second["spec"]["type"] = "ClusterIP"
    code, third = await call("PUT", f"{SERVICES}/b", second)
    assert code == 200 and "nodePort" not in third["spec"]["ports"][0]
    code, _ = await call("POST", SERVICES, taken | {"metadata": {"name": "c"}})
    assert code == 201


async def test_the_range_is_that_of_the_service_cidr(call: Caller) -> None:
    await call(
        "POST", "/apis/networking.k8s.io/v1/servicecidrs",
        {"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.200.0.0/24"]}},
    )  # fmt: skip
    _, made = await call("POST", SERVICES, {"metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}})
    assert made["spec"]["clusterIP"].startswith("10.200.0.")


async def test_eviction_respects_the_budget(call: Caller) -> None:
    budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
    await call(
        "POST", budgets,
        {"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}},
    )  # fmt: skip
    await call("POST", PODS, pod("a", app="web"))
    _, running = await call("GET", f"{PODS}/a")
    running["status"] = {
        "phase": "Running", "qosClass": "BestEffort", "conditions": [{"type": "Ready", "status": "True"}],
    }  # fmt: skip
    assert (await call("PUT", f"{PODS}/a/status", running))[0] == 200
    _, budget = await call("GET", f"{budgets}/b")
    budget["status"] = {"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1,
                        "observedGeneration": budget["metadata"]["generation"]}  # fmt: skip
    assert (await call("PUT", f"{budgets}/b/status", budget))[0] == 200
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a", "namespace": "default"}}
    code, refused = await call("POST", f"{PODS}/a/eviction", eviction)
    assert code == 429
    assert refused["message"] == "Cannot evict pod as it would violate the pod's disruption budget."
    _, budget = await call("GET", f"{budgets}/b")
    budget["status"]["disruptionsAllowed"] = 1
    await call("PUT", f"{budgets}/b/status", budget)
    code, _ = await call("POST", f"{PODS}/a/eviction", eviction)
    assert code == 201 and (await call("GET", f"{PODS}/a"))[0] == 404
    _, budget = await call("GET", f"{budgets}/b")
    assert budget["status"]["disruptionsAllowed"] == 0 and "a" in budget["status"]["disruptedPods"]


async def test_a_namespace_lives_until_its_finalizer_goes(call: Caller) -> None:
    spaces = "/api/v1/namespaces"
    _, made = await call("POST", spaces, {"metadata": {"generateName": "team-"}})
    name = made["metadata"]["name"]
    assert made["metadata"]["labels"] == {"kubernetes.io/metadata.name": name}
    assert made["spec"]["finalizers"] == ["kubernetes"]
    _, dying = await call("DELETE", f"{spaces}/{name}")
    _, dying = await call("GET", f"{spaces}/{name}")
    assert dying["status"]["phase"] == "Terminating" and dying["metadata"]["deletionTimestamp"]
    dying["spec"] = {}
    code, _ = await call("PUT", f"{spaces}/{name}/finalize", dying)
    assert code == 200 and (await call("GET", f"{spaces}/{name}"))[0] == 404


async def test_questions_are_answered(call: Caller) -> None:
    code, review = await call("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {})
    assert code == 201 and review["status"]["userInfo"]["username"] == "system:apiserver"
    attributes = {"verb": "get", "resource": "pods", "namespace": "default"}
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    code, review = await call("POST", path, {"spec": {"resourceAttributes": attributes}})
    assert code == 201 and review["status"]["allowed"] is True
    code, status = await call("POST", path, {"spec": {}})
    assert code == 422 and "exactly one of nonResourceAttributes or resourceAttributes" in status["message"]


async def test_events_are_one_kind_under_two_names(call: Caller) -> None:
    old, new = "/api/v1/namespaces/default/events", "/apis/events.k8s.io/v1/namespaces/default/events"
    about = {"kind": "Pod", "name": "a", "namespace": "default"}
    await call("POST", old, {"metadata": {"name": "e"}, "involvedObject": about, "message": "hello", "reason": "Hi"})
    code, seen = await call("GET", f"{new}/e")
    assert code == 200 and seen["note"] == "hello" and seen["regarding"] == about
    code, listed = await call("GET", f"{old}?fieldSelector=involvedObject.name=a")
    assert code == 200 and [item["metadata"]["name"] for item in listed["items"]] == ["e"]


async def test_autoscalers_are_one_kind_in_two_versions(call: Caller) -> None:
    base = "/apis/autoscaling/{}/namespaces/default/horizontalpodautoscalers"
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
    code, _ = await call(
        "POST", base.format("v1"),
        {"metadata": {"name": "h"}, "spec": {"maxReplicas": 3, "scaleTargetRef": target, "targetCPUUtilizationPercentage": 50}},
    )  # fmt: skip
    assert code == 201
    _, seen = await call("GET", base.format("v2") + "/h")
    metric = seen["spec"]["metrics"][0]["resource"]
    assert metric == {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}
    seen["spec"]["maxReplicas"] = 5
    assert (await call("PUT", base.format("v2") + "/h", seen))[0] == 200
    _, seen = await call("GET", base.format("v1") + "/h")
    assert seen["spec"]["maxReplicas"] == 5 and seen["spec"]["targetCPUUtilizationPercentage"] == 50


async def test_logs_of_a_pod_without_a_node_are_empty_and_names_are_checked(call: Caller) -> None:
    two = pod("a")
    two["spec"]["containers"].append({"name": "d", "image": "busybox:1"})
    await call("POST", PODS, two)
    code, status = await call("GET", f"{PODS}/a/log")
    assert code == 400
    assert status["message"] == "a container name must be specified for pod a, choose one of: [c d]"
    code, status = await call("GET", f"{PODS}/a/log?container=x")
    assert (code, status["message"]) == (400, "container x is not valid for pod a")
    assert (await call("GET", f"{PODS}/a/log?container=d"))[0] == 200


async def test_a_job_gets_a_selector_of_its_own(call: Caller) -> None:
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}}
    path = "/apis/batch/v1/namespaces/default/jobs"
    code, made = await call("POST", path, {"metadata": {"name": "j"}, "spec": {"template": template}})
    assert code == 201, made
    uid = made["metadata"]["uid"]
    assert made["spec"]["selector"] == {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    assert made["spec"]["template"]["metadata"]["labels"]["batch.kubernetes.io/job-name"] == "j"
    made["spec"]["template"]["spec"]["containers"][0]["image"] = "y"
    code, status = await call("PUT", f"{path}/j", made)
    assert code == 422 and "spec.template: Invalid value" in status["message"]
    assert "field is immutable" in status["message"]


async def test_containers_are_resized_on_their_own_path(call: Caller) -> None:
    given = pod("a")
    given["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "100m"}}
    await call("POST", PODS, given)
    _, made = await call("GET", f"{PODS}/a")
    made["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "200m"
    made["spec"]["containers"][0]["image"] = "other"
    code, resized = await call("PUT", f"{PODS}/a/resize", made)
    container = resized["spec"]["containers"][0]
    assert (code, container["resources"]["requests"]["cpu"], container["image"]) == (200, "200m", "busybox:1")
    _, made = await call("GET", f"{PODS}/a")
    made["spec"]["ephemeralContainers"] = [{"name": "debug", "image": "busybox:1"}]
    code, debugged = await call("PUT", f"{PODS}/a/ephemeralcontainers", made)
    assert code == 200 and debugged["spec"]["ephemeralContainers"][0]["terminationMessagePolicy"] == "File"


async def test_scale(call: Caller) -> None:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
    path = "/apis/apps/v1/namespaces/default/deployments"
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": template}
    assert (await call("POST", path, {"metadata": {"name": "d"}, "spec": spec}))[0] == 201
    _, scale = await call("GET", f"{path}/d/scale")
    assert scale["spec"]["replicas"] == 1 and scale["status"]["selector"] == "a=b"
    scale["spec"]["replicas"] = 4
    assert (await call("PUT", f"{path}/d/scale", scale))[0] == 200
    _, changed = await call("GET", f"{path}/d")
    assert changed["spec"]["replicas"] == 4 and changed["metadata"]["generation"] == 2


async def test_leases_are_patched_freely_but_replaced_only_with_their_version(call: Caller) -> None:
    path = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
    await call("POST", path, {"metadata": {"name": "l"}, "spec": {"holderIdentity": "a"}})
    code, patched = await call(
        "PATCH", f"{path}/l", {"spec": {"holderIdentity": "b"}}, content_type="application/merge-patch+json"
    )
    assert code == 200 and patched["spec"]["holderIdentity"] == "b"
    code, status = await call("PUT", f"{path}/l", {"metadata": {"name": "l"}, "spec": {}})
    assert code == 422 and "must be specified for an update" in status["message"]


async def test_a_certificate_request_is_its_makers_and_approved_on_its_own_path(call: Caller) -> None:
    path = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
    spec = {"request": CSR, "signerName": "example.com/x", "usages": ["client auth"], "username": "somebody else"}
    code, made = await call("POST", path, {"metadata": {"name": "r"}, "spec": spec})
    assert code == 201 and made["spec"]["username"] == "system:apiserver", made
    made["status"] = {"certificate": "eA==", "conditions": [{"type": "Approved", "status": "True", "reason": "Ok"}]}
    code, approved = await call("PUT", f"{path}/r/approval", made)
    assert code == 200 and "certificate" not in approved["status"]
    assert approved["status"]["conditions"][0]["lastUpdateTime"]


async def test_tokens_are_issued_for_accounts_and_bound_to_their_pods(call: Caller) -> None:
    accounts, spec = "/api/v1/namespaces/default/serviceaccounts", {"audiences": ["x"], "expirationSeconds": 600}
    await call("POST", accounts, {"metadata": {"name": "bot"}})
    assert (await call("POST", f"{accounts}/bot/token", {"spec": spec}))[0] == 503
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    server: Any = call.server
    server.token_issuer = TokenIssuer("https://issuer", key, server.clock, server.randomness)
    mine = pod("a")
    mine["spec"]["serviceAccountName"] = "bot"
    _, made = await call("POST", PODS, mine)
    bound = {"kind": "Pod", "apiVersion": "v1", "name": "a", "uid": made["metadata"]["uid"]}
    code, issued = await call("POST", f"{accounts}/bot/token", {"spec": {**spec, "boundObjectRef": bound}})
    assert code == 201 and issued["status"]["expirationTimestamp"] and issued["spec"]["audiences"] == ["x"]
    reviews = "/apis/authentication.k8s.io/v1/tokenreviews"
    question = {"token": issued["status"]["token"], "audiences": ["x", "y"]}
    code, review = await call("POST", reviews, {"spec": question})
    assert code == 201 and review["status"]["authenticated"] and review["status"]["audiences"] == ["x"]
    assert review["status"]["user"]["username"] == "system:serviceaccount:default:bot"
    code, review = await call("POST", reviews, {"spec": {**question, "audiences": ["y"]}})
    assert code == 201 and "authenticated" not in review["status"] and review["status"]["error"]
    body = issued["status"]["token"].split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    assert claims["sub"] == "system:serviceaccount:default:bot" and claims["kubernetes.io"]["pod"]["name"] == "a"
    code, status = await call("POST", f"{accounts}/bot/token", {"spec": {"expirationSeconds": 10}})
    assert code == 422 and "may not specify a duration less than 10 minutes" in status["message"]
    stale = {**bound, "uid": "other"}
    code, status = await call("POST", f"{accounts}/bot/token", {"spec": {**spec, "boundObjectRef": stale}})
    assert code == 409 and "does not match the UID in record" in status["message"]


def _csr() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "me")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return base64.b64encode(request.public_bytes(serialization.Encoding.PEM)).decode()


CSR = _csr()
