"""Every block of code in docs/testing.md runs: files of tests under pytest, the rest as it stands."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import pinnace.testing.compat_kind
import pinnace.testing.compat_kubernetes
import pinnace.testing.endpoint
import pinnace.testing.running  # noqa: F401
from pinnace.testing import cluster, options, sync

pytest_plugins = ["pytester"]

_PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
_TEXT = _PAGE.read_text()
_BLOCKS = re.findall(r"^```python\n(.*?)^```", _TEXT, re.DOTALL | re.MULTILINE)
_FILES = [block for block in _BLOCKS if re.match(r"# test_\w+\.py\n", block)]


@pytest.mark.parametrize("block", _FILES, ids=lambda block: block.split()[1])
def test_its_tests_pass(block: str, pytester: pytest.Pytester) -> None:
    if "kubectl" in block and shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl on the PATH")
    (configuration,) = re.findall(r"^```toml\n(.*?)^```", _TEXT, re.DOTALL | re.MULTILINE)
    pytester.makepyprojecttoml(configuration.replace("pinnace_scope", "#"))
    pytester.makepyfile(**{each.split()[1].removesuffix(".py"): each for each in _FILES})
    result = pytester.runpytest_inprocess(
        block.split()[1], "-Werror", "--strict-markers", "-pno:cacheprovider", "-pno:hypothesispytest",
        "-oasyncio_default_fixture_loop_scope=function",
    )  # fmt: skip
    counted = result.parseoutcomes()
    assert set(counted) == {"passed"} and counted["passed"] >= block.count("def test_")


@pytest.mark.parametrize("block", [block for block in _BLOCKS if block not in _FILES])
def test_the_rest_runs(block: str) -> None:
    exec(compile(block, str(_PAGE), "exec"), {"__name__": "documentation"})


def test_it_names_every_option_and_verb() -> None:
    assert _FILES
    for name in options.Options.__dataclass_fields__:
        assert f"| `{name}` |" in _TEXT, f"{_PAGE.name} does not tell of the option {name}"
    hidden = {"update", "run", "over", "driver", "asynchronous", "nodes", "exec", "time", "seed"}
    for name in dir(sync.SyncCluster):
        if not name.startswith("_") and name not in hidden:
            assert re.search(rf"\b{name}\b", _TEXT), f"{_PAGE.name} does not tell of {name}"
    assert cluster.START.isoformat().replace("+00:00", "Z") in _TEXT
