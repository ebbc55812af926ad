"""The cluster's zone: which records there are, after the Kubernetes DNS specification 1.1.0. No IO.

`service_records` and `pod_address` are pure functions from objects and names to records. A `Zone` holds the records of
all services by name, in wire form and ready to be sent, and answers in constant time. Names of pods are not stored:
the address is in the name. What has records below it exists, also if it has none itself (NODATA, not NXDOMAIN).
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pinnace.api.core import v1 as core
from pinnace.api.discovery import v1 as discovery
from pinnace.network.dns.codec import (
    AAAA,
    ANY,
    CNAME,
    NOERROR,
    NS,
    NXDOMAIN,
    PTR,
    SOA,
    SRV,
    TXT,
    A,
    Data,
    Soa,
    Srv,
    rdata,
    record,
    to_wire,
)

Key = tuple[str, str]
# (owner name, type, ttl, data); names without the last dot.
Entry = tuple[str, int, int, Data]

SERVICE_TTL = 30
ENDPOINT_TTL = 5       # pods come and go
NEGATIVE_TTL = 5
SCHEMA_VERSION = "1.1.0"
_POINTER_TO_QUESTION = b"\xc0\x0c"
_MOST_CACHED = 20_000
_MOST_CHAINED = 8
_OWN: Key = ("", "")     # the source of the zone's own records


@dataclass(frozen=True, slots=True)
class Answer:
    """Sections ready to follow a question: every record is bytes. `target` is where a CNAME leads that the zone
    cannot follow itself."""

    rcode: int
    answers: tuple[bytes, ...] = ()
    authority: tuple[bytes, ...] = ()
    additional: tuple[bytes, ...] = ()
    target: bytes | None = None


# -------------------------------------------------------------------------------------------- records, purely


def service_records(
    service: core.Service, slices: Sequence[discovery.EndpointSlice], domain: str
) -> list[Entry]:
    """All records of one service, those of its endpoints and the reverse ones among them."""
    meta, spec = service.metadata, service.spec
    name = f"{meta.name}.{meta.namespace}.svc.{domain}"
    if spec.type == "ExternalName":
        target = (spec.externalName or "").rstrip(".").lower()
        return [(name, CNAME, SERVICE_TTL, target)] if _is_name(target) else []
    if spec.clusterIP == "None":
        return list(_headless(name, slices))
    ips = [ip for ip in spec.clusterIPs or [spec.clusterIP or ""] if ip]
    if not ips:
        return []
    entries: list[Entry] = [(name, _address_type(ip), SERVICE_TTL, ip) for ip in ips]
    entries += [(reverse_name(ip), PTR, SERVICE_TTL, name) for ip in ips]
    ports = spec.ports or []
    for port in ports:
        if port.name:
            owner = f"_{port.name}._{(port.protocol or 'TCP').lower()}.{name}"
            entries.append((owner.lower(), SRV, SERVICE_TTL, Srv(0, 100, port.port, name)))
    entries += [(name, SRV, SERVICE_TTL, Srv(0, max(1, 100 // len(ports)), port.port, name)) for port in ports]
    return entries


def _headless(name: str, slices: Iterable[discovery.EndpointSlice]) -> Iterator[Entry]:
    """A headless service is its ready endpoints, each of them under its hostname (or its address) too."""
    seen: set[Entry] = set()
    for entry in _endpoint_entries(name, slices):
        if entry not in seen:
            seen.add(entry)
            yield entry


def _endpoint_entries(name: str, slices: Iterable[discovery.EndpointSlice]) -> Iterator[Entry]:
    for slice_ in slices:
        for endpoint in slice_.endpoints or ():
            if endpoint.conditions is not None and endpoint.conditions.ready is False:
                continue
            for ip in endpoint.addresses:
                if slice_.addressType not in ("IPv4", "IPv6"):
                    continue
                host = f"{endpoint.hostname or ip.replace('.', '-').replace(':', '-')}.{name}".lower()
                yield name, _address_type(ip), ENDPOINT_TTL, ip
                yield host, _address_type(ip), ENDPOINT_TTL, ip
                if endpoint.hostname:
                    yield reverse_name(ip), PTR, ENDPOINT_TTL, host
                for port in slice_.ports or ():
                    if not port.port:
                        continue
                    target = Srv(0, 100, port.port, host)
                    if port.name:
                        yield f"_{port.name}._{(port.protocol or 'TCP').lower()}.{name}", SRV, ENDPOINT_TTL, target
                    yield name, SRV, ENDPOINT_TTL, target


def pod_address(label: str) -> str | None:
    """The address that a pod's name says: 10-244-1-2 (IPv4), or an IPv6 address with dashes for colons."""
    for text in (label.replace("-", "."), label.replace("-", ":")):
        try:
            return str(ipaddress.ip_address(text))
        except ValueError:
            continue
    return None


def reverse_name(ip: str) -> str:
    return ipaddress.ip_address(ip).reverse_pointer


def _address_type(ip: str) -> int:
    return AAAA if ":" in ip else A


def _is_name(name: str) -> bool:
    try:
        return bool(name) and bool(to_wire(name))
    except ValueError:
        return False


# --------------------------------------------------------------------------------------------------- the zone


class Zone:
    """The records of a cluster. One writer (`replace`, `set_namespace`); `answer` reads.

    `complete` is False while the records are still being loaded: that a name is missing means nothing then.
    """

    def __init__(
        self, domain: str = "cluster.local", *, dns_ip: str = "10.96.0.10",
        reverse: Sequence[str] = ("10.96.0.0/16", "10.244.0.0/16"),
    ) -> None:
        self.domain = domain
        self.complete = True
        self._apex = to_wire(domain)
        self._pods = to_wire(f"pod.{domain}")
        self._reverse = tuple(suffix for cidr in reverse for suffix in _reverse_suffixes(cidr))
        self._records: dict[bytes, dict[int, dict[bytes, int]]] = {}   # name -> type -> data -> ttl
        self._owners: dict[tuple[bytes, int, bytes], int] = {}         # how many sources say the same
        self._below: dict[bytes, int] = {}                             # name -> how many names at or below it
        self._sources: dict[Key, list[tuple[bytes, int, int, bytes]]] = {}
        self._namespaces: set[str] = set()
        self._cache: dict[bytes, Answer] = {}
        self._serial = 1
        self.replace(_OWN, [
            (domain, NS, SERVICE_TTL, f"ns.dns.{domain}"),
            (f"ns.dns.{domain}", A, SERVICE_TTL, dns_ip),
            (f"dns-version.{domain}", TXT, SERVICE_TTL, (SCHEMA_VERSION.encode(),)),
        ])
        for name in (f"svc.{domain}", f"pod.{domain}"):
            self._count(to_wire(name), 1)

    def replace(self, source: Key, entries: Iterable[Entry]) -> None:
        """All that one source (a service) has to say, in place of what it said before."""
        self._serial += 1
        self._cache.clear()
        fresh = [(to_wire(name).lower(), kind, ttl, rdata(kind, data)) for name, kind, ttl, data in entries]
        for name, kind, _, data in self._sources.pop(source, ()):
            self._drop(name, kind, data)
        for name, kind, ttl, data in fresh:
            self._add(name, kind, ttl, data)
        if fresh:
            self._sources[source] = fresh

    def retain(self, services: Collection[Key], namespaces: Collection[str]) -> None:
        """Drop what belongs to no service and namespace of these."""
        for source in [source for source in self._sources if source != _OWN and source not in services]:
            self.replace(source, ())
        for namespace in self._namespaces.difference(namespaces):
            self.set_namespace(namespace, False)

    def set_namespace(self, name: str, present: bool) -> None:
        """A namespace that exists has (perhaps empty) names below svc and pod."""
        if present == (name in self._namespaces):
            return
        self._cache.clear()
        if present:
            self._namespaces.add(name)
        else:
            self._namespaces.discard(name)
        for kind in ("svc", "pod"):
            self._count(to_wire(f"{name}.{kind}.{self.domain}"), 1 if present else -1)

    def covers(self, name: bytes) -> bool:
        """Whether a name (wire form, lower case) is this zone's to answer."""
        return name.endswith(self._apex) or (bool(self._reverse) and name.endswith(self._reverse))

    def answer(self, name: bytes, kind: int) -> Answer:
        """What is known of a name that the zone covers; cached until the zone changes."""
        key = name + kind.to_bytes(2, "big")
        found = self._cache.get(key)
        if found is None:
            found = self._look_up(name, kind)
            if len(self._cache) >= _MOST_CACHED:
                self._cache.clear()
            self._cache[key] = found
        return found

    def _look_up(self, name: bytes, kind: int) -> Answer:
        types = self._records.get(name)
        if types is None:
            pod = self._pod(name)
            if pod is not None:
                types = {_address_type(pod): {rdata(_address_type(pod), pod): ENDPOINT_TTL}}
            elif name not in self._below:
                return Answer(NXDOMAIN, authority=(self._soa(name),))
            else:
                types = {}
        if name == self._apex and kind in (SOA, ANY):
            return Answer(NOERROR, (self._soa(name),))
        if CNAME in types and kind not in (CNAME, ANY):
            return self._follow(name, types, kind)
        answers = tuple(_sections(_POINTER_TO_QUESTION, types, kind))
        if not answers:
            return Answer(NOERROR, authority=(self._soa(name),))
        return Answer(NOERROR, answers, additional=tuple(self._targets(types, kind)))

    def _follow(self, name: bytes, types: Mapping[int, Mapping[bytes, int]], kind: int) -> Answer:
        """Aliases, as far as they lead within the zone."""
        answers: list[bytes] = []
        owner = _POINTER_TO_QUESTION
        for _ in range(_MOST_CHAINED):
            (target, ttl), = types[CNAME].items()
            answers.append(record(owner, CNAME, ttl, target))
            if not self.covers(target):
                return Answer(NOERROR, tuple(answers), target=target)
            types, owner = self._records.get(target, {}), target
            if CNAME not in types:
                answers += _sections(owner, types, kind)
                break
        return Answer(NOERROR, tuple(answers))

    def _targets(self, types: Mapping[int, Mapping[bytes, int]], kind: int) -> Iterator[bytes]:
        """The addresses of what SRV records point to."""
        if kind != SRV:
            return
        for target in dict.fromkeys(data[6:] for data in types.get(SRV, ())):
            known = self._records.get(target.lower(), {})
            for address in (A, AAAA):
                yield from _sections(target, known, address)

    def _pod(self, name: bytes) -> str | None:
        """The address in `a-b-c-d.NAMESPACE.pod.DOMAIN`, if there is such a namespace."""
        if not name.endswith(self._pods):
            return None
        first = name[0] + 1
        if name[first:] not in self._below or len(name) - first - len(self._pods) != name[first] + 1:
            return None
        return pod_address(name[1:first].decode("ascii", "replace"))

    def _soa(self, name: bytes) -> bytes:
        """The zone's SOA, its owner a pointer into the question (whose name ends with the zone's)."""
        soa = Soa(f"ns.dns.{self.domain}", f"hostmaster.{self.domain}", self._serial & 0xFFFFFFFF, 7200, 1800, 86400,
                  NEGATIVE_TTL)
        owner = self._apex
        if name.endswith(self._apex):
            owner = (0xC000 | 12 + len(name) - len(self._apex)).to_bytes(2, "big")
        return record(owner, SOA, NEGATIVE_TTL, rdata(SOA, soa))

    def _add(self, name: bytes, kind: int, ttl: int, data: bytes) -> None:
        owner = (name, kind, data)
        self._owners[owner] = self._owners.get(owner, 0) + 1
        if self._owners[owner] == 1:
            types = self._records.setdefault(name, {})
            types.setdefault(kind, {})[data] = ttl
            self._count(name, 1)

    def _drop(self, name: bytes, kind: int, data: bytes) -> None:
        owner = (name, kind, data)
        self._owners[owner] -= 1
        if self._owners[owner]:
            return
        del self._owners[owner]
        types = self._records[name]
        del types[kind][data]
        if not types[kind]:
            del types[kind]
        if not types:
            del self._records[name]
        self._count(name, -1)

    def _count(self, name: bytes, by: int) -> None:
        """One name more or less at and above `name`, up to the root."""
        while len(name) > 1:
            count = self._below.get(name, 0) + by
            if count > 0:
                self._below[name] = count
            else:
                self._below.pop(name, None)
            name = name[name[0] + 1 :]


def _sections(owner: bytes, types: Mapping[int, Mapping[bytes, int]], kind: int) -> Iterator[bytes]:
    for type_ in types if kind == ANY else (kind,):
        for data, ttl in types.get(type_, {}).items():
            yield record(owner, type_, ttl, data)


def _reverse_suffixes(cidr: str) -> Iterator[bytes]:
    """The names under which the reverse names of an IPv4 range lie, whole octets only."""
    network = ipaddress.ip_network(cidr)
    if network.version != 4:
        return
    octets = -(-network.prefixlen // 8) or 1
    blocks = network.subnets(new_prefix=octets * 8) if network.prefixlen < octets * 8 else iter((network,))
    for block in itertools.islice(blocks, 256):
        parts = str(block.network_address).split(".")[:octets]
        yield to_wire(".".join((*reversed(parts), "in-addr", "arpa")))
