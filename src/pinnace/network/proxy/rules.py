"""What one service means in nftables, as data; and the ruleset of all services. Pure.

The shape is that of upstream's nftables mode: base chains look a packet's destination up in verdict maps
(`service-ips`, `service-nodeports`), whose elements lead to a chain for each service port, which picks an endpoint
chain at random. A change of one service is thus a change of a few elements and chains.

`plan_service` gives a service's `Fragment`; a `Ruleset` holds the fragments of all, and `Ruleset.replace` tells
what a new fragment changes. Several services may claim one element (the same external IP and port): the first to
claim it has it until it gives it up.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import TypeVar

from pinnace.api.core import v1 as core
from pinnace.api.discovery import v1 as discovery
from pinnace.network.proxy.endpoints import (
    Endpoint,
    ProxyNode,
    endpoints_of,
    is_proxied,
    reachable,
    service_of,
)

K = TypeVar("K")
V = TypeVar("V")
Key = tuple[str, str]
Element = tuple[str, str]       # the set or map, and the key in it
Target = tuple[str, int]

_DEFAULT_AFFINITY_SECONDS = 10800
_MOST_NAME = 120                # nft takes names of up to 255 characters; longer ones are cut
_REJECT, _DROP = "goto reject-chain", "drop"


@dataclass(frozen=True, slots=True)
class Fragment:
    """One service's share of the table: elements (value "" in sets), chains with their rules, affinity sets with
    their timeout in seconds, and for UDP which targets each address and port leads to."""

    elements: Mapping[Element, str] = field(default_factory=dict)
    chains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    affinities: Mapping[str, int] = field(default_factory=dict)
    udp: Mapping[Target, frozenset[Target]] = field(default_factory=dict)


_NOTHING = Fragment()


@dataclass(slots=True)
class Change:
    """From what to what: elements and chains by name, None where there is none."""

    elements: dict[Element, tuple[str | None, str | None]] = field(default_factory=dict)
    chains: dict[str, tuple[tuple[str, ...] | None, tuple[str, ...] | None]] = field(default_factory=dict)
    affinities: dict[str, tuple[int | None, int | None]] = field(default_factory=dict)
    udp: bool = False

    def __bool__(self) -> bool:
        return bool(self.elements or self.chains or self.affinities)


class Ruleset:
    """The fragments of all services, and who has which element."""

    def __init__(self) -> None:
        self.fragments: dict[Key, Fragment] = {}
        self._claims: dict[Element, dict[Key, str]] = {}

    def replace(self, service: Key, fragment: Fragment | None, change: Change) -> None:
        """Put a service's fragment (None: it is gone) in place of its last one; adds to `change` what differs."""
        old, new = self.fragments.get(service, _NOTHING), fragment or _NOTHING
        if fragment is None:
            self.fragments.pop(service, None)
        else:
            self.fragments[service] = fragment
        for element in {**old.elements, **new.elements}:
            self._claim(element, service, new.elements.get(element), change)
        for name in {**old.chains, **new.chains}:
            _note(change.chains, name, old.chains.get(name), new.chains.get(name))
        for name in {**old.affinities, **new.affinities}:
            _note(change.affinities, name, old.affinities.get(name), new.affinities.get(name))
        change.udp = change.udp or old.udp != new.udp

    def udp(self) -> dict[Target, frozenset[Target]]:
        """For each address and port of a UDP service: the endpoints that it leads to."""
        return {front: targets for fragment in self.fragments.values() for front, targets in fragment.udp.items()}

    def _claim(self, element: Element, service: Key, value: str | None, change: Change) -> None:
        claims = self._claims.setdefault(element, {})
        before = next(iter(claims.values()), None)
        if value is None:
            claims.pop(service, None)
        else:
            claims[service] = value
        after = next(iter(claims.values()), None)
        if not claims:
            del self._claims[element]
        _note(change.elements, element, before, after)


def _note(changes: dict[K, tuple[V | None, V | None]], name: K, old: V | None, new: V | None) -> None:
    """Add one change to those noted before: the first old state and the last new one count."""
    first = changes[name][0] if name in changes else old
    if first == new:
        changes.pop(name, None)
    else:
        changes[name] = (first, new)


def plan(
    services: Iterable[core.Service], slices: Iterable[discovery.EndpointSlice], node: ProxyNode
) -> Ruleset:
    """The whole ruleset for these objects."""
    grouped: dict[Key, list[discovery.EndpointSlice]] = {}
    for slice_ in slices:
        key = service_of(slice_)
        if key is not None:
            grouped.setdefault(key, []).append(slice_)
    ruleset, change = Ruleset(), Change()
    for service in services:
        key = (service.metadata.namespace or "", service.metadata.name or "")
        ruleset.replace(key, plan_service(service, grouped.get(key, ()), node), change)
    return ruleset


def diff(old: Ruleset, new: Ruleset) -> Change:
    """What changes from one ruleset to another; `old` becomes `new`."""
    change = Change()
    for key in [key for key in old.fragments if key not in new.fragments]:
        old.replace(key, None, change)
    for key, fragment in new.fragments.items():
        if old.fragments.get(key) != fragment:
            old.replace(key, fragment, change)
    return change


def plan_service(
    service: core.Service, slices: Sequence[discovery.EndpointSlice], node: ProxyNode
) -> Fragment | None:
    """A service's fragment; None if the proxy has nothing to do with it."""
    if not is_proxied(service):
        return None
    elements: dict[Element, str] = {}
    chains: dict[str, tuple[str, ...]] = {}
    affinities: dict[str, int] = {}
    udp: dict[Target, frozenset[Target]] = {}
    for ip in _cluster_ips(service):
        elements["cluster-ips", ip] = ""
    for port in service.spec.ports or ():
        part = _PortPlan(service, port, endpoints_of(port, slices, node.name), node)
        part.build()
        elements |= part.elements
        chains |= part.chains
        affinities |= part.affinities
        udp |= part.udp
    return Fragment(elements, chains, affinities, udp)


class _PortPlan:
    """The rules of one port of one service, built up step by step."""

    def __init__(
        self, service: core.Service, port: core.ServicePort, endpoints: tuple[Endpoint, ...], node: ProxyNode
    ) -> None:
        self.service, self.spec, self.port, self.node = service, service.spec, port, node
        self.protocol = (port.protocol or "TCP").lower()
        self.name = "/".join((
            service.metadata.namespace or "", service.metadata.name or "", self.protocol, port.name or ""
        ))
        self.digest = _digest(self.name)
        self.reach = reachable(endpoints, node)
        self.affinity = self._affinity_seconds()
        self.elements: dict[Element, str] = {}
        self.chains: dict[str, tuple[str, ...]] = {}
        self.affinities: dict[str, int] = {}
        self.udp: dict[Target, frozenset[Target]] = {}

    def build(self) -> None:
        internal_local = self.spec.internalTrafficPolicy == "Local"
        external_local = self.spec.externalTrafficPolicy == "Local"
        fronts = self._external_ips()
        node_port = self.port.nodePort or 0
        external = bool(fronts or node_port)
        cluster = self._balancer("service", self.reach.cluster)
        local = ""
        if internal_local or (external and external_local):
            local = self._balancer("local", self.reach.local)
        inside, inside_verdict = (local, self._verdict(local, True)) if internal_local else (
            cluster, self._verdict(cluster, False))
        for ip in _cluster_ips(self.service):
            self._front(ip, self._internal_chain(ip, inside), inside_verdict,
                        self.reach.local if internal_local else self.reach.cluster)
        if not external:
            return
        targets = self.reach.local if external_local else self.reach.cluster
        verdict = self._verdict(local, True) if external_local else self._verdict(cluster, False)
        chain = self._external_chain(cluster, local, external_local)
        for ip in fronts:
            self._front(ip, chain, verdict, targets)
        if node_port:
            self._node_port(node_port, chain, verdict, targets)
        self._firewall()

    def _internal_chain(self, ip: str, balancer: str) -> str:
        """Traffic from outside the pods to a cluster IP is masqueraded, so that answers come back this way."""
        if not balancer:
            return ""
        inside = ", ".join(self.node.cluster_cidrs)
        mark = (
            f"ip daddr {ip} {self.protocol} dport {self.port.port} ip saddr != {{ {inside} }} jump mark-for-masquerade"
        )
        self.chains[balancer] = (mark, *(rule for rule in self.chains[balancer] if rule != mark))
        return balancer

    def _front(self, ip: str, chain: str, verdict: str, targets: tuple[Endpoint, ...]) -> None:
        """One address of the service: into the map of services, and where nobody serves also of refusals."""
        key = f"{ip} . {self.protocol} . {self.port.port}"
        if chain:
            self.elements["service-ips", key] = f"goto {chain}"
        if verdict:
            self.elements["no-endpoint-services", key] = verdict
        self._udp_front(ip, self.port.port, targets)

    def _node_port(self, number: int, chain: str, verdict: str, targets: tuple[Endpoint, ...]) -> None:
        key = f"{self.protocol} . {number}"
        if chain:
            self.elements["service-nodeports", key] = f"goto {chain}"
        if verdict:
            self.elements["no-endpoint-nodeports", key] = verdict
        for ip in self.node.ips:
            self._udp_front(ip, number, targets)

    def _udp_front(self, ip: str, port: int, targets: tuple[Endpoint, ...]) -> None:
        if self.protocol == "udp":
            # Pods reach all endpoints through an external address, whatever its policy: none of them is stale.
            everyone = {*targets, *self.reach.cluster}
            self.udp[ip, port] = frozenset((endpoint.ip, endpoint.port) for endpoint in everyone)

    def _verdict(self, balancer: str, restricted: bool) -> str:
        """How to refuse new connections where there is no balancer: silently if only this node has no endpoint."""
        if balancer:
            return ""
        return _DROP if restricted and self.reach.cluster else _REJECT

    def _external_chain(self, cluster: str, local: str, external_local: bool) -> str:
        """Where traffic to node ports, external and load balancer addresses goes on."""
        if not cluster:
            return ""
        if not external_local:
            rules = ["jump mark-for-masquerade", f"goto {cluster}"]
        else:
            # Pods and the node itself are inside: they may use all endpoints. Others keep their source address.
            inside = ", ".join(self.node.cluster_cidrs)
            rules = [
                f"ip saddr {{ {inside} }} goto {cluster}",
                "fib saddr type local jump mark-for-masquerade",
                f"fib saddr type local goto {cluster}",
            ]
            if local:
                rules.append(f"goto {local}")
        name = _chain_name("external", self.digest, self.name)
        self.chains[name] = tuple(rules)
        return name

    def _firewall(self) -> None:
        """loadBalancerSourceRanges: who else calls the load balancer's address is dropped."""
        ranges = [text.strip() for text in self.spec.loadBalancerSourceRanges or ()]
        fours = [str(ip_network(text, strict=False)) for text in ranges if ":" not in text]
        if self.spec.type != "LoadBalancer" or not ranges or "0.0.0.0/0" in fours:
            return
        name = _chain_name("firewall", self.digest, self.name)
        allow = (f"ip saddr {{ {', '.join(sorted(set(fours)))} }} return",) if fours else ()
        self.chains[name] = (*allow, "drop")
        for ip in self._load_balancer_ips():
            self.elements["firewall-ips", f"{ip} . {self.protocol} . {self.port.port}"] = f"goto {name}"

    def _balancer(self, kind: str, endpoints: tuple[Endpoint, ...]) -> str:
        """The chain that picks one of the endpoints; "" if there are none."""
        if not endpoints:
            return ""
        chains = [self._endpoint_chain(endpoint) for endpoint in endpoints]
        rules = []
        if self.affinity:
            rules = [f"ip saddr @{self._affinity_set(chain)} goto {chain}" for chain in chains]
        picks = ", ".join(f"{number} : goto {chain}" for number, chain in enumerate(chains))
        rules.append(f"numgen random mod {len(chains)} vmap {{ {picks} }}")
        name = _chain_name(kind, self.digest, self.name)
        self.chains[name] = tuple(rules)
        return name

    def _endpoint_chain(self, endpoint: Endpoint) -> str:
        full = f"{self.name}__{endpoint.ip}/{endpoint.port}"
        name = _chain_name("endpoint", _digest(full), full)
        # A pod that reaches itself through its service must see an answer from the service: masquerade.
        rules = [f"ip saddr {endpoint.ip} jump mark-for-masquerade"]
        if self.affinity:
            rules.append(f"update @{self._affinity_set(name)} {{ ip saddr }}")
            self.affinities[self._affinity_set(name)] = self.affinity
        rules.append(f"meta l4proto {self.protocol} dnat to {endpoint.ip}:{endpoint.port}")
        self.chains[name] = tuple(rules)
        return name

    def _affinity_set(self, endpoint_chain: str) -> str:
        """The timeout is part of the name, as it cannot be changed in a set that rules refer to."""
        return f"affinity-{self.affinity}-{endpoint_chain.removeprefix('endpoint-')}"

    def _affinity_seconds(self) -> int:
        if self.spec.sessionAffinity != "ClientIP":
            return 0
        config = self.spec.sessionAffinityConfig
        seconds = config.clientIP.timeoutSeconds if config is not None and config.clientIP is not None else None
        return seconds or _DEFAULT_AFFINITY_SECONDS

    def _external_ips(self) -> list[str]:
        listed = [ip for ip in self.spec.externalIPs or () if ":" not in ip]
        return list(dict.fromkeys((*listed, *self._load_balancer_ips())))

    def _load_balancer_ips(self) -> list[str]:
        """Those that the node may answer for itself (ipMode VIP); with mode Proxy traffic must go out."""
        if self.spec.type != "LoadBalancer":
            return []
        return [
            entry.ip
            for entry in self.service.status.loadBalancer.ingress or ()
            if entry.ip and ":" not in entry.ip and entry.ipMode in (None, "VIP")
        ]


def _cluster_ips(service: core.Service) -> list[str]:
    listed = service.spec.clusterIPs or [service.spec.clusterIP or ""]
    return [ip for ip in listed if ip and ip != "None" and ":" not in ip]


def _digest(name: str) -> str:
    return base64.b32encode(hashlib.sha256(name.encode()).digest()).decode()[:8]


def _chain_name(kind: str, digest: str, name: str) -> str:
    return f"{kind}-{digest}-{name}"[:_MOST_NAME]
