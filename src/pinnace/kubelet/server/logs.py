"""Container logs as clients want them, out of the CRI log files that conmon writes.

A line of a file is `<time> <stream> <P|F> <text>`; P means that the text goes on in the next line. Rotated files lie
beside the current one (`0.log.<number>`, perhaps compressed).
"""

from __future__ import annotations

import gzip
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pinnace.api import times
from pinnace.api.core import v1 as core
from pinnace.base.clock import Clock

BLOCK = 64 << 10
MAX_LINE = 1 << 20          # longer ones are handed out in parts
LOOK_AGAIN = 0.05           # seconds between looks at a file that somebody follows
LOOK_ALIVE = 0.5            # … and at whether its container still runs
TRUE = ("1", "t", "T", "true", "TRUE", "True")     # in a query


@dataclass(frozen=True, slots=True)
class LogOptions:
    follow: bool = False
    tail: int | None = None
    since: float | None = None      # epoch seconds
    timestamps: bool = False
    limit: int | None = None        # bytes
    stream: str = ""                # "stdout" or "stderr" only


def options_of(query: Mapping[str, str], now: float) -> LogOptions:
    """What a request's query asks for. Raises ValueError."""
    since = None
    if query.get("sinceSeconds"):
        since = now - int(query["sinceSeconds"])
    elif query.get("sinceTime"):
        since = times.parse(query["sinceTime"]).timestamp()
    tail = int(query["tailLines"]) if query.get("tailLines") else None
    limit = int(query["limitBytes"]) if query.get("limitBytes") else None
    stream = query.get("stream", "")
    return LogOptions(
        follow=query.get("follow") in TRUE,
        tail=None if tail is None or tail < 0 else tail,
        since=since,
        timestamps=query.get("timestamps") in TRUE,
        limit=limit,
        stream="" if stream in ("", "All") else stream.lower(),
    )


def why_waiting(waiting: core.ContainerStateWaiting) -> str:
    """`kubectl logs` shows the message for images that cannot be pulled, and the reason otherwise."""
    if waiting.reason in ("ErrImagePull", "ImagePullBackOff") and waiting.message:
        return "trying and failing to pull image" if waiting.reason == "ImagePullBackOff" else "image can't be pulled"
    return waiting.reason or ""


@dataclass(slots=True)
class Renderer:
    """Turns file lines into output; remembers whether a line of output is unfinished, and how much may still come."""

    options: LogOptions
    left: int | None = None
    middle: bool = False

    def __post_init__(self) -> None:
        self.left = self.options.limit

    @property
    def full(self) -> bool:
        return self.left is not None and self.left <= 0

    def render(self, line: bytes) -> bytes:
        """One line of a file, without its newline."""
        parts = line.split(b" ", 3)
        if len(parts) < 3:
            return b""
        when, stream, tag = parts[0], parts[1], parts[2]
        text = parts[3] if len(parts) > 3 else b""
        partial = tag.startswith(b"P")
        begins, self.middle = not self.middle, partial
        if self.options.stream and stream.decode("ascii", "replace") != self.options.stream:
            return b""
        if self.options.since is not None and not self._recent(when):
            return b""
        out = text if partial else text + b"\n"
        if self.options.timestamps and begins:
            out = _fixed(when) + b" " + out
        if self.left is not None:
            out = out[: self.left]
            self.left -= len(out)
        return out

    def _recent(self, when: bytes) -> bool:
        try:
            return times.parse(when.decode("ascii", "replace")).timestamp() >= (self.options.since or 0.0)
        except ValueError:
            return True


def _fixed(when: bytes) -> bytes:
    """RFC 3339 with nine digits in UTC, as upstream prints."""
    text = when.decode("ascii", "replace")
    if text.endswith("+00:00"):
        text = text[:-6] + "Z"
    elif not text.endswith("Z"):
        try:
            text = datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
        except ValueError:
            return when
    head, _, fraction = text[:-1].partition(".")
    return f"{head}.{fraction:0<9}Z".encode()


def files_of(path: Path) -> list[Path]:
    """The log's files, the oldest first."""
    rotated = sorted(path.parent.glob(f"{path.name}.*"), key=lambda p: p.stat().st_mtime)
    return [*rotated, *([path] if path.exists() else [])]


def _lines(path: Path) -> Iterator[bytes]:
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line[:-1]


def _tail_start(path: Path, count: int) -> tuple[int, int]:
    """(offset of the last `count` lines of a plain file, how many there are)."""
    with path.open("rb") as file:
        at = file.seek(0, os.SEEK_END)
        found, rest = 0, b""
        while at > 0:
            size = min(BLOCK, at)
            at = file.seek(at - size)
            block = file.read(size)
            position = len(block)
            while (position := block.rfind(b"\n", 0, position)) >= 0:
                found += 1
                if found > count:
                    return at + position + 1, count
            rest = block
        # The first line has no newline before it; the last newline is the end of the last line.
        return 0, found if rest or found else 0


def existing(path: Path, tail: int | None) -> Iterator[bytes]:
    """The lines that are there, or the last `tail` of them."""
    files = files_of(path)
    if tail is None:
        for file in files:
            yield from _lines(file)
        return
    if not files or tail <= 0:
        return
    *older, current = files
    start, found = (0, 0) if current.suffix == ".gz" else _tail_start(current, tail)
    if current.suffix == ".gz":
        older, found = files, 0
    if found < tail and older:
        last: deque[bytes] = deque(maxlen=tail - found)
        for file in older:
            last.extend(_lines(file))
        yield from last
    if current.suffix != ".gz" and found:
        with current.open("rb") as opened:
            opened.seek(start)
            for line in opened:
                if line.endswith(b"\n"):
                    yield line[:-1]


class _Follower:
    """Reads on in the current file, over rotations."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb") if path.exists() else None
        self._rest = b""

    def seek_end_of(self, position: int) -> None:
        if self._file is not None:
            self._file.seek(position)

    def more(self) -> list[bytes]:
        """Lines that have come; [] when there are none now."""
        if self._file is None:
            if not self._path.exists():
                return []
            self._file = self._path.open("rb")
        data = self._file.read(BLOCK)
        if not data:
            if self._rotated():
                self._file.close()
                self._file = None
            return []
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE:
            lines.append(self._rest)
            self._rest = b""
        return lines

    def _rotated(self) -> bool:
        assert self._file is not None
        try:
            return self._path.stat().st_ino != os.fstat(self._file.fileno()).st_ino
        except FileNotFoundError:
            return False

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


async def read(
    path: Path, options: LogOptions, clock: Clock, running: Callable[[], Awaitable[bool]]
) -> AsyncIterator[bytes]:
    """The log in chunks. With `follow` it goes on until the container has ended and all of it was read."""
    renderer = Renderer(options)
    position = path.stat().st_size if path.exists() else 0
    follower = _Follower(path)
    follower.seek_end_of(_whole_lines(path, position))
    try:
        out = bytearray()
        for count, line in enumerate(existing(path, options.tail), 1):
            out += renderer.render(line)
            if len(out) >= BLOCK or count % 2000 == 0:
                if out:
                    yield bytes(out)
                out.clear()
                await clock.sleep(0)
            if renderer.full:
                break
        if out:
            yield bytes(out)
        if options.follow:
            async for chunk in _follow(follower, renderer, clock, running):
                yield chunk
    finally:
        follower.close()


def _whole_lines(path: Path, position: int) -> int:
    """The end of the last whole line before a position."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        at = max(0, position - MAX_LINE)
        file.seek(at)
        data = file.read(position - at)
    return at + data.rfind(b"\n") + 1


async def _follow(
    follower: _Follower, renderer: Renderer, clock: Clock, running: Callable[[], Awaitable[bool]]
) -> AsyncIterator[bytes]:
    alive_at = clock.monotonic()
    alive = await running()
    while not renderer.full:
        lines = follower.more()
        out = b"".join(renderer.render(line) for line in lines)
        if out:
            yield out
        if lines:
            continue
        if not alive:
            return
        await clock.sleep(LOOK_AGAIN)
        if clock.monotonic() - alive_at >= LOOK_ALIVE:
            alive_at = clock.monotonic()
            alive = await running()      # what it wrote before its end is read once more
