"""The kubelet's certificate manager: when it asks, what it asks for, how it waits; and the whole of it over HTTPS."""

from __future__ import annotations

import asyncio
import itertools
import ssl
import tempfile
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pinnace.api import errors
from pinnace.api.certificates import v1 as certificates
from pinnace.api.core import v1 as core
from pinnace.base.clock import LoopClock
from pinnace.base.keys import new_key
from pinnace.base.randomness import Randomness
from pinnace.client.client import Client
from pinnace.client.https import HttpsTransport, client_context
from pinnace.cluster.certificates import Authority
from pinnace.controllers.certificates import requests
from pinnace.kubelet.certificates import (
    CURRENT,
    CertificateManager,
    Pair,
    Refused,
    newest,
    pauses,
    request_pair,
    rotation_deadline,
    signing_request,
    store,
    stored,
)
from pinnace.testing import authority
from pinnace.testing.cluster import START, Cluster
from pinnace.testing.loop import simulate

NODE = "n1"
HOURS = timedelta(hours=1)


def given(whose: Authority, now: datetime, life: timedelta = HOURS, node: str = NODE) -> Pair:
    pair = whose.issue(f"system:node:{node}", organizations=["system:nodes"], now=now, life=life)
    return Pair(pair.certificate, pair.key)


def test_the_deadline_is_drawn_from_the_last_third() -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    end = begin + timedelta(hours=10)
    drawn = {(rotation_deadline(begin, end, Randomness(seed)) - begin) / HOURS for seed in range(200)}
    assert len(drawn) == 200 and min(drawn) >= 7.0 and max(drawn) <= 9.0
    assert min(drawn) < 7.2 and max(drawn) > 8.8


def test_pauses_grow_and_then_stay() -> None:
    waits = list(itertools.islice(pauses(Randomness(1)), 7))
    assert [round(wait / 2) for wait in waits[:4]] == [1, 2, 4, 8]
    assert all(2**n * 2 <= wait <= 2**n * 2.2 for n, wait in enumerate(waits[:4]))
    assert waits[4:] == [32.0] * 3


def test_what_it_asks_for_is_what_is_approved() -> None:
    made = signing_request(NODE, new_key(Randomness(1)))
    assert made.metadata.generateName == "csr-" and made.spec.signerName == requests.KUBELET_CLIENT
    asked = requests.parse(made)
    assert asked is not None and requests.common_name(asked) == "system:node:n1"
    assert requests.kubelet_client(asked, made.spec.usages or ()) == ""


# ------------------------------------------------------------------------------------------------------------- the file


def test_the_file_is_private_and_comes_back(tmp_path: Path) -> None:
    directory = tmp_path / "pki"
    assert stored(directory) is None
    for _ in range(2):
        pair = given(authority.simulated(), START)
        store(directory, pair)
        assert stored(directory) == pair
    assert [path.name for path in directory.iterdir()] == [CURRENT] == ["kubelet-client-current.pem"]
    assert (directory / CURRENT).stat().st_mode & 0o777 == 0o600
    assert directory.stat().st_mode & 0o777 == 0o700


def test_a_file_that_cannot_be_used_is_none(tmp_path: Path) -> None:
    one, other = given(authority.simulated(), START), given(authority.simulated(), START)
    for broken in (b"", b"nonsense", one.certificate, one.certificate + other.key):
        (tmp_path / CURRENT).write_bytes(broken)
        assert stored(tmp_path) is None


def test_of_two_pairs_the_one_that_lasts() -> None:
    ours = authority.simulated()
    early, late = given(ours, START), given(ours, START + HOURS)
    assert newest(early, None) is early
    assert newest(early, late) is late and newest(late, early) is late
    # What another cluster gave, or what another node had, is no use.
    assert newest(early, given(ours, START + HOURS, node="n2")) is early
    other = Authority(Authority.create("other", START))
    assert newest(early, given(other, START + HOURS)) is early


# ------------------------------------------------------------------------------------------------------------ the whole


def play(test: Callable[[Cluster], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def main() -> None:
        async with Cluster(nodes=0, seed=2, cluster_signing_duration="1h", **options) as cluster:
            await test(cluster)

    simulate(main, seed=2)


def show(context: ssl.SSLContext, pair: Pair) -> None:
    with tempfile.NamedTemporaryFile("wb", suffix=".pem") as file:
        file.write(pair.certificate + pair.key)
        file.flush()
        context.load_cert_chain(file.name)


class Kubelet:
    """A node's way to the server, over TLS in memory, with its manager."""

    def __init__(self, cluster: Cluster, url: str, directory: Path) -> None:
        clock = LoopClock(START, cluster._loop)
        pair = given(authority.simulated(), cluster.now())
        self.context = client_context(ca=authority.simulated().certificate)
        show(self.context, pair)
        self.transport = HttpsTransport(url, self.context)
        self.client = Client(self.transport, agent="kubelet")
        self.used: list[Pair] = []
        self.over = 0
        self.directory = directory
        self.manager = CertificateManager(
            self.client, NODE, pair, directory, self.use, self.expire, clock=clock, randomness=Randomness(4)
        )

    def expire(self) -> None:
        self.over += 1

    async def use(self, pair: Pair) -> None:
        self.used.append(pair)
        show(self.context, pair)
        await self.transport.close()


def test_it_rotates_over_https_for_a_day(tmp_path: Path) -> None:
    async def day(cluster: Cluster) -> None:
        served = await cluster.serve()
        await cluster.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})
        kubelet = Kubelet(cluster, served.url, tmp_path)
        task = asyncio.create_task(kubelet.manager.run())
        for _ in range(24 * 4):
            await cluster.advance(minutes=15)
            assert (await kubelet.client.get(core.Node, NODE)).metadata.name == NODE
        assert 24 <= len(kubelet.used) <= 34
        assert stored(tmp_path) == kubelet.used[-1] == kubelet.manager.current
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        # Without anybody who renews it, the last one is refused once it is over: it is the server that looks at it.
        await cluster.advance(hours=2)
        with pytest.raises(errors.Unauthorized):
            await kubelet.client.get(core.Node, NODE)
        await kubelet.transport.close()

    play(day)


@pytest.mark.parametrize("verdict", ["Denied", "Failed", "deleted"])
def test_a_request_that_comes_to_nothing(verdict: str, tmp_path: Path) -> None:
    async def refuse(cluster: Cluster) -> None:
        await cluster.delete("clusterrolebindings", "auto-approve-renewals-for-nodes")
        served = await cluster.serve()
        kubelet = Kubelet(cluster, served.url, tmp_path)
        clock = LoopClock(START, cluster._loop)
        asking = asyncio.create_task(request_pair(kubelet.client, NODE, clock, Randomness(5)))
        await cluster.advance(seconds=30)
        (request,) = await cluster.list("csr")
        name = request.metadata.name
        if verdict == "deleted":
            await cluster.delete("csr", name)
        else:
            condition = certificates.CertificateSigningRequestCondition(
                type=verdict, status="True", reason="Because", message="of this"
            )
            request.status.conditions = [condition]
            part = "approval" if verdict == "Denied" else "status"
            await cluster.client.update(request, subresource=part)
        with pytest.raises(Refused, match="deleted" if verdict == "deleted" else "reason: Because, message: of this"):
            await asking
        await kubelet.transport.close()

    play(refuse)


def test_one_that_is_not_renewed_in_time_says_so(tmp_path: Path) -> None:
    async def expire(cluster: Cluster) -> None:
        await cluster.delete("clusterrolebindings", "auto-approve-renewals-for-nodes")
        served = await cluster.serve()
        kubelet = Kubelet(cluster, served.url, tmp_path)
        task = asyncio.create_task(kubelet.manager.run())
        await cluster.advance(minutes=60)
        assert len(await cluster.list("csr")) in (1, 2) and not kubelet.over     # one each quarter of an hour
        await cluster.advance(minutes=20)
        assert kubelet.over and not kubelet.used
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await kubelet.transport.close()

    play(expire)


def test_nobody_waits_for_ever(tmp_path: Path) -> None:
    async def wait(cluster: Cluster) -> None:
        await cluster.delete("clusterrolebindings", "auto-approve-renewals-for-nodes")
        served = await cluster.serve()
        kubelet = Kubelet(cluster, served.url, tmp_path)
        begun = cluster.elapsed
        with pytest.raises(TimeoutError):
            await request_pair(kubelet.client, NODE, LoopClock(START, cluster._loop), Randomness(5))
        assert cluster.elapsed - begun == pytest.approx(900, abs=1)
        await kubelet.transport.close()

    play(wait)
