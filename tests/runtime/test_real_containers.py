"""Containers from create to remove, for real."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from pinnace.runtime.cri import (
    ContainerState,
    Mount,
    NotFound,
    Resources,
    RuntimeFault,
    SandboxState,
    SecurityContext,
)

pytestmark = pytest.mark.real


async def test_a_container_lives_and_dies(bench: Any) -> None:
    runtime = bench.runtime
    sandbox = await runtime.run_sandbox(bench.pod(labels={"app": "web"}))
    assert sandbox.state is SandboxState.READY
    assert Path(sandbox.netns).exists()
    id = await runtime.create(sandbox.id, bench.container("echo out; echo err >&2; exit 3", labels={"a": "b"}))
    assert (await runtime.container(id)).state is ContainerState.CREATED
    before = time.time()
    await runtime.start(id)
    assert await bench.wait(id) == 3
    seen = await runtime.container(id)
    assert (seen.state, seen.exit_code, seen.reason) == (ContainerState.EXITED, 3, "Error")
    assert before <= seen.started_at <= seen.finished_at + 0.01 <= time.time() + 0.02
    assert seen.labels == {"a": "b"}
    lines = Path(seen.log_path).read_text().splitlines()
    pattern = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(Z|[+-]\d\d:\d\d) (stdout F out|stderr F err)"
    assert len(lines) == 2
    assert all(re.fullmatch(pattern, line) for line in lines)
    await runtime.remove(id)
    with pytest.raises(NotFound):
        await runtime.container(id)
    await runtime.remove(id)
    await runtime.remove_sandbox(sandbox.id)
    await runtime.remove_sandbox(sandbox.id)
    assert await runtime.sandboxes() == ()
    assert not Path(sandbox.netns).exists()
    assert Path(seen.log_path).exists()


async def test_long_lines_and_lines_without_end_are_partial(bench: Any) -> None:
    id = await bench.start("printf abc; sleep 0.01; head -c 20000 /dev/zero | tr '\\0' x")
    await bench.wait(id)
    lines = Path((await bench.runtime.container(id)).log_path).read_text().splitlines()
    assert "".join(line.split(" ", 3)[3] for line in lines) == "abc" + "x" * 20000
    assert " stdout P " in lines[0]


@pytest.mark.parametrize(("command", "code", "reason"), [
    ("true", 0, "Completed"),
    ("exit 42", 42, "Error"),
    ("kill -9 $$", 0, "Completed"),  # the first process of a namespace cannot kill itself
    ("sh -c 'kill -9 $$'; exit $?", 137, "Error"),
])  # fmt: skip
async def test_exit_codes(bench: Any, command: str, code: int, reason: str) -> None:
    id = await bench.start(command)
    await bench.wait(id)
    seen = await bench.runtime.container(id)
    assert (seen.exit_code, seen.reason) == (code, reason)


async def test_command_not_found_is_told_in_containerds_words(bench: Any) -> None:
    runtime = bench.runtime
    sandbox = await runtime.run_sandbox(bench.pod())
    id = await runtime.create(sandbox.id, bench.container("", command=("no-such-thing",)))
    with pytest.raises(RuntimeFault) as caught:
        await runtime.start(id)
    assert str(caught.value) == (
        "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create "
        'failed: unable to start container process: exec: "no-such-thing": executable file not found in $PATH: '
        "unknown"
    )
    seen = await runtime.container(id)
    assert (seen.state, seen.exit_code, seen.reason) == (ContainerState.EXITED, 128, "StartError")
    assert "no-such-thing" in seen.message
    with pytest.raises(RuntimeFault, match="cannot be started"):
        await runtime.start(id)


async def test_an_unknown_image_or_user_is_refused_and_leaves_nothing(bench: Any) -> None:
    runtime = bench.runtime
    sandbox = await runtime.run_sandbox(bench.pod())
    with pytest.raises(NotFound):
        await runtime.create(sandbox.id, bench.container("true", image="no.such/image:1"))
    with pytest.raises(RuntimeFault, match="unable to find user bob"):
        await runtime.create(
            sandbox.id, bench.container("true", security=SecurityContext(run_as_username="bob"))
        )
    assert list((bench.directory / "state/containers").iterdir()) == []
    assert await runtime.containers() == ()


async def test_out_of_memory_is_told_apart(bench: Any) -> None:
    id = await bench.start(
        "x=a; while :; do x=$x$x$x$x; done", resources=Resources(memory_limit=8 << 20, cpu_shares=512)
    )
    await bench.wait(id)
    seen = await bench.runtime.container(id)
    assert (seen.exit_code, seen.reason) == (137, "OOMKilled")


async def test_stop_signals_waits_and_kills(bench: Any) -> None:
    polite = await bench.start("trap 'exit 7' TERM; echo up; while :; do sleep 0.02; done")
    deaf = await bench.start("trap '' TERM; echo up; while :; do sleep 0.02; done")
    usr1 = await bench.start("trap 'exit 9' USR1; echo up; while :; do sleep 0.02; done", stop_signal="SIGUSR1")
    for id in (polite, deaf, usr1):
        await bench.says(id, "up")
    started = time.monotonic()
    await bench.runtime.stop(polite, grace=10)
    await bench.runtime.stop(usr1, grace=10)
    assert time.monotonic() - started < 3
    started = time.monotonic()
    await bench.runtime.stop(deaf, grace=0.2)
    assert 0.2 <= time.monotonic() - started < 3
    codes = [(await bench.runtime.container(id)).exit_code for id in (polite, deaf, usr1)]
    assert codes == [7, 137, 9]
    await bench.runtime.stop(deaf, grace=5)  # stopping what is stopped succeeds


async def test_what_the_process_sees(bench: Any) -> None:
    volume = bench.directory / "volume"
    volume.mkdir()
    (volume / "file").write_text("content\n")
    id = await bench.start(
        "id -u; id -g; id -G; pwd; hostname; cat /data/file; echo $A$B; cat /etc/resolv.conf | head -1; "
        "touch /x 2>&1; touch /data/y 2>&1; grep CapEff /proc/self/status; df -k /dev/shm | tail -1; "
        "cat /proc/sys/kernel/hostname; grep NoNewPrivs /proc/self/status; ls /proc/1/fd >/dev/null && echo fd",
        sandbox=(await bench.runtime.run_sandbox(
            bench.pod(dns_servers=("10.0.0.10",), dns_searches=("svc.cluster.local",), hostname="web-0")
        )).id,
        env=(("A", "1"), ("B", "2")), working_dir="/made/for/it",
        mounts=(Mount("/data", str(volume), readonly=True),),
        security=SecurityContext(
            run_as_user=1000, run_as_group=2000, supplemental_groups=(3000,), fs_group=4000, readonly_rootfs=True,
            allow_privilege_escalation=False, drop_capabilities=("ALL",), seccomp="RuntimeDefault",
        ),
    )  # fmt: skip
    assert await bench.wait(id) == 0
    lines = (await bench.log(id)).splitlines()
    assert lines[:8] == [
        "1000", "2000", "2000 3000 4000", "/made/for/it", "web-0", "content", "12", "search svc.cluster.local",
    ]  # fmt: skip
    assert "Read-only file system" in lines[8]
    assert "Read-only file system" in lines[9]
    assert lines[10].split()[1] == "0000000000000000"
    assert lines[11].split()[1] == "65536"
    assert lines[13].split()[1] == "1"


async def test_capabilities_seccomp_and_privileged(bench: Any) -> None:
    sandbox = (await bench.runtime.run_sandbox(bench.pod())).id
    probe = (
        "mount -t tmpfs none /mnt 2>/dev/null && echo mounted || echo refused; "
        "unshare -n true 2>/dev/null && echo unshared || echo kept; "
        "grep -q ' /proc/sys ' /proc/self/mountinfo && echo masked || echo bare; ls /dev | wc -l"
    )
    plain = await bench.start(f"mkdir -p /mnt; {probe}", sandbox, security=SecurityContext(seccomp="RuntimeDefault"))
    free = await bench.start(f"mkdir -p /mnt; {probe}", sandbox, name="free", log_path="free/0.log",
                             security=SecurityContext(privileged=True))  # fmt: skip
    assert await bench.wait(plain) == 0
    assert await bench.wait(free) == 0
    assert (await bench.log(plain)).split()[:3] == ["refused", "kept", "masked"]
    assert (await bench.log(free)).split()[:3] == ["mounted", "unshared", "bare"]
    assert int((await bench.log(free)).split()[3]) > int((await bench.log(plain)).split()[3])


async def test_containers_of_a_pod_share_network_and_ipc_but_not_processes(bench: Any) -> None:
    sandbox = (await bench.runtime.run_sandbox(bench.pod())).id
    script = "for kind in net ipc uts pid; do readlink /proc/self/ns/$kind; done; sleep 30"
    first = await bench.start(script, sandbox)
    second = await bench.start(script, sandbox, name="other", log_path="other/0.log")
    for id in (first, second):
        await bench.says(id, "pid:[")
    one, two = (await bench.log(first)).split(), (await bench.log(second)).split()
    assert one[:3] == two[:3]
    assert one[3] != two[3]
    assert str(Path("/proc/self/ns/net").readlink()) not in one
    await bench.runtime.stop_sandbox(sandbox)
    assert {c.state for c in await bench.runtime.containers(sandbox)} == {ContainerState.EXITED}
    assert (await bench.runtime.sandboxes())[0].state is SandboxState.NOTREADY
    with pytest.raises(RuntimeFault, match="is not running"):
        await bench.runtime.create(sandbox, bench.container("true"))


async def test_a_shared_process_namespace_has_a_pause_process_that_reaps(bench: Any, eventually: Any) -> None:
    spec = bench.pod(share_process_namespace=True)
    sandbox = (await bench.runtime.run_sandbox(spec)).id
    first = await bench.start("(sleep 0.05 &) ; sleep 30", sandbox)
    second = await bench.start("sleep 31", sandbox, name="other", log_path="other/0.log")
    result = await bench.runtime.exec_sync(second, ("ps", "-o", "pid,args"), timeout=5)
    text = result.stdout.decode()
    assert "1 /pause" in text
    assert "sleep 30" in text
    assert "sleep 31" in text
    assert len(await bench.runtime.containers()) == 2

    async def reaped() -> bool:
        listed = await bench.runtime.exec_sync(second, ("ps", "-o", "stat,args"), timeout=5)
        return b"sleep 0.05" not in listed.stdout and b"Z" not in listed.stdout.replace(b"STAT", b"")

    await eventually(reaped)
    await bench.runtime.stop(first, grace=0)
    left = (await bench.runtime.exec_sync(second, ("ps", "-o", "args"), timeout=5)).stdout.decode()
    assert "sleep 30" not in left
    assert "sleep 31" in left


async def test_an_ephemeral_container_joins_its_targets_processes(bench: Any) -> None:
    sandbox = (await bench.runtime.run_sandbox(bench.pod())).id
    target = await bench.start("sleep 33", sandbox)
    debugger = await bench.start("ps -o args; sleep 34", sandbox, name="debugger", log_path="debugger/0.log",
                                 target_pid_of=target)  # fmt: skip
    await bench.says(debugger, "sleep 33")
    await bench.runtime.stop(debugger, grace=0)
    assert (await bench.runtime.container(target)).state is ContainerState.RUNNING


async def test_events_tell_the_story(bench: Any) -> None:
    events = bench.runtime.events()
    sandbox = (await bench.runtime.run_sandbox(bench.pod())).id
    id = await bench.start("true", sandbox)
    await bench.wait(id)
    await bench.runtime.remove(id)
    kinds = []
    async with asyncio.timeout(5):
        async for event in events:
            assert (event.sandbox_id, event.container_id) == (sandbox, id)
            kinds.append(event.kind)
            if event.kind == "deleted":
                break
    await events.aclose()
    assert kinds == ["created", "started", "stopped", "deleted"]


async def test_stats_and_resources_can_be_changed(bench: Any) -> None:
    id = await bench.start(
        "while :; do :; done", resources=Resources(memory_limit=64 << 20, cpu_quota=20000, cpu_period=100000)
    )
    await asyncio.sleep(0.1)
    stats = await bench.runtime.stats(id)
    assert stats.cpu_nanoseconds > 0
    assert 0 < stats.memory_working_set <= stats.memory_usage < 64 << 20
    assert stats.pids == 1
    await bench.runtime.update_resources(id, Resources(memory_limit=32 << 20, cpu_shares=512))
    seen = await bench.runtime.exec_sync(
        id, ("sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null"),
        timeout=5,
    )  # fmt: skip
    assert int(seen.stdout) == 32 << 20


async def test_a_failed_sandbox_leaves_nothing(bench: Any) -> None:
    with pytest.raises(RuntimeFault, match="failed to set sysctl"):
        await bench.runtime.run_sandbox(bench.pod(sysctls={"net.no.such.thing": "1"}))
    assert list((bench.directory / "state/sandboxes").iterdir()) == []
    made = await bench.runtime.run_sandbox(bench.pod(sysctls={"net.ipv4.tcp_syncookies": "0"}))
    id = await bench.start("cat /proc/sys/net/ipv4/tcp_syncookies", made.id)
    await bench.wait(id)
    assert await bench.log(id) == "0\n"


async def test_giving_up_half_way_leaves_no_half_container(bench: Any, eventually: Any) -> None:
    sandbox = (await bench.runtime.run_sandbox(bench.pod())).id
    id = await bench.runtime.create(sandbox, bench.container("sleep 35"))
    starting = asyncio.create_task(bench.runtime.start(id))
    await asyncio.sleep(0.005)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting

    async def running() -> bool:
        return (await bench.runtime.container(id)).state is ContainerState.RUNNING

    await eventually(running)
    pid = (await bench.runtime.container(id)).pid
    await bench.runtime.remove_sandbox(sandbox)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_image_volumes_keep_the_images_content(bench: Any, tmp_path: Path) -> None:
    from pinnace.runtime.images.build import Recipe, add_busybox, base_rootfs, build_image

    root = tmp_path / "root"
    root.mkdir()
    base_rootfs(root)
    add_busybox(root)
    (root / "data").mkdir()
    (root / "data/seed").write_text("grown\n")
    (root / "data").chmod(0o1777)
    tag = "pinnace.local/volumes:1"
    recipe = Recipe(entrypoint=("sh", "-c"), cmd=("cat /data/seed; stat -c %a /data; id -un",),
                    user="www-data", volumes=("/data",), working_dir="/tmp", stop_signal="SIGINT")  # fmt: skip
    build_image(tmp_path / "image.tar", tag, root, recipe)
    await bench.runtime.images.load(str(tmp_path / "image.tar"))
    try:
        sandbox = (await bench.runtime.run_sandbox(bench.pod())).id
        id = await bench.runtime.create(sandbox, bench.container("", image=tag, command=()))
        await bench.runtime.images.remove(tag)  # the container's layers stay while it lives
        await bench.runtime.start(id)
        assert await bench.wait(id) == 0
        assert (await bench.log(id)).split() == ["grown", "1777", "www-data"]
        await bench.runtime.remove(id)
    finally:
        await bench.runtime.images.remove(tag)
    assert await bench.runtime.images.status(tag) is None


async def test_port_forward_reaches_loopback_in_the_pod(bench: Any) -> None:
    sandbox = (await bench.runtime.run_sandbox(bench.pod())).id
    id = await bench.start("echo up; echo hello | nc -l -p 8080", sandbox)
    await bench.says(id, "up")
    for _ in range(100):
        try:
            reader, writer = await bench.runtime.port_forward(sandbox, 8080)
            break
        except RuntimeFault:
            await asyncio.sleep(0.01)
    else:
        pytest.fail("nothing listens")
    assert await reader.readline() == b"hello\n"
    writer.close()
    await writer.wait_closed()
    with pytest.raises(RuntimeFault, match=r"failed to connect to localhost:8081.*connection refused"):
        await bench.runtime.port_forward(sandbox, 8081)


async def test_the_log_can_be_rotated(bench: Any, eventually: Any) -> None:
    id = await bench.start("while :; do echo tick; sleep 0.01; done")
    path = Path((await bench.runtime.container(id)).log_path)
    await eventually(lambda: path.exists() and path.stat().st_size > 0)
    path.rename(path.with_suffix(".1"))
    await bench.runtime.reopen_log(id)
    await eventually(lambda: path.exists() and path.stat().st_size > 0)


async def test_conmon_killed_is_noticed_when_stopping(bench: Any) -> None:
    id = await bench.start("sleep 36")
    pid = int((bench.directory / "state/containers" / id / "conmon.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    await bench.runtime.stop(id, grace=0)
    seen = await bench.runtime.container(id)
    assert (seen.state, seen.exit_code) == (ContainerState.EXITED, 255)
