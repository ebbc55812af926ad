"""The system calls that Python 3.11 has no function for, and threads of our own to make them in.

The lowest floor of the runtime: everything above asks for mounts, namespaces and notifications here, so that
no step of a container's life has to start a program (`ip`, `mount`, `nsenter`) for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import signal
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

CLONE_FS = 0x00000200
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

IN_CLOSE_WRITE = 0x8
IN_MOVED_TO = 0x80
IN_CLOEXEC = 0o2000000
IN_NONBLOCK = 0o4000

SYS_OPENAT2 = 437                        # the same number on every architecture
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_IN_ROOT = 0x10

SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1

CAP_SYS_RESOURCE = 24

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2). `data` may not exceed a page (4096 bytes)."""
    _check(
        _libc.mount(
            os.fsencode(source), os.fsencode(target), kind.encode() or None, ctypes.c_ulong(flags),
            os.fsencode(data) or None,
        ),
        f"mount {kind or source} at {target}",
    )  # fmt: skip


def bind(source: str, target: str) -> None:
    """Show `source` at `target` as well."""
    mount(source, target, "none", MS_BIND)


def unmount(target: str) -> bool:
    """Take away whatever is mounted at the target, busy or not; False if nothing is."""
    if _libc.umount2(os.fsencode(target), MNT_DETACH) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOENT):
        return False
    raise OSError(number, f"unmount {target}: {os.strerror(number)}")


def unmount_all(target: str) -> None:
    """Take away the mounts at the target, stacked ones too (at most 32)."""
    for _ in range(32):
        if not unmount(target):
            return


def mounts_below(directory: str) -> list[str]:
    """Mount points at or below a directory, the deepest first."""
    prefix = directory.rstrip("/")
    found: list[str] = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split(" ")[4].encode().decode("unicode_escape")
        if point == prefix or point.startswith(prefix + "/"):
            found.append(point)
    return sorted(found, key=len, reverse=True)


def mount_propagation(path: str) -> tuple[str, frozenset[str]]:
    """The mount point that a path lies on, and its propagation tags ("shared", "master")."""
    best, tags = "", frozenset[str]()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split(" ")
        point = fields[4].encode().decode("unicode_escape")
        if len(point) >= len(best) and (path == point or point == "/" or path.startswith(point + "/")):
            optional = fields[6 : fields.index("-")]
            best, tags = point, frozenset(tag.partition(":")[0] for tag in optional)
    return best, tags


def unshare(flags: int) -> None:
    """Give the calling thread namespaces (or a working directory, CLONE_FS) of its own."""
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, kind: int = 0) -> None:
    """Move the calling thread into a namespace."""
    _check(_libc.setns(fd, kind), "setns")


def sethostname(name: str) -> None:
    raw = name.encode()
    _check(_libc.sethostname(raw, ctypes.c_size_t(len(raw))), "sethostname")


def open_in_root(root: str, name: str, *, directory: bool = False) -> int:
    """Open a file for reading with `root` as the root: no link and no `..` leads out of it (openat2)."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_DIRECTORY if directory else 0)
    how = struct.pack("QQQ", flags, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    base = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _check(
            _libc.syscall(ctypes.c_long(SYS_OPENAT2), base, os.fsencode(name), how, ctypes.c_size_t(len(how))),
            f"open {name} in {root}",
        )
    finally:
        os.close(base)


def syncfs(path: str) -> None:
    """Everything written to the path's file system so far reaches the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.syncfs(fd), f"syncfs {path}")
    finally:
        os.close(fd)


def bring_up(interface: str) -> None:
    """Set an interface up in the calling thread's network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        request = struct.pack("16sH14x", interface.encode(), 0)
        (flags,) = struct.unpack_from("H", fcntl.ioctl(sock, SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH14x", interface.encode(), flags | IFF_UP))


def namespace_path(kind: str) -> str:
    """Where the calling thread's namespace of a kind ("net", "ipc", "uts") shows in /proc."""
    return f"/proc/self/task/{threading.get_native_id()}/ns/{kind}"


def on_new_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    """Run `work` on a thread made for it.

    Namespaces and CLONE_FS belong to the thread; it ends afterwards, so nothing has to be put back.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def resolve(result: T | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # T may be None itself

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as caught:
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(resolve, result, error)

    threading.Thread(target=run, name="pinnace-namespace", daemon=True).start()
    return future


def inotify(directory: str, mask: int) -> int:
    """A non-blocking descriptor that becomes readable when the directory changes."""
    fd = _check(_libc.inotify_init1(IN_CLOEXEC | IN_NONBLOCK), "inotify_init")
    try:
        _check(_libc.inotify_add_watch(fd, os.fsencode(directory), mask), f"watch {directory}")
    except OSError:
        os.close(fd)
        raise
    return fd


def inotify_names(fd: int) -> list[str] | None:
    """The names that changed; None when the kernel's queue overflowed and the directory must be read."""
    names: list[str] = []
    try:
        data = os.read(fd, 65536)
    except BlockingIOError:
        return names
    offset = 0
    while offset < len(data):
        _, mask, _, length = struct.unpack_from("iIII", data, offset)
        if mask & 0x4000:  # IN_Q_OVERFLOW
            return None
        raw = data[offset + 16 : offset + 16 + length].rstrip(b"\0")
        names.append(os.fsdecode(raw))
        offset += 16 + length
    return names


def started_ticks(pid: int) -> int:
    """When the kernel started a process (clock ticks since boot): with the pid, its identity. 0 if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    fields = text[text.rindex(b")") + 2 :].split()
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def send_signal(pid: int, ticks: int, number: int) -> bool:
    """Signal exactly the process that was started at `ticks`; False if it is gone."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if started_ticks(pid) != ticks:
            return False
        signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True


def boot_id() -> str:
    """Changes when the machine starts anew: then no process and no mount of before exists."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def effective_capabilities() -> int:
    """This process's effective capabilities as a bit set."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def lowest_oom_score_adj() -> int | None:
    """The lowest oom_score_adj that we may give to a process; None: any."""
    if effective_capabilities() & 1 << CAP_SYS_RESOURCE:
        return None
    return int(Path("/proc/self/oom_score_adj").read_text())


def machine() -> str:
    """The architecture in Go's words, as images name it."""
    names = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
    return names.get(platform.machine(), platform.machine())
