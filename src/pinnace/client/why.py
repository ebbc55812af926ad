"""What the API server answers when it is asked why an object is as it is, and how that reads.

The server fills these in (`apiserver/causes.py`); `pinnace why` and `pinnace.testing.story` ask, and `render` makes
the same text for both. Imports no client, so that the command line is quick.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec
from msgspec import field

from pinnace.api import times
from pinnace.client.transport import TIMER

ROOT = "/pinnace.dev/v1/why"      # and behind it the path of an object: /pinnace.dev/v1/why/api/v1/nodes/node-0
API_VERSION = "pinnace.dev/v1"
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
    forgotten: bool = False       # what it changed is no longer kept, or too much to be looked at
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


class Why(msgspec.Struct, omit_defaults=True, tag_field="kind", tag="Why"):
    """An object's writes, newest first, and what they react to, by revision. All that is kept of it."""

    apiVersion: str
    object: Named
    exists: bool
    now: str
    created: str = ""             # creationTimestamp: the write itself may no longer be kept
    owners: list[Named] = field(default_factory=list)
    state: list[str] = field(default_factory=list)             # what it waits for, in the object's own words
    scheduling: Scheduling | None = None
    writes: list[Link] = field(default_factory=list)
    causes: list[Link] = field(default_factory=list)           # other objects' writes
    oldest: int = 0               # history is whole behind this revision
    truncated: bool = False       # there was more than is looked at for one answer


def decode(body: bytes) -> Why:
    return msgspec.json.decode(body, type=Why)


class Chains:
    """How the writes of an answer hang together: a walk over `causes` leads from each back to where it began."""

    def __init__(self, why: Why) -> None:
        self.links = {link.revision: link for link in (*why.causes, *why.writes)}
        self._ends: dict[int, int] = {}
        for revision in sorted(self.links):
            self._ends[revision] = self._end(self.links[revision])

    def causes(self, link: Link) -> list[Link]:
        """What is known of what a write reacted to: what leads to a request first, what was asked for before what was
        only reported, the object itself and the one acted for before others, the newer before the older."""
        known = [self.links[revision] for revision in link.claimed.because if revision in self.links]
        if TIMER in link.claimed.because:
            # What had set the timer, if that was something else's change; then whoever had asked for it.
            own = link.claimed.actingFor
            known = [cause for cause in known if cause.subresource != "status" and cause.object not in (own, None)]
            known.sort(key=lambda cause: -cause.revision)
            wanted = self.links.get(link.wanted)
            return [*known, wanted] if wanted is not None and wanted not in known else known
        near = (link.object, link.claimed.actingFor)

        def rank(cause: Link) -> tuple[int, bool, bool, int]:
            reported = cause.subresource == "status"
            return -self._ends[cause.revision], reported, cause.object not in near, -cause.revision

        return sorted(known, key=rank)

    def _end(self, link: Link) -> int:
        """How well the way from a write ends: 2 at a request or a timer, 1 at a node that came, 0 in the dark."""
        if TIMER in link.claimed.because:
            return 2
        if not link.claimed.because:
            node = link.object is not None and link.object.kind in ("Node", "Lease")
            return 1 if node else 2 if link.user else 0
        return max((self._ends.get(revision, 0) for revision in link.claimed.because), default=0)


# ---------------------------------------------------------------------------------------------------- as text


def render(why: Why, *, everything: bool = False, width: int = 0) -> str:
    """For people: the newest write first, and below each what it reacted to, back to somebody's request. Every write
    stands there once. Where a write reacted to several, the one is followed that leads to a request most directly,
    and the others are counted; with `everything` they are branches. At most 400 lines; each at most `width` letters,
    if that is given."""
    lines = list(_Text(why, everything).lines())
    if len(lines) > _MOST_LINES:
        lines = [*lines[:_MOST_LINES], f"… and {len(lines) - _MOST_LINES} lines more"]
    if width:
        lines = [line if len(line) <= width else line[: max(1, width - 1)] + "…" for line in lines]
    return "\n".join(lines)


class _Text:
    def __init__(self, why: Why, everything: bool) -> None:
        self._why = why
        self._everything = everything
        self._now = times.parse(why.now)
        self._chains = Chains(why)
        self._own = {link.revision for link in why.writes}
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
            causes = self._chains.causes(current)
            # One is followed; of a timer what had set it, and whoever had asked for it.
            shown = len(causes) if self._everything else 1
            if TIMER in current.claimed.because and len(causes) > 1:
                causes = causes if self._everything else [causes[0], causes[-1]]
                shown = len(causes)
            others = len(causes) - shown
            more = f" (and {others} other {'cause' if others == 1 else 'causes'})" if others > 0 else ""
            yield f"{indent}{lead}{self._sentence(current)}"
            deeper = indent if lead else indent + "  "
            if TIMER in current.claimed.because:
                yield f"{deeper}because its time had come"
            elif current.claimed.because and not causes:
                yield f"{deeper}because of what is no longer kept (revision {max(current.claimed.because)})"
            # What stands above already, all behind it does.
            fresh = [found for found in causes[:shown] if found.revision not in self._told]
            if causes and not fresh:
                yield f"{deeper}{_word(current, causes[0])}{self._name(causes[0])}, as above{more}"
                continue
            if len(fresh) > 1 and lead:
                deeper += "  "
            waiting.extend((found, deeper, _word(current, found, more)) for found in reversed(fresh))

    def _sentence(self, link: Link) -> str:
        if link.object is None:
            return f"an object you may not see (revision {link.revision})"
        text = _deed(link) if link.revision in self._own else f"{link.object.text} {_deed(link)}"
        if link.time:
            comma = "" if link.action in ("created", "deleted") else ","
            text += f"{comma} {self._ago(link.time)}"
        text += f" by {_writer(link)}" if link.user else ""
        acting = link.claimed.actingFor
        if acting is not None and acting.text != link.object.text:
            text += f" (for {acting.kind} {acting.name})"
        return text

    def _name(self, link: Link) -> str:
        return link.object.text if link.object is not None else "an object you may not see"

    def _ago(self, moment: str) -> str:
        return f"{times.human_duration(self._now - times.parse(moment))} ago"


def _word(link: Link, cause: Link, more: str = "") -> str:
    return f"as asked{more}: " if cause.revision == link.wanted else f"because{more} "


_ACCOUNTS = "system:serviceaccount:"
_CONDITION = re.compile(r"status\.conditions\[(\w+)\]\.(status|reason|message)$")


def _writer(link: Link) -> str:
    """The user, without what all of its sort share, and the component if that says more: "kubernetes-admin (kubectl)",
    "deployment-controller", "node node-0 (kubelet)"."""
    user, component = link.user, link.claimed.component
    if user.startswith(_ACCOUNTS):
        namespace, _, name = user.removeprefix(_ACCOUNTS).partition(":")
        user = name if namespace == "kube-system" else f"service account {namespace}/{name}"
    elif user.startswith("system:node:"):
        user = f"node {user.removeprefix('system:node:')}"
    elif component and user == f"system:{component}":
        user = component
    return user if not component or component.rpartition("/")[2] == user else f"{user} ({component})"


def _deed(link: Link) -> str:
    if link.action in ("created", "deleted"):
        return link.action
    if link.action == "deleting":
        return "was told to end"
    if link.subresource == "binding":
        node = next((change.new for change in link.changes if change.field == "spec.nodeName"), "")
        return f"bound to {node or 'a node'}"
    if link.changes:
        # A condition's message says more than its reason.
        explained = {c.field.removesuffix("message") for c in link.changes if c.field.endswith(".message")}
        changes = [change for change in link.changes if change.field.removesuffix("reason") not in explained]
        told = ", ".join(_change(change) for change in changes[:3])
        rest = len(changes) - 3 + link.moreChanges
        return f"{told} and {rest} more" if rest > 0 else told
    part = f"{link.subresource} " if link.subresource else ""
    return f"{part}changed" + (" (how is not known any more)" if link.forgotten else "")


def _change(change: FieldChange) -> str:
    condition = _CONDITION.search(change.field)
    if condition and condition[2] != "status":
        return f"{condition[1]}: {change.new or 'no ' + condition[2]}"
    field = condition[1] if condition else change.field
    if change.new.startswith(("{", "[{")) or change.old.startswith(("{", "[{")):
        return f"{field} changed" if change.old and change.new else f"{field} {'removed' if change.old else 'set'}"
    if not change.old:
        return f"{field} = {change.new}" if change.new else f"{field} changed"
    return f"{field} {change.old} → {change.new}" if change.new else f"{field} {change.old} removed"
