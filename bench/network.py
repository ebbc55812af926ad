"""What the network costs: namespaces and links, the fabric, pods, service rules, DNS.

Run as root: `.venv/bin/python bench/network.py` prints a table; with `--json` one JSON object. Everything happens in
namespaces that are made here and gone at the end; no packet leaves them.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pinnace.api.core import v1 as core
from pinnace.api.discovery import v1 as discovery
from pinnace.network import namespaces
from pinnace.network.dns.server import Responder
from pinnace.network.dns.zone import Zone, service_records
from pinnace.network.fabric import Fabric
from pinnace.network.netlink import Netlink, Route
from pinnace.network.nftables import Nftables
from pinnace.network.pods import PodNetwork
from pinnace.network.proxy.endpoints import ProxyNode
from pinnace.network.proxy.proxy import RuleWriter
from pinnace.network.proxy.rules import plan_service

_PREFIX = f"pinnace-bench-{os.getpid()}-"


def milliseconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return (time.perf_counter() - start) * 1000


def service(number: int) -> tuple[core.Service, discovery.EndpointSlice]:
    """Service s<number> with one endpoint."""
    svc = core.Service()
    svc.metadata.name, svc.metadata.namespace = f"s{number}", "default"
    svc.spec.clusterIP = f"10.96.{number // 250}.{number % 250 + 1}"
    svc.spec.ports = [core.ServicePort(port=80, name="http")]
    slice_ = discovery.EndpointSlice(addressType="IPv4")
    slice_.metadata.name, slice_.metadata.namespace = f"s{number}-1", "default"
    slice_.metadata.labels = {"kubernetes.io/service-name": f"s{number}"}
    slice_.ports = [discovery.EndpointPort(port=8080, name="http")]
    slice_.endpoints = [discovery.Endpoint(addresses=[f"10.244.1.{number % 250 + 2}"])]
    return svc, slice_


def links() -> float:
    """Namespace, veth, bridge, address and route, the median of ten."""

    def once(name: str) -> None:
        path = namespaces.create(name)
        with Netlink(path) as netlink:
            netlink.add_bridge("br0")
            netlink.add_veth("a", "b", master=netlink.index("br0"), up=True)
            netlink.add_address(netlink.index("br0"), "10.1.0.1", 24)
            netlink.add_route(Route("10.2.0.0/16", gateway="10.1.0.2"))

    names = [f"{_PREFIX}{number}" for number in range(10)]
    try:
        return statistics.median(milliseconds(lambda name=name: once(name)) for name in names)  # type: ignore[misc]
    finally:
        for name in names:
            namespaces.delete(name)


async def pods(host: str, state: Path) -> dict[str, float]:
    fabric = Fabric(f"bench{os.getpid()}", "172.30.0.0/24", host=host)
    made: list[str] = []
    try:
        start = time.perf_counter()
        fabric.create()
        for number in range(3):
            fabric.add_node(f"n{number}")
        nodes = (time.perf_counter() - start) * 1000
        at = fabric.nodes()[0]
        nft = Nftables(at.path)
        network = PodNetwork(["10.244.0.0/24"], ["10.244.0.0/16"], state, nft=nft, netns=at.path)
        await network.setup()
        took: list[float] = []
        for number in range(20):
            made.append(f"{_PREFIX}pod{number}")
            path = namespaces.create(made[-1])
            start = time.perf_counter()
            await network.add(path, path)
            took.append((time.perf_counter() - start) * 1000)
        network.close()
        nft.close()
        return {"fabric with 3 nodes, ms": nodes, "connect a pod, ms": statistics.median(took)}
    finally:
        for name in made:
            namespaces.delete(name)
        fabric.destroy()


async def rules(host: str) -> dict[str, float]:
    nft = Nftables(host)
    writer = RuleWriter(nft, netns=host)
    node = ProxyNode("n", ("172.30.0.2",))
    services = [service(number) for number in range(500)]
    try:
        start = time.perf_counter()
        await writer.replace([svc for svc, _ in services], [slice_ for _, slice_ in services], node)
        everything = (time.perf_counter() - start) * 1000
        took: list[float] = []
        svc, slice_ = services[7]
        for number in range(20):
            slice_.endpoints = [discovery.Endpoint(addresses=[f"10.244.2.{number + 1}"])]
            start = time.perf_counter()
            await writer.update({("default", "s7"): plan_service(svc, [slice_], node)})
            took.append((time.perf_counter() - start) * 1000)
        return {"rules for 500 services, ms": everything, "one endpoint of 500 services, ms": statistics.median(took)}
    finally:
        writer.close()
        nft.close()


def names() -> dict[str, float]:
    """Queries a second that the responder answers in one thread, sockets aside, from 500 services."""
    zone = Zone()
    zone.set_namespace("default", True)
    for number in range(500):
        svc, slice_ = service(number)
        zone.replace(("default", f"s{number}"), service_records(svc, [slice_], zone.domain))
    responder = Responder(zone, forwarding=False)

    def query(name: str) -> bytes:
        labels = b"".join(bytes((len(part),)) + part.encode() for part in name.split("."))
        return b"\0\1\1\0\0\1\0\0\0\0\0\1" + labels + b"\0\0\1\0\1" + b"\0\0\x29\x04\xd0\0\0\0\0\0\0"

    hits = [query(f"s{number}.default.svc.cluster.local") for number in range(500)]
    misses = [query(f"example{number}.org.default.svc.cluster.local") for number in range(500)]
    found = {}
    for title, queries in (("DNS answers/s", hits), ("DNS NXDOMAIN/s", misses)):
        took = milliseconds(lambda queries=queries: [responder.respond(q) for _ in range(40) for q in queries])  # type: ignore[misc]
        found[title] = 40 * len(queries) / took * 1000
    return found


async def measure() -> dict[str, float]:
    figures = {"namespace, veth, bridge, address, route, ms": links()}
    host = namespaces.create(f"{_PREFIX}host")
    try:
        with tempfile.TemporaryDirectory() as state:
            figures |= await pods(host, Path(state))
        figures |= await rules(host)
    finally:
        namespaces.delete(f"{_PREFIX}host")
    return figures | names()


def main() -> None:
    figures = asyncio.run(measure())
    if "--json" in sys.argv[1:]:
        print(json.dumps({name: round(value, 2) for name, value in figures.items()}))
        return
    for name, value in figures.items():
        print(f"{name:45} {value:12,.1f}")


if __name__ == "__main__":
    main()
