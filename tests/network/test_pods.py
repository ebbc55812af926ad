"""Pods on two nodes of a fabric, with real links in namespaces of the test's own."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from pinnace.network import namespaces
from pinnace.network.fabric import Fabric, clusters, free_subnet, link_name
from pinnace.network.netlink import Netlink, Route
from pinnace.network.nftables import Nftables
from pinnace.network.pods import AddressesExhausted, HostPort, PodNetwork, port_name

from .conftest import Machine
from .traffic import call, serve

pytestmark = pytest.mark.root


async def test_pods_reach_each_other_without_nat(machine: Machine) -> None:
    first, first_ip = await machine.new_pod(0)
    same, same_ip = await machine.new_pod(0)
    other, other_ip = await machine.new_pod(1)
    assert first_ip == "10.244.1.2" and same_ip == "10.244.1.3" and other_ip == "10.244.2.2"
    with serve(same, 80, answer="same"), serve(other, 80, answer="other"):
        assert call(first, same_ip, 80) == ("same", first_ip)
        assert call(first, other_ip, 80) == ("other", first_ip)
    node = machine.nodes[1].at
    with serve(other, 81, answer="pod"):
        assert call(node.path, other_ip, 81)[0] == "pod"


async def test_pods_reach_the_host_as_their_node_and_nothing_beyond(machine: Machine) -> None:
    pod, _ = await machine.new_pod(0)
    node = machine.nodes[0].at
    with serve(machine.host, 6443, answer="api"):
        assert call(pod, machine.fabric.gateway, 6443) == ("api", node.ip)
    for nowhere in ("192.0.2.77", "10.244.9.9"):
        with pytest.raises(OSError, match=r"unreachable|No route"):
            call(pod, nowhere, 80, timeout=0.5)
    with serve(node.path, 10250, answer="kubelet"):
        assert call(machine.host, node.ip, 10250) == ("kubelet", machine.fabric.gateway)


async def test_host_port_leads_to_the_pod_also_from_itself(machine: Machine, namespace: Callable[[], str]) -> None:
    node = machine.nodes[0]
    pod = namespace()
    (ip,) = await node.network.add(pod, "sb", "default/web", [HostPort(host_port=8080, container_port=80)])
    with serve(pod, 80, answer="web"):
        assert call(machine.host, node.at.ip, 8080) == ("web", machine.fabric.gateway)
        assert call(pod, node.at.ip, 8080)[0] == "web"
        assert call(node.at.path, node.at.ip, 8080)[0] == "web"
    await node.network.remove("sb")
    with pytest.raises(ConnectionRefusedError):
        call(machine.host, node.at.ip, 8080)
    assert ip == "10.244.1.2"


async def test_one_host_port_for_several_pods_by_address_and_protocol(
    machine: Machine, namespace: Callable[[], str]
) -> None:
    """As upstream's conformance test has it: one on the loopback address, one on the node's, one for UDP."""
    node = machine.nodes[0]
    ports = [("127.0.0.1", "TCP"), (node.at.ip, "TCP"), (node.at.ip, "UDP")]
    pods = [namespace() for _ in ports]
    for number, ((ip, protocol), pod) in enumerate(zip(ports, pods, strict=True)):
        port = HostPort(host_port=54323, container_port=80, host_ip=ip, protocol=protocol)
        await node.network.add(pod, f"sb{number}", host_ports=[port])
    with serve(pods[0], 80, answer="0"), serve(pods[1], 80, answer="1"), serve(pods[2], 80, kind="udp", answer="2"):
        assert call(node.at.path, "127.0.0.1", 54323) == ("0", "10.244.1.1")
        assert call(node.at.path, "127.0.0.1", 54323, source=node.at.ip)[0] == "0"
        assert call(node.at.path, node.at.ip, 54323)[0] == "1"
        assert call(node.at.path, node.at.ip, 54323, kind="udp")[0] == "2"
        assert call(machine.host, node.at.ip, 54323, kind="udp")[0] == "2"
        with pytest.raises(ConnectionRefusedError):
            call(pods[1], "127.0.0.1", 54323)


async def test_a_udp_client_follows_a_host_port_to_its_next_pod(
    machine: Machine, namespace: Callable[[], str]
) -> None:
    node = machine.nodes[0]
    pods = namespace(), namespace()
    port = HostPort(host_port=5353, container_port=53, protocol="UDP")
    with (
        namespaces.run_in(machine.host, socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as caller,
        serve(pods[0], 53, kind="udp", answer="0"), serve(pods[1], 53, kind="udp", answer="1"),
    ):
        caller.settimeout(2)
        caller.connect((node.at.ip, 5353))
        for number, pod in enumerate(pods):
            await node.network.add(pod, f"sb{number}", host_ports=[port])
            caller.send(b"?")
            assert caller.recv(100).startswith(str(number).encode())
            await node.network.remove(f"sb{number}")


async def test_a_pod_cannot_reach_the_loopback_of_its_node(machine: Machine) -> None:
    pod, _ = await machine.new_pod(0)
    node = machine.nodes[0].at
    with Netlink(pod) as netlink:
        for route in netlink.routes(table=255):
            if route.destination.startswith("127."):
                netlink.delete_route(route)
        netlink.add_route(Route("127.0.0.1/32", gateway="10.244.1.1", source="10.244.1.2"))
    with (
        namespaces.run_in(node.path, socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as private,
        namespaces.run_in(pod, socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as intruder,
    ):
        private.bind(("127.0.0.1", 4000))
        private.settimeout(0.2)
        intruder.sendto(b"!", ("127.0.0.1", 4000))
        with pytest.raises(TimeoutError):
            private.recv(10)


async def test_a_new_process_goes_on_and_frees_what_leaked(
    namespace: Callable[[], str], tmp_path: Path
) -> None:
    node = namespace()
    pods = [namespace() for _ in range(3)]
    nft = Nftables(node)
    try:
        before = PodNetwork(["10.244.1.0/29"], ["10.244.0.0/16"], tmp_path, nft=nft, netns=node)
        await before.setup()
        ips = [(await before.add(pod, f"sb{n}"))[0] for n, pod in enumerate(pods)]
        before.close()
        assert (tmp_path / "pods.json").stat().st_mode & 0o777 == 0o600

        after = PodNetwork(["10.244.1.0/29"], ["10.244.0.0/16"], tmp_path, nft=nft, netns=node)
        await after.setup()
        await nft.run("flush ruleset")
        assert await after.check() is None and "pinnace-pods" in await nft.run("list tables")
        assert after.addresses("sb1") == (ips[1],)
        assert await after.add(pods[1], "sb1") == (ips[1],)
        assert await after.sweep({"sb0", "sb1"}) == ["sb2"]
        with Netlink(node) as netlink:
            assert netlink.link(port_name("sb2")) is None and netlink.link(port_name("sb1")) is not None
        fresh = [(await after.add(namespace(), f"new{n}"))[0] for n in range(3)]
        assert fresh == ["10.244.1.5", "10.244.1.6", "10.244.1.4"]
        with pytest.raises(AddressesExhausted, match=r"no free address in 10\.244\.1\.0/29"):
            await after.add(namespace(), "too-many")
        await after.teardown()
        with Netlink(node) as netlink:
            assert [link.name for link in netlink.links()] == ["lo"]
        after.close()
    finally:
        nft.close()


def test_fabric_comes_and_goes_whole(namespace: Callable[[], str]) -> None:
    host = namespace()
    cluster = f"f{os.getpid()}"
    fabric = Fabric(cluster, "172.30.9.0/24", host=host, egress=True)
    try:
        fabric.create()
        made = [fabric.add_node(f"n{number}") for number in range(3)]
        fabric.create()
        assert fabric.add_node("n1") == made[1]
        assert [node.ip for node in fabric.nodes()] == ["172.30.9.2", "172.30.9.3", "172.30.9.4"]
        with Netlink(made[0].path) as netlink:
            assert [r.gateway for r in netlink.routes() if r.destination == "0.0.0.0/0"] == ["172.30.9.1"]
        fabric.set_egress(False)
        with Netlink(made[0].path) as netlink:
            assert not [r for r in netlink.routes() if r.destination == "0.0.0.0/0"]
        fabric.remove_node("n0")
        assert [node.name for node in fabric.nodes()] == ["n1", "n2"]
    finally:
        found = Fabric(cluster, "172.30.9.0/24", host=host).destroy()
    assert len(found) == 4 and Fabric(cluster, "172.30.9.0/24", host=host).destroy() == []
    with Netlink(host) as netlink:
        assert [link.name for link in netlink.links()] == ["lo"]
    assert not namespaces.names(f"pinnace.{cluster}.")


def test_egress_is_masqueraded_and_without_it_nothing_leaves(namespace: Callable[[], str]) -> None:
    host, outside = namespace(), namespace()
    with Netlink(host) as netlink, Netlink(outside) as world:
        descriptor = os.open(outside, os.O_RDONLY)
        netlink.add_veth("wan", "eth0", peer_netns=descriptor, up=True)
        os.close(descriptor)
        netlink.add_address(netlink.index("wan"), "192.0.2.1", 24)
        world.add_address(world.index("eth0"), "192.0.2.2", 24)
        world.set_link(world.index("eth0"), up=True)
        world.add_route(Route("0.0.0.0/0", gateway="192.0.2.1"))
    namespaces.run_in(host, namespaces.write_sysctl, "net.ipv4.ip_forward", 1)
    cluster = f"e{os.getpid()}"
    fabric = Fabric(cluster, "172.30.9.0/24", host=host, egress=True)
    try:
        fabric.create()
        node = fabric.add_node("n")
        assert cluster in clusters()
        with serve(outside, 80, answer="world"), serve(node.path, 10250, answer="kubelet"):
            assert call(node.path, "192.0.2.2", 80) == ("world", "192.0.2.1")
            fabric.set_egress(False)
            with pytest.raises(OSError, match=r"unreachable"):
                call(node.path, "192.0.2.2", 80, timeout=0.3)
            with Netlink(node.path) as netlink:   # whoever may set routes on the node gets no further than the host
                netlink.add_route(Route("0.0.0.0/0", gateway=fabric.gateway))
            with pytest.raises(TimeoutError):
                call(node.path, "192.0.2.2", 80, timeout=0.2)
            with pytest.raises(TimeoutError):
                call(outside, node.ip, 10250, timeout=0.2)
    finally:
        fabric.destroy()


def test_names_fit_and_subnets_do_not_overlap() -> None:
    assert link_name("pn-", "dev") == "pn-dev"
    long = link_name("pn-", "a-cluster-with-a-long-name")
    assert len(long) == 15 and long != link_name("pn-", "a-cluster-with-a-long-nama")
    assert free_subnet(["172.30.0.1/24", "172.30.1.128/25", "0.0.0.0/0", "fe80::1/64"]) == "172.30.2.0/24"
