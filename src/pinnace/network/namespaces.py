"""Named network namespaces, as `ip netns` keeps them: bind mounts under /run/netns.

A namespace belongs to a thread, not to a process: to act inside another one, a thread of ours enters it and
ends there (`run_in`); what it opened (a socket, an nftables handle) stays bound to that namespace and may be
used from anywhere. The event loop's own thread never changes its namespace, unless a whole process is meant
to live in one (`enter`, before any other thread is started).
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

DIRECTORY = Path("/run/netns")

_CLONE_NEWNET = 0x40000000
_MS_BIND = 0x1000
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def path_of(name: str) -> str:
    return str(DIRECTORY / name)


def create(name: str) -> str:
    """Make a namespace with its loopback down; returns its path. Raises FileExistsError if there is one."""
    DIRECTORY.mkdir(mode=0o755, parents=True, exist_ok=True)
    path = path_of(name)
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    try:
        _in_thread(_unshare_and_bind, path)
    except BaseException:
        Path(path).unlink()
        raise
    return path


def delete(name: str) -> bool:
    """Drop the name; the namespace goes with the last process and socket in it. False if there is no such name."""
    path = path_of(name)
    while _libc.umount2(os.fsencode(path), _MNT_DETACH) == 0:
        pass
    number = ctypes.get_errno()
    if number not in (errno.EINVAL, errno.ENOENT):
        raise OSError(number, f"unmount {path}: {os.strerror(number)}")
    try:
        Path(path).unlink()
    except FileNotFoundError:
        return False
    return True


def names(prefix: str = "") -> list[str]:
    """The names that begin so, sorted; leftovers of a crash (a file without its mount) are among them."""
    try:
        return sorted(entry.name for entry in DIRECTORY.iterdir() if entry.name.startswith(prefix))
    except FileNotFoundError:
        return []


def exists(name: str) -> bool:
    """Whether there is a live namespace of that name: /run/netns/NAME is on nsfs, not a leftover file."""
    path = path_of(name)
    try:
        return Path(path).stat().st_dev != DIRECTORY.stat().st_dev
    except FileNotFoundError:
        return False


def enter(path: str) -> None:
    """Move the calling thread (of a process with no other one: the whole process) into a namespace for good."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"enter {path}: {os.strerror(number)}")
    finally:
        os.close(descriptor)


def run_in(path: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a namespace, from a thread that lives only for that, and give back its result."""

    def inside() -> T:
        enter(path)
        return function(*args, **kwargs)

    return _in_thread(inside)


def write_sysctl(name: str, value: int | str, *, required: bool = True) -> bool:
    """Set `net.ipv4.ip_forward` and the like in the calling thread's namespace; False if there is no such one."""
    path = "/proc/sys/" + name.replace(".", "/")
    try:
        # No buffering, no truncation: the kernel takes exactly one write.
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        if required:
            raise
        return False
    try:
        os.write(descriptor, str(value).encode())
    finally:
        os.close(descriptor)
    return True


def read_sysctl(name: str) -> str | None:
    """The value in the calling thread's namespace, or None if there is no such setting."""
    try:
        return Path("/proc/sys/" + name.replace(".", "/")).read_text().strip()
    except FileNotFoundError:
        return None


def _unshare_and_bind(path: str) -> None:
    if _libc.unshare(_CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"new network namespace: {os.strerror(number)}")
    own = f"/proc/self/task/{threading.get_native_id()}/ns/net"
    if _libc.mount(os.fsencode(own), os.fsencode(path), b"none", ctypes.c_ulong(_MS_BIND), None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"bind {path}: {os.strerror(number)}")


def _in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of a call that a thread of its own makes; its exception is raised here."""
    result: list[T] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            result.append(function(*args, **kwargs))
        except BaseException as error:  # carried over to the caller, who raises it
            failure.append(error)

    thread = threading.Thread(target=body, name="netns", daemon=True)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]
