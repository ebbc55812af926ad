"""Rulesets as nft's own text: the fixed base of the table, and the transaction for a change. Pure.

Within a transaction the order counts: what is referred to must exist, what goes must not be referred to any more.
Hence: new chains and sets, then elements and rules that go, then those that come, then chains and sets that go.
"""

from __future__ import annotations

from collections.abc import Iterable

from pinnace.network.proxy.endpoints import ProxyNode
from pinnace.network.proxy.rules import Change

TABLE = "ip pinnace-services"
# The mark that upstream uses too; it lives from the first hook to the last within this node.
_MARK = "0x4000"


def base(node: ProxyNode) -> str:
    """The table with everything that does not depend on services, in place of whatever was there."""
    services = ", ".join(cidr for cidr in node.service_cidrs if ":" not in cidr)
    ips = ", ".join(ip for ip in node.ips if ":" not in ip)
    node_ips = f"elements = {{ {ips} }};" if ips else ""
    return f"""
add table {TABLE}
delete table {TABLE}
table {TABLE} {{
  comment "rules for Services"
  set cluster-ips {{ type ipv4_addr; comment "Active ClusterIPs"; }}
  set nodeport-ips {{ type ipv4_addr; comment "IPs that accept NodePort traffic"; {node_ips} }}
  map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
  map service-nodeports {{ type inet_proto . inet_service : verdict; }}
  map no-endpoint-services {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
  map no-endpoint-nodeports {{ type inet_proto . inet_service : verdict; }}
  map firewall-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; }}

  chain reject-chain {{ reject; }}
  chain mark-for-masquerade {{ meta mark set meta mark | {_MARK}; }}
  chain masquerading {{
    meta mark & {_MARK} == 0 return
    meta mark set meta mark ^ {_MARK}
    masquerade fully-random
  }}
  chain services {{
    ip daddr . meta l4proto . th dport vmap @service-ips
    ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
  }}
  chain endpoints-check {{
    ip daddr . meta l4proto . th dport vmap @no-endpoint-services
    ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
  }}
  chain firewall-check {{ ip daddr . meta l4proto . th dport vmap @firewall-ips; }}
  chain cluster-ips-check {{
    ip daddr @cluster-ips reject comment "invalid ports of ClusterIPs"
    ip daddr {{ {services} }} drop comment "unallocated ClusterIPs"
  }}

  chain filter-prerouting {{ type filter hook prerouting priority -110; ct state new jump firewall-check; }}
  chain filter-input {{ type filter hook input priority -110; ct state new jump endpoints-check; }}
  chain filter-forward {{
    type filter hook forward priority -110
    ct state new jump endpoints-check
    ct state new jump cluster-ips-check
  }}
  chain filter-output {{
    type filter hook output priority -110
    ct state new jump endpoints-check
    ct state new jump firewall-check
  }}
  chain filter-output-after-dnat {{ type filter hook output priority -90; ct state new jump cluster-ips-check; }}
  chain nat-prerouting {{ type nat hook prerouting priority -100; jump services; }}
  chain nat-output {{ type nat hook output priority -100; jump services; }}
  chain nat-postrouting {{ type nat hook postrouting priority 100; jump masquerading; }}
}}
"""


def transaction(change: Change) -> str:
    """The commands that carry out a change; "" if there is none."""
    lines: list[str] = []
    for name, (old, new) in change.affinities.items():
        if new is not None and old is None:
            lines.append(_affinity_set(name, new))
    for chain, (had, wanted) in change.chains.items():
        if had is None:
            lines.append(f"add chain {TABLE} {chain}")
        elif wanted is None or had != wanted:
            lines.append(f"flush chain {TABLE} {chain}")
    lines += _elements("delete", ((element, None) for element, (old, _) in change.elements.items() if old is not None))
    for chain, (_, wanted) in change.chains.items():
        lines += (f"add rule {TABLE} {chain} {rule}" for rule in wanted or ())
    lines += _elements("add", ((element, new) for element, (_, new) in change.elements.items() if new is not None))
    lines += (f"delete chain {TABLE} {chain}" for chain, (_, wanted) in change.chains.items() if wanted is None)
    lines += (f"delete set {TABLE} {name}" for name, (_, new) in change.affinities.items() if new is None)
    return "\n".join((*lines, "")) if lines else ""


def _affinity_set(name: str, seconds: int) -> str:
    return f"add set {TABLE} {name} {{ type ipv4_addr; flags dynamic,timeout; timeout {seconds}s; }}"


def _elements(verb: str, elements: Iterable[tuple[tuple[str, str], str | None]]) -> list[str]:
    """One command for each set or map; values only where something is added to a map."""
    grouped: dict[str, list[str]] = {}
    for (name, key), value in elements:
        grouped.setdefault(name, []).append(f"{key} : {value}" if value else key)
    return [f"{verb} element {TABLE} {name} {{ {', '.join(listed)} }}" for name, listed in grouped.items()]
