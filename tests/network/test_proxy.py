"""The service proxy's rules in a kernel: two nodes, pods, real packets, all in namespaces of the test's own."""

from __future__ import annotations

import asyncio
import re
import socket
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from pinnace.base.randomness import Randomness
from pinnace.network.namespaces import run_in
from pinnace.network.nftables import Nftables, NftablesError
from pinnace.network.proxy.endpoints import ProxyNode
from pinnace.network.proxy.proxy import RuleWriter
from pinnace.network.proxy.rules import plan_service

from .conftest import Machine
from .objects import endpoint, service, slice_
from .traffic import call, serve

pytestmark = pytest.mark.root

VIP = "10.96.0.20"


class Cluster:
    """The nodes' rules for a set of objects."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.nodes = [ProxyNode(f"n{n}", (node.at.ip,)) for n, node in enumerate(machine.nodes)]
        self.writers = [RuleWriter(node.nft, netns=node.at.path) for node in machine.nodes]

    async def replace(self, services: list[Any], slices: list[Any]) -> None:
        for node, writer in zip(self.nodes, self.writers, strict=True):
            await writer.replace(services, slices, node)

    async def update(self, svc: Any, *slices: Any) -> None:
        key = (svc.metadata.namespace, svc.metadata.name)
        for node, writer in zip(self.nodes, self.writers, strict=True):
            await writer.update({key: plan_service(svc, slices, node)})

    def close(self) -> None:
        for writer in self.writers:
            writer.close()


@pytest.fixture
async def cluster(machine: Machine) -> Any:
    made = Cluster(machine)
    yield made
    made.close()


async def test_cluster_ip_spreads_over_both_nodes_and_hairpins(cluster: Cluster) -> None:
    one, one_ip = await cluster.machine.new_pod(0)
    two, two_ip = await cluster.machine.new_pod(1)
    third, third_ip = await cluster.machine.new_pod(0)
    await cluster.replace([service("web")], [slice_("web", endpoint(one_ip, "n0"), endpoint(two_ip, "n1"))])
    with serve(one, 8080, answer="one"), serve(two, 8080, answer="two"):
        answers = Counter(call(third, VIP, 80) for _ in range(60))
        assert set(answers) == {("one", third_ip), ("two", third_ip)}   # also from a pod of the same bridge
        assert min(answers.values()) > 10
        own = dict(call(one, VIP, 80) for _ in range(30))
        assert own["one"] == "10.244.1.1" and own["two"] == one_ip     # to itself: masqueraded as the bridge
        node = cluster.machine.nodes[0].at
        assert {call(node.path, VIP, 80)[0] for _ in range(30)} == {"one", "two"}
        with pytest.raises(ConnectionRefusedError):
            call(third, VIP, 81)                                       # not a port of the service


async def test_node_port_from_the_host_and_from_a_pod_by_way_of_the_other_node(cluster: Cluster) -> None:
    one, one_ip = await cluster.machine.new_pod(0)
    two, _ = await cluster.machine.new_pod(1)
    node, other = (entry.at for entry in cluster.machine.nodes)
    ports = {"port": 80, "nodePort": 30080}
    slices = slice_("web", endpoint(one_ip, "n0"))
    await cluster.replace([service("web", VIP, ports, type="NodePort")], [slices])
    host = cluster.machine.host
    with serve(one, 8080, answer="one"):
        assert call(host, node.ip, 30080)[0] == "one"
        assert call(host, other.ip, 30080) == ("one", other.ip)        # masqueraded by the node that was called
        assert call(two, node.ip, 30080)[0] == "one"
        assert call(one, other.ip, 30080)[0] == "one"
        assert call(node.path, node.ip, 30080)[0] == "one"
        with pytest.raises(ConnectionRefusedError):
            call(node.path, "127.0.0.1", 30080)
        await cluster.update(service("web", VIP, ports, type="NodePort", externalTrafficPolicy="Local"), slices)
        assert call(host, node.ip, 30080) == ("one", cluster.machine.fabric.gateway)   # source address kept
        with pytest.raises(TimeoutError):
            call(host, other.ip, 30080, timeout=0.2)                   # no endpoint there: dropped
        assert call(two, VIP, 80)[0] == "one"


async def test_services_without_endpoints_refuse_and_unknown_addresses_stay_here(cluster: Cluster) -> None:
    pod, pod_ip = await cluster.machine.new_pod(0)
    node = cluster.machine.nodes[0].at
    with pytest.raises(OSError, match=r"timed out|unreachable|No route"):   # no rules at all yet: the sink
        call(pod, VIP, 80, timeout=0.3)
    with pytest.raises(OSError, match=r"timed out|unreachable"):
        call(node.path, VIP, 80, timeout=0.2)
    svc = service("web")
    await cluster.replace([svc], [])
    for caller in (pod, node.path):
        with pytest.raises(ConnectionRefusedError):
            call(caller, VIP, 80)
        with pytest.raises(TimeoutError):
            call(caller, "10.96.200.200", 80, timeout=0.2)             # not allocated: dropped
    with serve(pod, 8080, answer="pod"):
        await cluster.update(svc, slice_("web", endpoint(pod_ip, "n0")))
        assert call(node.path, VIP, 80) == ("pod", "10.244.1.1")
        await cluster.update(svc)
        with pytest.raises(ConnectionRefusedError):
            call(pod, VIP, 80)


async def test_session_affinity(cluster: Cluster) -> None:
    pods = [await cluster.machine.new_pod(0) for _ in range(3)]
    client, _ = await cluster.machine.new_pod(1)
    slices = slice_("web", *(endpoint(ip, "n0") for _, ip in pods))
    await cluster.replace([service("web", sessionAffinity="ClientIP")], [slices])
    with serve(pods[0][0], 8080, answer="0"), serve(pods[1][0], 8080, answer="1"), serve(pods[2][0], 8080, answer="2"):
        first = call(client, VIP, 80)[0]
        assert {call(client, VIP, 80)[0] for _ in range(20)} == {first}
        shorter = {"clientIP": {"timeoutSeconds": 60}}
        await cluster.update(service("web", sessionAffinity="ClientIP", sessionAffinityConfig=shorter), slices)
        assert len({call(client, VIP, 80)[0] for _ in range(20)}) == 1
        await cluster.update(service("web"), slices)
        assert len({call(client, VIP, 80)[0] for _ in range(40)}) == 3


async def test_a_udp_client_follows_when_its_endpoint_is_replaced(cluster: Cluster) -> None:
    one, one_ip = await cluster.machine.new_pod(0)
    two, two_ip = await cluster.machine.new_pod(1)
    client, client_ip = await cluster.machine.new_pod(0)
    svc = service("dns", "10.96.0.10", {"name": "dns", "port": 53, "protocol": "UDP"})

    def to(ip: str) -> Any:
        return slice_("dns", endpoint(ip), port=10053, protocol="UDP", port_name="dns")

    await cluster.replace([svc], [to(one_ip)])
    with (
        serve(one, 10053, kind="udp", answer="one"), serve(two, 10053, kind="udp", answer="two"),
        run_in(client, socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as caller,
    ):
        caller.settimeout(1)
        caller.connect(("10.96.0.10", 53))
        caller.send(b"?")
        assert caller.recv(100) == f"one {client_ip}".encode()
        await cluster.update(svc, to(two_ip))
        caller.send(b"?")
        assert caller.recv(100) == f"two {client_ip}".encode()


async def test_rules_outlive_their_process_and_the_next_one_replaces_them(cluster: Cluster) -> None:
    one, one_ip = await cluster.machine.new_pod(0)
    at = cluster.machine.nodes[0].at
    first = Nftables(at.path)
    await RuleWriter(first).replace(
        [service("old", "10.96.0.30"), service("web")],
        [slice_("old", endpoint(one_ip)), slice_("web", endpoint(one_ip))], cluster.nodes[0],
    )  # fmt: skip
    first.close()
    with serve(one, 8080, answer="one"):
        assert call(at.path, VIP, 80)[0] == "one"
        await cluster.replace([service("web")], [slice_("web", endpoint(one_ip))])
        assert call(at.path, VIP, 80)[0] == "one"
        with pytest.raises(TimeoutError):
            call(at.path, "10.96.0.30", 80, timeout=0.2)


async def test_every_change_is_accepted_by_the_kernel_and_leaves_nothing(
    namespace: Callable[[], str]
) -> None:
    path = namespace()
    nft = Nftables(path)
    writer = RuleWriter(nft, netns=path)
    node = ProxyNode("n0", ("172.30.0.2",))
    try:
        await writer.replace([], [], node)
        empty = await nft.run("list table ip pinnace-services")
        status = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}
        variants = [
            service("a", VIP, {"port": 80, "nodePort": 30080}, type="NodePort"),
            service("a", VIP, {"port": 80, "nodePort": 30081}, type="NodePort", externalTrafficPolicy="Local"),
            service("a", VIP, {"port": 81}, sessionAffinity="ClientIP", internalTrafficPolicy="Local"),
            service("a", VIP, {"port": 80, "nodePort": 30080}, type="LoadBalancer", status=status,
                    loadBalancerSourceRanges=["198.51.100.0/24", "203.0.113.1/32"], externalIPs=["192.0.2.7"]),
            service("a", "10.96.0.77", {"port": 80, "protocol": "SCTP"}),
        ]  # fmt: skip
        for svc in variants:
            protocol = (svc.spec.ports or [])[0].protocol or "TCP"
            here, there = endpoint("10.244.1.2", "n0"), endpoint("10.244.1.3", "n1")
            for targets in ([], [here, there], [there]):
                slices = [slice_("a", *targets, protocol=protocol)]
                await writer.update({("default", "a"): plan_service(svc, slices, node)})
        await writer.update({("default", "a"): None})
        assert await nft.run("list table ip pinnace-services") == empty
        with pytest.raises(NftablesError, match="syntax error"):
            await nft.run("add nonsense")
        tables = await nft.query("list tables")
        assert [entry["table"]["name"] for entry in tables if "table" in entry] == ["pinnace-services"]
        await writer.remove()
        assert (await nft.run("list ruleset")).strip() == ""
    finally:
        writer.close()
        nft.close()


async def test_many_small_changes_end_where_one_large_one_does(namespace: Callable[[], str]) -> None:
    """Random states one after the other, each as a difference; the kernel must show what a fresh start gives."""
    paths = namespace(), namespace()
    nfts = [Nftables(path) for path in paths]
    step_by_step, at_once = (RuleWriter(nft, netns=path) for nft, path in zip(nfts, paths, strict=True))
    node, dice = ProxyNode("n0", ("172.30.0.2",)), Randomness(7)

    def state() -> dict[str, tuple[Any, Any]]:
        made = {}
        for number in range(4):
            kind = ("ClusterIP", "NodePort")[dice.below(2)]
            ports: list[dict[str, Any]] = [{"name": f"p{n}", "port": 80 + n} for n in range(dice.below(3) + 1)]
            if kind == "NodePort":
                ports = [port | {"nodePort": 30000 + 10 * number + n} for n, port in enumerate(ports)]
            spec: dict[str, Any] = {"type": kind, "externalTrafficPolicy": ("Local", "Cluster")[dice.below(2)]}
            if dice.below(3) == 0:
                timeout = {"clientIP": {"timeoutSeconds": 60 + dice.below(2)}}
                spec |= {"sessionAffinity": "ClientIP", "sessionAffinityConfig": timeout}
            if dice.below(2):
                spec["externalIPs"] = [f"192.0.2.{dice.below(2)}"]      # several services may want the same one
            targets = [endpoint(f"10.244.1.{n}", f"n{dice.below(2)}") for n in range(2, 2 + dice.below(4))]
            if dice.below(5):
                made[f"s{number}"] = (
                    service(f"s{number}", f"10.96.0.{number + 1}", *ports, **spec),
                    slice_(f"s{number}", *targets, port_name="p0"),
                )
        return made

    def shape(text: str) -> Counter[str]:
        return Counter(part.strip() for part in re.split(r"[,{}\n]", text))

    try:
        await step_by_step.replace([], [], node)
        for _ in range(40):
            wanted = state()
            fragments: dict[tuple[str, str], Any] = {("default", f"s{n}"): None for n in range(4)}
            for name, (svc, slices) in wanted.items():
                fragments["default", name] = plan_service(svc, [slices], node)
            await step_by_step.update(fragments)
        # Of contested elements the first to claim them keeps them: here each has them from the beginning.
        last = state()
        await step_by_step.update({("default", f"s{n}"): None for n in range(4)})
        await step_by_step.update(
            {("default", name): plan_service(svc, [slices], node) for name, (svc, slices) in last.items()}
        )
        await at_once.replace([svc for svc, _ in last.values()], [slices for _, slices in last.values()], node)
        one, other = [await nft.run("list table ip pinnace-services") for nft in nfts]
        assert shape(one) == shape(other)
    finally:
        for writer, nft in zip((step_by_step, at_once), nfts, strict=True):
            writer.close()
            nft.close()


async def test_one_endpoint_among_500_services_is_quick(namespace: Callable[[], str]) -> None:
    path = namespace()
    nft = Nftables(path)
    writer = RuleWriter(nft, netns=path)
    node = ProxyNode("n0", ("172.30.0.2",))
    loop = asyncio.get_running_loop()
    services = [service(f"s{n}", f"10.96.{n // 250}.{n % 250 + 1}") for n in range(500)]
    slices = [slice_(f"s{n}", endpoint(f"10.244.1.{n % 250 + 2}")) for n in range(500)]
    try:
        start = loop.time()
        await writer.replace(services, slices, node)
        full = loop.time() - start
        took = []
        for round_ in range(5):
            start = loop.time()
            more = slice_("s7", endpoint("10.244.1.9"), endpoint(f"10.244.2.{round_ + 2}"))
            await writer.update({("default", "s7"): plan_service(services[7], [more], node)})
            took.append(loop.time() - start)
        assert min(took) < full / 3
    finally:
        writer.close()
        nft.close()
