"""The event hub, the watch on exit files, and other small parts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pinnace.runtime import conmon, pause, sandboxes
from pinnace.runtime.cri import RuntimeEvent, RuntimeFault
from pinnace.runtime.events import EventHub, ExitWatch


def event(number: int) -> RuntimeEvent:
    return RuntimeEvent("started", "s", str(number))


async def test_each_consumer_gets_everything_from_its_subscription_on() -> None:
    hub = EventHub()
    hub.publish(event(0))
    first = hub.subscribe()
    hub.publish(event(1))
    second = hub.subscribe()
    hub.publish(event(2))
    assert [await anext(first), await anext(first)] == [event(1), event(2)]
    assert await anext(second) == event(2)


async def test_a_slow_consumer_loses_the_oldest_and_is_told() -> None:
    hub = EventHub(backlog=4)
    slow = hub.subscribe()
    for number in range(10):
        hub.publish(event(number))
    got = [await anext(slow) for _ in range(5)]
    assert got == [RuntimeEvent("resync", "", ""), event(6), event(7), event(8), event(9)]


async def test_exit_files_are_seen_those_of_before_too(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("3")
    seen: list[tuple[str, int]] = []
    woken = asyncio.Event()

    def found(name: str, code: int, when: float) -> None:
        assert when > 0
        seen.append((name, code))
        woken.set()

    watch = ExitWatch(tmp_path, found)
    watch.open()
    try:
        assert seen == [("old", 3)]
        woken.clear()
        (tmp_path / "new.TMP").write_text("137")
        (tmp_path / "new.TMP").rename(tmp_path / "new")
        async with asyncio.timeout(5):
            await woken.wait()
        assert seen[1:] == [("new", 137)]
    finally:
        watch.close()


@pytest.mark.parametrize(("name", "number"), [
    ("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGQUIT", 3), ("SIGRTMIN+3", 37), ("", 15),
    ("SIGNONSENSE", 15), ("99", 15),
])  # fmt: skip
def test_stop_signals(name: str, number: int) -> None:
    assert conmon.signal_number(name) == number


@pytest.mark.parametrize(("name", "path"), [
    ("net.ipv4.tcp_syncookies", "net/ipv4/tcp_syncookies"),
    ("kernel/shm_rmid_forced", "kernel/shm_rmid_forced"),
    ("net.ipv4.conf.eth0/100.forwarding", "net/ipv4/conf/eth0.100/forwarding"),
    ("net/ipv4/conf/eth0.100/forwarding", "net/ipv4/conf/eth0.100/forwarding"),
])  # fmt: skip
def test_names_of_sysctls(name: str, path: str) -> None:
    assert sandboxes.sysctl_path(name) == path


@pytest.mark.parametrize("name", ["net/../../etc/passwd", "net..x", "/etc/passwd", ""])
def test_what_is_no_sysctl(name: str) -> None:
    with pytest.raises(RuntimeFault):
        sandboxes.sysctl_path(name)


def test_the_pause_program_ends_with_its_sigaction() -> None:
    for architecture, machine in (("amd64", 62), ("arm64", 183)):
        program = pause.executable(architecture)
        assert program is not None
        assert program[:4] == b"\x7fELF"
        assert int.from_bytes(program[18:20], "little") == machine
        assert program[-32:] == (1).to_bytes(8, "little") + (2).to_bytes(8, "little") + bytes(16)
    assert pause.executable("mips") is None
