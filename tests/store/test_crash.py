"""What was acknowledged is there after the process was killed, at whatever moment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

KILLS = 210


def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    script = Path(__file__).with_name("crash.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "data" / "store.db"), "20260101", str(KILLS)],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = [int(number) for number in re.findall(r"\d+", done.stdout)]
    # Neither the writing nor the compacting was idle.
    assert figures[0] == KILLS and figures[1] > KILLS and figures[3] > KILLS // 2
