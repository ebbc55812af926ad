"""Paths that lead to a kubelet or through it: logs, exec, attach, port-forward, and the proxies.

Here only what is decided: which node, which container, which path there. The connection itself is made by
`apiserver/kubelet_proxy.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from pinnace.api.core import v1 as core
from pinnace.api.errors import BadRequest
from pinnace.api.kinds import Kind
from pinnace.apiserver.resource import Action, Subresource
from pinnace.apiserver.resources import actions
from pinnace.client.transport import Response

DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
PROXY_VERBS = ("create", "delete", "get", "patch", "update")
STREAM_VERBS = ("create", "get")
_LOG_OPTIONS = (
    "follow", "previous", "timestamps", "tailLines", "limitBytes", "sinceSeconds", "sinceTime", "stream",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class KubeletTarget:
    """A path on a node's kubelet (":10250"), with its query already encoded."""

    node: str
    path: str
    query: str = ""


def options(name: str) -> Kind:
    """The kind of a path's options: sent as a query, named in discovery."""
    return Kind("", "v1", name, "", "", module="core/v1")


def container_names(pod: core.Pod) -> list[str]:
    spec = pod.spec
    every = (*spec.containers, *(spec.initContainers or ()), *(spec.ephemeralContainers or ()))
    return [container.name for container in every]


def choose_container(pod: core.Pod, asked: str) -> str:
    """The container that is meant. Raises BadRequest in upstream's words."""
    name, spec = pod.metadata.name or "", pod.spec
    if asked:
        if asked not in container_names(pod):
            raise BadRequest(f"container {asked} is not valid for pod {name}")
        return asked
    if len(spec.containers) == 1:
        return spec.containers[0].name
    names = " ".join(container.name for container in spec.containers)
    text = f"a container name must be specified for pod {name}, choose one of: [{names}]"
    if spec.initContainers:
        inits = " ".join(container.name for container in spec.initContainers)
        text += f" or one of the init containers: [{inits}]"
    if spec.ephemeralContainers:
        debuggers = " ".join(container.name for container in spec.ephemeralContainers)
        text += f" or one of the ephemeral containers: [{debuggers}]"
    raise BadRequest(text)


def log_target(pod: core.Pod, query: Mapping[str, tuple[str, ...]]) -> KubeletTarget | None:
    """None while the pod has no node: its logs are empty then. Raises BadRequest."""
    container = choose_container(pod, _first(query, "container"))
    for word in ("tailLines", "limitBytes", "sinceSeconds"):
        value = _first(query, word)
        least = 0 if word == "tailLines" else 1
        if value and (not value.lstrip("-").isdigit() or int(value) < least):
            raise BadRequest(f"{word}: Invalid value: {value}: must be greater than or equal to {least}")
    if _first(query, "sinceSeconds") and _first(query, "sinceTime"):
        raise BadRequest("at most one of sinceTime or sinceSeconds may be specified")
    if not pod.spec.nodeName:
        return None
    return KubeletTarget(
        pod.spec.nodeName,
        f"/containerLogs/{_pod_path(pod)}/{quote(container)}",
        _query(query, _LOG_OPTIONS),
    )


def stream_target(
    pod: core.Pod, verb: str, query: Mapping[str, tuple[str, ...]]
) -> KubeletTarget:
    """exec and attach: into one container. Raises BadRequest."""
    container = choose_container(pod, _first(query, "container"))
    node = _node_of(pod)
    words = [("command", value) for value in query.get("command", ())] if verb == "exec" else []
    if verb == "exec" and not words:
        raise BadRequest("you must specify at least 1 command for the container")
    for ours, theirs in (("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")):
        if _first(query, ours) in ("1", "true", "True"):
            words.insert(0, (theirs, "1"))
    if not any(word in ("input", "output", "error") for word, _ in words):
        raise BadRequest("you must specify at least 1 of stdin, stdout, stderr")
    return KubeletTarget(node, f"/{verb}/{_pod_path(pod)}/{quote(container)}", urlencode(words))


def forward_target(pod: core.Pod, query: Mapping[str, tuple[str, ...]]) -> KubeletTarget:
    node = _node_of(pod)
    ports = [("port", value) for value in query.get("ports", ())]
    return KubeletTarget(node, f"/portForward/{_pod_path(pod)}", urlencode(ports))


def _node_of(pod: core.Pod) -> str:
    if not pod.spec.nodeName:
        raise BadRequest(f"pod {pod.metadata.name} does not have a host assigned")
    return pod.spec.nodeName


def _pod_path(pod: core.Pod) -> str:
    return f"{quote(pod.metadata.namespace or '')}/{quote(pod.metadata.name or '')}"


def _first(query: Mapping[str, tuple[str, ...]], name: str) -> str:
    values = query.get(name)
    return values[0] if values else ""


def _query(query: Mapping[str, tuple[str, ...]], names: tuple[str, ...]) -> str:
    return urlencode([(name, value) for name in names for value in query.get(name, ())])


def split_port(name: str) -> tuple[str, str, str]:
    """`https:web:443` → scheme, name, port: how proxies write their target. Raises BadRequest."""
    parts = name.split(":")
    if len(parts) == 1:
        return "", name, ""
    if len(parts) == 2:
        return "", parts[0], parts[1]
    if len(parts) == 3 and parts[0] in ("http", "https", ""):
        return parts[0], parts[1], parts[2]
    raise BadRequest(f'invalid service request "{name}"')


async def _log(action: Action) -> Response:
    pod = actions.registry(action, core.Pod).get(action.namespace, action.name)
    target = log_target(pod, action.request.query)
    if target is None:
        return Response(200, {"content-type": "text/plain"}, b"")
    return await action.server.kubelets.fetch(action, target)


async def _exec(action: Action) -> Response:
    pod = actions.registry(action, core.Pod).get(action.namespace, action.name)
    return await action.server.kubelets.stream(action, stream_target(pod, "exec", action.request.query))


async def _attach(action: Action) -> Response:
    pod = actions.registry(action, core.Pod).get(action.namespace, action.name)
    return await action.server.kubelets.stream(action, stream_target(pod, "attach", action.request.query))


async def _forward(action: Action) -> Response:
    pod = actions.registry(action, core.Pod).get(action.namespace, action.name)
    return await action.server.kubelets.stream(action, forward_target(pod, action.request.query))


async def _pod_proxy(action: Action) -> Response:
    return await action.server.kubelets.proxy_pod(action)


async def _service_proxy(action: Action) -> Response:
    return await action.server.kubelets.proxy_service(action)


async def _node_proxy(action: Action) -> Response:
    return await action.server.kubelets.proxy_node(action)


LOG: Subresource[core.Pod] = Subresource("log", verbs=("get",), act=_log)
EXEC: Subresource[core.Pod] = Subresource("exec", STREAM_VERBS, options("PodExecOptions"), act=_exec)
ATTACH: Subresource[core.Pod] = Subresource("attach", STREAM_VERBS, options("PodAttachOptions"), act=_attach)
PORT_FORWARD: Subresource[core.Pod] = Subresource(
    "portforward", STREAM_VERBS, options("PodPortForwardOptions"), act=_forward
)
POD_PROXY: Subresource[core.Pod] = Subresource("proxy", PROXY_VERBS, options("PodProxyOptions"), act=_pod_proxy)
SERVICE_PROXY: Subresource[core.Service] = Subresource(
    "proxy", PROXY_VERBS, options("ServiceProxyOptions"), act=_service_proxy
)
NODE_PROXY: Subresource[core.Node] = Subresource(
    "proxy", PROXY_VERBS, options("NodeProxyOptions"), act=_node_proxy
)
