"""Short ways to write Services and EndpointSlices in tests."""

from __future__ import annotations

from typing import Any

import msgspec

from pinnace.api.core import v1 as core
from pinnace.api.discovery import v1 as discovery


def service(name: str, ip: str = "10.96.0.20", *ports: dict[str, Any], namespace: str = "default",
            status: dict[str, Any] | None = None, labels: dict[str, str] | None = None, **spec: Any) -> core.Service:
    body = {
        "metadata": {"name": name, "namespace": namespace, "labels": labels or {}},
        "spec": {
            "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ports": list(ports) or [{"port": 80}], **spec,
        },
        "status": status or {},
    }
    return msgspec.convert(body, core.Service)


def endpoint(ip: str, node: str = "n1", *, ready: bool = True, serving: bool | None = None, terminating: bool = False,
             zones: tuple[str, ...] = (), nodes: tuple[str, ...] = (), hostname: str | None = None) -> dict[str, Any]:
    body: dict[str, Any] = {
        "addresses": [ip], "nodeName": node,
        "conditions": {"ready": ready, "serving": ready if serving is None else serving, "terminating": terminating},
    }
    if zones or nodes:
        body["hints"] = {"forZones": [{"name": z} for z in zones], "forNodes": [{"name": n} for n in nodes]}
    if hostname:
        body["hostname"] = hostname
    return body


def slice_(service_name: str, *endpoints: dict[str, Any], port: int = 8080, protocol: str = "TCP", port_name: str = "",
           namespace: str = "default", suffix: str = "1", labels: dict[str, str] | None = None,
           ) -> discovery.EndpointSlice:
    body = {
        "metadata": {
            "name": f"{service_name}-{suffix}", "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service_name, **(labels or {})},
        },
        "addressType": "IPv4",
        "ports": [{"name": port_name, "port": port, "protocol": protocol}],
        "endpoints": list(endpoints),
    }
    return msgspec.convert(body, discovery.EndpointSlice)
