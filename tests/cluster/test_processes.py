"""Processes that are found again, never mistaken, and ended by pid."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pinnace.cluster import processes
from pinnace.cluster.processes import ProcessFile

SLEEP = "import signal, sys, time; print('up', flush=True); time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "child.log"


@pytest.fixture
def started() -> Iterator[list[int]]:
    pids: list[int] = []
    yield pids
    for pid in pids:
        processes.stop(pid, grace=0)


def begin(code: str, log: Path, started: list[int], *arguments: str) -> int:
    pid = processes.start([sys.executable, "-c", code, *arguments], log=log)
    started.append(pid)
    while "up" not in log.read_text():
        assert processes.start_time(pid), log.read_text()
        os.sched_yield()
    return pid


def test_a_process_is_found_while_it_runs(log: Path, started: list[int], tmp_path: Path) -> None:
    file = ProcessFile(tmp_path / "child.pid")
    assert file.pid() is None
    pid = begin(SLEEP, log, started)
    file.write(pid)
    assert file.pid() == pid
    processes.stop(pid, grace=10)
    assert file.pid() is None
    file.remove()
    file.remove()
    assert not file.path.exists()


@pytest.mark.parametrize("change", [(1, "0"), (1, "12"), (2, "another-boot")])
def test_a_recycled_pid_is_nobody(tmp_path: Path, change: tuple[int, str]) -> None:
    file = ProcessFile(tmp_path / "child.pid")
    file.write(os.getpid())
    assert file.pid() == os.getpid()
    words = file.path.read_text().split()
    words[change[0]] = change[1]
    file.path.write_text(" ".join(words))
    assert file.pid() is None


@pytest.mark.parametrize("content", ["", "x y z", "1", "1 2 3 4"])
def test_a_damaged_file_is_nobody(tmp_path: Path, content: str) -> None:
    file = ProcessFile(tmp_path / "child.pid")
    file.path.write_text(content)
    assert file.pid() is None


def test_what_does_not_listen_is_killed(log: Path, started: list[int]) -> None:
    pid = begin(STUBBORN, log, started)
    processes.stop(pid, grace=0.05)
    assert processes.start_time(pid) == 0


def test_stopping_what_has_ended_is_no_error(log: Path, started: list[int]) -> None:
    pid = begin(SLEEP, log, started)
    processes.stop(pid, grace=10)
    processes.stop(pid, grace=10)


def test_it_has_a_session_of_its_own_and_no_terminal(log: Path, started: list[int]) -> None:
    pid = begin(SLEEP, log, started)
    assert os.getsid(pid) == pid
    assert Path(f"/proc/{pid}/fd/0").readlink() == Path("/dev/null")
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_process_is_found_by_its_words(log: Path, started: list[int], tmp_path: Path) -> None:
    pid = begin(SLEEP, log, started, "some.module", str(tmp_path), "name")
    assert processes.find("some.module", str(tmp_path), "name") == [pid]
    assert processes.find("some.module", str(tmp_path), "nam") == []
    program = Path(sys.executable).name
    assert processes.find_below(tmp_path.parent, program=program) == [pid]
    assert processes.find_below(tmp_path.parent, program="conmon") == []


def test_relative_paths_of_modules_hold_in_the_child(
    log: Path, started: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "only_here.py").write_text("print('up', flush=True); import time; time.sleep(60)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "lib")
    begin("import only_here", log, started)


