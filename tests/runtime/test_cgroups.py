"""Control groups: conversions, and what is written where, on trees made for the test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pinnace.base.clock import ManualClock
from pinnace.runtime import cgroups
from pinnace.runtime.adoption import group_of
from pinnace.runtime.cgroups import Cgroups
from pinnace.runtime.cri import Resources


@pytest.mark.parametrize(("shares", "weight"), [
    (0, 1), (2, 1), (102, 4), (1024, 39), (262144, 10000), (1 << 20, 10000),
])  # fmt: skip
def test_shares_to_weight(shares: int, weight: int) -> None:
    assert cgroups.shares_to_weight(shares) == weight


def test_weight_and_back() -> None:
    for weight in (1, 2, 39, 100, 5000, 10000):
        assert abs(cgroups.shares_to_weight(cgroups.weight_to_shares(weight)) - weight) <= 1


@pytest.mark.parametrize(("resources", "v1", "v2"), [
    (Resources(), {}, {}),
    (Resources(cpu_shares=1), {"cpu.shares": "2"}, {"cpu.weight": "1"}),
    (Resources(cpu_quota=20000, cpu_period=50000), {"cpu.cfs_period_us": "50000", "cpu.cfs_quota_us": "20000"},
     {"cpu.max": "20000 50000"}),
    (Resources(cpu_quota=-1), {"cpu.cfs_quota_us": "-1"}, {"cpu.max": "max 100000"}),
    (Resources(memory_limit=5, pids_limit=6), {"memory.limit_in_bytes": "5", "pids.max": "6"},
     {"memory.max": "5", "pids.max": "6"}),
    (Resources(memory_limit=-1, pids_limit=-1), {"memory.limit_in_bytes": "-1", "pids.max": "max"},
     {"memory.max": "max", "pids.max": "max"}),
])  # fmt: skip
def test_limits_as_files(resources: Resources, v1: dict[str, str], v2: dict[str, str]) -> None:
    assert {file: content for _, file, content in cgroups.v1_files(resources)} == v1
    assert dict(cgroups.v2_files(resources)) == v2


@pytest.fixture
def v2(tmp_path: Path) -> Cgroups:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids rdma\n")
    (tmp_path / "cgroup.subtree_control").write_text("cpu\n")
    return Cgroups(ManualClock(), tmp_path)


@pytest.fixture
def v1(tmp_path: Path) -> Cgroups:
    for name in ("cpu", "cpuacct", "memory", "pids", "devices", "systemd", "unified"):
        (tmp_path / name).mkdir()
    return Cgroups(ManualClock(), tmp_path)


def test_version_2_controllers_are_enabled_on_the_way(v2: Cgroups) -> None:
    v2.ensure("/pinnace/pods/pod1", Resources(cpu_shares=1024, memory_limit=4096))
    root = v2.root
    assert (root / "pinnace/pods/pod1/cpu.weight").read_text() == "39"
    assert (root / "pinnace/pods/pod1/memory.max").read_text() == "4096"
    # A fake file keeps only the last write; the kernel adds each.
    assert (root / "cgroup.subtree_control").read_text() == "+io"
    assert (root / "pinnace/pods/cgroup.subtree_control").exists()
    assert not (root / "pinnace/pods/pod1/cgroup.subtree_control").exists()  # a leaf holds processes


def test_version_2_figures(v2: Cgroups) -> None:
    group = v2.root / "g"
    group.mkdir()
    (group / "memory.current").write_text("1000\n")
    (group / "memory.stat").write_text("anon 400\ninactive_file 300\npgfault 7\npgmajfault 2\n")
    (group / "cpu.stat").write_text("usage_usec 5\nuser_usec 3\n")
    (group / "pids.current").write_text("3\n")
    (group / "memory.events").write_text("low 0\noom 4\noom_kill 2\n")
    assert v2.stats("/g") == cgroups.GroupStats(5000, 1000, 700, 400, 3, 7, 2)
    assert v2.oom_kills("/g") == 2
    with pytest.raises(FileNotFoundError):
        v2.stats("/none")


def test_version_1_limits_and_figures(v1: Cgroups) -> None:
    v1.ensure("/a/b", Resources(cpu_shares=512, memory_limit=4096, pids_limit=9))
    assert (v1.root / "cpu/a/b/cpu.shares").read_text() == "512"
    assert (v1.root / "memory/a/b/memory.limit_in_bytes").read_text() == "4096"
    assert (v1.root / "pids/a/b/pids.max").read_text() == "9"
    assert not (v1.root / "devices/a").exists()
    (v1.root / "memory/a/b/memory.usage_in_bytes").write_text("100")
    (v1.root / "memory/a/b/memory.stat").write_text("total_inactive_file 200\ntotal_rss 50\n")
    (v1.root / "memory/a/b/memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    (v1.root / "cpuacct/a/b/cpuacct.usage").write_text("77")
    (v1.root / "pids/a/b/pids.current").write_text("2")
    assert v1.stats("/a/b") == cgroups.GroupStats(77, 100, 0, 50, 2)
    assert v1.oom_kills("/a/b") == 1
    assert v1.oom_kills("/none") == 0


async def test_groups_are_removed_in_every_hierarchy(v1: Cgroups) -> None:
    for name in ("cpu", "devices", "systemd"):
        (v1.root / name / "top/pod/container").mkdir(parents=True)
    assert await v1.remove("/top/pod")
    v1.prune("/top")
    assert [str(path) for path in v1.root.glob("*/top")] == []
    assert await v1.remove("/top/pod")


async def test_what_cannot_be_removed_is_said(v2: Cgroups) -> None:
    (v2.root / "g").mkdir()
    (v2.root / "g/file").write_text("")  # a real group never has files of ours: rmdir goes on failing
    assert not await v2.remove("/g")
    assert (v2.root / "g/cgroup.kill").read_text() == "1"


@pytest.mark.root
async def test_a_real_group(tmp_path: Path) -> None:
    real = Cgroups(ManualClock())
    path = f"/{tmp_path.name}-{os.getpid()}"
    real.ensure(f"{path}/pod", Resources(cpu_shares=100, memory_limit=1 << 20, pids_limit=7))
    try:
        assert real.exists(path)
        assert real.stats(f"{path}/pod").pids == 0
        assert real.processes(path) == set()
    finally:
        assert await real.remove(path)
    assert not real.exists(path)


@pytest.mark.parametrize(("paths", "is_v2", "group"), [
    ({"pids": "/cg/pids/a/b", "memory": "/cg/memory/a/b"}, False, "/a/b"),
    ({"": "/cg/a/b"}, True, "/a/b"),
    ({}, False, ""),
    ({"pids": "/elsewhere/a"}, False, ""),
])  # fmt: skip
def test_the_group_that_runc_noted(paths: dict[str, str], is_v2: bool, group: str) -> None:
    assert group_of(paths, "/cg", v2=is_v2) == group
