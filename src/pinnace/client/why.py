"""What the API server answers when it is asked why an object is as it is, and how that reads.

The server fills these in (`apiserver/causes.py`); `pinnace why` and `pinnace.testing.story` ask, and `render` makes
the same text for both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import field

from pinnace.api import times
from pinnace.api.kinds import Kind
from pinnace.client.client import Client, object_path
from pinnace.client.transport import TIMER

ROOT = "/pinnace.dev/v1/why"      # and behind it the path of an object: /pinnace.dev/v1/why/api/v1/nodes/node-0
MOST_DEPTH = 32                   # reactions between an object and the last cause that is looked at
_MOST_LINES = 400


class Named(msgspec.Struct, omit_defaults=True, gc=False):
    """An object, by name."""

    kind: str
    name: str
    namespace: str = ""
    apiVersion: str = ""          # of whoever says it: a client that acts for an object tells only the group

    @property
    def text(self) -> str:
        return f"{self.kind.lower()}/{self.name}"


class FieldChange(msgspec.Struct, omit_defaults=True, gc=False):
    """A field that differs, e.g. `spec.replicas` 2 → 3. Values are shortened; "" is a field that is not there."""

    field: str
    old: str = ""
    new: str = ""


class Claims(msgspec.Struct, omit_defaults=True):
    """What a client said of itself when it wrote; the `user` beside it was authenticated, this was not."""

    component: str = ""
    actingFor: Named | None = None
    because: list[int] = field(default_factory=list)    # revisions; 0 stands for the clock


class Link(msgspec.Struct, omit_defaults=True):
    """One write."""

    revision: int
    action: str = ""              # created, changed, deleting (its end was asked for), deleted; "" if it is hidden
    object: Named | None = None   # None: an object that whoever asks may not get
    time: str = ""
    user: str = ""
    verb: str = ""
    subresource: str = ""
    claimed: Claims = field(default_factory=Claims)
    changes: list[FieldChange] = field(default_factory=list)
    moreChanges: int = 0
    forgotten: bool = False       # what was there before it, or what was written, is no longer kept
    wanted: int = 0               # where the clock was the cause: the write that asked for what was done then


class NodeRefusal(msgspec.Struct, omit_defaults=True):
    """Why a pod cannot go to a node; no reasons: it could."""

    node: str
    reasons: list[str] = field(default_factory=list)


class Scheduling(msgspec.Struct, omit_defaults=True):
    """What the scheduler would say of a pending pod now."""

    message: str
    nodes: list[NodeRefusal] = field(default_factory=list)     # if whoever asks may list nodes
    moreNodes: int = 0


class Why(msgspec.Struct, omit_defaults=True):
    """An object's writes, newest first, and what they react to, by revision. All that is kept of it."""

    object: Named
    exists: bool
    now: str
    kind: str = "Why"
    apiVersion: str = "pinnace.dev/v1"
    created: str = ""             # creationTimestamp: the write itself may no longer be kept
    owners: list[Named] = field(default_factory=list)
    state: list[str] = field(default_factory=list)             # what it waits for, in the object's own words
    scheduling: Scheduling | None = None
    writes: list[Link] = field(default_factory=list)
    causes: list[Link] = field(default_factory=list)           # other objects' writes
    oldest: int = 0               # history is whole behind this revision
    truncated: bool = False       # there was more than is looked at for one answer


def why_path(kind: Kind, namespace: str, name: str) -> str:
    return ROOT + object_path(kind, namespace, name)


async def ask(
    client: Client, kind: Kind, name: str, namespace: str = "", *, revision: int = 0, depth: int = MOST_DEPTH
) -> Why:
    """Raises what `get` of the object raises; NotFound also for an object that was never there, or is forgotten."""
    query: dict[str, tuple[str, ...]] = {"depth": (str(depth),)}
    if revision:
        query["revision"] = (str(revision),)
    response = await client.call("GET", why_path(kind, namespace, name), query=query)
    return decode(response.body)


def decode(body: bytes) -> Why:
    return msgspec.json.decode(body, type=Why)


# ---------------------------------------------------------------------------------------------------- as text


def render(why: Why, *, width: int = 0) -> str:
    """For people: the newest write first, and below each what it reacted to, back to somebody's request. Every write
    stands there once. At most 400 lines; each at most `width` letters, if that is given."""
    lines = list(_Text(why).lines())
    if len(lines) > _MOST_LINES:
        lines = [*lines[:_MOST_LINES], f"… and {len(lines) - _MOST_LINES} lines more"]
    if width:
        lines = [line if len(line) <= width else line[: max(1, width - 1)] + "…" for line in lines]
    return "\n".join(lines)


class _Text:
    def __init__(self, why: Why) -> None:
        self._why = why
        self._now = times.parse(why.now)
        self._links = {link.revision: link for link in (*why.causes, *why.writes)}
        self._told: set[int] = set()

    def lines(self) -> Iterator[str]:
        why = self._why
        place = f" in namespace {why.object.namespace}" if why.object.namespace else ""
        yield f"{why.object.text}{place}" + ("" if why.exists else ", which is no more")
        for text in why.state:
            yield f"  {text}"
        if why.scheduling is not None:
            yield from self._scheduling(why.scheduling)
        for link in why.writes:
            if link.revision not in self._told:
                yield from self._chain(link, "  ", "")
        if why.created and all(link.action != "created" for link in why.writes):
            yield f"  created {self._ago(why.created)}; by whom is no longer kept"
            for owner in why.owners:
                yield f"  owned by {owner.kind} {owner.name}: ask why {owner.text}"
        if why.truncated:
            yield "  … there is more than one answer holds"

    def _scheduling(self, scheduling: Scheduling) -> Iterator[str]:
        yield f"  scheduler: {scheduling.message}"
        for node in scheduling.nodes:
            yield f"    {node.node}: {', '.join(node.reasons) or 'takes the pod'}"
        if scheduling.moreNodes:
            yield f"    … and {scheduling.moreNodes} nodes more"

    def _chain(self, link: Link, indent: str, lead: str) -> Iterator[str]:
        """The write and what it reacted to. A single cause stands below at the same depth; several, one deeper."""
        waiting = [(link, indent, lead)]
        while waiting:
            current, indent, lead = waiting.pop()
            if current.revision in self._told:
                continue
            self._told.add(current.revision)
            yield f"{indent}{lead}{self._sentence(current)}"
            deeper = indent if lead else indent + "  "
            causes = [revision for revision in current.claimed.because if revision != TIMER]
            if TIMER in current.claimed.because:
                yield f"{deeper}because its time had come"
                causes = []
                if current.wanted in self._links:
                    causes = [current.wanted]
            known = [self._links[revision] for revision in causes if revision in self._links]
            fresh = [found for found in known if found.revision not in self._told]
            if known and not fresh:
                yield f"{deeper}because of {self._name(known[0])}, above"
            if causes and not known:
                yield f"{deeper}because of something that is no longer kept (revision {max(causes)})"
            if len(fresh) > 1:
                deeper += "  " if lead else ""
            word = "as asked: " if current.wanted in causes else "because "
            waiting.extend((found, deeper, word) for found in sorted(fresh, key=lambda found: found.revision))

    def _sentence(self, link: Link) -> str:
        if link.object is None:
            return f"an object you may not see (revision {link.revision})"
        own = link.object == self._why.object
        what = f"{link.object.text} " if not own or link.revision not in {w.revision for w in self._why.writes} else ""
        by = link.user + (f" ({link.claimed.component})" if link.claimed.component else "")
        text = f"{what}{_deed(link)}"
        if link.time:
            text += f" {self._ago(link.time)}"
        text += f", by {by}" if by else ""
        if link.claimed.actingFor is not None and link.claimed.actingFor.text != link.object.text:
            text += f", for {link.claimed.actingFor.kind} {link.claimed.actingFor.name}"
        return text

    def _name(self, link: Link) -> str:
        return f"what {link.object.text} was" if link.object is not None else "an object you may not see"

    def _ago(self, moment: str) -> str:
        return f"{times.human_duration(self._now - times.parse(moment))} ago"


def _deed(link: Link) -> str:
    if link.action in ("created", "deleted"):
        return link.action
    if link.subresource == "binding":
        node = next((change.new for change in link.changes if change.field == "spec.nodeName"), "")
        return f"bound to {node}" if node else "bound to a node"
    if link.action == "deleting":
        return "was told to end"
    if link.changes:
        told = ", ".join(_change(change) for change in link.changes[:3])
        rest = len(link.changes) - 3 + link.moreChanges
        return f"{told} and {rest} more" if rest > 0 else told
    part = f"{link.subresource} " if link.subresource else ""
    return f"{part}changed"


def _change(change: FieldChange) -> str:
    if not change.old:
        return f"{change.field} set to {change.new}" if change.new else f"{change.field} changed"
    return f"{change.field} {change.old} → {change.new}" if change.new else f"{change.field} {change.old} removed"


def plain(why: Why) -> Any:
    """As dicts and lists, for printing as JSON."""
    return msgspec.to_builtins(why)
