"""Reading CRI logs: tails, rotations, parts of lines."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pinnace.base.clock import ManualClock
from pinnace.kubelet.housekeeping import rotate
from pinnace.kubelet.server.logs import LogOptions, existing, read
from pinnace.kubelet.termination import log_tail

WHEN = "2026-03-01T12:00:0{}.123456789+00:00"


def line(text: str, *, second: int = 0, stream: str = "stdout", tag: str = "F") -> str:
    return f"{WHEN.format(second)} {stream} {tag} {text}\n"


async def _ended() -> bool:
    return False


async def text_of(path: Path, **options: object) -> str:
    chunks = [chunk async for chunk in read(path, LogOptions(**options), ManualClock(), _ended)]  # type: ignore[arg-type]
    return b"".join(chunks).decode()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "0.log"
    path.write_text(
        line("one") + line("two", second=1, stream="stderr")
        + line("half ", second=2, tag="P") + line("whole", second=2)
    )
    return path


async def test_the_whole(log: Path) -> None:
    assert await text_of(log) == "one\ntwo\nhalf whole\n"
    assert await text_of(log, follow=True) == "one\ntwo\nhalf whole\n"


async def test_options(log: Path) -> None:
    assert await text_of(log, tail=0) == ""
    assert await text_of(log, tail=3) == "two\nhalf whole\n"
    assert await text_of(log, tail=99) == "one\ntwo\nhalf whole\n"
    assert await text_of(log, limit=6) == "one\ntw"
    assert await text_of(log, stream="stderr") == "two\n"
    assert await text_of(log, since=1772366401.0) == "two\nhalf whole\n"
    assert (await text_of(log, timestamps=True)).splitlines() == [
        "2026-03-01T12:00:00.123456789Z one", "2026-03-01T12:00:01.123456789Z two",
        "2026-03-01T12:00:02.123456789Z half whole",
    ]  # fmt: skip


async def test_rotated_files_belong_to_it(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    (tmp_path / "0.log.1.gz").write_bytes(gzip.compress(line("oldest").encode()))
    (tmp_path / "0.log.2").write_text(line("older"))
    path.write_text(line("new"))
    assert await text_of(path) == "oldest\nolder\nnew\n"
    assert await text_of(path, tail=2) == "older\nnew\n"
    assert await text_of(tmp_path / "absent.log") == ""


def test_rotation_keeps_so_many_files(tmp_path: Path) -> None:
    import os

    path = tmp_path / "0.log"
    for number in range(6):
        path.write_text(line(f"{number}"))
        os.utime(path, (number, number))
        rotate(path, 4)
    path.write_text("")
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == ["0.log", "0.log.3000.gz", "0.log.4000.gz", "0.log.5000"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3000), max_size=60), st.integers(0, 70))
def test_tail_is_the_end_of_the_whole(tmp_path_factory: pytest.TempPathFactory, sizes: list[int], count: int) -> None:
    path = tmp_path_factory.mktemp("log") / "0.log"
    lines = [line("x" * size) for size in sizes]
    path.write_text("".join(lines))
    assert [found.decode() + "\n" for found in existing(path, count)] == (lines[-count:] if count else [])


def test_the_end_of_a_log_as_termination_message(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_text("".join(line(f"line {n}") for n in range(100)))
    tail = log_tail(path)
    assert tail.startswith("line 20\n") and tail.endswith("line 99\n")
