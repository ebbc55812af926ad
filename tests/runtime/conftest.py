"""A runtime of our own for each test, under a short path, and nothing left of it afterwards."""

from __future__ import annotations

import asyncio
import inspect
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from pinnace.base.clock import SystemClock
from pinnace.base.randomness import Randomness
from pinnace.runtime.cri import ContainerSpec, PodIdentity, SandboxSpec
from pinnace.runtime.engine import BuiltinRuntime
from pinnace.runtime.images.build import build_busybox

IMAGE = "pinnace.local/busybox:latest"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    real = root and all(Path(path).exists() for path in ("/usr/bin/runc", "/usr/bin/conmon", "/bin/busybox"))
    for item in items:
        if not item.path.is_relative_to(Path(__file__).parent):
            continue
        if "real" in item.keywords and not real:
            item.add_marker(pytest.mark.skip(reason="needs root, runc, conmon and busybox-static"))
        elif "root" in item.keywords and not root:
            item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture(scope="session")
def workplace() -> Iterator[Path]:
    """A directory for images and archives that all tests share."""
    path = Path(tempfile.mkdtemp(prefix="pinnace-rt-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def busybox_archive(workplace: Path) -> Path:
    path = workplace / "busybox.tar"
    build_busybox(path, IMAGE)
    return path


class Bench:
    """A runtime, and short ways to say what a test wants of it."""

    def __init__(self, directory: Path, images: Path) -> None:
        self.directory = directory
        self.images = images
        self.logs = directory / "logs"
        self.cgroup_root = f"/{directory.name}"
        self.runtime = self.make()
        self._pods = 0

    def make(self) -> BuiltinRuntime:
        return BuiltinRuntime(
            self.directory / "state", self.images, clock=SystemClock(), randomness=Randomness(),
            cgroup_root=self.cgroup_root, egress=False,
        )  # fmt: skip

    async def restart(self) -> BuiltinRuntime:
        """As if our process had ended and a new one begun."""
        await self.runtime.close()
        self.runtime = self.make()
        await self.runtime.open()
        return self.runtime

    def pod(self, **fields: object) -> SandboxSpec:
        self._pods += 1
        name = f"pod{self._pods}"
        values: dict[str, object] = {
            "identity": PodIdentity(name, "default", f"uid-{name}"),
            "hostname": name,
            "log_directory": str(self.logs / name),
            "cgroup_parent": f"{self.cgroup_root}/{name}",
        }
        return SandboxSpec(**(values | fields))  # type: ignore[arg-type]

    async def start(self, script: str, sandbox: str = "", **fields: object) -> str:
        """A running container that executes a shell command."""
        if not sandbox:
            sandbox = (await self.runtime.run_sandbox(self.pod())).id
        spec = self.container(script, **fields)
        id = await self.runtime.create(sandbox, spec)
        await self.runtime.start(id)
        return id

    def container(self, script: str, **fields: object) -> ContainerSpec:
        values: dict[str, object] = {
            "name": "main", "image": IMAGE, "command": ("sh", "-c", script), "log_path": "main/0.log",
        }  # fmt: skip
        return ContainerSpec(**(values | fields))  # type: ignore[arg-type]

    async def wait(self, id: str) -> int:
        """Until the container has ended; its exit code."""
        return await self.runtime.wait(id)

    async def says(self, id: str, text: str) -> None:
        """Until the container has written something (5 s at most)."""
        async with asyncio.timeout(5):
            while True:
                if text in await self.log(id):
                    return
                await asyncio.sleep(0.005)

    async def log(self, id: str) -> str:
        """The text of the container's log, without times and tags."""
        path = Path((await self.runtime.container(id)).log_path)
        if not path.exists():
            return ""
        return "".join(line.split(" ", 3)[3] + "\n" for line in path.read_text().splitlines())


@pytest.fixture
async def bench(workplace: Path, busybox_archive: Path) -> AsyncIterator[Bench]:
    directory = Path(tempfile.mkdtemp(prefix="pinnace-rt-"))
    made = Bench(directory, workplace / "images")
    try:
        await made.runtime.open()
        if await made.runtime.images.status(IMAGE) is None:
            await made.runtime.images.load(str(busybox_archive))
        yield made
    finally:
        await made.runtime.destroy_all()
        await made.runtime.close()
        left = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if directory.name in line]
        groups = list(Path("/sys/fs/cgroup").glob(f"**/{directory.name}"))
        shutil.rmtree(directory)
        assert left == []
        assert groups == []


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool | Awaitable[bool]]], Awaitable[None]]:
    """Wait for what another process does, looking every few milliseconds (5 s at most)."""
    async def wait(condition: Callable[[], bool | Awaitable[bool]]) -> None:
        async with asyncio.timeout(5):
            while True:
                result = condition()
                if await result if inspect.isawaitable(result) else result:
                    return
                await asyncio.sleep(0.005)

    return wait
