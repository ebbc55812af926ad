"""The DNS server on loopback, its forwarding, and the whole way through the Service's address."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Sequence

import dns.asyncquery
import dns.message
import dns.rcode
import pytest

from pinnace.base.randomness import Randomness
from pinnace.network.dns import codec
from pinnace.network.dns.codec import Message, Record, decode, encode
from pinnace.network.dns.forward import answers
from pinnace.network.dns.server import DnsServer, host_resolvers
from pinnace.network.dns.zone import Zone, service_records
from pinnace.network.namespaces import run_in
from pinnace.network.proxy.endpoints import ProxyNode
from pinnace.network.proxy.proxy import RuleWriter

from .conftest import Machine
from .objects import endpoint, service, slice_


@pytest.fixture
def zone() -> Zone:
    made = Zone()
    made.set_namespace("default", True)
    for svc in (service("web"), service("out", "", type="ExternalName", externalName="example.org")):
        made.replace(("default", svc.metadata.name or ""), service_records(svc, [], made.domain))
    many = slice_("many", *(endpoint(f"10.244.2.{n}") for n in range(1, 101)))
    made.replace(("default", "many"), service_records(service("many", "None"), [many], made.domain))
    return made


@contextlib.asynccontextmanager
async def serving(
    zone: Zone, resolvers: Sequence[tuple[str, int]] = (), *, udp: socket.socket | None = None,
    tcp: socket.socket | None = None,
) -> AsyncIterator[int]:
    server = DnsServer(zone, "127.0.0.1", 0, randomness=Randomness(1), resolvers=resolvers, udp=udp, tcp=tcp)
    task = asyncio.create_task(server.run())
    await asyncio.wait_for(server.listening.wait(), 5)
    try:
        yield server.port
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Upstream(asyncio.DatagramProtocol):
    """A resolver that knows example.org and, on request, first sends somebody else's answer."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.forge = False
        self.silent = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = decode(data)
        assert query is not None
        self.asked.append(query.questions[0].name)
        if self.silent:
            return
        if self.forge:
            self._send(query, "6.6.6.6", addr, query.id ^ 1)
        self._send(query, "192.0.2.80", addr, query.id)

    def _send(self, query: Message, ip: str, addr: tuple[str, int], ident: int) -> None:
        found = (Record(query.questions[0].name, codec.A, 60, ip),)
        self.transport.sendto(encode(Message(ident, codec.QR | codec.RA, query.questions, found)), addr)  # type: ignore[attr-defined]


@pytest.fixture
async def upstream() -> AsyncIterator[tuple[Upstream, tuple[str, int]]]:
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        Upstream, local_addr=("127.0.0.1", 0)
    )
    yield protocol, transport.get_extra_info("sockname")
    transport.close()


async def ask(port: int, name: str, kind: str = "A") -> dns.message.Message:
    return await dns.asyncquery.udp(dns.message.make_query(name, kind), "127.0.0.1", port=port, timeout=5)


async def test_udp_and_tcp(zone: Zone) -> None:
    async with serving(zone) as port:
        found = await ask(port, "web.default.svc.cluster.local")
        assert found.answer[0].to_text() == "web.default.svc.cluster.local. 30 IN A 10.96.0.20"
        query = dns.message.make_query("many.default.svc.cluster.local", "A")
        _, by_tcp = await dns.asyncquery.udp_with_fallback(query, "127.0.0.1", port=port, timeout=5)
        assert by_tcp is True
        # A connection that sends nonsense is answered or ended, and the next one served.
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\0\3abc")
        assert await reader.read() == b""
        writer.close()
        assert (await dns.asyncquery.tcp(query, "127.0.0.1", port=port, timeout=5)).answer


async def test_forwarding(zone: Zone, upstream: tuple[Upstream, tuple[str, int]]) -> None:
    resolver, address = upstream
    resolver.forge = True
    async with serving(zone, [address]) as port:
        assert (await ask(port, "example.org")).answer[0][0].to_text() == "192.0.2.80"
        alias = await ask(port, "out.default.svc.cluster.local")
        assert [rrset.to_text() for rrset in alias.answer] == [
            "out.default.svc.cluster.local. 30 IN CNAME example.org.", "example.org. 60 IN A 192.0.2.80",
        ]
        assert (await ask(port, "nobody.default.svc.cluster.local")).rcode() == dns.rcode.NXDOMAIN
        assert resolver.asked == ["example.org.", "example.org."]


async def test_no_resolver_answers(
    zone: Zone, upstream: tuple[Upstream, tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pinnace.network.dns.forward._SECONDS", 0.05)
    upstream[0].silent = True
    async with serving(zone, [upstream[1]]) as port:
        assert (await ask(port, "example.org")).rcode() == dns.rcode.SERVFAIL
        monkeypatch.setattr("pinnace.network.dns.forward._MOST_IN_FLIGHT", 0)
        assert (await ask(port, "example.org")).rcode() == dns.rcode.SERVFAIL
        assert len(upstream[0].asked) == 1


def test_what_answers_a_query() -> None:
    query = dns.message.make_query("example.org", "A", id=7)
    good = dns.message.make_response(query).to_wire()
    assert answers(query.to_wire(), good)
    other = dns.message.make_response(dns.message.make_query("example.com", "A", id=7)).to_wire()
    for bad in (other, b"\0\x08" + good[2:], query.to_wire(), good[:8], b""):
        assert not answers(query.to_wire(), bad)


def test_resolvers_of_the_host(tmp_path: object) -> None:
    from pathlib import Path

    file = Path(str(tmp_path)) / "resolv.conf"
    file.write_text("# x\nnameserver 127.0.0.53\nnameserver 192.0.2.1\nsearch a\nnameserver 192.0.2.2\nnameserver\n")
    assert host_resolvers(file) == (("192.0.2.1", 53), ("192.0.2.2", 53))
    assert host_resolvers(file.with_name("none")) == ()


@pytest.mark.root
async def test_a_pod_asks_the_service_address(machine: Machine, zone: Zone, namespace: Callable[[], str]) -> None:
    pod, _ = await machine.new_pod(0)
    node = machine.nodes[0].at
    svc = service("kube-dns", "10.96.0.10", {"name": "dns", "port": 53, "protocol": "UDP"},
                  {"name": "dns-tcp", "port": 53}, namespace="kube-system")  # fmt: skip
    slices = [
        slice_("kube-dns", endpoint(node.ip, "n0"), port=10053, port_name=name, protocol=protocol,
               namespace="kube-system", suffix=name)
        for name, protocol in (("dns", "UDP"), ("dns-tcp", "TCP"))
    ]  # fmt: skip
    writer = RuleWriter(machine.nodes[0].nft, netns=node.path)
    await writer.replace([svc], slices, ProxyNode("n0", (node.ip,)))

    def bound(kind: socket.SocketKind) -> socket.socket:
        opened = socket.socket(socket.AF_INET, kind)
        opened.bind((node.ip, 10053))
        opened.setblocking(False)
        return opened

    udp, tcp = (run_in(node.path, bound, kind) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM))
    query = dns.message.make_query("web.default.svc.cluster.local", "A")
    async with serving(zone, udp=udp, tcp=tcp):
        loop = asyncio.get_running_loop()
        with run_in(pod, socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as caller:
            caller.setblocking(False)
            await loop.sock_connect(caller, ("10.96.0.10", 53))
            await loop.sock_sendall(caller, query.to_wire())
            found = dns.message.from_wire(await asyncio.wait_for(loop.sock_recv(caller, 2048), 5))
            assert found.answer[0][0].to_text() == "10.96.0.20"
        with run_in(pod, socket.socket, socket.AF_INET, socket.SOCK_STREAM) as caller:
            caller.setblocking(False)
            await asyncio.wait_for(loop.sock_connect(caller, ("10.96.0.10", 53)), 5)
            wire = query.to_wire()
            await loop.sock_sendall(caller, len(wire).to_bytes(2, "big") + wire)
            answer = await asyncio.wait_for(loop.sock_recv(caller, 2048), 5)
            assert dns.message.from_wire(answer[2:]).answer
    writer.close()
