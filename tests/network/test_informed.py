"""Routes, proxy and DNS records that follow the API, driven by informers over a client of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from pinnace.api.core import v1 as core
from pinnace.api.discovery import v1 as discovery
from pinnace.base.clock import SystemClock
from pinnace.base.randomness import Randomness
from pinnace.client.client import ObjectList, WatchEvent
from pinnace.client.informer import Informers
from pinnace.network.dns.codec import NXDOMAIN, A, to_wire
from pinnace.network.dns.records import ClusterRecords
from pinnace.network.dns.zone import Zone
from pinnace.network.netlink import PROTOCOL_PINNACE, Address, Netlink, Route
from pinnace.network.nftables import Nftables, NftablesError
from pinnace.network.proxy.endpoints import ProxyNode
from pinnace.network.proxy.proxy import ServiceProxy
from pinnace.network.routes import NodeRoutes, difference, plan, reachable

from .objects import endpoint, service, slice_


class FakeApi:
    """Lists what it holds and tells watchers what changes."""

    def __init__(self) -> None:
        self.objects: dict[type, dict[tuple[str, str], Any]] = defaultdict(dict)
        self.watchers: dict[type, list[asyncio.Queue[Any]]] = defaultdict(list)
        self.revision = 1

    def put(self, obj: Any) -> None:
        self._send(obj, "MODIFIED")
        self.objects[type(obj)][obj.metadata.namespace or "", obj.metadata.name] = obj

    def delete(self, obj: Any) -> None:
        self._send(obj, "DELETED")
        del self.objects[type(obj)][obj.metadata.namespace or "", obj.metadata.name]

    def _send(self, obj: Any, kind: str) -> None:
        self.revision += 1
        obj.metadata.resourceVersion = str(self.revision)
        for queue in self.watchers[type(obj)]:
            queue.put_nowait((WatchEvent(kind, obj),))

    async def list(self, kind: type, namespace: str = "", **_: Any) -> ObjectList[Any]:
        return ObjectList([*self.objects[kind].values()], str(self.revision))

    async def watch(self, kind: type, namespace: str = "", **_: Any) -> AsyncIterator[Any]:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        self.watchers[kind].append(queue)
        while True:
            yield await queue.get()


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@contextlib.asynccontextmanager
async def running(*parts: Callable[[], Any]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(part()) for part in parts]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results), results


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        # The kernel's state has no event to wait for.
        while not (found := condition()) or (asyncio.iscoroutine(found) and not await found):  # noqa: ASYNC110
            await asyncio.sleep(0.002)


def informers(api: FakeApi) -> Informers:
    return Informers(api, SystemClock(), Randomness(1))  # type: ignore[arg-type]


def node(name: str, cidr: str, ip: str, labels: dict[str, str] | None = None) -> core.Node:
    made = core.Node()
    made.metadata.name, made.metadata.labels = name, labels
    made.spec.podCIDR, made.spec.podCIDRs = cidr, [cidr]
    made.status.addresses = [core.NodeAddress(type="Hostname", address=name),
                             core.NodeAddress(type="InternalIP", address=ip)]  # fmt: skip
    return made


def test_routes_are_planned_from_the_other_nodes() -> None:
    nodes = [node("a", "10.244.0.0/24", "172.30.0.2"), node("b", "10.244.1.0/24", "172.30.0.3"),
             node("c", "10.244.2.0/24", "")]  # fmt: skip
    nodes[2].status.addresses = None
    assert plan(nodes, "a") == {Route("10.244.1.0/24", gateway="172.30.0.3")}
    assert plan(nodes, "b") == {Route("10.244.0.0/24", gateway="172.30.0.2")}


def test_a_node_that_is_on_none_of_this_nodes_networks_is_no_gateway() -> None:
    nodes = [node("a", "10.244.0.0/24", "172.30.0.2"), node("b", "10.244.1.0/24", "172.30.0.3"),
             node("simulated", "10.244.2.0/24", "10.64.0.1"), node("six", "fd00:1::/64", "fd00::3"),
             node("far", "fd00:2::/64", "fd01::3")]  # fmt: skip
    addresses = [Address(1, "127.0.0.1", 8), Address(2, "172.30.0.2", 24), Address(2, "fd00::2", 64)]
    near = {Route("10.244.1.0/24", gateway="172.30.0.3"), Route("fd00:1::/64", gateway="fd00::3")}
    assert reachable(plan(nodes, "a"), addresses) == near
    assert reachable(plan(nodes, "a"), ()) == frozenset()


def test_only_what_differs_is_touched() -> None:
    kept, moved, gone = (Route(f"10.244.{n}.0/24", gateway="172.30.0.3", device=2) for n in range(3))
    others = [Route("0.0.0.0/0", gateway="172.30.0.1"), Route("10.96.0.0/16", device=3)]
    new = Route("10.244.1.0/24", gateway="172.30.0.9")
    wanted = frozenset({Route("10.244.0.0/24", gateway="172.30.0.3"), new})
    assert difference([kept, moved, gone, *others], wanted) == ([new], [gone])


@pytest.mark.root
async def test_routes_follow_the_nodes(
    api: FakeApi, namespace: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    path = namespace()
    with Netlink(path) as netlink:
        netlink.add_bridge("eth0")
        netlink.add_address(netlink.index("eth0"), "172.30.0.2", 24)

        def routes() -> list[tuple[str, str]]:
            return [(route.destination, route.gateway) for route in netlink.routes(protocol=PROTOCOL_PINNACE)]

        api.put(node("a", "10.244.0.0/24", "172.30.0.2"))
        api.put(other := node("b", "10.244.1.0/24", "172.30.0.3"))
        shared = informers(api)
        async with running(shared.run, NodeRoutes(shared, "a", SystemClock(), netns=path).run):
            await until(lambda: routes() == [("10.244.1.0/24", "172.30.0.3")])
            api.put(node("simulated", "10.244.3.0/24", "10.64.0.1"))
            api.put(node("c", "10.244.2.0/24", "172.30.0.4"))
            await until(lambda: len(routes()) == 2)
            api.delete(other)
            await until(lambda: routes() == [("10.244.2.0/24", "172.30.0.4")])
    assert not caplog.records


@pytest.mark.root
async def test_the_proxy_follows_services_and_recovers(
    api: FakeApi, namespace: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = namespace()
    nft = Nftables(path)
    shared = informers(api)
    proxy = ServiceProxy(shared, ProxyNode("a", ("172.30.0.2",)), SystemClock(), nft, netns=path)
    api.put(service("web"))

    async def rules_say(text: str, count: int = 1) -> bool:
        return (await nft.run("list table ip pinnace-services")).count(text) == count

    try:
        async with running(shared.run, proxy.run):
            await asyncio.wait_for(proxy.ready.wait(), 5)
            assert await rules_say("10.96.0.20 . tcp . 80 : goto reject-chain")
            api.put(slice_("web", endpoint("10.244.1.2"), endpoint("10.244.1.3", "b", zones=("z",))))
            await until(lambda: rules_say("dnat to", 2))
            # Hints come into force with the node's zone; then somebody else breaks the table.
            api.put(slice_("web", endpoint("10.244.1.2", zones=("y",)), endpoint("10.244.1.3", "b", zones=("z",))))
            api.put(node("a", "10.244.0.0/24", "172.30.0.2", {"topology.kubernetes.io/zone": "z"}))
            await until(lambda: rules_say("dnat to 10.244.1.3:8080", 1))
            await until(lambda: rules_say("dnat to", 1))
            await nft.run("delete table ip pinnace-services")
            api.put(service("other", "10.96.0.21"))
            with pytest.raises(NftablesError):
                await rules_say("x")
            await until(lambda: _quietly(rules_say("10.96.0.21 . tcp . 80 : goto reject-chain")))
            # It is also noticed when nothing changes.
            monkeypatch.setattr("pinnace.network.proxy.proxy._CHECK_SECONDS", 0.02)
            api.put(service("third", "10.96.0.22"))
            await until(lambda: rules_say("10.96.0.22 . tcp . 80 : goto reject-chain"))
            await nft.run("flush ruleset")
            await until(lambda: _quietly(rules_say("10.96.0.22 . tcp . 80 : goto reject-chain")))
            api.delete(api.objects[core.Service]["default", "web"])
            await until(lambda: rules_say("10.96.0.20", 0))
        assert await rules_say("10.96.0.21", 2)   # the process is gone, its rules are not
    finally:
        nft.close()


async def _quietly(asked: Any) -> bool:
    try:
        return bool(await asked)
    except NftablesError:
        return False


async def test_dns_records_follow_services_slices_and_namespaces(api: FakeApi) -> None:
    zone, shared = Zone(), informers(api)
    records = ClusterRecords(shared, zone)
    namespace = core.Namespace()
    namespace.metadata.name = "default"
    api.put(namespace)
    api.put(headless := service("db", "None"))
    name = to_wire("db.default.svc.cluster.local")

    def answers() -> int:
        return len(zone.answer(name, A).answers)

    assert not zone.complete
    async with running(shared.run, records.run):
        await asyncio.wait_for(records.ready.wait(), 5)
        assert bool(zone.complete) and answers() == 0
        api.put(slice_("db", endpoint("10.244.1.2"), endpoint("10.244.1.3")))
        await until(lambda: answers() == 2)
        api.delete(api.objects[discovery.EndpointSlice]["default", "db-1"])
        await until(lambda: answers() == 0)
        api.put(service("bad_", "not-an-address"))
        api.put(service("web"))
        await until(lambda: zone.answer(to_wire("web.default.svc.cluster.local"), A).answers)
    api.delete(headless)
    api.delete(namespace)
    again = informers(api)
    async with running(again.run, (fresh := ClusterRecords(again, zone)).run):
        await asyncio.wait_for(fresh.ready.wait(), 5)
        assert zone.answer(name, A).rcode == NXDOMAIN
        assert zone.answer(to_wire("10-0-0-1.default.pod.cluster.local"), A).rcode == NXDOMAIN
