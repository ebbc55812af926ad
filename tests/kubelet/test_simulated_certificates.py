"""Simulated nodes and their certificates, on simulated time: they renew them, or they are out."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509

from pinnace.api import codec
from pinnace.api.certificates import v1 as certificates
from pinnace.base.clock import ManualClock
from pinnace.base.randomness import Randomness
from pinnace.client.client import Client
from pinnace.kubelet.simulated import SimulatedNodes
from pinnace.store import Change
from pinnace.testing.cluster import Cluster
from pinnace.testing.loop import simulate

ONE, TWO = "pinnace-simulated-1", "pinnace-simulated-2"
REQUESTS = "/certificatesigningrequests/"
RENEWALS = "auto-approve-renewals-for-nodes"


def play(test: Callable[[Cluster], Awaitable[Any]], **options: Any) -> Any:
    async def main() -> Any:
        async with Cluster(**{"nodes": 2, "seed": 3, "cluster_signing_duration": "4h", **options}) as cluster:
            return await test(cluster)

    return simulate(main, seed=3)


class Log:
    """Every write to a CertificateSigningRequest: when, and what it was then (None: it was deleted)."""

    def __init__(self, cluster: Cluster) -> None:
        self.writes: list[tuple[float, str, certificates.CertificateSigningRequest | None]] = []
        self._cluster = cluster
        cluster.store.subscribe(self._told, after=cluster.store.revision)

    def _told(self, change: Change) -> None:
        if REQUESTS in change.key:
            value = change.value
            made = codec.decode(certificates.CertificateSigningRequest, value) if value is not None else None
            self.writes.append((self._cluster.elapsed, change.key.rpartition("/")[2], made))

    def of(self, node: str) -> list[tuple[float, certificates.CertificateSigningRequest]]:
        """Of its requests the last state of each, and when that was."""
        last = {name: (at, made) for at, name, made in self.writes if made is not None}
        return [(at, made) for at, made in last.values() if made.spec.username == f"system:node:{node}"]


def issued(request: certificates.CertificateSigningRequest) -> x509.Certificate:
    return x509.load_pem_x509_certificate(base64.b64decode(request.status.certificate or ""))


async def ready(cluster: Cluster, name: str) -> str:
    node = await cluster.get("nodes", name)
    return next(c.status for c in node.status.conditions if c.type == "Ready")


def refusals(cluster: Cluster) -> int:
    server = cluster.control_plane.server
    assert server is not None
    return sum(
        int(line.rpartition(" ")[2]) for line in server.metrics.text(server).splitlines()
        if line.startswith("apiserver_request_total{") and 'code="401"' in line
    )  # fmt: skip


def test_a_day_of_rotations() -> None:
    """Each at 70 % to 90 % of the life of the certificate before it; nobody notices."""

    async def day(cluster: Cluster) -> None:
        log, begun = Log(cluster), cluster.now()
        first = {name: cluster.nodes.identity(name) for name in (ONE, TWO)}
        await cluster.advance(hours=24)
        for name in (ONE, TWO):
            begin, end = first[name].begin, first[name].end
            assert end - begin == timedelta(hours=4, minutes=5)
            rotations = log.of(name)
            assert 6 <= len(rotations) <= 8
            for at, request in rotations:
                share = (begun + timedelta(seconds=at) - begin) / (end - begin)
                assert 0.7 <= share <= 0.9
                assert [c.reason for c in request.status.conditions or ()] == ["AutoApproved"]
                certificate = issued(request)
                begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            assert (cluster.nodes.identity(name).begin, cluster.nodes.identity(name).end) == (begin, end)
            assert await ready(cluster, name) == "True"
        assert refusals(cluster) == 0
        ages = {name: at for at, name, made in log.writes if made is not None}     # of the certificate, the last write
        gone = {name: at - ages[name] for at, name, made in log.writes if made is None}
        assert len(gone) >= 10 and all(3599 < seconds <= 3600 for seconds in gone.values())

    play(day)


def test_a_certificate_that_is_not_shown_is_not_made() -> None:
    async def morning(cluster: Cluster) -> None:
        log = Log(cluster)
        assert cluster.nodes.identity(ONE).end - cluster.now() == timedelta(days=365)
        await cluster.advance(hours=4)
        assert not log.writes and cluster.nodes.identity(ONE).pair is None

    play(morning, nodes=1, cluster_signing_duration="8760h")


def test_the_same_seed_gives_the_same_bytes() -> None:
    async def run(cluster: Cluster) -> str:
        written = hashlib.sha256()
        cluster.store.subscribe(
            lambda change: written.update(f"{change.revision} {change.key} {change.value!r}".encode()),
            after=cluster.store.revision,
        )
        await cluster.advance(hours=2)
        return written.hexdigest()

    def trace(seed: int) -> Any:
        return play(run, nodes=2, seed=seed, cluster_signing_duration="1h")

    assert trace(5) == trace(5) != trace(6)


def test_who_may_not_renew_is_out_when_the_certificate_ends() -> None:
    async def expire(cluster: Cluster) -> None:
        log = Log(cluster)
        await cluster.delete("clusterrolebindings", RENEWALS)
        end = cluster.nodes.identity(ONE).end
        await cluster.advance(seconds=(end - cluster.now()).total_seconds())
        pending = await cluster.list("csr")
        assert pending and not any(request.status.conditions for request in pending)
        assert await ready(cluster, ONE) == "True" and refusals(cluster) == 0
        await cluster.advance(seconds=120)
        assert await ready(cluster, ONE) == await ready(cluster, TWO) == "Unknown"
        assert refusals(cluster) >= 2
        # Nothing that the node does itself helps.
        cluster.nodes.lose(ONE)
        cluster.nodes.restore(ONE)
        await cluster.advance(minutes=5)
        assert await ready(cluster, ONE) == "Unknown"
        # Its owner does.
        await cluster.nodes.renew(ONE)
        await cluster.advance(seconds=10)
        assert await ready(cluster, ONE) == "True" and await ready(cluster, TWO) == "Unknown"
        # A request that is decided at last comes too late for those that are out.
        assert not any(issued for _, issued in log.of(TWO) if issued.status.certificate)

    play(expire)


def test_an_approval_by_hand_is_in_time() -> None:
    async def approve(cluster: Cluster) -> None:
        await cluster.delete("clusterrolebindings", RENEWALS)
        end = cluster.nodes.identity(ONE).end
        await cluster.advance(seconds=(cluster.nodes.identity(ONE).deadline - cluster.now()).total_seconds() + 60)
        (request,) = await cluster.list("csr")
        condition = {"type": "Approved", "status": "True", "reason": "ByHand"}
        name = request.metadata.name
        await cluster.patch("csr", name, {"status": {"conditions": [condition]}}, subresource="approval", type="merge")
        await cluster.advance(seconds=1)
        assert cluster.nodes.identity(ONE).end > end
        await cluster.advance(hours=1)
        assert await ready(cluster, ONE) == "True"

    play(approve, nodes=1)


@pytest.mark.parametrize("way", ["lose", "partition"])
@pytest.mark.parametrize(("hours", "comes_back"), [(3.9, True), (4.1, False)])
def test_a_node_that_is_away_over_its_certificates_end(way: str, hours: float, comes_back: bool) -> None:
    """It comes back by itself only before; its first deed is then to renew what is overdue."""

    async def away(cluster: Cluster) -> None:
        getattr(cluster.nodes, way)(ONE)
        await cluster.advance(hours=hours)
        assert await ready(cluster, ONE) == "Unknown"
        getattr(cluster.nodes, {"lose": "restore", "partition": "heal"}[way])(ONE)
        await cluster.advance(minutes=2)
        assert await ready(cluster, ONE) == ("True" if comes_back else "Unknown")
        assert (cluster.nodes.identity(ONE).end > cluster.now()) is comes_back
        assert bool(refusals(cluster)) is not comes_back
        await cluster.advance(hours=1)
        assert await ready(cluster, ONE) == ("True" if comes_back else "Unknown")
        assert await ready(cluster, TWO) == "True"

    play(away)


def test_pods_of_a_node_that_is_out_go_on_untold() -> None:
    async def out(cluster: Cluster) -> None:
        await cluster.delete("clusterrolebindings", RENEWALS)
        await cluster.apply({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
            "spec": {
                "nodeName": ONE, "tolerations": [{"operator": "Exists"}],
                "containers": [{"name": "web", "image": "web"}],
            },
        })  # fmt: skip
        await cluster.wait_for("pods", "web", condition="Ready")
        await cluster.advance(hours=4, minutes=2)
        cluster.nodes.crash("web")
        await cluster.advance(minutes=5)
        assert (await cluster.get("pods", "web")).status.containerStatuses[0].restartCount == 0
        await cluster.nodes.renew(ONE)
        await cluster.advance(minutes=1)
        assert (await cluster.get("pods", "web")).status.containerStatuses[0].restartCount == 1

    play(out, nodes=1)


def test_a_clock_that_is_behind_renews_too_late() -> None:
    """The node looks at its own clock, the server at its own."""

    async def behind(cluster: Cluster) -> None:
        cluster.nodes.drift(ONE, -2 * 3600)
        deadline = cluster.nodes.identity(TWO).deadline
        cluster.nodes.drift(TWO, 3600)
        await cluster.advance(seconds=(deadline - cluster.now()).total_seconds() - 3500)
        assert cluster.nodes.identity(TWO).deadline > deadline
        await cluster.advance(hours=2)
        assert await ready(cluster, ONE) == "Unknown" and refusals(cluster)

    play(behind)


def test_a_server_that_is_down_at_the_time_is_asked_again() -> None:
    async def down(cluster: Cluster) -> None:
        identity = cluster.nodes.identity(ONE)
        await cluster.advance(seconds=(identity.deadline - cluster.now()).total_seconds() - 1)
        await cluster.control_plane.crash(restart_after=20)
        await cluster.advance(minutes=2)
        assert cluster.nodes.identity(ONE).end > identity.end

    play(down, nodes=1)


def test_nodes_that_come_and_go() -> None:
    async def change(cluster: Cluster) -> None:
        await cluster.advance(hours=2)
        await cluster.nodes.add("late")
        assert cluster.nodes.identity("late").end > cluster.nodes.identity(ONE).end
        await cluster.nodes.remove(ONE)
        log = Log(cluster)
        await cluster.advance(hours=6)
        assert log.of("late") and not log.of(ONE)
        with pytest.raises(KeyError):
            cluster.nodes.identity(ONE)

    play(change, nodes=1)


def test_nodes_without_an_issuer_have_none() -> None:
    async def nobody() -> None:
        nodes = SimulatedNodes(Client(_Nowhere()), ["n"], clock=ManualClock(), randomness=Randomness(1))
        with pytest.raises(RuntimeError, match="no certificates"):
            nodes.identity("n")

    asyncio.run(nobody())


class _Nowhere:
    async def send(self, request: Any) -> Any:
        raise ConnectionRefusedError

    async def close(self) -> None:
        return None
