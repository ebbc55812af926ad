"""Which address is next: a table, and a property."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinnace.network.ipam import AddressesExhausted, HostPort, Ledger, next_address
from pinnace.network.pods import hardware_address, host_port_elements, port_name

SMALL = ip_network("10.244.1.0/29")      # .2 to .6 are the pods'


@pytest.mark.parametrize(
    ("taken", "last", "expected"),
    [
        ((), None, "10.244.1.2"),
        ((), "10.244.1.2", "10.244.1.3"),
        ((), "10.244.1.6", "10.244.1.2"),
        (("10.244.1.3",), "10.244.1.2", "10.244.1.4"),
        (("10.244.1.2", "10.244.1.6"), "10.244.1.5", "10.244.1.3"),
        ((), "192.0.2.1", "10.244.1.2"),          # of a range that the node had before
    ],
)
def test_next_address(taken: tuple[str, ...], last: str | None, expected: str) -> None:
    assert next_address(SMALL, taken, last) == expected


def test_exhausted_says_so() -> None:
    with pytest.raises(AddressesExhausted, match=r"no free address in 10\.244\.1\.0/29: all 5 are in use"):
        next_address(SMALL, [f"10.244.1.{n}" for n in range(2, 7)], None)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 7)), max_size=40))
def test_never_given_twice(steps: list[tuple[bool, int]]) -> None:
    held: dict[int, str] = {}
    last = None
    for add, number in steps:
        if not add:
            held.pop(number, None)
        elif number not in held and len(held) < 5:
            last = next_address(SMALL, held.values(), last)
            assert last not in held.values() and last not in ("10.244.1.0", "10.244.1.1", "10.244.1.7")
            held[number] = last


def test_the_ledger_survives_and_a_torn_file_is_started_anew(tmp_path: Path) -> None:
    file = tmp_path / "pods.json"
    first = Ledger(file, ["10.244.1.0/24"])
    held = first.allocate("a", "default/web", [HostPort(host_port=80, container_port=8080)])
    assert first.allocate("a") == held
    second = Ledger(file, ["10.244.1.0/24"])
    assert second.sandboxes == {"a": held} and second.allocate("b").ips == ("10.244.1.3",)
    assert second.release("a") == held and second.release("a") is None
    assert Ledger(file, ["10.244.1.0/24"]).allocate("c").ips == ("10.244.1.4",)
    file.write_text("{")
    assert Ledger(file, ["10.244.1.0/24"]).allocate("d").ips == ("10.244.1.2",)


def test_host_ports_as_elements(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "pods.json", ["10.244.1.0/24"])
    ledger.allocate("a", host_ports=[
        HostPort(host_port=80, container_port=8080),
        HostPort(host_port=53, container_port=53, protocol="UDP", host_ip="192.0.2.1"),
    ])  # fmt: skip
    assert host_port_elements(ledger.sandboxes).splitlines() == [
        "add element ip pinnace-pods host-ports { tcp . 80 : 10.244.1.2 . 8080 }",
        "add element ip pinnace-pods host-ip-ports { 192.0.2.1 . udp . 53 : 10.244.1.2 . 53 }",
        "add element ip pinnace-pods hairpins { 10.244.1.2 . 10.244.1.2 }",
    ]
    assert host_port_elements({}) == ""


def test_names() -> None:
    assert hardware_address("10.244.1.2") == "0a:58:0a:f4:01:02"
    assert len(port_name("x" * 64)) == 12 and port_name("a") != port_name("b")
