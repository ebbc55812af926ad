"""What a failed test's report says of its cluster: at most a screen or two.

The seed, the time reached, the objects that the test named last, recent warnings, and
what the cluster still waits for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any

from pinnace.api import errors, times
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.apiserver.inprocess import ADMIN, InProcessTransport
from pinnace.apiserver.resources.events import last_seen
from pinnace.client.client import Client
from pinnace.testing.cluster import Cluster
from pinnace.testing.manifests import Reference
from pinnace.testing.story import story

_SECONDS = 5.0            # of the cluster's time that it has to answer
_MOST = 8                 # lines of each part
_STORY = 16               # lines of an object's story
_WIDTH = 160


async def describe(cluster: Cluster) -> str:
    """Never raises for what the cluster says."""
    unit = "virtual seconds" if cluster.time == "virtual" else "seconds"
    reached = f"{times.format(cluster.now())}, {cluster.elapsed:.3f} {unit} after its start"
    lines = [f"seed {cluster.seed}; the cluster's time was {reached}"]
    server = cluster.control_plane.server
    if server is None:
        return "\n".join([*lines, "the API server is down"])
    # Past whatever faults lie between the test and the server.
    client = Client(InProcessTransport(server), agent="pinnace-testing", user=ADMIN)
    try:
        async with asyncio.timeout(_SECONDS):
            for reference in reversed(cluster.named):
                lines += ["", *await _object(client, reference)]
            lines += _part("recent warnings", await _warnings(client))
            lines += _part("not there yet", [line async for line in _waiting(client)])
    except (errors.StatusError, OSError, TimeoutError) as error:
        lines.append(f"the cluster could not be asked further: {error!r}")
    if not cluster.control_plane.idle:
        lines += ["", "the controllers or the scheduler had something left to do"]
    return "\n".join(line if len(line) <= _WIDTH else f"{line[:_WIDTH]} …" for line in lines)


def _part(title: str, lines: list[str]) -> list[str]:
    if not lines:
        return []
    left_out = [f"  … and {len(lines) - _MOST} more"] if len(lines) > _MOST else []
    return ["", f"{title}:", *(f"  {line}" for line in lines[:_MOST]), *left_out]


async def _object(client: Client, reference: Reference) -> list[str]:
    kind, place, name = reference
    try:
        obj = await client.get(kind.type, name, place)
        lines = [f"{reference}: {_state(obj)}"]
    except errors.NotFound:
        lines = [f"{reference}: it is not there"]
    wanted = f"involvedObject.kind={kind.kind},involvedObject.name={name}"
    found = await client.list(core.Event, place, field_selector=wanted)
    lines += [f"  {_line(event)}" for event in sorted(found.items, key=last_seen)[-_MOST:]]
    try:
        told = str(await story(client, kind.type(metadata=meta.ObjectMeta(name=name, namespace=place)))).splitlines()
    except errors.NotFound:
        return lines            # it has never been there, or nothing of it is kept
    left_out = [f"  … and {len(told) - _STORY} lines more, which cluster.why tells"] if len(told) > _STORY else []
    return [*lines, *(f"  {line}" for line in told[:_STORY]), *left_out]


def _state(obj: Any) -> str:
    status = getattr(obj, "status", None)
    phase = getattr(status, "phase", None)
    conditions = [
        f"{each.type}={each.status}" + (f" ({each.reason})" if each.reason else "")
        for each in getattr(status, "conditions", None) or ()
    ]
    return ", ".join([*([phase] if phase else []), *conditions]) or "it is there"


async def _warnings(client: Client) -> list[str]:
    found = await client.list(core.Event, field_selector="type=Warning")
    newest = sorted(found.items, key=last_seen, reverse=True)
    return [f"{event.involvedObject.kind}/{event.involvedObject.name}: {_line(event)}" for event in newest]


def _line(event: core.Event) -> str:
    count = event.series.count if event.series is not None else event.count
    often = f" (x{count})" if count and count > 1 else ""
    return f"{last_seen(event)} {event.reason}: {event.message}{often}"


async def _waiting(client: Client) -> Any:
    for node in (await client.list(core.Node)).items:
        if not any(each.type == "Ready" and each.status == "True" for each in node.status.conditions or ()):
            yield f"node/{node.metadata.name} is not Ready"
    for pod in (await client.list(core.Pod)).items:
        why = "; ".join(pod_lacks(pod))
        if why:
            yield f"pod/{pod.metadata.name} in {pod.metadata.namespace}: {why}"
    for space in (await client.list(core.Namespace)).items:
        if space.metadata.deletionTimestamp:
            yield f"namespace/{space.metadata.name} is being deleted"


def pod_lacks(pod: core.Pod) -> Iterator[str]:
    """Why a pod does not do what it is there for; nothing if it does or did."""
    status = pod.status
    if pod.metadata.deletionTimestamp:
        yield "is being deleted"
        return
    if status.phase == "Succeeded":
        return
    if status.phase != "Running":
        yield status.phase or "Pending"
    yield from _conditions(status.conditions or ())
    for container in (*(status.initContainerStatuses or ()), *(status.containerStatuses or ())):
        waiting = container.state.waiting if container.state is not None else None
        if waiting is not None and waiting.reason:
            yield f"{container.name}: {waiting.reason} {waiting.message or ''}".rstrip()


def _conditions(conditions: Iterable[core.PodCondition]) -> Iterator[str]:
    for each in conditions:
        if each.type in ("PodScheduled", "Ready") and each.status == "False" and (each.message or each.reason):
            yield f"{each.type}=False: {each.message or each.reason}"
