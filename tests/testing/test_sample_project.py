"""A user's project, outside the source tree, with Pinnace installed from the built wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_PROJECT = Path(__file__).parent / "sample_project"

# Where the user's Python finds things, and that pytest has left them as they were.
_SPY = r"""
import sys
def pytest_sessionfinish():
    module = sys.modules["pinnace.testing.cluster"]
    print("\nFROM", module.__file__, type(module.__spec__.loader).__name__)
"""


def _run(*command: str, cwd: Path, env: dict[str, str]) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """Nothing of the source tree leads into the user's Python."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHONPATH", "COV_", "PYTEST"))}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """A virtual environment with the wheel in it; what the wheel needs is taken from where we are installed."""
    if shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}") is None:
        pytest.skip("there is no uv to install the wheel with")
    place = tmp_path_factory.mktemp("installed")
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place), cwd=_ROOT, env=environment)
    (wheel,) = place.glob("pinnace-*.whl")
    _run(sys.executable, "-m", "venv", "--without-pip", str(place / "venv"), cwd=place, env=environment)
    found = place / "venv" / "bin" / "python"
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or "uv"
    _run(uv, "pip", "install", "-q", "--compile-bytecode", "--offline", "--no-deps", "--python", str(found),
         str(wheel), cwd=place, env=environment)  # fmt: skip
    (site,) = (place / "venv" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(str(Path(pytest.__file__).parents[1]))
    return found


def test_the_sample_project(python: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    project = tmp_path / "shop"
    shutil.copytree(_PROJECT, project, ignore=shutil.ignore_patterns("__pycache__", ".pytest_cache"))
    (project / "spy.py").write_text(_SPY)
    shown = _run(str(python), "-m", "pytest", "-p", "spy", "-p", "no:cacheprovider", cwd=project, env=environment)
    assert " passed" in shown and "failed" not in shown and "error" not in shown
    (where,) = [line for line in shown.splitlines() if line.startswith("FROM ")]
    assert str(python.parents[1]) in where and where.endswith("SourceFileLoader")
    spread = _run(str(python), "-m", "pytest", "-n2", "-q", "-p", "no:cacheprovider", "tests/test_shared.py",
                  cwd=project, env=environment)  # fmt: skip
    assert " passed" in spread
