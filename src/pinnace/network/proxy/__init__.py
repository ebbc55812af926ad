"""The service proxy: Services and EndpointSlices become nftables rules on every node."""

from pinnace.network.proxy.endpoints import Endpoint, ProxyNode
from pinnace.network.proxy.proxy import ServiceProxy
from pinnace.network.proxy.rules import Fragment, Ruleset, plan, plan_service

__all__ = ["Endpoint", "Fragment", "ProxyNode", "Ruleset", "ServiceProxy", "plan", "plan_service"]
