"""Logs of bounded size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import logging, sys
from pathlib import Path
from pinnace.cluster.log import BoundedLog

path = Path(sys.argv[1])
handler = BoundedLog(path, most=1000)
logger = logging.getLogger("x")
logger.addHandler(handler)
logger.propagate = False
for number in range(95):
    logger.warning("%050d", number)
print("to standard error, past the logger", file=sys.stderr)
"""


def run(path: Path, standard_error: Path) -> None:
    with standard_error.open("ab") as file:
        subprocess.run([sys.executable, "-c", PROGRAM, str(path)], stderr=file, check=True)


def test_a_log_begins_anew_when_it_is_large(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    run(path, path)
    assert path.stat().st_size <= 1000
    assert (tmp_path / "server.log.1").stat().st_size <= 1100
    assert {entry.name for entry in tmp_path.iterdir()} == {"server.log", "server.log.1"}
    lines = path.read_text().splitlines()
    assert lines[-2:] == [f"{94:050d}", "to standard error, past the logger"]
    older = (tmp_path / "server.log.1").read_text().splitlines()
    assert int(lines[0]) == int(older[-1]) + 1, "no line is lost in between"


def test_another_standard_error_is_left_alone(tmp_path: Path) -> None:
    path, terminal = tmp_path / "server.log", tmp_path / "terminal"
    path.write_text("of another process")
    run(path, terminal)
    assert path.read_text() == "of another process"
    assert len(terminal.read_text().splitlines()) == 96
