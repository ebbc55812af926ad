"""EndpointSlices and Endpoints: who is in, with which ports and conditions, and how few writes that takes."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from pinnace.api.core import v1 as core
from pinnace.api.discovery import v1 as discovery
from pinnace.api.meta import v1 as meta
from pinnace.controllers import cluster_dns
from pinnace.controllers.endpoints import legacy, slices
from pinnace.controllers.plan import Create, Delete, Update

from .build import NOW, apply, pod


def service(**spec: Any) -> core.Service:
    values: dict[str, Any] = {
        "selector": {"app": "web"},
        "clusterIP": "10.96.0.10",
        "ports": [core.ServicePort(name="http", port=80, targetPort=8080, protocol="TCP")],
    }
    return core.Service(
        metadata=meta.ObjectMeta(name="web", namespace="default", uid="s-1", labels={"team": "blue"}),
        spec=core.ServiceSpec(**(values | spec)),
    )


def seen(
    svc: core.Service, pods: list[core.Pod], existing: list[discovery.EndpointSlice] | None = None
) -> slices.Seen:
    return slices.Seen(svc, tuple(pods), tuple(existing or ()), {"n1": "zone-a"})


def made(svc: core.Service, pods: list[core.Pod]) -> list[discovery.EndpointSlice]:
    return [a.object for a in slices.decide(seen(svc, pods), NOW).actions if isinstance(a, Create)]


def test_an_endpoint_says_all_about_its_pod() -> None:
    (slice,) = made(service(), [pod("a", ip="10.244.0.2")])
    assert slice.metadata.generateName == "web-"
    assert slice.metadata.labels == {
        "team": "blue",
        "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    }
    assert slice.addressType == "IPv4"
    assert slice.ports == [discovery.EndpointPort(name="http", port=8080, protocol="TCP")]
    (endpoint,) = slice.endpoints or []
    assert endpoint.addresses == ["10.244.0.2"]
    assert endpoint.conditions == discovery.EndpointConditions(ready=True, serving=True, terminating=False)
    assert (endpoint.nodeName, endpoint.zone) == ("n1", "zone-a")
    assert endpoint.targetRef is not None and endpoint.targetRef.uid == "uid-a"


def test_conditions() -> None:
    pods = [
        pod("waiting", ip="10.0.0.1", is_ready=False),
        pod("leaving", ip="10.0.0.2", deleted=True),
        pod("over", ip="10.0.0.3", phase="Succeeded"),
        pod("unassigned"),
    ]
    (slice,) = made(service(), pods)
    found = {(e.addresses or [""])[0]: e.conditions for e in slice.endpoints or []}
    assert found == {
        "10.0.0.1": discovery.EndpointConditions(ready=False, serving=False, terminating=False),
        "10.0.0.2": discovery.EndpointConditions(ready=False, serving=True, terminating=True),
    }
    (slice,) = made(service(publishNotReadyAddresses=True), pods[:1])
    assert (slice.endpoints or [])[0].conditions.ready   # type: ignore[union-attr]


def test_named_ports_part_pods_into_slices() -> None:
    a, b = pod("a", ip="10.0.0.1"), pod("b", ip="10.0.0.2")
    for p, number in ((a, 8080), (b, 9090)):
        assert p.spec is not None
        p.spec.containers[0].ports = [core.ContainerPort(name="web", containerPort=number, protocol="TCP")]
    svc = service(ports=[core.ServicePort(name="", port=80, targetPort="web", protocol="TCP")])
    assert sorted((s.ports or [])[0].port or 0 for s in made(svc, [a, b])) == [8080, 9090]


def test_a_hundred_a_slice() -> None:
    pods = [pod(f"p{n:03}", ip=f"10.0.{n // 250}.{n % 250 + 1}") for n in range(230)]
    assert [len(s.endpoints or []) for s in made(service(), pods)] == [100, 100, 30]


def test_no_endpoints_is_one_empty_slice_and_no_selector_is_none() -> None:
    (slice,) = made(service(), [])
    assert not slice.endpoints
    assert made(service(selector=None), []) == []
    assert made(service(type="ExternalName"), []) == []


def test_headless_and_hostnames() -> None:
    p = pod("db-0", ip="10.0.0.1")
    assert p.spec is not None
    p.spec.hostname, p.spec.subdomain = "db-0", "web"
    (slice,) = made(service(clusterIP="None"), [p])
    assert (slice.metadata.labels or {})["service.kubernetes.io/headless"] == ""
    assert (slice.endpoints or [])[0].hostname == "db-0"


def test_zone_hints() -> None:
    (slice,) = made(service(trafficDistribution="PreferSameZone"), [pod("a", ip="10.0.0.1")])
    assert (slice.endpoints or [])[0].hints == discovery.EndpointHints(forZones=[discovery.ForZone(name="zone-a")])


def stored(slice: discovery.EndpointSlice, name: str) -> discovery.EndpointSlice:
    return msgspec.structs.replace(slice, metadata=msgspec.structs.replace(slice.metadata, name=name, uid=name))


def test_one_change_writes_one_slice() -> None:
    pods = [pod(f"p{n:03}", ip=f"10.0.0.{n + 1}") for n in range(150)]
    existing = [stored(s, f"web-{n}") for n, s in enumerate(made(service(), pods))]
    assert slices.decide(seen(service(), pods, existing), NOW).actions == ()
    pods[3] = pod("p003", ip="10.0.0.4", is_ready=False)
    (update,) = slices.decide(seen(service(), pods, existing), NOW).actions
    assert isinstance(update, Update) and update.object.metadata.name == "web-0"
    (update,) = slices.decide(seen(service(), [*pods, pod("new", ip="10.0.1.1")], existing), NOW).actions[:1]
    assert isinstance(update, Update)


def test_the_last_endpoint_leaves_an_empty_slice_and_the_second_slice_goes() -> None:
    pods = [pod(f"p{n:03}", ip=f"10.0.0.{n + 1}") for n in range(150)]
    existing = [stored(s, f"web-{n}") for n, s in enumerate(made(service(), pods))]
    actions = slices.decide(seen(service(), [], existing), NOW).actions
    assert sorted(type(a).__name__ for a in actions) == ["Delete", "Update"]


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 300), max_size=120, unique=True), min_size=1, max_size=3))
def test_slices_follow_any_change_and_rest(generations: list[list[int]]) -> None:
    objects: dict[Any, Any] = {}
    for numbers in generations:
        pods = [pod(f"p{n}", ip=f"10.0.{n // 250}.{n % 250 + 1}") for n in numbers]
        for _ in range(3):
            writes = apply(slices.decide(seen(service(), pods, list(objects.values())), NOW), objects)
        assert not writes
        addresses = [(e.addresses or [""])[0] for s in objects.values() for e in s.endpoints or []]
        assert sorted(addresses) == sorted(p.status.podIP or "" for p in pods if p.status)
        assert all(len(s.endpoints or []) <= 100 for s in objects.values())


def test_endpoints_of_old() -> None:
    pods = [pod("b", ip="10.0.0.2"), pod("a", ip="10.0.0.1"), pod("c", ip="10.0.0.3", is_ready=False)]
    (create,) = legacy.decide(legacy.Seen(service(), tuple(pods), None), NOW).actions
    assert isinstance(create, Create)
    (subset,) = create.object.subsets
    assert [a.ip for a in subset.addresses] == ["10.0.0.1", "10.0.0.2"]
    assert [a.ip for a in subset.notReadyAddresses] == ["10.0.0.3"]
    assert subset.ports == [core.EndpointPort(name="http", port=8080, protocol="TCP")]
    assert create.object.metadata.labels["endpoints.kubernetes.io/managed-by"] == "endpoint-controller"
    assert legacy.decide(legacy.Seen(service(), tuple(pods), create.object), NOW).actions == ()
    (delete,) = legacy.decide(legacy.Seen(None, (), create.object), NOW).actions
    assert isinstance(delete, Delete)


def test_every_ready_node_answers_for_cluster_dns() -> None:
    def node(name: str, ip: str, status: str) -> core.Node:
        return core.Node(
            metadata=meta.ObjectMeta(name=name),
            status=core.NodeStatus(
                conditions=[core.NodeCondition(type="Ready", status=status)],
                addresses=[core.NodeAddress(type="Hostname", address=name),
                           core.NodeAddress(type="InternalIP", address=ip)],
            ),
        )  # fmt: skip

    nodes = (node("n1", "192.168.0.1", "True"), node("n2", "192.168.0.2", "True"))
    dns = service(selector=None)
    (create,) = cluster_dns.decide(cluster_dns.Seen(dns, nodes, ())).actions
    assert isinstance(create, Create)
    slice = create.object
    assert [e.addresses for e in slice.endpoints] == [["192.168.0.1"], ["192.168.0.2"]]
    assert [(p.name, p.port, p.protocol) for p in slice.ports] == [("dns", 10053, "UDP"), ("dns-tcp", 10053, "TCP")]
    assert cluster_dns.decide(cluster_dns.Seen(dns, nodes, (slice,))).actions == ()
    (update,) = cluster_dns.decide(cluster_dns.Seen(dns, nodes[:1], (slice,))).actions
    assert isinstance(update, Update)
    (delete,) = cluster_dns.decide(cluster_dns.Seen(dns, (), (slice,))).actions
    assert isinstance(delete, Delete)
