"""A cluster's end leaves the machine as it was: processes, links, namespaces, mounts, cgroups and rules."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pinnace.network.fabric import link_name

from .conftest import Cluster, eventually, sleeper

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="real containers need root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="the tool nft is not on PATH"),
]


def traces(cluster: Cluster) -> dict[str, set[str]]:
    """All on this machine that bears the name or the path of the cluster. (Others may be at work beside it.)"""
    host_link = link_name("pn-", cluster.name)
    tables = subprocess.run(["nft", "list", "tables"], text=True, capture_output=True, check=True).stdout

    def ours(text: str) -> bool:
        return cluster.name in text or str(cluster.home) in text

    return {
        "processes": {command for command in _commands() if ours(command)},
        "links": {path.name for path in Path("/sys/class/net").iterdir() if path.name == host_link},
        "namespaces": {path.name for path in Path("/run/netns").glob("*") if ours(path.name)},
        "mounts": {line for line in Path("/proc/self/mountinfo").read_text().splitlines() if ours(line)},
        "cgroups": {directory for directory, _, _ in os.walk("/sys/fs/cgroup") if ours(directory)},
        "rules": {line for line in tables.splitlines() if ours(line)},
    }


def _commands() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_bytes().replace(b"\0", b" ").decode(errors="replace")


NOTHING: dict[str, set[str]] = {
    kind: set() for kind in ("processes", "links", "namespaces", "mounts", "cgroups", "rules")
}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster with a running pod."""
    made = Cluster(f"traces-{os.getpid()}", tmp_path / "home", tmp_path / "kubeconfig")
    assert traces(made) == NOTHING
    try:
        made.pinnace("image", "build-busybox")
        made.pinnace("up", "--name", made.name, "--no-egress")
        eventually(lambda: made.kubectl("get", "serviceaccount", "default", check=False).code == 0)
        made.apply(sleeper("inmate"))
        made.wait_pod("inmate")
        assert all(traces(made).values()), "every kind of trace is there while it runs"
        yield made
    finally:
        made.pinnace("down", "--name", made.name, "--purge", check=False)


def test_down_leaves_nothing_and_up_brings_all_back(cluster: Cluster) -> None:
    cluster.pinnace("down", "--name", cluster.name)
    assert traces(cluster) == NOTHING
    cluster.pinnace("up", "--name", cluster.name, "--no-egress")
    cluster.wait_pod("inmate")
    cluster.pinnace("down", "--name", cluster.name, "--purge")
    assert traces(cluster) == NOTHING
    assert not cluster.directory.exists()
    assert "There is no cluster" in cluster.pinnace("down", "--name", cluster.name).out


def test_down_after_kill_9_of_our_processes(cluster: Cluster) -> None:
    (state,) = json.loads(cluster.pinnace("status", "--name", cluster.name, "-o", "json").out)
    # The server first: it would start the node again.
    for _, about in sorted(state["processes"].items(), reverse=True):
        os.kill(int(about.rpartition(" ")[2]), signal.SIGKILL)
    cluster.pinnace("down", "--name", cluster.name, "--purge")
    assert traces(cluster) == NOTHING


def test_down_after_the_data_was_deleted_by_hand(cluster: Cluster) -> None:
    shutil.rmtree(cluster.directory, ignore_errors=True)     # mounts in it cannot be deleted
    done = cluster.pinnace("down", "--name", cluster.name, "--purge")
    assert "is gone" in done.out
    assert traces(cluster) == NOTHING
    assert not cluster.directory.exists()
