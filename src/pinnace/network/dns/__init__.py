"""The cluster's DNS: names of services and pods, answered on every node."""

from pinnace.network.dns.records import ClusterRecords
from pinnace.network.dns.server import DnsServer, host_resolvers
from pinnace.network.dns.zone import Zone

__all__ = ["ClusterRecords", "DnsServer", "Zone", "host_resolvers"]
