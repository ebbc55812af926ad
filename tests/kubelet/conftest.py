"""Real containers need root, runc, conmon and a static busybox."""

from __future__ import annotations

import os
import shutil

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    real = os.geteuid() == 0 and all(shutil.which(program) for program in ("runc", "conmon", "busybox"))
    for item in items:
        if "real" in item.keywords and not real:
            item.add_marker(pytest.mark.skip(reason="needs root, runc, conmon and busybox-static"))
