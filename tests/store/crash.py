"""Kills writers of one file again and again, and checks after each kill that the file kept its word.

Run by test_crash.py as a process of its own, because it forks: `python crash.py FILE SEED KILLS`. A child writes with
several tasks at once and says what was acknowledged, as lines on a pipe. The parent kills it at a random moment,
opens the file, and compares it with everything that it has ever been told or seen.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

from pinnace.base.clock import ManualClock
from pinnace.store import Cause, Compacted, Conflict, SqliteStore, sqlite

KEYS = 40
TASKS = 8
State = dict[str, str]
GONE = "-"


def digest(value: bytes | None) -> str:
    return GONE if value is None else hashlib.blake2b(value, digest_size=8).hexdigest()


# ------------------------------------------------------------------------------------------------------- the child


class Child:
    def __init__(self, store: SqliteStore, pipe: int, seed: int) -> None:
        self.store, self.pipe, self.random = store, pipe, random.Random(seed)
        self.told = store.revision                 # everything up to here has been told
        self.ahead: set[int] = set()

    def tell(self, revision: int, key: str, value: bytes | None) -> None:
        os.write(self.pipe, f"{revision} {key} {digest(value)}\n".encode())
        self.ahead.add(revision)
        while self.told + 1 in self.ahead:
            self.told += 1
            self.ahead.remove(self.told)

    async def write(self, task: int) -> None:
        while True:
            key = f"/k/{self.random.randrange(KEYS):02}"
            value = self.random.randbytes(self.random.choice((10, 300, 6000))) if self.random.random() < 0.8 else None
            try:
                revision = await self.store.commit(key, value, cause=Cause(f"task-{task}", digest(value)))
            except Conflict:
                continue
            self.tell(revision, key, value)

    async def compact(self) -> None:
        while True:
            await asyncio.sleep(self.random.random() * 0.004)
            # Only what the parent knows about, so that it can say what must be there.
            await self.store.compact(max(0, self.told - self.random.randrange(30)))


async def child(path: Path, pipe: int, seed: int) -> None:
    sqlite._DELETE_BATCH = 3                  # so that a kill finds compactions half done
    store = await SqliteStore.open(path, ManualClock())
    writer = Child(store, pipe, seed)
    os.write(pipe, b"open\n")
    await asyncio.gather(writer.compact(), *(writer.write(task) for task in range(TASKS)))


def run_and_kill(path: Path, seed: int) -> Iterator[tuple[int, str, str]]:
    """What a child acknowledged before it was killed."""
    rng = random.Random(seed)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(child(path, writing, seed))
        finally:
            os._exit(1)
    os.close(writing)
    said = b""
    # One in eight is killed while it opens the file.
    deadline = time.monotonic() + rng.random() * 0.01 if rng.random() < 0.125 else None
    while deadline is None or (left := deadline - time.monotonic()) > 0:
        if select.select([reading], [], [], 5.0 if deadline is None else left)[0]:
            part = os.read(reading, 1 << 16)
            assert part, "the child ended by itself"
            said += part
            if deadline is None:
                deadline = time.monotonic() + rng.random() * 0.05
        else:
            assert deadline is not None, "the child does not open the file"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while part := os.read(reading, 1 << 16):
        said += part
    os.close(reading)
    for line in said.decode().splitlines():
        if line != "open":
            revision, key, value = line.split()
            yield int(revision), key, value


# ------------------------------------------------------------------------------------------------------ the parent


class Known:
    """Everything ever told or seen: what each revision did. `base` is the state at `since`."""

    def __init__(self) -> None:
        self.since = 0
        self.base: State = {}
        self.did: dict[int, tuple[str, str]] = {}
        self.newest = 0

    def learn(self, revision: int, key: str, value: str) -> None:
        assert self.did.setdefault(revision, (key, value)) == (key, value), f"revision {revision} changed its meaning"
        self.newest = max(self.newest, revision)

    def state(self, revision: int) -> State:
        state = dict(self.base)
        for number in range(self.since + 1, revision + 1):
            key, value = self.did[number]
            if value == GONE:
                del state[key]
            else:
                state[key] = value
        return state

    def forget(self, revision: int) -> None:
        self.base = self.state(revision)
        for number in range(self.since + 1, revision + 1):
            del self.did[number]
        self.since = revision


async def check(path: Path, known: Known, rng: random.Random) -> None:
    store = await SqliteStore.open(path, ManualClock())
    assert store.revision >= known.newest, f"acknowledged {known.newest}, found {store.revision}"
    try:
        await anext(store.watch("/", after=-1))
        raise AssertionError("watched from before the beginning")
    except Compacted as error:
        oldest = error.oldest
    assert oldest >= known.since
    replayed = oldest
    if oldest < store.revision:
        async with aclosing(store.watch("/", after=oldest)) as watch:
            for change in await anext(watch):
                assert change.revision == replayed + 1, f"{change.revision} after {replayed}"
                replayed = change.revision
                known.learn(change.revision, change.key, digest(change.value))
    assert replayed == store.revision
    for revision in {oldest, rng.randint(oldest, store.revision), store.revision}:
        page = await store.list("/", at=revision)
        found = {entry.key: digest(entry.value) for entry in page.entries}
        assert found == known.state(revision), f"at {revision} of {oldest} … {store.revision}"
    for entry in page.entries:
        if entry.modified > 1:
            cause = await store.cause(entry.modified)
            assert cause is not None and cause.verb == digest(entry.value)
    known.forget(oldest)
    await store.close()


def main(path: Path, seed: int, kills: int) -> None:
    rng = random.Random(seed)
    known = Known()
    acknowledged = 0
    for _ in range(kills):
        for revision, key, value in run_and_kill(path, rng.getrandbits(32)):
            known.learn(revision, key, value)
            acknowledged += 1
        asyncio.run(check(path, known, rng))
    sys.stdout.write(f"{kills} kills, {acknowledged} acknowledged, {known.newest} revisions, {known.since} compacted\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
