"""The story of an object: every write to it that is kept, who made it, because of what. What a failed test prints,
and what `Cluster.why` gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pinnace.api import codec
from pinnace.api.kinds import kind_of
from pinnace.client.client import Client, object_path
from pinnace.client.transport import TIMER
from pinnace.client.why import ROOT, Chains, FieldChange, Link, Named, Why, decode
from pinnace.client.why import render as render_why

_MOST_LETTERS = 8000


@dataclass(frozen=True)
class Write:
    """One write of the object.

    `user` was authenticated; `component` and `acting_for` are the writer's own words. `because` is what it reacted
    to, as far as that is kept, what leads to a request most directly first: writes of other objects, or earlier ones
    of this. `timer`: it acted because time had passed, and `because` holds who had asked for that. `origin` is where
    the chain of reactions begins: somebody's request.
    """

    revision: int
    time: str
    action: str                        # created, changed, deleting (its end was asked for), deleted
    object: Named | None               # None: one that whoever asks may not get
    user: str
    component: str
    verb: str
    subresource: str
    acting_for: Named | None
    timer: bool
    changes: tuple[FieldChange, ...]
    because: tuple[Write, ...] = field(default=(), repr=False)

    @property
    def origin(self) -> Write:
        """Along the first of each write's causes (of a timer's, who had asked for it), back to one that has none."""
        found = self
        while found.because:
            found = found.because[-1 if found.timer else 0]
        return found


class Story(list[Write]):
    """The writes of one object, newest first. `why` is the server's whole answer."""

    def __init__(self, why: Why) -> None:
        self.why = why
        chains = Chains(why)
        known: dict[int, Write] = {}
        for revision, link in sorted(chains.links.items()):        # causes come before what reacts to them
            known[revision] = _write(link, tuple(known[cause.revision] for cause in chains.causes(link)))
        super().__init__(known[link.revision] for link in why.writes)

    def __str__(self) -> str:
        return render(self)


async def story(client: Client, obj: Any) -> Story:
    """The story of a typed object; it may be gone by now. Raises NotFound if the server knows nothing of it (any
    more)."""
    meta = codec.metadata(obj)
    path = ROOT + object_path(kind_of(obj), meta.namespace or "", meta.name or "")
    return Story(decode((await client.call("GET", path)).body))


def render(story: Story) -> str:
    """The text that a failed test prints: at most 8,000 letters."""
    text = render_why(story.why, width=200)
    if len(text) <= _MOST_LETTERS:
        return text
    return text[:_MOST_LETTERS].rpartition("\n")[0] + "\n… and earlier writes"


def _write(link: Link, because: tuple[Write, ...]) -> Write:
    return Write(
        revision=link.revision, time=link.time, action=link.action, object=link.object, user=link.user,
        component=link.claimed.component, verb=link.verb, subresource=link.subresource,
        acting_for=link.claimed.actingFor, timer=TIMER in link.claimed.because, changes=tuple(link.changes),
        because=because,
    )  # fmt: skip
