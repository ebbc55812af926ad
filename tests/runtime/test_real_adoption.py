"""Containers outlive our process, and what happened meanwhile is seen."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from pinnace.runtime import linux
from pinnace.runtime.cri import ContainerState, RuntimeFault, SandboxState

pytestmark = pytest.mark.real


async def test_a_running_container_is_adopted(bench: Any, eventually: Any) -> None:
    id = await bench.start("trap 'exit 8' TERM; echo up; while :; do sleep 0.02; done")
    await bench.says(id, "up")
    before = await bench.runtime.container(id)
    await bench.runtime.set_sandbox_ips(before.sandbox_id, ("10.1.2.3",))
    runtime = await bench.restart()
    assert await runtime.container(id) == before
    (sandbox,) = await runtime.sandboxes()
    assert (sandbox.state, sandbox.ips) == (SandboxState.READY, ("10.1.2.3",))
    assert (await runtime.exec_sync(id, ("echo", "still here"), timeout=5)).stdout == b"still here\n"
    await runtime.stop(id, grace=5)
    assert (await runtime.container(id)).exit_code == 8


async def test_an_exit_while_we_were_away_is_seen(bench: Any, eventually: Any) -> None:
    id = await bench.start("sleep 0.05; exit 11")
    await bench.runtime.close()
    await eventually((bench.directory / "state/exits" / id).exists)
    when = (bench.directory / "state/exits" / id).stat().st_mtime
    bench.runtime = bench.make()
    await bench.runtime.open()
    seen = await bench.runtime.container(id)
    assert (seen.state, seen.exit_code, seen.reason) == (ContainerState.EXITED, 11, "Error")
    assert seen.finished_at == when


async def test_a_death_that_nobody_saw_is_code_255(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pinnace.runtime.engine.EXIT_FILE_DEADLINE", 0.05)
    id = await bench.start("sleep 50")
    directory = bench.directory / "state/containers" / id
    pid = (await bench.runtime.container(id)).pid
    ticks = linux.started_ticks(pid)
    await bench.runtime.close()
    os.kill(int((directory / "conmon.pid").read_text()), signal.SIGKILL)
    linux.send_signal(pid, ticks, signal.SIGKILL)
    bench.runtime = bench.make()
    await bench.runtime.open()
    seen = await bench.runtime.container(id)
    if seen.state is ContainerState.RUNNING:  # the kernel had not finished with it yet
        await bench.runtime.stop(id, grace=0)
        seen = await bench.runtime.container(id)
    assert (seen.state, seen.exit_code, seen.reason) == (ContainerState.EXITED, 255, "Unknown")


async def test_remains_without_a_record_are_swept(bench: Any) -> None:
    id = await bench.start("sleep 51")
    sandbox = (await bench.runtime.container(id)).sandbox_id
    pid = (await bench.runtime.container(id)).pid
    netns = (await bench.runtime.sandboxes())[0].netns
    await bench.runtime.close()
    (bench.directory / "state/containers" / id / "container.json").write_text("{broken")
    (bench.directory / "state/sandboxes" / sandbox / "sandbox.json").unlink()
    bench.runtime = bench.make()
    await bench.runtime.open()
    assert await bench.runtime.containers() == ()
    assert await bench.runtime.sandboxes() == ()
    assert linux.started_ticks(pid) == 0
    assert not Path(netns).exists()
    for name in ("containers", "sandboxes", "runc", "exits"):
        assert list((bench.directory / "state" / name).iterdir()) == []
    await bench.runtime.cgroups.remove(f"{bench.cgroup_root}/pod1")


async def test_a_created_container_can_be_started_after_a_restart(bench: Any) -> None:
    sandbox = (await bench.runtime.run_sandbox(bench.pod())).id
    id = await bench.runtime.create(sandbox, bench.container("exit 12"))
    runtime = await bench.restart()
    assert (await runtime.container(id)).state is ContainerState.CREATED
    await runtime.start(id)
    assert await runtime.wait(id) == 12


async def test_one_process_at_a_time_works_on_a_state_directory(bench: Any) -> None:
    with pytest.raises(RuntimeFault, match="another process runs the containers"):
        await bench.make().open()


async def test_after_a_reboot_everything_has_ended(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    id = await bench.start("sleep 52")
    monkeypatch.setattr("pinnace.runtime.linux.boot_id", lambda: "another-boot")
    await bench.runtime.stop(id, grace=0)
    record = bench.directory / "state/containers" / id / "container.json"
    # As it stood on disk when the power went.
    text = record.read_text().replace('"exited"', '"running"')
    (bench.directory / "state/exits" / id).unlink()
    record.write_text(text)
    runtime = await bench.restart()
    seen = await runtime.container(id)
    assert (seen.state, seen.exit_code) == (ContainerState.EXITED, 255)
    assert (await runtime.sandboxes())[0].state is SandboxState.NOTREADY
