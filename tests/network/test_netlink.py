"""Our netlink against pyroute2 and the kernel."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pyroute2 import NetNS

from pinnace.network import namespaces
from pinnace.network.netlink import Netlink, NetlinkError, Route, attribute, attributes, nested, u32
from pinnace.network.nftables import Nftables, NftablesError


def test_attributes_come_back_and_garbage_ends_quietly() -> None:
    data = attribute(1, b"abc") + nested(2, attribute(3, u32(7)))
    assert list(attributes(data)) == [(1, b"abc"), (2, attribute(3, u32(7)))]
    for cut in range(len(data)):
        list(attributes(data[:cut]))
    assert list(attributes(b"\0\0\0\0")) == [] and list(attributes(b"\xff\xff\1\0abcd")) == []


@pytest.mark.root
def test_links_as_pyroute2_sees_them(namespace: Callable[[], str]) -> None:
    path, other = namespace(), namespace()
    with Netlink(path) as netlink, NetNS(path) as oracle, Netlink(other) as there:
        netlink.add_bridge("br0", mtu=1400, nf_call_iptables=True, hardware="0a:58:0a:f4:01:01", alias="a bridge")
        descriptor = os.open(other, os.O_RDONLY)
        netlink.add_veth("a", "b", peer_netns=descriptor, peer_hardware="0a:58:0a:f4:01:02", mtu=1400,
                         master=netlink.index("br0"), up=True)  # fmt: skip
        os.close(descriptor)
        netlink.set_hairpin(netlink.index("a"))
        bridge = oracle.link("get", ifname="br0")[0]
        info = bridge.get_attr("IFLA_LINKINFO")
        assert info.get_attr("IFLA_INFO_DATA").get_attr("IFLA_BR_NF_CALL_IPTABLES") == 1
        assert bridge.get_attr("IFLA_MTU") == 1400 and bridge.get_attr("IFLA_IFALIAS") == "a bridge"
        port = oracle.link("get", ifname="a")[0]
        assert port.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_SLAVE_DATA").get_attr("IFLA_BRPORT_MODE") == 1
        assert port.get_attr("IFLA_MASTER") == bridge["index"] and port["flags"] & 1
        peer = there.link("b")
        assert peer is not None and peer.address == "0a:58:0a:f4:01:02" and peer.kind == "veth" and not peer.up
        there.set_link(peer.index, up=True, name="eth0", mtu=1300, hardware="0a:58:0a:f4:01:03")
        changed = there.link("eth0")
        assert changed is not None and changed.up and changed.mtu == 1300 and changed.address.endswith("03")
        netlink.set_link(netlink.index("a"), master=0, up=False)
        assert (found := netlink.link("a")) is not None and found.master == 0 and not found.up
        assert netlink.delete_link("a") and not netlink.delete_link("a") and there.link("eth0") is None


@pytest.mark.root
def test_addresses_routes_and_neighbours(namespace: Callable[[], str]) -> None:
    path = namespace()
    with Netlink(path) as netlink, NetNS(path) as oracle:
        netlink.add_bridge("br0")
        index = netlink.index("br0")
        for _ in range(2):   # the second time nothing happens
            netlink.add_address(index, "10.1.0.1", 24)
        netlink.add_address(index, "fd00:1::1", 64)
        assert {(a.address, a.prefix) for a in netlink.addresses(index)} >= {("10.1.0.1", 24), ("fd00:1::1", 64)}
        wanted = [
            Route("0.0.0.0/0", gateway="10.1.0.9"), Route("10.2.0.0/16", gateway="10.1.0.2", metric=7),
            Route("10.3.0.0/16", type="blackhole"), Route("10.4.0.0/16", type="unreachable", metric=4096),
            Route("10.5.0.0/16", device=index, source="10.1.0.1"), Route("fd00:2::/64", gateway="fd00:1::2"),
        ]  # fmt: skip
        for route in wanted:
            netlink.add_route(route)
        netlink.add_route(Route("10.2.0.0/16", gateway="10.1.0.3", metric=7))
        theirs = {(r.get_attr("RTA_DST"), r.get_attr("RTA_GATEWAY"), r.get_attr("RTA_PRIORITY"))
                  for r in oracle.get_routes(proto=112)}  # fmt: skip
        assert {("10.2.0.0", "10.1.0.3", 7), (None, "10.1.0.9", None), ("10.4.0.0", None, 4096)} <= theirs
        assert {r.destination for r in netlink.routes(protocol=112)} == {r.destination for r in wanted}
        with pytest.raises(NetlinkError, match="File exists") as refused:
            netlink.add_route(wanted[2], replace=False)
        assert refused.value.name == "EEXIST"
        assert netlink.delete_route(wanted[2]) and not netlink.delete_route(wanted[2])
        netlink.add_neighbour(index, "10.1.0.2", "0a:58:0a:01:00:02")
        assert [n.hardware for n in netlink.neighbours(index) if n.address == "10.1.0.2"] == ["0a:58:0a:01:00:02"]
        netlink.delete_address(index, "10.1.0.1", 24)
        assert "10.1.0.1" not in {a.address for a in netlink.addresses()}


@pytest.mark.root
def test_vxlan_and_its_peers(namespace: Callable[[], str]) -> None:
    path = namespace()
    with Netlink(path) as netlink, NetNS(path) as oracle:
        netlink.add_bridge("eth0")
        netlink.add_address(netlink.index("eth0"), "172.30.0.2", 24)
        netlink.add_vxlan("vx0", vni=1, local="172.30.0.2", device=netlink.index("eth0"))
        index = netlink.index("vx0")
        netlink.add_fdb(index, "172.30.0.3", "0a:58:0a:f4:02:00")
        data = oracle.link("get", ifname="vx0")[0].get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA")
        assert data.get_attr("IFLA_VXLAN_ID") == 1 and data.get_attr("IFLA_VXLAN_PORT") == 8472
        entries = {(e.get_attr("NDA_LLADDR"), e.get_attr("NDA_DST")) for e in oracle.fdb("dump", ifindex=index)}
        assert ("0a:58:0a:f4:02:00", "172.30.0.3") in entries
        netlink.delete_fdb(index, "172.30.0.3", "0a:58:0a:f4:02:00")


@pytest.mark.root
def test_errors_say_what_and_why(namespace: Callable[[], str]) -> None:
    with Netlink(namespace()) as netlink:
        with pytest.raises(NetlinkError, match="link nowhere") as missing:
            netlink.index("nowhere")
        assert missing.value.errno == errno.ENODEV and netlink.link("nowhere") is None
        with pytest.raises(NetlinkError, match=r"[Gg]ateway") as refused:   # the kernel's own words
            netlink.add_route(Route("10.2.0.0/16", gateway="10.1.0.2"))
        assert refused.value.name == "ENETUNREACH"


@pytest.mark.root
def test_namespaces_come_and_go_and_leave_the_caller_where_it_was(namespace: Callable[[], str]) -> None:
    own = Path("/proc/thread-self/ns/net").stat().st_ino
    path = namespace()
    inside = namespaces.run_in(path, lambda: Path("/proc/thread-self/ns/net").stat().st_ino)
    assert inside == Path(path).stat().st_ino != own == Path("/proc/thread-self/ns/net").stat().st_ino
    name = Path(path).name
    assert namespaces.exists(name) and name in namespaces.names("pinnace-test-")
    with pytest.raises(FileExistsError):
        namespaces.create(name)
    with pytest.raises(ZeroDivisionError):
        namespaces.run_in(path, lambda: 1 // 0)
    before = namespaces.read_sysctl("net.ipv4.ip_forward")
    namespaces.run_in(path, namespaces.write_sysctl, "net.ipv4.ip_forward", 1)
    assert namespaces.run_in(path, namespaces.read_sysctl, "net.ipv4.ip_forward") == "1"
    assert namespaces.read_sysctl("net.ipv4.ip_forward") == before
    assert namespaces.read_sysctl("net.no.such") is None
    assert namespaces.write_sysctl("net.no.such", 1, required=False) is False
    assert namespaces.delete(name) and not namespaces.delete(name) and not namespaces.exists(name)
    # What a crash or a reboot leaves: a file that nothing is mounted on.
    Path(path).touch()
    assert not namespaces.exists(name) and name in namespaces.names() and namespaces.delete(name)


@pytest.mark.root
async def test_a_transaction_is_all_or_nothing(namespace: Callable[[], str]) -> None:
    nft = Nftables(namespace())
    try:
        with pytest.raises(NftablesError, match="No such file"):
            await nft.run("add table ip one\nadd rule ip one nochain accept")
        assert await nft.run("list ruleset") == ""
    finally:
        nft.close()
