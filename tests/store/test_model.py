"""Both engines against a model that is too simple to be wrong: the list of everything that was ever committed."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pinnace.base.clock import ManualClock
from pinnace.store import (
    Cause,
    Change,
    Compacted,
    Conflict,
    Entry,
    FutureRevision,
    MemoryStore,
    SqliteStore,
    Store,
    Trace,
)  # fmt: skip

KEYS = st.sampled_from(["/a/1", "/a/2", "/a/22", "/a/3", "/b/1", "/b/ü", "/c"])
PREFIXES = st.sampled_from(["/", "/a/", "/a/2", "/b/", "/none/", "/c"])
VALUES = st.binary(max_size=20)
CAUSES = st.none() | st.builds(
    Cause, st.sampled_from(["", "me"]), st.sampled_from(["", "update"]),
    st.lists(st.integers(0, 99), max_size=20).map(tuple), st.sampled_from(["", "kubectl"]),
    st.sampled_from(["", "Job.batch/default/a"]), st.sampled_from(["", "status", "scale"]), st.integers(0, 2**41),
)  # fmt: skip


class Model:
    def __init__(self) -> None:
        self.log: list[tuple[str, bytes | None, Cause | None]] = []        # of revision 1, 2 …
        self.compacted = 0

    @property
    def revision(self) -> int:
        return len(self.log)

    def state(self, at: int) -> dict[str, Entry]:
        state: dict[str, Entry] = {}
        for revision, (key, value, _) in enumerate(self.log[:at], 1):
            before = state.get(key)
            if value is None:
                del state[key]
            else:
                state[key] = Entry(key, value, before.created if before else revision, revision)
        return state

    def changes(self, prefix: str, after: int) -> list[Change]:
        found = []
        for revision, (key, value, _) in enumerate(self.log, 1):
            if revision > after and key.startswith(prefix):
                found.append(Change(key, revision, value, self.state(revision - 1).get(key), self.cause(revision)))
        return found

    def cause(self, revision: int) -> Cause | None:
        """As it was given, but bounded."""
        given = self.log[revision - 1][2]
        return None if given is None else msgspec.structs.replace(given, because=given.because[:16])

    def revisions(self, key: str) -> list[int]:
        """The commits of one key."""
        return [revision for revision, (written, _, _) in enumerate(self.log, 1) if written == key]

    def remembered(self, key: str) -> list[int]:
        """Of what the key holds where history begins: the causes that are kept of overwritten values."""
        base = self.state(self.compacted).get(key)
        if base is None:
            return []
        telling = []
        for revision in self.revisions(key):
            cause = self.log[revision - 1][2]
            if cause is None or not base.created <= revision < base.modified:
                continue
            if revision == base.created or (cause.subresource != "status" and 0 not in cause.because[:16]):
                telling.append(revision)
        first = telling[:1] if telling[:1] == [base.created] else []
        rest = telling[len(first) :]
        return first + rest[max(0, len(rest) - 4 + len(first)) :]


class Engine(RuleBasedStateMachine):
    """The rules; the subclasses say which engine."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.model = Model()
        self.store: Store = self.run(self.open())

    async def open(self) -> Store:
        return MemoryStore(ManualClock())

    def run(self, work: Any) -> Any:
        async def limited() -> Any:
            async with asyncio.timeout(30):
                return await work

        return self.runner.run(limited())

    def teardown(self) -> None:
        self.run(self.store.close())
        self.runner.close()

    @rule(key=KEYS, value=st.none() | VALUES, cause=CAUSES, expect=st.sampled_from(["any", "right", "wrong", "absent"]))
    def commit(self, key: str, value: bytes | None, cause: Cause | None, expect: str) -> None:
        there = self.model.state(self.model.revision).get(key)
        right = there.modified if there else 0
        demand = {"any": None, "right": right, "wrong": right + 1, "absent": 0}[expect]
        if demand not in (None, right) or (there is None and value is None):
            with pytest.raises(Conflict) as refused:
                self.run(self.store.commit(key, value, expect=demand, cause=cause))
            assert refused.value.actual == there
            return
        revision = self.run(self.store.commit(key, value, expect=demand, cause=cause))
        self.model.log.append((key, value, cause))
        assert revision == self.model.revision

    @rule(keys=st.lists(KEYS, min_size=2, max_size=6), value=VALUES)
    def commit_together(self, keys: list[str], value: bytes) -> None:
        """Each gets a revision of its own, and what is returned says which."""

        async def all_at_once() -> list[int]:
            return await asyncio.gather(*(self.store.commit(key, value) for key in keys))

        first = self.model.revision + 1
        made = sorted(zip(self.run(all_at_once()), keys, strict=True))
        assert [revision for revision, _ in made] == list(range(first, first + len(keys)))
        self.model.log += [(key, value, None) for _, key in made]

    @rule(key=KEYS, back=st.integers(-1, 12))
    def get_at(self, key: str, back: int) -> None:
        at = self.model.revision - back
        if self.refuses(at, self.store.get(key, at=at)):
            return
        assert self.run(self.store.get(key, at=at)) == self.model.state(at).get(key)

    @rule(prefix=PREFIXES, back=st.none() | st.integers(-1, 12), after=KEYS | st.just(""), limit=st.integers(0, 3))
    def list_at(self, prefix: str, back: int | None, after: str, limit: int) -> None:
        at = self.model.revision - (back or 0)
        ask = None if back is None else at
        if ask is not None and self.refuses(at, self.store.list(prefix, at=at)):
            return
        page = self.run(self.store.list(prefix, at=ask, after=after, limit=limit))
        state = self.model.state(at)
        wanted = [state[key] for key in sorted(state) if key.startswith(prefix) and key > after]
        shown = wanted[:limit] if limit else wanted
        assert list(page.entries) == shown
        assert (page.revision, page.remaining) == (at, len(wanted) - len(shown))
        assert page.more == (len(shown) < len(wanted))

    def refuses(self, at: int, read: Any) -> bool:
        if at > self.model.revision:
            error: type[Exception] = FutureRevision
        elif at < self.model.compacted:
            error = Compacted
        else:
            read.close()
            return False
        with pytest.raises(error):
            self.run(read)
        return True

    @rule(prefix=PREFIXES, back=st.integers(0, 12))
    def replay(self, prefix: str, back: int) -> None:
        after = self.model.revision - back

        async def watch(count: int) -> list[Change]:
            async with aclosing(self.store.watch(prefix, after=after)) as changes:
                seen: list[Change] = []
                while len(seen) < count:
                    seen += await anext(changes)
                return seen

        if after < self.model.compacted:
            with pytest.raises(Compacted):
                self.run(watch(1))
            return
        wanted = self.model.changes(prefix, after)
        assert self.run(watch(len(wanted))) == wanted

    @rule(back=st.integers(-1, 12))
    def compact(self, back: int) -> None:
        to = max(0, self.model.revision - back)
        if to > self.model.revision:
            with pytest.raises(FutureRevision):
                self.run(self.store.compact(to))
            return
        self.run(self.store.compact(to))
        self.model.compacted = max(self.model.compacted, to)
        for at in range(self.model.compacted, self.model.revision + 1):
            page = self.run(self.store.list("/", at=at))
            assert {entry.key: entry for entry in page.entries} == self.model.state(at)

    @invariant()
    def knows_causes(self) -> None:
        """Of all history that is kept, and of every value that is still there."""
        known = {*range(self.model.compacted + 1, self.model.revision + 1)}
        known |= {entry.modified for entry in self.model.state(self.model.compacted).values()}
        for key in self.model.state(self.model.compacted):
            known |= {*self.model.remembered(key)}
        for revision in range(1, self.model.revision + 1):
            given = self.model.cause(revision) if revision in known else None
            assert self.run(self.store.cause(revision)) == given

    @invariant()
    def knows_changes(self) -> None:
        compacted, keys = self.model.compacted, {key for key, _, _ in self.model.log}
        changes = {change.revision: change for change in self.model.changes("/", compacted)}
        base = self.model.state(compacted)
        for key in keys:
            wanted = self.model.remembered(key)
            assert [self.run(self.store.change(r)) for r in wanted] == [Trace(key, r) for r in wanted]
            if key in base:
                wanted = [*wanted, base[key].modified]
                held = self.run(self.store.change(base[key].modified))
                assert held == (base[key] if self.model.log[base[key].modified - 1][2] is not None else None)
            later = [r for r in self.model.revisions(key) if r > compacted]
            assert [self.run(self.store.change(r)) for r in later] == [changes[r] for r in later]
            assert list(self.run(self.store.revisions(key))) == [*wanted, *later]
        assert self.run(self.store.change(self.model.revision + 1)) is None

    @invariant()
    def stands_at_the_revision(self) -> None:
        assert self.store.revision == self.model.revision


class SqliteEngine(Engine):
    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="pinnace-store-"))
        super().__init__()

    async def open(self) -> Store:
        return await SqliteStore.open(self.directory / "store.db", ManualClock())

    @precondition(lambda self: self.model.revision > 0)
    @rule()
    def reopen(self) -> None:
        self.run(self.store.close())
        self.store = self.run(self.open())

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.directory)


quick = settings(
    max_examples=60, stateful_step_count=30, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)  # fmt: skip
TestMemory = Engine.TestCase
TestMemory.settings = quick
TestSqlite = SqliteEngine.TestCase
TestSqlite.settings = settings(quick, max_examples=40)
