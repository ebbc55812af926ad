"""The same on uvloop, which is what nodes run on."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
import uvloop

from pinnace.base.clock import SystemClock
from pinnace.base.randomness import Randomness
from pinnace.runtime.cri import ContainerSpec, PodIdentity, SandboxSpec
from pinnace.runtime.engine import BuiltinRuntime

pytestmark = pytest.mark.real


async def live(directory: Path, archive: Path) -> None:
    runtime = BuiltinRuntime(
        directory / "state", directory / "images", clock=SystemClock(), randomness=Randomness(),
        cgroup_root=f"/{directory.name}", egress=False,
    )  # fmt: skip
    await runtime.open()
    try:
        (image,) = await runtime.images.load(str(archive))
        sandbox = await runtime.run_sandbox(SandboxSpec(PodIdentity("p", "d", "u"), "p", str(directory / "logs")))
        id = await runtime.create(
            sandbox.id, ContainerSpec(name="c", image=image.id, command=("sh", "-c", "read x; exit $x"), stdin=True)
        )
        await runtime.start(id)
        result = await runtime.exec_sync(id, ("sh", "-c", "echo out; exit 3"), timeout=5)
        assert (result.exit_code, result.stdout) == (3, b"out\n")
        session = await runtime.exec(id, ("sh", "-c", "read y; echo got $y; tty"), stdin=True, tty=True)
        await session.write(b"it\n")
        output = b"".join([data async for _, data in session.output()])
        assert b"got it" in output
        assert b"/dev/pts" in output
        assert await session.wait() == 0
        await session.close()
        attached = await runtime.attach(id, stdin=True, stdout=True, stderr=True)
        await attached.write(b"9\n")
        assert await attached.wait() == 9
        await attached.close()
    finally:
        await runtime.destroy_all()
        await runtime.close()


def test_a_life_on_uvloop(busybox_archive: Path) -> None:
    directory = Path(tempfile.mkdtemp(prefix="pinnace-rt-"))
    try:
        uvloop.run(live(directory, busybox_archive))
        assert list((directory / "state/containers").iterdir()) == []
    finally:
        shutil.rmtree(directory)
