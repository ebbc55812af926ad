"""How long the built-in runtime takes for each step of a container's life. Needs root, runc, conmon, busybox.

`python bench/runtime.py [rounds]` prints a table; `measure` gives the figures to whoever writes bench/latest.json.
Times are milliseconds, the median and the slowest of the rounds.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

import uvloop

from pinnace.base.clock import SystemClock
from pinnace.base.randomness import Randomness
from pinnace.runtime.cri import ContainerSpec, PodIdentity, SandboxSpec
from pinnace.runtime.engine import BuiltinRuntime
from pinnace.runtime.images.build import build_busybox

T = TypeVar("T")
IMAGE = "pinnace.local/busybox:latest"
PARALLEL = 20


class Times:
    def __init__(self) -> None:
        self.of: dict[str, list[float]] = {}

    async def take(self, name: str, work: Awaitable[T]) -> T:
        before = time.perf_counter()
        result = await work
        self.add(name, time.perf_counter() - before)
        return result

    def add(self, name: str, seconds: float) -> None:
        self.of.setdefault(name, []).append(seconds * 1000)


def pod(directory: Path, number: int) -> SandboxSpec:
    return SandboxSpec(
        identity=PodIdentity(f"p{number}", "bench", f"u{number}"), hostname=f"p{number}",
        log_directory=str(directory / "logs" / str(number)), cgroup_parent=f"/{directory.name}/p{number}",
    )  # fmt: skip


def spec(*command: str) -> ContainerSpec:
    return ContainerSpec(name="c", image=IMAGE, command=command, log_path="c.log")


async def one_life(runtime: BuiltinRuntime, directory: Path, number: int, times: Times) -> None:
    sandbox = await times.take("sandbox", runtime.run_sandbox(pod(directory, number)))
    id = await times.take("create", runtime.create(sandbox.id, spec("sleep", "60")))
    await times.take("start", runtime.start(id))
    await times.take("exec", runtime.exec_sync(id, ("true",), timeout=10))
    await times.take("kill and notice", runtime.stop(id, grace=0))
    await times.take("remove", runtime.remove(id))
    await times.take("remove sandbox", runtime.remove_sandbox(sandbox.id))


async def whole_pod(runtime: BuiltinRuntime, directory: Path, number: int) -> None:
    sandbox = await runtime.run_sandbox(pod(directory, number))
    await runtime.start(await runtime.create(sandbox.id, spec("sleep", "60")))


async def measure(rounds: int = 20) -> dict[str, float]:
    """Everything, by name."""
    directory = Path(tempfile.mkdtemp(prefix="pinnace-bench-"))
    times = Times()
    runtime = BuiltinRuntime(
        directory / "state", directory / "images", clock=SystemClock(), randomness=Randomness(),
        cgroup_root=f"/{directory.name}", egress=False,
    )  # fmt: skip
    await runtime.open()
    try:
        build_busybox(directory / "busybox.tar", IMAGE)
        await times.take("load busybox image", runtime.images.load(str(directory / "busybox.tar")))
        await one_life(runtime, directory, 0, Times())  # warms up
        for number in range(rounds):
            await one_life(runtime, directory, number, times)
        numbers = range(1000, 1000 + PARALLEL)
        await times.take(
            f"{PARALLEL} pods at once, running", asyncio.gather(*(whole_pod(runtime, directory, n) for n in numbers))
        )
        before = resource.getrusage(resource.RUSAGE_SELF)
        await asyncio.sleep(2)
        after = resource.getrusage(resource.RUSAGE_SELF)
        idle = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 2
        await times.take(f"{PARALLEL} pods at once, removed", runtime.destroy_all())
    finally:
        await runtime.destroy_all()
        await runtime.close()
        shutil.rmtree(directory)
    figures: dict[str, float] = {f"idle CPU with {PARALLEL} pods, %": round(idle * 100, 2)}
    for name, values in times.of.items():
        figures[f"{name}, ms"] = round(statistics.median(values), 1)
        if len(values) > 1:
            figures[f"{name}, slowest, ms"] = round(max(values), 1)
    return figures


def main() -> None:
    if os.geteuid() != 0:
        sys.exit("bench/runtime.py needs root")
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    for name, value in uvloop.run(measure(rounds)).items():
        print(f"{name:<40}{value:>10}")


if __name__ == "__main__":
    main()
