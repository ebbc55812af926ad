"""What Services and EndpointSlices mean in rules: tables, without a kernel."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pinnace.network.proxy.endpoints import Endpoint, ProxyNode, endpoints_of, reachable
from pinnace.network.proxy.rules import Change, Fragment, Ruleset, diff, plan, plan_service
from pinnace.network.proxy.text import transaction

from .objects import endpoint, service, slice_

NODE = ProxyNode("n1", ("172.30.0.2",), zone="z1")


def fragment(svc: Any, *slices: Any) -> Fragment:
    made = plan_service(svc, slices, NODE)
    assert made is not None
    return made


def ips(endpoints: tuple[Endpoint, ...]) -> list[str]:
    return [entry.ip for entry in endpoints]


@pytest.mark.parametrize(
    ("endpoints", "cluster", "local"),
    [
        ([], [], []),
        ([endpoint("1.1.1.1"), endpoint("1.1.1.2", "n2")], ["1.1.1.1", "1.1.1.2"], ["1.1.1.1"]),
        ([endpoint("1.1.1.1", ready=False), endpoint("1.1.1.2", "n2")], ["1.1.1.2"], []),
        # Nothing is ready: those that terminate and still serve. On this node only such ones: likewise.
        ([endpoint("1.1.1.1", ready=False, serving=True, terminating=True)], ["1.1.1.1"], ["1.1.1.1"]),
        ([endpoint("1.1.1.1", ready=False, serving=False, terminating=True)], [], []),
        (
            [endpoint("1.1.1.1", ready=False, serving=True, terminating=True), endpoint("1.1.1.2", "n2")],
            ["1.1.1.2"], ["1.1.1.1"],
        ),
        # Hints: the own zone, unless one endpoint has none or none is for here; the node comes before the zone.
        ([endpoint("1.1.1.1", zones=("z1",)), endpoint("1.1.1.2", "n2", zones=("z2",))], ["1.1.1.1"], ["1.1.1.1"]),
        ([endpoint("1.1.1.1", zones=("z1",)), endpoint("1.1.1.2", "n2")], ["1.1.1.1", "1.1.1.2"], ["1.1.1.1"]),
        ([endpoint("1.1.1.2", "n2", zones=("z2",))], ["1.1.1.2"], []),
        (
            [
                endpoint("1.1.1.1", zones=("z1",), nodes=("n3",)),
                endpoint("1.1.1.2", "n2", zones=("z2",), nodes=("n1",)),
            ],
            ["1.1.1.2"], ["1.1.1.1"],
        ),
    ],
)  # fmt: skip
def test_reachable(endpoints: list[dict[str, Any]], cluster: list[str], local: list[str]) -> None:
    svc = service("web")
    found = reachable(endpoints_of(svc.spec.ports[0], [slice_("web", *endpoints)], "n1"), NODE)  # type: ignore[index]
    assert (ips(found.cluster), ips(found.local)) == (cluster, local)


def test_cluster_ip_leads_to_a_balancer_over_the_endpoints() -> None:
    made = fragment(service("web"), slice_("web", endpoint("10.244.1.2"), endpoint("10.244.2.2", "n2")))
    assert made.elements["cluster-ips", "10.96.0.20"] == ""
    balancer = made.elements["service-ips", "10.96.0.20 . tcp . 80"].removeprefix("goto ")
    mark, pick = made.chains[balancer]
    assert mark == "ip daddr 10.96.0.20 tcp dport 80 ip saddr != { 10.244.0.0/16 } jump mark-for-masquerade"
    assert pick.startswith("numgen random mod 2 vmap { 0 : goto endpoint-")
    targets = [rules for name, rules in made.chains.items() if name.startswith("endpoint-")]
    assert (
        "ip saddr 10.244.1.2 jump mark-for-masquerade", "meta l4proto tcp dnat to 10.244.1.2:8080",
    ) in targets
    assert balancer.endswith("-default/web/tcp/")


@pytest.mark.parametrize(
    ("spec", "endpoints", "expected"),
    [
        # Nobody at all: refuse. Somebody, but not on this node: be silent, so that the client goes elsewhere.
        ({}, [], {("no-endpoint-services", "10.96.0.20 . tcp . 80"): "goto reject-chain"}),
        (
            {"internalTrafficPolicy": "Local"}, [endpoint("10.244.2.2", "n2")],
            {("no-endpoint-services", "10.96.0.20 . tcp . 80"): "drop"},
        ),
        (
            {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}, [],
            {
                ("no-endpoint-services", "10.96.0.20 . tcp . 80"): "goto reject-chain",
                ("no-endpoint-nodeports", "tcp . 30080"): "goto reject-chain",
            },
        ),
        (
            {"type": "NodePort", "externalTrafficPolicy": "Local", "ports": [{"port": 80, "nodePort": 30080}]},
            [endpoint("10.244.2.2", "n2")],
            {("no-endpoint-nodeports", "tcp . 30080"): "drop"},
        ),
    ],
)  # fmt: skip
def test_refusals(spec: dict[str, Any], endpoints: list[Any], expected: dict[tuple[str, str], str]) -> None:
    made = fragment(service("web", **spec), slice_("web", *endpoints))
    assert {element: value for element, value in made.elements.items() if "no-endpoint" in element[0]} == expected


def test_external_policies() -> None:
    ports: dict[str, Any] = {
        "type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}], "externalIPs": ["192.0.2.9"],
    }
    slices = slice_("web", endpoint("10.244.1.2"), endpoint("10.244.2.2", "n2"))
    cluster = fragment(service("web", **ports), slices)
    chain = cluster.elements["service-nodeports", "tcp . 30080"].removeprefix("goto ")
    assert cluster.elements["service-ips", "192.0.2.9 . tcp . 80"] == f"goto {chain}"
    assert cluster.chains[chain][0] == "jump mark-for-masquerade"
    local = fragment(service("web", **ports, externalTrafficPolicy="Local"), slices)
    rules = local.chains[chain]
    assert rules[0].startswith("ip saddr { 10.244.0.0/16 } goto service-")
    assert rules[-1].startswith("goto local-") and "jump mark-for-masquerade" not in rules
    assert local.chains[rules[-1].removeprefix("goto ")][0].startswith("numgen random mod 1 ")


def test_load_balancer_addresses_and_who_may_call_them() -> None:
    status = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"ip": "192.0.2.2", "ipMode": "Proxy"}]}}
    svc = service("web", "10.96.0.20", type="LoadBalancer", status=status, loadBalancerSourceRanges=["198.51.100.0/24"])
    made = fragment(svc, slice_("web", endpoint("10.244.1.2")))
    assert ("service-ips", "192.0.2.1 . tcp . 80") in made.elements
    assert not any("192.0.2.2" in key for _, key in made.elements)
    chain = made.elements["firewall-ips", "192.0.2.1 . tcp . 80"].removeprefix("goto ")
    assert made.chains[chain] == ("ip saddr { 198.51.100.0/24 } return", "drop")


@pytest.mark.parametrize(
    "svc",
    [
        service("headless", "None"),
        service("outside", "", type="ExternalName", externalName="example.org"),
        service("theirs", labels={"service.kubernetes.io/service-proxy-name": "other"}),
    ],
)
def test_not_ours(svc: Any) -> None:
    assert plan_service(svc, [], NODE) is None


def test_affinity_is_kept_in_a_set_an_endpoint() -> None:
    made = fragment(
        service("web", sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 60}}),
        slice_("web", endpoint("10.244.1.2"), endpoint("10.244.1.3")),
    )
    assert list(made.affinities.values()) == [60, 60]
    balancer = made.chains[made.elements["service-ips", "10.96.0.20 . tcp . 80"].removeprefix("goto ")]
    assert [rule.split()[2].lstrip("@") for rule in balancer[1:3]] == list(made.affinities)


def test_udp_targets_tell_which_flows_are_stale() -> None:
    svc = service("dns", "10.96.0.10", {"name": "dns", "port": 53, "protocol": "UDP"})
    made = fragment(svc, slice_("dns", endpoint("10.244.1.2"), port=10053, protocol="UDP", port_name="dns"))
    assert made.udp == {("10.96.0.10", 53): frozenset({("10.244.1.2", 10053)})}


def test_a_contested_element_stays_with_the_first_until_it_lets_go() -> None:
    ruleset, change = Ruleset(), Change()
    one, two = ({("service-ips", "x"): f"goto {name}"} for name in ("a", "b"))
    ruleset.replace(("ns", "a"), Fragment(one), change)
    ruleset.replace(("ns", "b"), Fragment(two), change)
    assert change.elements == {("service-ips", "x"): (None, "goto a")}
    change = Change()
    ruleset.replace(("ns", "a"), None, change)
    assert change.elements == {("service-ips", "x"): ("goto a", "goto b")}


def test_a_change_of_one_endpoint_is_a_small_transaction() -> None:
    services = [service(f"s{n}", f"10.96.1.{n}") for n in range(100)]
    slices = [slice_(f"s{n}", endpoint(f"10.244.1.{n}")) for n in range(100)]
    old = plan(services, slices, NODE)
    slices[7] = slice_("s7", endpoint("10.244.1.7"), endpoint("10.244.2.7", "n2"))
    change = diff(old, plan(services, slices, NODE))
    assert not change.elements and len(change.chains) == 2
    text = transaction(change)
    assert text.count("\n") == 6 and "s7" in text
    assert not diff(old, plan(services, slices, NODE)) and transaction(Change()) == ""


states = st.lists(
    st.tuples(st.integers(1, 4), st.lists(st.integers(2, 5), max_size=3, unique=True), st.booleans(), st.booleans()),
    unique_by=lambda entry: entry[0], max_size=4,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(states, states)
def test_changes_lead_from_any_state_to_any_other(before: list[Any], after: list[Any]) -> None:
    def build(state: list[Any]) -> Ruleset:
        services, slices = [], []
        for number, targets, sticky, node_port in state:
            ports = {"port": 80, "nodePort": 30000 + number} if node_port else {"port": 80}
            kind = "NodePort" if node_port else "ClusterIP"
            affinity: dict[str, Any] = {"sessionAffinity": "ClientIP"} if sticky else {}
            services.append(service(f"s{number}", f"10.96.0.{number}", ports, type=kind, **affinity))
            slices.append(slice_(f"s{number}", *(endpoint(f"10.244.1.{target}") for target in targets)))
        return plan(services, slices, NODE)

    kernel, wanted = build(before), build(after)
    diff(kernel, wanted)
    assert kernel.fragments == wanted.fragments
    assert not diff(kernel, build(after))
