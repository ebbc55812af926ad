"""Exec and attach, for real."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pinnace.runtime.cri import RuntimeFault

pytestmark = pytest.mark.real


async def gather(session: Any) -> tuple[bytes, bytes]:
    out, err = bytearray(), bytearray()
    async for stream, data in session.output():
        (out if stream == 1 else err).extend(data)
    return bytes(out), bytes(err)


async def test_exec_separates_streams_and_passes_the_code(bench: Any) -> None:
    id = await bench.start("sleep 40")
    session = await bench.runtime.exec(id, ("sh", "-c", "echo out; echo err >&2; exit 5"))
    assert await gather(session) == (b"out\n", b"err\n")
    assert await session.wait() == 5
    await session.close()
    assert not list((bench.directory / "state/containers" / id).glob("exec-*"))


async def test_exec_with_stdin(bench: Any) -> None:
    id = await bench.start("sleep 41")
    session = await bench.runtime.exec(id, ("sh", "-c", "wc -c"), stdin=True)

    async def feed() -> None:
        for _ in range(64):
            await session.write(b"x" * 16384)
        await session.close_stdin()

    feeding = asyncio.create_task(feed())
    out, _ = await gather(session)
    await feeding
    assert int(out) == 64 * 16384
    assert await session.wait() == 0
    await session.close()


async def test_exec_with_a_terminal_and_its_size(bench: Any) -> None:
    id = await bench.start("sleep 42")
    session = await bench.runtime.exec(id, ("sh",), stdin=True, tty=True)
    seen = bytearray()

    async def until(what: bytes) -> None:
        async with asyncio.timeout(5):
            async for stream, data in session.output():
                assert stream == 1
                seen.extend(data)
                if what in seen:
                    return

    await session.write(b"tty; stty size; echo do''ne\n")
    await until(b"done")
    assert b"/dev/pts/" in seen
    assert b"24 80" in seen
    await session.resize(90, 20)
    await session.write(b"until test \"$(stty size)\" = '20 90'; do sleep 0.01; done; echo again''!\n")
    await until(b"again!")
    await session.write(b"exit 4\n")
    assert await session.wait() == 4
    await session.close()


@pytest.mark.parametrize(("command", "code"), [("no-such-thing", 127), ("/etc/passwd", 126)])
async def test_exec_of_what_cannot_run(bench: Any, command: str, code: int) -> None:
    id = await bench.start("sleep 43")
    result = await bench.runtime.exec_sync(id, (command,), timeout=5)
    assert result.exit_code == code
    assert f'exec: "{command}"'.encode() in result.stderr


async def test_exec_sync_is_bounded_in_time_and_size(bench: Any) -> None:
    id = await bench.start("sleep 44")
    result = await bench.runtime.exec_sync(id, ("sh", "-c", "yes | head -c 100000"), timeout=5)
    assert (result.exit_code, len(result.stdout)) == (0, 16384)
    with pytest.raises(TimeoutError, match="timed out"):
        await bench.runtime.exec_sync(id, ("sleep", "30"), timeout=0.15)
    listed = await bench.runtime.exec_sync(id, ("ps", "-o", "args"), timeout=5)
    assert b"sleep 30" not in listed.stdout


async def test_a_closed_session_kills_its_process(bench: Any) -> None:
    id = await bench.start("sleep 45")
    session = await bench.runtime.exec(id, ("sh", "-c", "echo up; sleep 30"))
    async for _ in session.output():
        break
    await session.close()
    listed = await bench.runtime.exec_sync(id, ("ps", "-o", "args"), timeout=5)
    assert b"sleep 30" not in listed.stdout


async def test_exec_needs_a_running_container(bench: Any) -> None:
    id = await bench.start("true")
    await bench.wait(id)
    with pytest.raises(RuntimeFault, match="is not running"):
        await bench.runtime.exec(id, ("true",))


async def test_attach_speaks_with_the_container(bench: Any) -> None:
    id = await bench.start("while read line; do echo got $line; echo err >&2; done; exit 6", stdin=True,
                           stdin_once=True)  # fmt: skip
    session = await bench.runtime.attach(id, stdin=True, stdout=True, stderr=True)
    await session.write(b"one\n")
    got = {1: bytearray(), 2: bytearray()}
    async with asyncio.timeout(5):
        async for stream, data in session.output():
            got[stream].extend(data)
            if got[1] == b"got one\n" and got[2] == b"err\n":
                break
        await session.close_stdin()
        assert await session.wait() == 6
    await session.close()


async def test_attach_with_a_terminal(bench: Any) -> None:
    id = await bench.start("until stty size | grep 111; do sleep 0.01; done; read x; echo end $x", stdin=True, tty=True)
    session = await bench.runtime.attach(id, stdin=True, stdout=True, stderr=True)
    await session.resize(111, 22)
    await bench.says(id, "22 111")
    await session.write(b"y\n")
    assert await session.wait() == 0
    await session.close()
    assert "end y" in await bench.log(id)


async def test_no_descriptor_leaks(bench: Any) -> None:
    id = await bench.start("sleep 46")
    await bench.runtime.exec_sync(id, ("true",), timeout=5)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        await bench.runtime.exec_sync(id, ("true",), timeout=5)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
