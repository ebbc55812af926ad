"""kill -9 at any moment: whoever comes next finds everything, and can leave nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pinnace.runtime.cri import ContainerState

pytestmark = pytest.mark.real

# Makes and removes containers until it is killed.
BUSY = """
import asyncio, sys
from pathlib import Path
from pinnace.base.clock import SystemClock
from pinnace.base.randomness import Randomness
from pinnace.runtime.cri import ContainerSpec, PodIdentity, SandboxSpec
from pinnace.runtime.engine import BuiltinRuntime

directory, images, image = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

async def life(runtime, number):
    while True:
        sandbox = await runtime.run_sandbox(SandboxSpec(
            PodIdentity("p", "d", "u"), "p", str(directory / "logs"), cgroup_parent=f"/{directory.name}/p{number}"))
        id = await runtime.create(sandbox.id, ContainerSpec(name="c", image=image, command=("sleep", "60")))
        await runtime.start(id)
        if number % 2:
            await runtime.remove_sandbox(sandbox.id)
        else:
            await asyncio.sleep(0.05)

async def main():
    runtime = BuiltinRuntime(directory / "state", images, clock=SystemClock(), randomness=Randomness(),
                             cgroup_root=f"/{directory.name}", egress=False)
    await runtime.open()
    print("up", flush=True)
    await asyncio.gather(*(life(runtime, number) for number in range(4)))

asyncio.run(main())
"""


def processes_of(directory: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes()
        except OSError:
            continue
        if directory.name.encode() in text:
            found.append(text.replace(b"\0", b" ").decode())
    return found


async def test_a_killed_runtime_leaves_nothing_behind(bench: Any, eventually: Any) -> None:
    await bench.runtime.close()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    for delay in (0.0, 0.03, 0.07, 0.16):
        busy = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-c", BUSY, str(bench.directory), str(bench.images), "pinnace.local/busybox:latest"],
            stdout=subprocess.PIPE, env=environment,
        )  # fmt: skip
        assert busy.stdout is not None
        assert await asyncio.to_thread(busy.stdout.readline) == b"up\n"
        await asyncio.sleep(delay)
        busy.send_signal(signal.SIGKILL)
        busy.wait()
        busy.stdout.close()
        bench.runtime = bench.make()
        await bench.runtime.open()
        for seen in await bench.runtime.containers():
            if seen.state is ContainerState.RUNNING:
                os.kill(seen.pid, 0)
            elif seen.state is ContainerState.CREATED:
                await bench.runtime.start(seen.id)
        await bench.runtime.destroy_all()
        await eventually(lambda: processes_of(bench.directory) == [])
        for name in ("containers", "sandboxes", "runc"):
            assert [str(path) for path in (bench.directory / "state" / name).rglob("*")] == []
        assert list((bench.images / "uses").iterdir()) == []
        await bench.runtime.close()
    await bench.runtime.open()
