"""The contract of every engine.

Revisions are whole numbers from 1 that rise by one with each commit, across all keys. A commit that has
returned is durable (in an engine that is) and visible to every later read. History is kept until it is
compacted: reads and watches may start at any uncompacted revision.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec

MOST_BECAUSE = 16         # revisions kept of one cause
CLOCK = 0                 # among the revisions of a cause: no write, but time that had passed


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A key's value, as of one revision."""

    key: str
    value: bytes
    created: int      # revision of the commit that created the key
    modified: int     # revision of the commit that wrote this value


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a prefix, in key order."""

    entries: tuple[Entry, ...]
    revision: int             # the moment that the page shows
    more: bool                # there are keys behind the last entry
    remaining: int            # how many; exact


class Cause(msgspec.Struct, frozen=True, gc=False):
    """Who made a write, for which object, and which revisions it reacted to. One is made for each commit, so it is a
    Struct: a tenth of what a frozen dataclass costs.

    `actor`, `verb`, `subresource` and `at` are what the API server knows. `agent`, `about` and `because` are what the
    caller says of itself: bounded, and good for telling, not for deciding. No text holds a tab or a line's end.
    """

    actor: str                          # user, e.g. "system:kube-scheduler"
    verb: str = ""                      # create, update, patch, delete …
    because: tuple[int, ...] = ()       # revisions, or CLOCK; at most 16 are kept
    agent: str = ""                     # component, e.g. "kubectl", "kube-controller-manager/job-controller"
    about: str = ""                     # object that the caller acted for, e.g. "Job.batch/default/backup"
    subresource: str = ""
    at: int = 0                         # milliseconds since 1970; 0: not known


class Change(msgspec.Struct, frozen=True, gc=False):
    """One commit, as a watcher sees it: the one record that is made of it."""

    key: str
    revision: int
    value: bytes | None           # None: the key was deleted
    previous: Entry | None        # None: the key was created
    cause: Cause | None = None    # None: it was not given

    @property
    def created(self) -> int:
        """The revision that created the key."""
        return self.previous.created if self.previous is not None else self.revision


@dataclass(frozen=True, slots=True)
class Trace:
    """A commit of which nothing is kept but its cause."""

    key: str
    revision: int


class Conflict(Exception):
    """`expect` did not hold. Carries what is there now (None: nothing)."""

    def __init__(self, key: str, actual: Entry | None) -> None:
        super().__init__(f"{key}: at revision {actual.modified if actual else 0}")
        self.key = key
        self.actual = actual


class Compacted(Exception):
    """The asked-for revision is no longer kept."""

    def __init__(self, revision: int, oldest: int) -> None:
        super().__init__(f"revision {revision} has been compacted; the oldest kept is {oldest}")
        self.revision = revision
        self.oldest = oldest


class FutureRevision(Exception):
    """The asked-for revision has not happened yet."""

    def __init__(self, revision: int, current: int) -> None:
        super().__init__(f"revision {revision} is ahead of the current {current}")
        self.revision = revision
        self.current = current


class Store(Protocol):
    """Bytes and revisions."""

    @property
    def revision(self) -> int:
        """The newest committed revision; 0 before the first."""
        ...

    async def get(self, key: str, *, at: int | None = None) -> Entry | None:
        """The key's entry, now or at a revision. Raises Compacted, FutureRevision."""
        ...

    async def list(self, prefix: str, *, at: int | None = None, after: str = "", limit: int = 0) -> Page:
        """Entries whose key starts with `prefix` and sorts behind `after`; all if `limit` is 0.

        Raises Compacted, FutureRevision."""
        ...

    async def commit(
        self, key: str, value: bytes | None, *, expect: int | None = None, cause: Cause | None = None
    ) -> int:
        """Write (or with None delete) one key and return the commit's revision.

        `expect` is the `modified` revision the caller saw: 0 demands that the key does not exist, None
        demands nothing. Deleting a key that does not exist raises Conflict.

        Raises Conflict, and StoreFailure: then nothing was written, and the next commit starts afresh. A caller
        that is cancelled while it waits does not know whether its write was made."""
        ...

    def watch(self, prefix: str, *, after: int) -> AsyncGenerator[tuple[Change, ...], None]:
        """Every change below `prefix` with a revision above `after`, in order, each once, for ever.

        Changes come in batches of at least one, as many as are there. `after` may be ahead of the newest
        revision: the watch then waits, and begins with the first change above `after`. The watch starts with
        the first `anext`, not before.

        The iteration raises Compacted when `after` is no longer kept, or when the watcher has fallen further
        behind than the engine's bound; and StoreFailure, never a plain end, when the store is closed, because
        what follows is unknown. Closing the iterator (`aclose`) ends the watch."""
        ...

    def subscribe(self, tell: Callable[[Change], None], *, after: int) -> Callable[[], None]:
        """Every change with a revision above `after`, in order, each once, without a turn of the loop: those that
        are there in this call; each later one when it is durable and visible, before its commit returns.

        `tell` must be quick, must not raise, and must not write to the store. Returns what ends it. Raises
        Compacted; StoreFailure when the store is closed. Nothing is told any more once the store is closed."""
        ...

    async def compact(self, revision: int) -> None:
        """Forget history before `revision`; what a key holds at that revision stays readable.

        Raises FutureRevision; StoreFailure when it could not be made durable (the history is forgotten all the
        same, and its space is freed with a later compaction or at the next start)."""
        ...

    async def cause(self, revision: int) -> Cause | None:
        """Who made the commit of that revision, if it was given and the record is kept.

        It is kept as long as the history of that revision, and beyond that while some key still holds the value
        that was written then. Of a key that lives on, some causes of values that were overwritten are kept too: that
        of its creation and of the three last writes that asked for something, and neither reported a status nor
        happened by the clock."""
        ...

    async def change(self, revision: int) -> Change | Entry | Trace | None:
        """The commit of that revision; None if nothing of it is kept.

        An Entry, where a key still holds what was written before the history that is kept: what was there before it
        is not known. A Trace, if only its cause is left. Both are found only if that write carried a cause."""
        ...

    async def revisions(self, key: str) -> tuple[int, ...]:
        """The commits of that key of which `change` knows, oldest first; a deletion is one too."""
        ...

    async def close(self) -> None:
        """Finish what has been started, end all watches, let go. Commits, watches and compactions from now on raise
        StoreFailure."""
        ...


class StoreFailure(Exception):
    """The engine could not do it (disk full, file damaged, file in use); the message says what is wrong. Nothing
    that was not acknowledged before becomes visible."""
