"""Which OCI runtime a pod's RuntimeClass asks for, and whether this node has it."""

from __future__ import annotations

from pinnace.api import errors
from pinnace.api.core import v1 as core
from pinnace.api.node import v1 as node
from pinnace.client.client import Client
from pinnace.kubelet.environment import ConfigError

HANDLERS = frozenset(("", "runc"))


async def handler_of(pod: core.Pod, client: Client) -> str:
    """"" for the default one. Raises ConfigError."""
    name = pod.spec.runtimeClassName
    if not name:
        return ""
    try:
        handler = (await client.get(node.RuntimeClass, name)).handler
    except errors.NotFound as error:
        raise ConfigError(f'failed to get runtime class: runtimeclass.node.k8s.io "{name}" not found') from error
    if handler not in HANDLERS:
        raise ConfigError(f'failed to get sandbox runtime: no runtime for "{handler}" is configured')
    return handler
