"""The small pure parts: environment, files, specifications, images, admission, probes, node status."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pinnace.api.core import v1 as core
from pinnace.kubelet import admission, images, node_status, pod_files, probes
from pinnace.kubelet import container_spec as specs
from pinnace.kubelet.config import KubeletConfig
from pinnace.kubelet.environment import ConfigError, Sources, environment, expand
from pinnace.kubelet.housekeeping import eviction_order
from pinnace.kubelet.pod_plan import Verdict
from pinnace.kubelet.policy import pod_request, qos_class
from pinnace.kubelet.tokens import refresh_time
from pinnace.runtime.cri import Image

from .fakes import make_pod


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def convert(kind: Any, **fields: Any) -> Any:
    return msgspec.convert(fields, kind)


# -------------------------------------------------------------------------------------------- environment


@pytest.mark.parametrize(("text", "out"), [
    ("$(A)", "1"), ("x$(A)y$(B)", "x1y2"), ("$$(A)", "$(A)"), ("$(C)", "$(C)"), ("$A", "$A"), ("$", "$"),
    ("$(A", "$(A"), ("$$$(A)", "$1"), ("$(a b)", "$(a b)"),
])  # fmt: skip
def test_expansion(text: str, out: str) -> None:
    assert expand(text, {"A": "1", "B": "2"}) == out


def env_of(pod: core.Pod, **sources: Any) -> dict[str, str]:
    return environment(pod.spec.containers[0], Sources(pod, **sources))


def with_env(*env: dict[str, Any], **more: Any) -> core.Pod:
    return make_pod(containers=[{"name": "app", "image": "app:1", "env": list(env), **more}])


def service(name: str, ip: str = "10.96.0.7", namespace: str = "default", ports: Any = None) -> core.Service:
    ports = ports or [{"name": "http", "port": 80, "protocol": "TCP"}]
    meta = {"name": name, "namespace": namespace}
    return convert(core.Service, metadata=meta, spec={"clusterIP": ip, "ports": ports})


def test_environment_from_everything() -> None:
    pod = with_env(
        {"name": "A", "value": "a"}, {"name": "B", "value": "$(A)$(CFG_K)"},
        {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "K"}}},
        {"name": "D", "valueFrom": {"secretKeyRef": {"name": "s", "key": "p"}}},
        {"name": "E", "valueFrom": {"secretKeyRef": {"name": "no", "key": "p", "optional": True}}},
        {"name": "F", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {"name": "G", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        {"name": "H", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1m"}}},
        {"name": "I", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
        {"name": "J", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        envFrom=[{"configMapRef": {"name": "m"}, "prefix": "CFG_"}, {"secretRef": {"name": "gone", "optional": True}}],
        resources={"limits": {"memory": "64Mi"}, "requests": {"cpu": "250m"}},
    )  # fmt: skip
    pod.metadata.labels = {"app": "web"}
    env = env_of(
        pod,
        config_maps={"m": convert(core.ConfigMap, data={"K": "v"})},
        secrets={"s": convert(core.Secret, data={"p": b64("pass")})},
        allocatable={"cpu": "2"}, pod_ips=("10.1.0.2",),
    )  # fmt: skip
    assert env == {
        "CFG_K": "v", "A": "a", "B": "av", "C": "v", "D": "pass", "F": "web", "G": "64", "H": "250", "I": "2",
        "J": "10.1.0.2",
    }  # fmt: skip


@pytest.mark.parametrize(("source", "words"), [
    ({"configMapKeyRef": {"name": "m", "key": "x"}}, "couldn't find key x in ConfigMap default/m"),
    ({"configMapKeyRef": {"name": "no", "key": "x"}}, 'configmap "no" not found'),
    ({"secretKeyRef": {"name": "no", "key": "x"}}, 'secret "no" not found'),
])  # fmt: skip
def test_what_the_environment_lacks(source: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        env_of(with_env({"name": "A", "valueFrom": source}), config_maps={"m": core.ConfigMap()})
    assert str(caught.value) == words


def test_service_links() -> None:
    services = [
        service("kubernetes", "10.96.0.1", ports=[{"name": "https", "port": 443}]), service("my-db"),
        service("other", namespace="elsewhere"), service("headless", "None"),
    ]  # fmt: skip
    env = env_of(make_pod(), services=services)
    assert env["KUBERNETES_SERVICE_HOST"] == "10.96.0.1"
    assert env["MY_DB_SERVICE_PORT_HTTP"] == "80"
    assert env["MY_DB_PORT_80_TCP_ADDR"] == "10.96.0.7"
    assert env["KUBERNETES_PORT"] == "tcp://10.96.0.1:443"
    assert not any(name.startswith(("OTHER", "HEADLESS")) for name in env)
    few = env_of(make_pod(enableServiceLinks=False), services=services)
    assert "KUBERNETES_SERVICE_HOST" in few and "MY_DB_SERVICE_HOST" not in few


# -------------------------------------------------------------------------------------------------- files


def test_hosts_file() -> None:
    pod = make_pod(subdomain="sub", hostname="h", hostAliases=[{"ip": "1.2.3.4", "hostnames": ["a", "b"]}])
    text = pod_files.hosts_file(pod, ("10.1.0.2",), "cluster.local", "")
    assert text.startswith("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n")
    assert "10.1.0.2\th.sub.default.svc.cluster.local\th\n" in text
    assert text.endswith("\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n")


HOST = pod_files.Resolver(("9.9.9.9",), ("corp",), ("edns0",))


@pytest.mark.parametrize(("spec", "expected"), [
    ({}, (("10.96.0.10",), ("default.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp"), ("ndots:5",))),
    ({"dnsPolicy": "Default"}, (("9.9.9.9",), ("corp",), ("edns0",))),
    ({"hostNetwork": True}, (("9.9.9.9",), ("corp",), ("edns0",))),
    ({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["x"], "options": [
        {"name": "ndots", "value": "2"}, {"name": "debug"}]}}, (("1.1.1.1",), ("x",), ("ndots:2", "debug"))),
    ({"dnsConfig": {"options": [{"name": "ndots", "value": "1"}], "searches": ["corp", "y"]}},
     (("10.96.0.10",), ("default.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp", "y"), ("ndots:1",))),
])  # fmt: skip
def test_resolver(spec: Any, expected: Any) -> None:
    found = pod_files.resolver(make_pod(**spec), cluster_dns=("10.96.0.10",), cluster_domain="cluster.local", host=HOST)
    assert (found.servers, found.searches, found.options) == expected


# ------------------------------------------------------------------------------------------ specifications


@pytest.mark.parametrize(("resources", "qos", "score"), [
    ({}, "BestEffort", 1000),
    ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed", -997),
    ({"requests": {"cpu": "1"}}, "Burstable", 999),
    ({"requests": {"memory": "4Gi"}}, "Burstable", 500),
    ({"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}, "Burstable", 875),
])  # fmt: skip
def test_qos_and_oom_score(resources: Any, qos: str, score: int) -> None:
    pod = make_pod(containers=[{"name": "app", "image": "a", "resources": resources}])
    assert qos_class(pod.spec) == qos
    assert specs.oom_score_adj(pod, pod.spec.containers[0], 8 * 2**30) == score


def test_cgroup_figures() -> None:
    resources = {"requests": {"cpu": "250m"}, "limits": {"cpu": "500m", "memory": "64Mi"}}
    pod = make_pod(containers=[{"name": "app", "image": "a", "resources": resources}])
    found = specs.container_resources(pod, pod.spec.containers[0], 2**30)
    assert (found.cpu_shares, found.cpu_quota, found.memory_limit) == (256, 50_000, 64 * 2**20)
    assert specs.cgroup_parent(pod, "/p") == "/p/kubepods/burstable/poduid-web"


def test_sidecars_count_beside_the_pods_own() -> None:
    def container(name: str, cpu: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "image": "a", "resources": {"requests": {"cpu": cpu}}, **more}

    pod = make_pod(
        initContainers=[container("i", "3"), container("s", "1", restartPolicy="Always"), container("j", "2500m")],
        containers=[container("a", "1"), container("b", "1")],
    )
    assert pod_request(pod.spec, "cpu") == 3.5       # s and j together are the largest moment


@pytest.mark.parametrize(("pod_security", "security", "user", "words"), [
    ({"runAsNonRoot": True}, {}, "", "image will run as root"),
    ({"runAsNonRoot": True}, {}, "nobody", "non-numeric user (nobody)"),
    ({"runAsNonRoot": True}, {"runAsUser": 0}, "1000", "runAsUser breaks non-root policy"),
    ({"runAsNonRoot": True}, {"runAsUser": 5}, "", ""),
    ({"runAsNonRoot": True}, {"runAsNonRoot": False}, "", ""),
    ({"runAsNonRoot": True}, {}, "1000:1000", ""),
])  # fmt: skip
def test_non_root(pod_security: Any, security: Any, user: str, words: str) -> None:
    container = {"name": "app", "image": "a", "securityContext": security}
    pod = make_pod(securityContext=pod_security, containers=[container])
    image = Image("sha256:aa", (), (), 1, user)
    if not words:
        specs.check_non_root(pod, pod.spec.containers[0], image)
        return
    with pytest.raises(ConfigError) as caught:
        specs.check_non_root(pod, pod.spec.containers[0], image)
    assert words in str(caught.value) and 'pod: "web_default(uid-web)", container: app' in str(caught.value)


def test_the_container_wins_over_the_pod() -> None:
    pod = make_pod(
        securityContext={
            "runAsUser": 1, "fsGroup": 7, "supplementalGroups": [8], "seccompProfile": {"type": "RuntimeDefault"}},
        containers=[{"name": "app", "image": "a", "securityContext": {
            "runAsUser": 2, "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}, "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False}}],
    )  # fmt: skip
    found = specs.security_context(pod, pod.spec.containers[0], Path("/seccomp"))
    assert (found.run_as_user, found.fs_group, found.supplemental_groups) == (2, 7, (8,))
    assert found.seccomp == "RuntimeDefault" and found.readonly_rootfs and not found.allow_privilege_escalation
    assert (found.add_capabilities, found.drop_capabilities) == (("NET_ADMIN",), ("ALL",))


# -------------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize(("image", "asked", "policy"), [
    ("app", "", "Always"), ("app:latest", "", "Always"), ("app:1", "", "IfNotPresent"),
    ("reg:5000/app", "", "Always"), ("app@sha256:00", "", "IfNotPresent"), ("app", "Never", "Never"),
])  # fmt: skip
def test_pull_policy(image: str, asked: str, policy: str) -> None:
    assert images.policy(convert(core.Container, name="c", image=image, imagePullPolicy=asked or None)) == policy


def test_pull_secrets_that_fit() -> None:
    auths = {
        "https://reg.example.com/team": {"auth": b64("u:p")}, "other.example.com": {"username": "x", "password": "y"},
        "https://index.docker.io/v1/": {"username": "hub", "password": "z"},
    }  # fmt: skip
    secret = convert(core.Secret, data={".dockerconfigjson": b64(json.dumps({"auths": auths}))})
    assert images.credentials("reg.example.com/team/app:1", [secret]) == [{"username": "u", "password": "p"}]
    assert images.credentials("busybox", [secret]) == [{"username": "hub", "password": "z"}]
    assert images.credentials("third.example.com/app", [secret, core.Secret()]) == []


# ----------------------------------------------------------------------------------------------- admission


NODE = convert(core.Node, metadata={"name": "n", "labels": {"zone": "a", "n": "5"}})
ROOM = {"cpu": "2", "memory": "1Gi", "pods": "3"}


def tuned(name: str, **spec: Any) -> core.Pod:
    return make_pod(securityContext={"sysctls": [{"name": name, "value": "1"}]}, **spec)


def requiring(cpu: str) -> core.Pod:
    return make_pod("x", containers=[{"name": "a", "image": "a", "resources": {"requests": {"cpu": cpu}}}])


@pytest.mark.parametrize(("pod", "others", "reason"), [
    (requiring("2"), [], None),
    (requiring("1500m"), [requiring("600m")], "OutOfcpu"),
    (make_pod(), [make_pod(), make_pod(), make_pod()], "OutOfpods"),
    (make_pod(nodeSelector={"zone": "b"}), [], "NodeAffinity"),
    (make_pod(nodeSelector={"zone": "a"}), [], None),
    (make_pod(os={"name": "windows"}), [], "PodOSNotSupported"),
    (tuned("kernel.shm_rmid_forced"), [], None),
    (tuned("net/ipv4/tcp_syncookies"), [], None),
    (tuned("kernel.msgmax"), [], "SysctlForbidden"),
    (tuned("net.ipv4.tcp_syncookies", hostNetwork=True), [], "SysctlForbidden"),
    (tuned("kernel.shm_rmid_forced", hostIPC=True), [], "SysctlForbidden"),
])  # fmt: skip
def test_admission(pod: core.Pod, others: list[core.Pod], reason: str | None) -> None:
    found = admission.admit(pod, NODE, others, ROOM)
    assert (found[0] if found is not None else None) == reason


def test_admission_message_and_ports() -> None:
    found = admission.admit(requiring("1500m"), NODE, [requiring("600m")], ROOM)
    assert found is not None
    assert found[1] == "Node didn't have enough resource: cpu, requested: 1500, used: 600, capacity: 2000"
    ported = make_pod(containers=[{"name": "a", "image": "a", "ports": [{"containerPort": 1, "hostPort": 80}]}])
    refusal = admission.admit(ported, NODE, [ported], ROOM)
    assert refusal is not None and refusal[0] == "NodePorts"


def test_a_no_execute_taint_needs_a_toleration() -> None:
    taint = {"key": "k", "value": "v", "effect": "NoExecute"}
    node = convert(core.Node, metadata={"name": "n"}, spec={"taints": [taint]})
    refusal = admission.admit(make_pod(), node, [], ROOM)
    assert refusal is not None and refusal[0] == "TaintToleration"
    tolerant = make_pod(tolerations=[{"key": "k", "operator": "Exists"}])
    assert admission.admit(tolerant, node, [], ROOM) is None


# -------------------------------------------------------------------------------------------------- probes


def test_thresholds() -> None:
    counter = probes.Counter(2, 3)
    found = []
    for good in (True, True, False, False, True, False, False, False, True, True):
        counter = counter.after(good)
        found.append(counter.verdict)
    assert found == [None, True, True, True, True, True, True, False, False, True]


def test_verdicts() -> None:
    probe = core.Probe(terminationGracePeriodSeconds=4)
    both: Any = {"startup": probe, "readiness": probe, "liveness": probe}
    assert probes.verdict({}, {}) == Verdict()
    assert probes.verdict(both, {"startup": None, "readiness": True}) == Verdict(started=False, ready=False)
    assert probes.verdict(both, {"startup": True, "readiness": True, "liveness": None}) == Verdict()
    assert probes.verdict(both, {"startup": True, "readiness": False, "liveness": False}) == Verdict(
        started=True, ready=False, failed="liveness", grace=4.0
    )


def test_probe_urls() -> None:
    container = convert(core.Container, name="c", ports=[{"name": "http", "containerPort": 8080}])
    action = convert(core.HTTPGetAction, port="http", path="x?y=1")
    assert probes.url_of(action, container, "10.1.0.2") == "http://10.1.0.2:8080/x?y=1"
    secure = convert(core.HTTPGetAction, port=8443, scheme="HTTPS", host="fd00::1")
    assert probes.url_of(secure, container, "10.1.0.2") == "https://[fd00::1]:8443/"
    with pytest.raises(ValueError, match="nope"):
        probes.port_of("nope", container)


# ------------------------------------------------------------------------------------------ node, tokens …


def test_node_status_keeps_transition_times_and_others_conditions() -> None:
    config = KubeletConfig(node_name="n", root=Path("/r"), log_root=Path("/l"), host_ips=("10.0.0.1",))
    machine = node_status.Machine("amd64", "6.1", "Debian", "m", "s", "b", 2.0, 2**30, 2**40)
    first = node_status.node_status(config, machine, "x://1", (), core.NodeStatus(), node_status.Health(), 1000.0)
    assert first.allocatable is not None and first.allocatable["memory"] == f"{(2**30 - 100 * 2**20) // 1024}Ki"
    foreign = core.NodeCondition(type="NetworkUnavailable", status="False")
    first.conditions = [*(first.conditions or []), foreign]
    later = node_status.node_status(
        config, machine, "x://1", (), first, node_status.Health(memory_pressure=True), 2000.0
    )
    found = {c.type: c for c in later.conditions or ()}
    assert found["Ready"].lastTransitionTime == "1970-01-01T00:16:40Z"
    assert found["Ready"].lastHeartbeatTime == found["MemoryPressure"].lastTransitionTime == "1970-01-01T00:33:20Z"
    assert found["MemoryPressure"].reason == "KubeletHasInsufficientMemory"
    assert found["NetworkUnavailable"] is foreign
    assert node_status.changed(first, later)


def test_tokens_are_refreshed_at_four_fifths_of_their_life() -> None:
    assert refresh_time(0, 3600, 0) == 2880
    assert refresh_time(0, 10 * 86400, 5) == 86400 - 5


def test_who_is_evicted_first() -> None:
    small = make_pod("small")
    modest = make_pod("modest", containers=[
        {"name": "a", "image": "a", "resources": {"requests": {"memory": "1Gi"}}}])  # fmt: skip
    large = make_pod("large")
    critical = make_pod("critical", priority=2_000_001_000)
    usage = {"uid-small": 10, "uid-modest": 500, "uid-large": 100, "uid-critical": 10**9}
    order = eviction_order([small, modest, critical, large], usage)
    assert [pod.metadata.name for pod in order] == ["large", "small", "modest"]
