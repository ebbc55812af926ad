# ruff: noqa: E501  (tables of whole texts, one row a line)
"""Services: defaults, types that change, and numbers that are given out once."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from pinnace.api.core import v1 as core
from pinnace.api.errors import InternalError, Invalid
from pinnace.apiserver.resources.services.allocator import Band, address_band, port_band
from pinnace.apiserver.resources.services.reserve import Reservations, Usage, decide

SERVICE = """
metadata: {name: web, namespace: default}
spec: {selector: {app: web}, ports: [{port: 80}]}
"""


def service(spec: str) -> str:
    return f"{{metadata: {{name: web, namespace: default}}, spec: {spec}}}"


def test_a_small_service_gets_upstreams_defaults(rows: Any) -> None:
    thing = rows.make("services", SERVICE)
    rows.row("services").prepare_create(thing, rows.context)
    spec = thing.spec
    assert (spec.type, spec.sessionAffinity, spec.internalTrafficPolicy) == ("ClusterIP", "None", "Cluster")
    assert (spec.ipFamilies, spec.ipFamilyPolicy) == (["IPv4"], "SingleStack")
    assert (spec.ports[0].protocol, spec.ports[0].targetPort) == ("TCP", 80)
    assert spec.externalTrafficPolicy is None and spec.allocateLoadBalancerNodePorts is None


def test_types_have_their_own(rows: Any) -> None:
    balancer = rows.make("services", service("{type: LoadBalancer, ports: [{port: 80}], sessionAffinity: ClientIP}")).spec
    assert balancer.allocateLoadBalancerNodePorts is True and balancer.externalTrafficPolicy == "Cluster"
    assert balancer.sessionAffinityConfig.clientIP.timeoutSeconds == 10800
    name = rows.make("services", service("{type: ExternalName, externalName: a.example}"))
    rows.row("services").prepare_create(name, rows.context)
    assert name.spec.ipFamilies is None and name.spec.internalTrafficPolicy is None


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("{ports: [{port: 80}]}", []),
        ("{selector: {a: b}}", ["spec.ports: Required value"]),
        ("{clusterIP: None, selector: {a: b}}", []),
        ("{ports: [{port: 0}]}", [
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
        ]),
        ("{ports: [{port: 80}, {port: 81}]}",
         ["spec.ports[0].name: Required value", "spec.ports[1].name: Required value"]),
        ("{ports: [{port: 80, name: a}, {port: 80, name: b}]}",
         ['spec.ports[1]: Duplicate value: {"port":80,"protocol":"TCP"}']),
        ("{type: ExternalName}", ["spec.externalName: Required value"]),
        ("{ports: [{port: 80, nodePort: 30000}]}",
         ["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"]),
        ("{type: Odd, ports: [{port: 80}]}",
         ['spec.type: Unsupported value: "Odd": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"']),
        ("{ports: [{port: 80}], ipFamilyPolicy: RequireDualStack}",
         ['spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services']),
        ("{ports: [{port: 80}], clusterIP: nonsense}",
         ['spec.clusterIPs[0]: Invalid value: "nonsense": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)']),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_new_service(rows: Any, spec: str, expected: list[str]) -> None:
    assert rows.errors("services", service(spec)) == expected


def allocated(extra: str = "") -> str:
    return service(
        "{clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7], ipFamilies: [IPv4], ipFamilyPolicy: SingleStack, "
        f"ports: [{{port: 80}}]{extra}}}"
    )


def test_the_cluster_ip_stays(rows: Any) -> None:
    assert rows.update_errors("services", allocated(), service("{ports: [{port: 81}]}")) == []
    other = allocated().replace("10.96.0.7", "10.96.0.8")
    assert rows.update_errors("services", allocated(), other) == [
        'spec.clusterIPs[0]: Invalid value: ["10.96.0.8"]: may not change once set'
    ]


def test_a_change_of_type_drops_what_only_the_old_one_had(rows: Any) -> None:
    row = rows.row("services")
    old = rows.make("services", allocated(", type: NodePort").replace("{port: 80}", "{port: 80, nodePort: 30001}"))
    new = rows.make("services", service("{type: NodePort, ports: [{port: 80}, {port: 81, name: b}]}"))
    row.prepare_update(new, old, rows.context)
    assert new.spec.ports[0].nodePort == 30001 and new.spec.clusterIP == "10.96.0.7"
    plain = rows.make("services", allocated(", type: ClusterIP").replace("{port: 80}", "{port: 80, nodePort: 30001}"))
    row.prepare_update(plain, old, rows.context)
    assert plain.spec.ports[0].nodePort is None and plain.spec.externalTrafficPolicy is None
    name = rows.make("services", service("{type: ExternalName, externalName: x.y, clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7]}"))
    row.prepare_update(name, old, rows.context)
    assert name.spec.clusterIP is None and name.spec.clusterIPs is None and name.spec.ipFamilies is None


@pytest.mark.parametrize(
    ("spec", "status", "expected"),
    [
        ("{type: ClusterIP, clusterIP: 10.96.0.1, ports: [{port: 443, protocol: TCP}]}", "{}",
         ("10.96.0.1", "<none>", "443/TCP")),
        ("{type: NodePort, clusterIP: 10.96.0.1, ports: [{port: 80, nodePort: 30080, protocol: TCP}], externalIPs: [1.2.3.4]}",
         "{}", ("10.96.0.1", "1.2.3.4", "80:30080/TCP")),
        ("{type: LoadBalancer, clusterIP: 10.96.0.1, ports: [{port: 80, protocol: TCP}]}", "{}",
         ("10.96.0.1", "<pending>", "80/TCP")),
        ("{type: LoadBalancer, clusterIP: 10.96.0.1}", "{loadBalancer: {ingress: [{ip: 5.6.7.8}]}}",
         ("10.96.0.1", "5.6.7.8", "<none>")),
        ("{type: ExternalName, externalName: db.example}", "{}", ("<none>", "db.example", "<none>")),
    ],
)  # fmt: skip
def test_a_row(rows: Any, spec: str, status: str, expected: tuple[str, str, str]) -> None:
    cells = rows.cells("services", f"{{metadata: {{name: x}}, spec: {spec}, status: {status}}}")
    assert (cells["Cluster-IP"], cells["External-IP"], cells["Port(s)"]) == expected


def number(address: str) -> int:
    return int(ipaddress.ip_address(address))


def test_ranges_have_a_lower_band_for_those_who_choose() -> None:
    large = address_band("10.96.0.0/16")
    assert (large.first, large.last) == (number("10.96.0.1"), number("10.96.255.254"))
    assert large.dynamic == number("10.96.1.1")
    small = address_band("10.0.0.0/28")
    assert small.dynamic == small.first
    assert port_band().dynamic == 30086


def test_a_band_is_walked_round_and_the_lower_part_comes_last() -> None:
    band = Band(0, 9, 4)
    assert band.next(0, set()) == 4
    assert band.next(9, set()) == 4
    assert band.next(6, {7}) == 8
    assert band.next(6, {4, 5, 6, 7, 8, 9}) == 0
    assert band.next(6, set(range(10))) is None


def spec_of(rows: Any, text: str) -> core.ServiceSpec:
    return rows.make("services", service(text)).spec


def usage(addresses: tuple[str, ...] = (), ports: tuple[int, ...] = ()) -> Usage:
    return Usage(frozenset(number(a) for a in addresses), frozenset(ports))


ADDRESSES, PORTS = address_band("10.96.0.0/16"), port_band()


def test_numbers_are_chosen_and_checked(rows: Any) -> None:
    spec = spec_of(rows, "{type: NodePort, ports: [{port: 80, name: a}, {port: 53, name: b}, {port: 53, name: c, protocol: UDP}]}")
    plan = decide(spec, usage(("10.96.1.1",), (30086,)), ADDRESSES, PORTS, (0, 0))
    assert spec.clusterIP == "10.96.1.2" and spec.clusterIPs == ["10.96.1.2"] and not plan.findings
    assert [port.nodePort for port in spec.ports or ()] == [30087, 30088, 30088]


def test_what_is_taken_or_out_of_range_is_refused(rows: Any) -> None:
    spec = spec_of(rows, "{type: NodePort, clusterIPs: [10.96.0.10], ports: [{port: 80, nodePort: 30080}, {port: 81, nodePort: 80}]}")
    plan = decide(spec, usage(("10.96.0.10",), (30080,)), ADDRESSES, PORTS, (0, 0))
    assert [str(finding) for finding in plan.findings] == [
        'spec.clusterIPs: Invalid value: ["10.96.0.10"]: failed to allocate IP 10.96.0.10: provided IP is already allocated',
        "spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated",
        "spec.ports[1].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports "
        "is 30000-32767",
    ]


def test_a_full_range_says_so(rows: Any) -> None:
    band = Band(number("10.0.0.1"), number("10.0.0.1"), number("10.0.0.1"))
    with pytest.raises(InternalError, match="range is full"):
        decide(spec_of(rows, "{ports: [{port: 80}]}"), usage(("10.0.0.1",)), band, PORTS, (0, 0))


def test_local_balancers_get_a_health_check_port(rows: Any) -> None:
    spec = spec_of(rows, "{type: LoadBalancer, externalTrafficPolicy: Local, ports: [{port: 80}]}")
    decide(spec, usage(), ADDRESSES, PORTS, (0, 0))
    assert [spec.ports[0].nodePort, spec.healthCheckNodePort] == [30086, 30087]


def test_headless_services_get_nothing(rows: Any) -> None:
    spec = spec_of(rows, "{clusterIP: None, ports: [{port: 80}]}")
    decide(spec, usage(), ADDRESSES, PORTS, (0, 0))
    assert spec.clusterIP == "None"


def named(rows: Any, name: str, spec: str = "{ports: [{port: 80}]}") -> core.Service:
    return rows.make("services", f"{{metadata: {{name: {name}, namespace: default}}, spec: {spec}}}")


def test_writes_under_way_hold_their_numbers_until_they_end(rows: Any) -> None:
    ours = Reservations("10.96.0.0/16")
    wanted = "{clusterIP: 10.96.0.20, clusterIPs: [10.96.0.20], ports: [{port: 80}]}"
    hold = ours.reserve(named(rows, "a", wanted), ())
    with pytest.raises(Invalid, match="already allocated"):
        ours.reserve(named(rows, "b", wanted), ())
    hold()
    hold = ours.reserve(named(rows, "b", wanted), ())
    with pytest.raises(Invalid):
        ours.reserve(named(rows, "c", wanted), ())
    del hold      # the write is over; from now on the cache says what is in use
    ours.reserve(named(rows, "c", wanted), ())


def test_what_the_cache_shows_counts_but_not_a_services_own_numbers(rows: Any) -> None:
    ours = Reservations("10.96.0.0/16")
    wanted = "{clusterIP: 10.96.0.20, clusterIPs: [10.96.0.20], ports: [{port: 80}]}"
    first = named(rows, "a", wanted)
    with pytest.raises(Invalid):
        ours.reserve(named(rows, "b", wanted), [first])
    ours.reserve(named(rows, "a", wanted), [first])


def test_many_services_get_different_addresses(rows: Any) -> None:
    ours = Reservations("10.96.0.0/24")
    made: list[core.Service] = []
    for i in range(200):
        made.append(named(rows, f"s{i}"))
        ours.reserve(made[-1], made[:-1])
    assert len({thing.spec.clusterIP for thing in made}) == 200


def test_an_empty_cluster_ip_is_none(rows: Any) -> None:
    thing = rows.defaulted("services", service("{type: ExternalName, externalName: a.example, clusterIP: ''}"))
    assert "clusterIP" not in thing["spec"]
