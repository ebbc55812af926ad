"""The cluster's names after the Kubernetes DNS specification: tables, read with dnspython."""

from __future__ import annotations

from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from pinnace.network.dns.server import Responder
from pinnace.network.dns.zone import Zone, service_records

from .objects import endpoint, service, slice_


@pytest.fixture
def zone() -> Zone:
    made = Zone()
    for namespace in ("default", "kube-system", "empty"):
        made.set_namespace(namespace, True)
    ports = {"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}
    put(made, service("web", "10.96.0.20", *ports))
    put(
        made, service("db", "None", {"name": "pg", "port": 5432}),
        slice_("db", endpoint("10.244.1.2", hostname="db-0"), endpoint("10.244.1.3"),
               endpoint("10.244.1.4", ready=False), port=5433, port_name="pg"),
    )  # fmt: skip
    put(made, service("out", "", type="ExternalName", externalName="example.org"))
    put(made, service("alias", "", type="ExternalName", externalName="web.default.svc.cluster.local"))
    return made


def put(zone: Zone, svc: Any, *slices: Any) -> None:
    zone.replace((svc.metadata.namespace, svc.metadata.name), service_records(svc, slices, zone.domain))


def ask(zone: Zone, name: str, kind: str = "A", **options: Any) -> dns.message.Message:
    answer = Responder(zone, forwarding=False).respond(dns.message.make_query(name, kind, **options).to_wire())
    assert isinstance(answer, bytes)
    return dns.message.from_wire(answer)


def texts(found: dns.message.Message) -> list[str]:
    return sorted(
        f"{dns.rdatatype.to_text(item.rdtype)} {item}" for rrset in found.answer for item in rrset
    )


SVC = "default.svc.cluster.local"


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        (f"web.{SVC}", "A", ["A 10.96.0.20"]),
        (f"WEB.{SVC}", "A", ["A 10.96.0.20"]),
        (f"_http._tcp.web.{SVC}", "SRV", [f"SRV 0 100 80 web.{SVC}."]),
        (f"_dns._udp.web.{SVC}", "SRV", [f"SRV 0 100 53 web.{SVC}."]),
        (f"web.{SVC}", "SRV", [f"SRV 0 50 53 web.{SVC}.", f"SRV 0 50 80 web.{SVC}."]),
        (f"db.{SVC}", "A", ["A 10.244.1.2", "A 10.244.1.3"]),
        (f"db-0.db.{SVC}", "A", ["A 10.244.1.2"]),
        (f"10-244-1-3.db.{SVC}", "A", ["A 10.244.1.3"]),
        (f"_pg._tcp.db.{SVC}", "SRV", [f"SRV 0 100 5433 10-244-1-3.db.{SVC}.", f"SRV 0 100 5433 db-0.db.{SVC}."]),
        (f"out.{SVC}", "A", ["CNAME example.org."]),
        (f"alias.{SVC}", "A", ["A 10.96.0.20", f"CNAME web.{SVC}."]),
        ("20.0.96.10.in-addr.arpa", "PTR", [f"PTR web.{SVC}."]),
        ("2.1.244.10.in-addr.arpa", "PTR", [f"PTR db-0.db.{SVC}."]),
        ("dns-version.cluster.local", "TXT", ['TXT "1.1.0"']),
        ("10-244-9-9.default.pod.cluster.local", "A", ["A 10.244.9.9"]),
        ("cluster.local", "NS", ["NS ns.dns.cluster.local."]),
        ("ns.dns.cluster.local", "A", ["A 10.96.0.10"]),
    ],
)
def test_answers(zone: Zone, name: str, kind: str, expected: list[str]) -> None:
    found = ask(zone, name, kind)
    assert texts(found) == expected and found.rcode() == dns.rcode.NOERROR and found.flags & dns.flags.AA


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        (f"web.{SVC}", "AAAA", dns.rcode.NOERROR),
        (f"_tcp.web.{SVC}", "A", dns.rcode.NOERROR),               # exists: something is below it
        ("empty.svc.cluster.local", "A", dns.rcode.NOERROR),
        ("svc.cluster.local", "A", dns.rcode.NOERROR),
        ("empty.pod.cluster.local", "A", dns.rcode.NOERROR),
        (f"nobody.{SVC}", "A", dns.rcode.NXDOMAIN),
        ("web.nowhere.svc.cluster.local", "A", dns.rcode.NXDOMAIN),
        (f"10-244-1-4.db.{SVC}", "A", dns.rcode.NXDOMAIN),         # not ready
        ("10-244-9-9.nowhere.pod.cluster.local", "A", dns.rcode.NXDOMAIN),
        ("no-address.default.pod.cluster.local", "A", dns.rcode.NXDOMAIN),
        ("x.10-244-9-9.default.pod.cluster.local", "A", dns.rcode.NXDOMAIN),
        ("99.0.96.10.in-addr.arpa", "PTR", dns.rcode.NXDOMAIN),
        (f"web.{SVC}.cluster.local", "A", dns.rcode.NXDOMAIN),
    ],
)
def test_nothing_and_not_even_a_name(zone: Zone, name: str, kind: str, code: int) -> None:
    found = ask(zone, name, kind)
    assert not found.answer and found.rcode() == code
    (soa,) = found.authority
    assert soa.rdtype == dns.rdatatype.SOA and soa.ttl == 5
    assert str(soa.name) == "cluster.local."


def test_srv_brings_the_addresses_of_its_targets(zone: Zone) -> None:
    found = ask(zone, f"_pg._tcp.db.{SVC}", "SRV")
    assert sorted(str(item) for rrset in found.additional for item in rrset) == ["10.244.1.2", "10.244.1.3"]


def test_names_outside_do_not_exist_without_egress(zone: Zone) -> None:
    assert ask(zone, "example.org").rcode() == dns.rcode.NXDOMAIN
    assert ask(zone, "notcluster.local").rcode() == dns.rcode.NXDOMAIN


def test_while_records_are_loaded_nothing_is_denied(zone: Zone) -> None:
    zone.complete = False
    assert texts(ask(zone, f"web.{SVC}")) == ["A 10.96.0.20"]
    assert ask(zone, f"nobody.{SVC}").rcode() == ask(zone, f"web.{SVC}", "AAAA").rcode() == dns.rcode.SERVFAIL


def test_changes_leave_nothing_behind(zone: Zone) -> None:
    before = {name: dict(types) for name, types in zone._records.items()}
    below = dict(zone._below)
    put(zone, service("new", "None"), slice_("new", endpoint("10.244.1.9", hostname="a"), endpoint("10.244.1.8")))
    assert texts(ask(zone, f"a.new.{SVC}")) == ["A 10.244.1.9"]
    put(zone, service("new", "None"), slice_("new", endpoint("10.244.1.7")))
    assert texts(ask(zone, f"new.{SVC}")) == ["A 10.244.1.7"]
    assert ask(zone, f"a.new.{SVC}").rcode() == dns.rcode.NXDOMAIN
    zone.replace(("default", "new"), [])
    assert zone._records == before and zone._below == below
    zone.retain([("default", "web")], ["default"])
    assert ask(zone, f"db.{SVC}").rcode() == dns.rcode.NXDOMAIN
    assert ask(zone, "empty.svc.cluster.local").rcode() == dns.rcode.NXDOMAIN
    assert texts(ask(zone, f"web.{SVC}")) == ["A 10.96.0.20"]


def test_two_services_with_one_endpoint_share_its_reverse_record(zone: Zone) -> None:
    put(zone, service("db2", "None"), slice_("db2", endpoint("10.244.1.2", hostname="db-0")))
    assert len(texts(ask(zone, "2.1.244.10.in-addr.arpa", "PTR"))) == 2
    zone.replace(("default", "db2"), [])
    assert texts(ask(zone, "2.1.244.10.in-addr.arpa", "PTR")) == [f"PTR db-0.db.{SVC}."]


def test_long_answers_are_cut_marked_and_fit(zone: Zone) -> None:
    many = slice_("many", *(endpoint(f"10.244.2.{n}") for n in range(1, 101)))
    put(zone, service("many", "None"), many)
    query = dns.message.make_query(f"many.{SVC}", "A")
    small = Responder(zone, forwarding=False).respond(query.to_wire())
    assert isinstance(small, bytes) and len(small) <= 512 and dns.message.from_wire(small).flags & dns.flags.TC
    larger = ask(zone, f"many.{SVC}", use_edns=0, payload=4096)
    assert len(larger.to_wire()) <= 1232 and larger.edns == 0
    whole = Responder(zone, forwarding=False).respond(query.to_wire(), tcp=True)
    assert isinstance(whole, bytes) and len(texts(dns.message.from_wire(whole))) == 100


def test_addresses_take_turns(zone: Zone) -> None:
    responder, query = Responder(zone, forwarding=False), dns.message.make_query(f"db.{SVC}", "A").to_wire()
    firsts = set()
    for _ in range(4):
        answer = responder.respond(query)
        assert isinstance(answer, bytes)
        firsts.add(str(dns.message.from_wire(answer).answer[0][0]))
    assert firsts == {"10.244.1.2", "10.244.1.3"}


def test_refusals(zone: Zone) -> None:
    responder = Responder(zone, forwarding=False)
    query = dns.message.make_query("cluster.local", "A")
    query.set_opcode(dns.opcode.UPDATE)
    for wire, code in (
        (dns.message.make_query("cluster.local", "A", rdclass="CH").to_wire(), dns.rcode.REFUSED),
        (bytes(query.to_wire()), dns.rcode.NOTIMP),
        (dns.message.make_query("cluster.local", "A", use_edns=1).to_wire(), dns.rcode.BADVERS),
        (b"\0\1\1\0\0\2\0\0\0\0\0\0", dns.rcode.FORMERR),
    ):
        answer = responder.respond(wire)
        assert isinstance(answer, bytes) and dns.message.from_wire(answer).rcode() == code
