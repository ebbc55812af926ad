"""Control groups, version 1 and 2: the groups of pods and QoS classes, their limits and figures.

runc makes the containers' own groups below the pod's; this module makes what is above them, and removes all.
Paths are those below the hierarchy's root, e.g. `/pinnace/kubepods/burstable/pod<uid>`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pinnace.base.clock import Clock
from pinnace.runtime.cri import Resources

MIN_SHARES, MAX_SHARES = 2, 262144
DEFAULT_PERIOD = 100_000
V2_CONTROLLERS = ("cpu", "cpuset", "memory", "pids", "io", "hugetlb")
# The hierarchies of version 1 in which a pod's group gets limits; runc makes the others as it needs them.
V1_LIMITED = ("cpu", "cpuacct", "memory", "pids")


@dataclass(frozen=True, slots=True)
class GroupStats:
    """What a group and all below it have used."""

    cpu_nanoseconds: int
    memory_usage: int
    memory_working_set: int
    memory_rss: int
    pids: int
    page_faults: int = 0
    major_page_faults: int = 0


def shares_to_weight(shares: int) -> int:
    """cpu.shares (2 … 262144) as cpu.weight (1 … 10000), linearly as the kubelet does (KEP-2254)."""
    bounded = min(max(shares, MIN_SHARES), MAX_SHARES)
    return 1 + (bounded - 2) * 9999 // 262142


def weight_to_shares(weight: int) -> int:
    """The inverse of `shares_to_weight`, up to rounding."""
    return 2 + (min(max(weight, 1), 10000) - 1) * 262142 // 9999


def quota_to_max(quota: int, period: int | None) -> str:
    """CFS quota and period as the content of cpu.max."""
    return f"{quota if quota > 0 else 'max'} {period or DEFAULT_PERIOD}"


def v1_files(resources: Resources) -> Iterator[tuple[str, str, str]]:
    """(controller, file, content) for what is set."""
    if resources.cpu_shares is not None:
        yield "cpu", "cpu.shares", str(min(max(resources.cpu_shares, MIN_SHARES), MAX_SHARES))
    if resources.cpu_period:
        yield "cpu", "cpu.cfs_period_us", str(resources.cpu_period)
    if resources.cpu_quota is not None:
        yield "cpu", "cpu.cfs_quota_us", str(resources.cpu_quota if resources.cpu_quota > 0 else -1)
    if resources.memory_limit is not None:
        yield "memory", "memory.limit_in_bytes", str(resources.memory_limit if resources.memory_limit > 0 else -1)
    if resources.pids_limit is not None:
        yield "pids", "pids.max", str(resources.pids_limit) if resources.pids_limit > 0 else "max"


def v2_files(resources: Resources) -> Iterator[tuple[str, str]]:
    """(file, content) for what is set."""
    if resources.cpu_shares is not None:
        yield "cpu.weight", str(shares_to_weight(resources.cpu_shares))
    if resources.cpu_quota is not None:
        yield "cpu.max", quota_to_max(resources.cpu_quota, resources.cpu_period)
    if resources.memory_limit is not None:
        yield "memory.max", str(resources.memory_limit) if resources.memory_limit > 0 else "max"
    if resources.pids_limit is not None:
        yield "pids.max", str(resources.pids_limit) if resources.pids_limit > 0 else "max"


def parse_keyed(text: str) -> dict[str, int]:
    """Lines `name number`, as memory.stat, memory.events and cpu.stat have them."""
    values: dict[str, int] = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if value.strip().lstrip("-").isdigit():
            values[name] = int(value)
    return values


def v1_stats(usage: int, stat: dict[str, int], cpu: int, pids: int) -> GroupStats:
    inactive = stat.get("total_inactive_file", 0)
    return GroupStats(
        cpu_nanoseconds=cpu,
        memory_usage=usage,
        memory_working_set=max(0, usage - inactive),
        memory_rss=stat.get("total_rss", 0),
        pids=pids,
        page_faults=stat.get("total_pgfault", 0),
        major_page_faults=stat.get("total_pgmajfault", 0),
    )


def v2_stats(usage: int, stat: dict[str, int], cpu: dict[str, int], pids: int) -> GroupStats:
    return GroupStats(
        cpu_nanoseconds=cpu.get("usage_usec", 0) * 1000,
        memory_usage=usage,
        memory_working_set=max(0, usage - stat.get("inactive_file", 0)),
        memory_rss=stat.get("anon", 0),
        pids=pids,
        page_faults=stat.get("pgfault", 0),
        major_page_faults=stat.get("pgmajfault", 0),
    )


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _number(path: Path) -> int:
    text = _read(path).strip()
    return int(text) if text.lstrip("-").isdigit() else 0


class Cgroups:
    """The machine's control groups. `root` is where they are mounted (a fake tree in tests)."""

    def __init__(self, clock: Clock, root: Path = Path("/sys/fs/cgroup")) -> None:
        self._clock = clock
        self.root = root
        self.v2 = (root / "cgroup.controllers").exists()

    def hierarchies(self) -> list[Path]:
        """Every mounted hierarchy: one with version 2, one a controller with version 1 or a hybrid."""
        if self.v2:
            return [self.root]
        # `cpu` may be a link to `cpu,cpuacct`: count each hierarchy once.
        found = {path.resolve() for path in self.root.iterdir() if path.is_dir()}
        return sorted(found)

    def ensure(self, path: str, resources: Resources = Resources()) -> None:  # noqa: B008 (frozen)
        """Make the group with all above it, and set what `resources` sets. Idempotent."""
        if self.v2:
            self._make_v2(path)
            for file, content in v2_files(resources):
                self._set(self.root / path.lstrip("/") / file, content)
            return
        for controller in V1_LIMITED:
            (self.root / controller / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
        for controller, file, content in v1_files(resources):
            self._set(self.root / controller / path.lstrip("/") / file, content)

    def update(self, path: str, resources: Resources) -> None:
        """Set limits of a group that exists."""
        self.ensure(path, resources)

    def exists(self, path: str) -> bool:
        return any((hierarchy / path.lstrip("/")).is_dir() for hierarchy in self.hierarchies())

    def join(self, path: str, pid: int) -> None:
        """Move a process into a group, in every hierarchy that has limits or that service managers kill by."""
        names = [""] if self.v2 else [*V1_LIMITED, "systemd", "unified"]
        for name in names:
            hierarchy = self.root / name
            if not hierarchy.is_dir():
                continue
            group = hierarchy / path.lstrip("/")
            if self.v2:
                self._make_v2(path)
            else:
                group.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(ProcessLookupError):
                (group / "cgroup.procs").write_text(str(pid))

    def processes(self, path: str) -> set[int]:
        """Every process in the group and below it."""
        pids: set[int] = set()
        hierarchy = self.root if self.v2 else self.root / "pids"
        for directory, _, files in os.walk(hierarchy / path.lstrip("/")):
            if "cgroup.procs" in files:
                pids.update(int(pid) for pid in _read(Path(directory, "cgroup.procs")).split())
        return pids

    def kill(self, path: str) -> None:
        """SIGKILL to every process in the group and below it."""
        if self.v2:
            with contextlib.suppress(OSError):
                (self.root / path.lstrip("/") / "cgroup.kill").write_text("1")
                return
        for _ in range(5):  # a process may fork between reading the list and killing it
            pids = self.processes(path) - {os.getpid()}
            if not pids:
                return
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def remove_now(self, path: str) -> bool:
        """Remove the group and all below it as far as possible at once; False if something is left."""
        gone = True
        for hierarchy in self.hierarchies():
            gone = _remove_tree(hierarchy / path.lstrip("/")) and gone
        return gone

    async def remove(self, path: str, *, kill: bool = True) -> bool:
        """Remove the group, killing what is in it; tries for about 2 s. False if something is left."""
        for attempt in range(12):
            if self.remove_now(path):
                return True
            if kill:
                self.kill(path)
            await self._clock.sleep(min(0.4, 0.002 * 2**attempt))
        return self.remove_now(path)

    def prune(self, path: str) -> None:
        """Remove the group and those above it as long as they are empty."""
        for directory in (path, *map(str, Path(path).parents)):
            if directory == "/":
                return
            for hierarchy in self.hierarchies():
                with contextlib.suppress(OSError):
                    (hierarchy / directory.lstrip("/")).rmdir()

    def stats(self, path: str) -> GroupStats:
        """Raises FileNotFoundError when there is no such group."""
        relative = path.lstrip("/")
        if self.v2:
            group = self.root / relative
            usage = int((group / "memory.current").read_text())
            return v2_stats(
                usage, parse_keyed(_read(group / "memory.stat")), parse_keyed(_read(group / "cpu.stat")),
                _number(group / "pids.current"),
            )  # fmt: skip
        memory = self.root / "memory" / relative
        usage = int((memory / "memory.usage_in_bytes").read_text())
        return v1_stats(
            usage, parse_keyed(_read(memory / "memory.stat")),
            _number(self.root / "cpuacct" / relative / "cpuacct.usage"),
            _number(self.root / "pids" / relative / "pids.current"),
        )  # fmt: skip

    def oom_kills(self, path: str) -> int:
        """How many processes of the group the kernel has killed for want of memory."""
        relative = path.lstrip("/")
        if self.v2:
            return parse_keyed(_read(self.root / relative / "memory.events")).get("oom_kill", 0)
        return parse_keyed(_read(self.root / "memory" / relative / "memory.oom_control")).get("oom_kill", 0)

    def _make_v2(self, path: str) -> None:
        available = _read(self.root / "cgroup.controllers").split()
        wanted = [name for name in V2_CONTROLLERS if name in available]
        group = self.root
        for part in Path(path.lstrip("/")).parts:
            enabled = _read(group / "cgroup.subtree_control").split()
            missing = [f"+{name}" for name in wanted if name not in enabled]
            if missing:
                self._enable(group / "cgroup.subtree_control", missing)
            group = group / part
            group.mkdir(exist_ok=True)

    @staticmethod
    def _enable(file: Path, controllers: Iterable[str]) -> None:
        for controller in controllers:  # one by one: an unavailable one must not keep the others off
            with contextlib.suppress(OSError):
                file.write_text(controller)

    @staticmethod
    def _set(file: Path, content: str) -> None:
        """Write a limit. Lowering the memory limit below the usage answers EBUSY on version 1: say so."""
        try:
            file.write_text(content)
        except OSError as error:
            raise OSError(error.errno, f"cannot set {file} to {content}: {error.strerror}") from error


def _remove_tree(group: Path) -> bool:
    """rmdir from the leaves up (the files in a group are the kernel's)."""
    try:
        group.rmdir()
        return True
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
    for child in list(group.iterdir()) if group.is_dir() else []:
        if child.is_dir() and not child.is_symlink():
            _remove_tree(child)
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
