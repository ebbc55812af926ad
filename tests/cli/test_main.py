"""The command line as its users meet it: what it takes, what it says, and that a mistake is one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pinnace.base.clock import ManualClock
from pinnace.cli.main import VERBS, main
from pinnace.cluster.certificates import load_or_create_authority
from pinnace.cluster.layout import Home, Layout
from pinnace.cluster.settings import Settings


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("PINNACE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("COLUMNS", "200")
    return Home(tmp_path / "home")


@pytest.fixture
def layout(home: Home) -> Layout:
    """A cluster that ran once."""
    made = home.cluster("one")
    made.save(Settings(name="one", api_port=7000))
    now = ManualClock().now()
    load_or_create_authority(made.pki, "kubernetes", now).issue("admin", now=now).write(made.pki, "admin")
    return made


def exits(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        code = main(arguments)
    except SystemExit as end:
        code = int(end.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


def test_without_a_verb_all_verbs_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = exits(capsys)
    assert code == 0
    for name, (_, text) in VERBS.items():
        assert name in out and text in out


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_a_help_text(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    code, out, err = exits(capsys, verb, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: pinnace {verb} ")
    lines = out.splitlines()
    undescribed = [
        line for line, below in zip(lines, [*lines[1:], ""], strict=True)
        if line.startswith("  --") and len(line.split()) < 3 and not below.startswith(" " * 20)
    ]  # fmt: skip
    assert [line for line in undescribed if not line.strip().endswith("}")] == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nothing"], 2, "invalid choice: 'nothing'"),
        (["up", "--nodes", "many"], 2, "invalid int value: 'many'"),
        (["up", "--nodes", "33"], 1, "--nodes must be from 0 to 32"),
        (["up", "--nodes", "-1"], 1, "--nodes must be from 0 to 32"),
        (["up", "--simulated-nodes", "10001"], 1, "--simulated-nodes must be from 0 to 10000"),
        (["up", "--store", "tape"], 2, "invalid choice: 'tape'"),
        (["up", "--what"], 2, "unrecognized arguments: --what"),
        (["up", "--name", "A/b"], 1, "'A/b' cannot be a cluster's name"),
        (["up", "--config", "/does/not/exist"], 1, "/does/not/exist does not exist"),
        (["down", "--purge", "--name", "../.."], 1, "cannot be a cluster's name"),
        (["status", "--name", "none"], 1, "there is no cluster 'none'"),
        (["kubeconfig", "--name", "none"], 1, "there is no cluster 'none'"),
        (["demo", "--name", "none"], 1, "there is no cluster 'none'"),
        (["logs", "server", "--name", "none"], 1, "has no logs of 'server'"),
        (["logs"], 2, "the following arguments are required: component"),
        (["image"], 2, "the following arguments are required: ACTION"),
        (["image", "load"], 2, "the following arguments are required: path"),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str) -> None:
    found, out, err = exits(capsys, *arguments)
    assert (found, out) == (code, "")
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("nodes: [1", "cannot be read"),
        ("- 1", "must hold a mapping"),
        ("nodez: 1", "unknown field `nodez`"),
        ("nodes: three", "Expected `int`"),
        ("podCidr: 10.0.0.0/33", "podCidr"),
        ("podCidr: 10.96.0.0/16", "overlap"),
        ("name: other", "is for cluster 'other'"),
        ("apiPort: 99999", "apiPort must be"),
    ],
)
def test_mistakes_in_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "pinnace.yaml"
    path.write_text(content)
    code, out, err = exits(capsys, "up", "--config", str(path))
    assert (code, out) == (1, "")
    assert err.startswith("pinnace: ")
    assert said in err


@pytest.mark.parametrize("flags", [["--store", "memory"]])
def test_what_a_cluster_with_data_cannot_change(
    capsys: pytest.CaptureFixture[str], layout: Layout, flags: list[str]
) -> None:
    code, _, err = exits(capsys, "up", "--name", "one", *flags)
    assert code == 1
    assert "store of a cluster cannot be changed from sqlite to memory" in err


def test_a_stopped_cluster_has_a_kubeconfig(capsys: pytest.CaptureFixture[str], layout: Layout) -> None:
    code, out, _ = exits(capsys, "kubeconfig", "--name", "one")
    assert code == 0
    config = yaml.safe_load(out)
    assert config["current-context"] == "pinnace-one"
    assert config["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:7000"
    assert set(config["users"][0]["user"]) == {"client-certificate-data", "client-key-data"}


def test_status_of_stopped_and_damaged_clusters(capsys: pytest.CaptureFixture[str], home: Home, layout: Layout) -> None:
    broken = home.cluster("broken")
    broken.path.mkdir()
    broken.settings_file.write_text("{")
    code, out, _ = exits(capsys, "status", "-o", "json")
    assert code == 0
    states = {state["name"]: state for state in json.loads(out)}
    assert states["one"]["state"] == "stopped"
    assert states["one"]["processes"] == {"server": "not running", "one-node-1": "not running"}
    assert states["broken"]["state"].startswith("damaged")
    assert exits(capsys, "status", "--name", "one")[0] == 1
    assert exits(capsys, "status")[0] == 0


def test_status_without_clusters(capsys: pytest.CaptureFixture[str]) -> None:
    assert exits(capsys, "status")[1] == "There are no clusters. pinnace up makes one.\n"


def test_a_demo_needs_a_running_cluster(capsys: pytest.CaptureFixture[str], layout: Layout) -> None:
    code, _, err = exits(capsys, "demo", "--name", "one")
    assert code == 1
    assert err == "pinnace: cluster 'one' does not run\n  pinnace up --name one starts it\n"


def test_logs_are_shown(capfdbinary: pytest.CaptureFixture[bytes], layout: Layout) -> None:
    layout.logs.mkdir()
    (layout.logs / "server.log").write_bytes(b"first\nsecond\n")
    assert main(["logs", "server", "--name", "one"]) == 0
    assert capfdbinary.readouterr().out == b"first\nsecond\n"


def test_followed_logs_go_on_in_a_new_file(layout: Layout, tmp_path: Path) -> None:
    layout.logs.mkdir()
    log = layout.logs / "server.log"
    log.write_text("one\n")
    command = [sys.executable, "-m", "pinnace", "logs", "-f", "server", "--name", "one"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        try:
            assert follower.stdout.readline() == "one\n"
            with log.open("a") as file:
                file.write("two\n")
            log.rename(log.with_name("server.log.1"))
            log.write_text("three\n")
            assert follower.stdout.readline() == "two\n"
            assert follower.stdout.readline() == "three\n"
        finally:
            follower.terminate()


def test_down_of_nothing_is_no_error(capsys: pytest.CaptureFixture[str], home: Home) -> None:
    code, out, err = exits(capsys, "down", "--name", "nobody-knows")
    assert (code, out, err) == (0, "There is no cluster nobody-knows.\n", "")
    assert not list(home.path.rglob("*.lock"))


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = exits(capsys, "version", "-o", "json")
    assert code == 0
    assert set(json.loads(out)) == {"pinnace", "kubernetes", "python", "platform"}
    assert exits(capsys, "--version")[1].startswith("pinnace ")


def test_a_verb_imports_only_what_it_needs() -> None:
    """The command line is on the path of every start."""
    program = "import sys; from pinnace.cli import main, up, down; print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    command = [sys.executable, "-c", program]
    loaded = subprocess.run(command, env=environment, text=True, capture_output=True, check=True).stdout.split()
    heavy = {"aiohttp", "cryptography", "asyncio", "jwt", "uvloop", "pinnace.api", "pinnace.apiserver"}
    assert not heavy & set(loaded)
