"""What a node's process runs: the kubelet, and beside it service proxy, DNS and routes, each restarted if it dies."""

from __future__ import annotations

import asyncio
import signal
import ssl
import tempfile
from pathlib import Path

import uvloop

from pinnace.base.clock import Clock, SystemClock
from pinnace.base.randomness import Randomness
from pinnace.base.supervisor import Supervisor
from pinnace.client.client import Client
from pinnace.client.https import HttpsTransport, client_context
from pinnace.client.informer import Informers
from pinnace.cluster import log
from pinnace.cluster.credentials import Credentials, Identity
from pinnace.kubelet.certificates import CertificateManager, Pair, newest, stored
from pinnace.kubelet.config import KubeletConfig
from pinnace.kubelet.kubelet import Kubelet
from pinnace.kubelet.server.server import KubeletServer
from pinnace.network import namespaces
from pinnace.network.dns import ClusterRecords, DnsServer, Zone, host_resolvers
from pinnace.network.nftables import Nftables
from pinnace.network.pods import PodNetwork
from pinnace.network.proxy.endpoints import ProxyNode
from pinnace.network.proxy.proxy import ServiceProxy
from pinnace.network.routes import NodeRoutes
from pinnace.runtime.engine import BuiltinRuntime

DNS_PORT = 10053


def main(credentials: Credentials) -> None:
    """Move into the node's namespace, and serve."""
    if credentials.netns:
        namespaces.enter(credentials.netns)
    uvloop.run(run(credentials))


async def run(credentials: Credentials) -> None:
    """Serve the node until SIGTERM or SIGINT. Containers run on."""
    clock, randomness = SystemClock(), Randomness()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # A terminal that closes is no reason to end. (Ignoring it would be inherited by the containers.)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, log.note_hangup)
    runtime = BuiltinRuntime(
        Path(credentials.runtime_root),
        Path(credentials.image_root),
        clock=clock,
        randomness=randomness.fork(),
        cgroup_root=credentials.cgroup_root,
        egress=credentials.egress,
    )
    nft = Nftables()
    network = PodNetwork(
        [credentials.pod_cidr], [credentials.cluster_cidr], Path(credentials.network_root), nft=nft
    )
    proxy = Client(_transport(credentials, credentials.proxy), agent="kube-proxy")
    certificates = _certificates(credentials, clock, randomness, stop)
    kubelet = certificates.client
    async with Supervisor(clock) as parts:
        await asyncio.gather(runtime.open(), network.setup())
        try:
            _start_proxy(parts, credentials, proxy, clock, randomness, nft)
            _start_kubelet(parts, credentials, kubelet, clock, randomness, runtime, network)
            parts.start("certificates", certificates.run)
            await stop.wait()
        finally:
            await parts.close()
            await runtime.close()
            network.close()
            for client in (proxy, kubelet):
                await client.transport.close()


def _certificates(
    credentials: Credentials, clock: Clock, randomness: Randomness, stop: asyncio.Event
) -> CertificateManager:
    """The kubelet's client, and what renews the certificate that it shows. If that cannot be done in time the process
    ends: the next one begins with what the server hands over then."""
    directory = Path(credentials.kubelet_root) / "pki"
    pair = newest(_pair(credentials.kubelet), stored(directory))
    context = client_context(ca=credentials.ca)
    _load_identity(context, pair)
    transport = HttpsTransport(credentials.server, context)

    async def use(pair: Pair) -> None:
        _load_identity(context, pair)
        await transport.close()       # it opens connections anew, which show the new one

    client = Client(transport, agent="kubelet")
    return CertificateManager(
        client, credentials.node, pair, directory, use, stop.set, clock=clock, randomness=randomness.fork()
    )


def _start_proxy(
    parts: Supervisor, credentials: Credentials, client: Client, clock: Clock, randomness: Randomness, nft: Nftables
) -> None:
    """Service proxy, DNS and routes share what they watch, and the identity of kube-proxy."""
    informers = Informers(client, clock, randomness.fork())
    node = ProxyNode(
        name=credentials.node,
        ips=(credentials.ip,),
        service_cidrs=(credentials.service_cidr,),
        cluster_cidrs=(credentials.cluster_cidr,),
    )
    proxy = ServiceProxy(informers, node, clock, nft)
    routes = NodeRoutes(informers, credentials.node, clock)
    zone = Zone(
        credentials.domain, dns_ip=credentials.dns_ip, reverse=(credentials.service_cidr, credentials.cluster_cidr)
    )
    records = ClusterRecords(informers, zone)
    resolvers = host_resolvers() if credentials.egress else ()
    dns = DnsServer(zone, credentials.ip, DNS_PORT, randomness=randomness.fork(), resolvers=resolvers)
    parts.start("informers", informers.run)
    parts.start("routes", routes.run)
    parts.start("proxy", proxy.run)
    parts.start("dns records", records.run)
    parts.start("dns", dns.run)


def _start_kubelet(
    parts: Supervisor,
    credentials: Credentials,
    client: Client,
    clock: Clock,
    randomness: Randomness,
    runtime: BuiltinRuntime,
    network: PodNetwork,
) -> None:
    config = KubeletConfig(
        node_name=credentials.node,
        root=Path(credentials.kubelet_root),
        log_root=Path(credentials.log_root),
        host_ips=(credentials.ip,),
        cgroup_root=credentials.cgroup_root,
        cluster_dns=(credentials.dns_ip,),
        cluster_domain=credentials.domain,
        egress=credentials.egress,
        pod_cidr=credentials.pod_cidr,
    )
    kubelet = Kubelet(config, client, runtime, network, clock=clock, randomness=randomness.fork())
    server = KubeletServer(kubelet, address=credentials.ip, context=_serving_context(credentials))
    parts.start("kubelet", kubelet.run)
    parts.start("kubelet server", server.run)


def _transport(credentials: Credentials, identity: Identity) -> HttpsTransport:
    context = client_context(ca=credentials.ca)
    _load_identity(context, _pair(identity))
    return HttpsTransport(credentials.server, context)


def _serving_context(credentials: Credentials) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=credentials.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    _load_identity(context, _pair(credentials.serving))
    return context


def _pair(identity: Identity) -> Pair:
    return Pair(identity.certificate.encode(), identity.key.encode())


def _load_identity(context: ssl.SSLContext, pair: Pair) -> None:
    """The ssl module reads certificates from files only: one that has no name and is gone when closed."""
    with tempfile.NamedTemporaryFile("wb", suffix=".pem", dir="/dev/shm") as file:   # memory, 0600
        file.write(pair.certificate + pair.key)
        file.flush()
        context.load_cert_chain(file.name)
