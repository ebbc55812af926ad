"""The files that the kubelet writes for a pod: /etc/hosts, and the resolver's settings. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pinnace.api.core import v1 as core

_MANAGED = "# Kubernetes-managed hosts file.\n"
_MANAGED_HOST_NETWORK = "# Kubernetes-managed hosts file (host network).\n"
_LOCAL = (
    "127.0.0.1\tlocalhost\n"
    "::1\tlocalhost ip6-localhost ip6-loopback\n"
    "fe00::\tip6-localnet\n"
    "fe00::\tip6-mcastprefix\n"
    "fe00::1\tip6-allnodes\n"
    "fe00::2\tip6-allrouters\n"
)
MAX_NAMESERVERS = 3
MAX_SEARCHES = 32
MAX_SEARCH_CHARACTERS = 2048


@dataclass(frozen=True, slots=True)
class Resolver:
    """The three parts of a resolv.conf."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def hostname(pod: core.Pod, cluster_domain: str, node_name: str) -> tuple[str, str]:
    """(the pod's host name, its subdomain's full name or "")."""
    spec = pod.spec
    if spec.hostnameOverride:
        return spec.hostnameOverride, ""
    name = spec.hostname or (pod.metadata.name or "")[:63].rstrip("-.")
    domain = f"{spec.subdomain}.{pod.metadata.namespace}.svc.{cluster_domain}" if spec.subdomain else ""
    if spec.hostNetwork:
        return node_name, ""
    if spec.setHostnameAsFQDN and domain:
        return f"{name}.{domain}", domain
    return name, domain


def hosts_file(pod: core.Pod, ips: Sequence[str], cluster_domain: str, host_file: str) -> str:
    """What containers see as /etc/hosts. On the host's network it is the host's own file."""
    spec = pod.spec
    if spec.hostNetwork:
        text = _MANAGED_HOST_NETWORK + host_file
    else:
        name = spec.hostname or (pod.metadata.name or "")[:63].rstrip("-.")
        text = _MANAGED + _LOCAL
        for ip in ips:
            if spec.subdomain:
                full = f"{name}.{spec.subdomain}.{pod.metadata.namespace}.svc.{cluster_domain}"
                text += f"{ip}\t{full}\t{name}\n"
            else:
                text += f"{ip}\t{name}\n"
    if spec.hostAliases:
        text += "\n# Entries added by HostAliases.\n"
        for alias in spec.hostAliases:
            names = "\t".join(alias.hostnames or ())
            text += f"{alias.ip}\t{names}\n"
    return text


def parse_resolv_conf(text: str) -> Resolver:
    """The parts that matter; the last `search` counts, as resolvers have it."""
    servers: list[str] = []
    searches: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        words = line.split("#", 1)[0].split(";", 1)[0].split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver":
            servers.append(words[1])
        elif words[0] in ("search", "domain"):
            searches = words[1:]
        elif words[0] == "options":
            options += words[1:]
    return Resolver(tuple(servers), tuple(searches), tuple(options))


def resolver(
    pod: core.Pod, *, cluster_dns: Sequence[str], cluster_domain: str, host: Resolver
) -> Resolver:
    """By dnsPolicy and dnsConfig (KEP-504). `host` is what the machine's own file offers to pods."""
    spec = pod.spec
    policy = spec.dnsPolicy or "ClusterFirst"
    if policy == "ClusterFirst" and spec.hostNetwork:
        policy = "Default"
    if policy == "ClusterFirstWithHostNet":
        policy = "ClusterFirst"
    if policy == "ClusterFirst" and cluster_dns:
        namespace = pod.metadata.namespace
        base = Resolver(
            tuple(cluster_dns),
            (f"{namespace}.svc.{cluster_domain}", f"svc.{cluster_domain}", cluster_domain, *host.searches),
            ("ndots:5",),
        )
    elif policy == "None":
        base = Resolver()
    else:
        base = host
    config = spec.dnsConfig
    if config is not None:
        options = {option.partition(":")[0]: option for option in base.options}
        for option in config.options or ():
            name = option.name or ""
            options[name] = f"{name}:{option.value}" if option.value else name
        base = Resolver(
            tuple(dict.fromkeys((*base.servers, *(config.nameservers or ())))),
            tuple(dict.fromkeys((*base.searches, *(config.searches or ())))),
            tuple(options.values()),
        )
    searches = base.searches[:MAX_SEARCHES]
    while len(" ".join(searches)) > MAX_SEARCH_CHARACTERS:
        searches = searches[:-1]
    return Resolver(base.servers[:MAX_NAMESERVERS], searches, base.options)
