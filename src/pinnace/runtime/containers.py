"""A container's files on this machine: root file system, bundle, image volumes; made and removed. Blocking.

`engine.py` calls `prepare` on a thread of its own (it changes that thread's working directory, so that the mount
options of deep images stay short), then hands the bundle to conmon.
"""

# Directory trees are walked with os.walk, whose paths are strings.
# ruff: noqa: PTH101, PTH103, PTH114, PTH116, PTH118

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from pinnace.runtime import linux, oci
from pinnace.runtime.cri import ContainerSpec, Device, Mount, RuntimeFault
from pinnace.runtime.images.store import ImageStore, StoredImage
from pinnace.runtime.users import resolve_user

MAX_PASSWD = 4 << 20
# Overlay's `volatile` skips syncing the upper layer, which nobody reads after a crash: removal stays quick while
# the disk is busy. Kernels before 5.10 do not know it.
_volatile = [True]


@dataclass(frozen=True, slots=True)
class Prepared:
    image_id: str
    stop_signal: str


def mount_rootfs(store: ImageStore, image: StoredImage, directory: Path) -> None:
    """Put the image's layers and a fresh upper one together at `directory`/rootfs."""
    for name in ("rootfs", "upper", "work"):
        (directory / name).mkdir(mode=0o755)
    (directory / "upper").chmod(0o755)
    if not image.chain:
        raise RuntimeFault(f"image {image.id} has no layers")
    _inherit_root(store.layer(image.chain[-1]), directory / "upper")
    linux.unshare(linux.CLONE_FS)
    os.chdir(store.links)
    lowers = ":".join(store.short(chain) for chain in reversed(image.chain))
    options = f"lowerdir={lowers},upperdir={directory}/upper,workdir={directory}/work"
    if len(options) > 4000:
        raise RuntimeFault(f"mount options of image {image.id} exceed a page")
    target = str(directory / "rootfs")
    if _volatile[0]:
        try:
            linux.mount("overlay", target, "overlay", 0, options + ",volatile")
            return
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            _volatile[0] = False
    linux.mount("overlay", target, "overlay", 0, options)


def _inherit_root(lower: Path, upper: Path) -> None:
    """The root directory's own mode and owner come from the upper layer."""
    found = lower.stat()
    os.chown(upper, found.st_uid, found.st_gid)
    upper.chmod(stat.S_IMODE(found.st_mode))


def prepare(
    directory: Path, spec: ContainerSpec, image: StoredImage, store: ImageStore, sandbox: oci.SandboxView,
    host: oci.HostView, cgroup: str, log_path: str,
) -> Prepared:  # fmt: skip
    """Make the root file system and the bundle. On failure the caller removes the directory."""
    try:
        directory.mkdir(mode=0o700)
        Path(log_path).parent.mkdir(0o755, parents=True, exist_ok=True)
        mount_rootfs(store, image, directory)
        return _write_bundle(directory, spec, image, store, sandbox, host, cgroup)
    except OSError as error:
        raise RuntimeFault(f"failed to create containerd container: {error}") from error


def _write_bundle(
    directory: Path, spec: ContainerSpec, image: StoredImage, store: ImageStore, sandbox: oci.SandboxView,
    host: oci.HostView, cgroup: str,
) -> Prepared:  # fmt: skip
    config = store.config(image.id).run_config()
    rootfs = directory / "rootfs"
    user = resolve_user(
        spec.security, config.user, read_in_root(rootfs, "etc/passwd"), read_in_root(rootfs, "etc/group")
    )
    spec = replace(spec, mounts=(*_image_volumes(directory, rootfs, spec, config), *_host_mounts(spec)))
    cwd = spec.working_dir or config.working_dir or "/"
    if not cwd.startswith("/"):
        raise RuntimeFault(f"working directory {cwd!r} is not absolute")
    devices = host.devices if spec.security.privileged else spec.devices
    document = oci.config(
        spec, config, sandbox, user, host, rootfs=str(rootfs), cgroup=cgroup,
        devices=[device_entry(device) for device in devices], seccomp=_profile(spec),
    )  # fmt: skip
    (directory / "config.json").write_bytes(msgspec.json.encode(document))
    return Prepared(image.id, spec.stop_signal or config.stop_signal or "SIGTERM")


def prepare_pause(directory: Path, program: bytes, sandbox: oci.SandboxView, host: oci.HostView, cgroup: str) -> None:
    """The bundle of the process that holds a shared PID namespace."""
    rootfs = directory / "rootfs"
    for name in ("dev", "proc", "sys", "etc"):
        (rootfs / name).mkdir(parents=True)
        (rootfs / name).chmod(0o755)
    rootfs.chmod(0o755)
    for name in ("etc/hostname", "etc/resolv.conf"):
        (rootfs / name).touch()
    (rootfs / "pause").write_bytes(program)
    (rootfs / "pause").chmod(0o755)
    spec = ContainerSpec(name="pause", image="", command=("/pause",), resources=oci.PAUSE_RESOURCES)
    user = resolve_user(spec.security, "65535", "", "")
    document = oci.config(spec, oci.ImageConfig(), sandbox, user, host, rootfs=str(rootfs), cgroup=cgroup)
    document["root"]["readonly"] = True
    document["process"]["capabilities"] = {}
    document["process"]["noNewPrivileges"] = True
    (directory / "config.json").write_bytes(msgspec.json.encode(document))


def read_in_root(rootfs: Path, name: str) -> str:
    """A text file of the image, its symbolic links followed inside the image only; empty if there is none."""
    try:
        fd = linux.open_in_root(str(rootfs), name)
    except OSError:
        return ""
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        return file.read(MAX_PASSWD).decode("utf-8", "replace")


def _host_mounts(spec: ContainerSpec) -> tuple[Mount, ...]:
    """Sources made where they are missing and links in them followed, as containerd does."""
    out = []
    for mount in spec.mounts:
        source = os.path.realpath(mount.host_path)
        if not os.path.lexists(source):
            try:
                os.makedirs(source, 0o755, exist_ok=True)
            except OSError as error:
                raise RuntimeFault(f'failed to mkdir "{mount.host_path}": {error.strerror}') from error
        if mount.propagation == "bidirectional":
            point, tags = linux.mount_propagation(source)
            if "shared" not in tags:
                raise RuntimeFault(f'path "{source}" is mounted on "{point}" but it is not a shared mount')
        out.append(replace(mount, host_path=source))
    return tuple(out)


def _image_volumes(
    directory: Path, rootfs: Path, spec: ContainerSpec, config: oci.ImageConfig
) -> tuple[Mount, ...]:
    """Each VOLUME of the image that the pod does not mount over becomes a directory with the image's content."""
    taken = {os.path.normpath(mount.container_path) for mount in spec.mounts}
    out = []
    for path in config.volumes:
        if os.path.normpath(path) in taken or os.path.normpath(path) == "/":
            continue
        source = directory / "volumes" / hashlib.sha256(path.encode()).hexdigest()[:16]
        source.mkdir(parents=True)
        source.chmod(0o755)  # whatever our umask is
        with contextlib.suppress(OSError):
            fd = linux.open_in_root(str(rootfs), path.lstrip("/"), directory=True)
            try:
                copy_tree(f"/proc/self/fd/{fd}", source)
            finally:
                os.close(fd)
        out.append(Mount(container_path=path, host_path=str(source)))
    return tuple(out)


def copy_tree(source: str, target: Path) -> None:
    """Copy a directory with owners, modes and links; devices and sockets are left out."""
    shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True, ignore=_special, copy_function=_copy)
    for directory, names, _ in os.walk(target):
        relative = os.path.relpath(directory, target)
        _own(os.path.join(source, relative), directory)
        for name in names:
            _own(os.path.join(source, relative, name), os.path.join(directory, name))


def _special(directory: str, names: list[str]) -> list[str]:
    kinds = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)
    return [name for name in names if stat.S_IFMT(os.lstat(os.path.join(directory, name)).st_mode) not in kinds]


def _copy(source: str, target: str) -> None:
    shutil.copyfile(source, target, follow_symlinks=False)
    _own(source, target)


def _own(source: str, target: str) -> None:
    found = os.lstat(source) if os.path.islink(source) and not source.startswith("/proc/self/fd") else os.stat(source)
    os.lchown(target, found.st_uid, found.st_gid)
    if not stat.S_ISLNK(found.st_mode):
        os.chmod(target, stat.S_IMODE(found.st_mode))


def device_entry(device: Device) -> dict[str, Any]:
    """The OCI entry of a device node of this machine."""
    try:
        found = os.stat(device.host_path)
    except OSError as error:
        raise RuntimeFault(f'error gathering device information while adding custom device "{device.host_path}": '
                           f"{error.strerror}") from error  # fmt: skip
    if not (stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)):
        raise RuntimeFault(f'error gathering device information while adding custom device "{device.host_path}": '
                           "not a device node")  # fmt: skip
    return {
        "path": device.container_path,
        "type": "c" if stat.S_ISCHR(found.st_mode) else "b",
        "major": os.major(found.st_rdev),
        "minor": os.minor(found.st_rdev),
        "fileMode": stat.S_IMODE(found.st_mode),
        "uid": found.st_uid,
        "gid": found.st_gid,
    }


def host_devices() -> tuple[Device, ...]:
    """Every device node of the machine, for privileged containers (at most 4,096)."""
    out: list[Device] = []
    skipped = {"/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd", "/dev/console"}
    for directory, names, files in os.walk("/dev"):
        names[:] = [name for name in names if os.path.join(directory, name) not in skipped]
        for name in files:
            path = os.path.join(directory, name)
            with contextlib.suppress(OSError):
                mode = os.lstat(path).st_mode
                if path not in skipped and (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)) and len(out) < 4096:
                    out.append(Device(path, path))
    return tuple(out)


def _profile(spec: ContainerSpec) -> Mapping[str, Any] | None:
    """The profile that `seccomp` names by its path."""
    name = spec.security.seccomp
    if name in ("", "Unconfined", "RuntimeDefault") or spec.security.privileged:
        return None
    path = Path(name.removeprefix("localhost/"))
    try:
        document = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.MsgspecError) as error:
        raise RuntimeFault(f"cannot load seccomp profile {str(path)!r}: {error}") from error
    if not isinstance(document, dict):
        raise RuntimeFault(f"cannot load seccomp profile {str(path)!r}: not an object")
    return document


def remove(directory: Path) -> None:
    """Unmount the root file system and delete everything; nothing happens if it is gone."""
    linux.unmount_all(str(directory / "rootfs"))
    for _ in range(10):
        try:
            shutil.rmtree(directory)
            return
        except FileNotFoundError:
            # Or only a file in it: an ending conmon removes its own.
            if not directory.exists():
                return
        except OSError:
            for point in linux.mounts_below(str(directory)):
                linux.unmount_all(point)
    shutil.rmtree(directory, ignore_errors=True)


def upper_usage(directory: Path, limit: int = 200_000) -> int:
    """Bytes in the writable layer (of at most so many files)."""
    total, seen = 0, set[int]()
    for top in ("upper", "volumes"):
        for path, names, files in os.walk(directory / top):
            for name in (*files, *names):
                with contextlib.suppress(FileNotFoundError):
                    found = os.lstat(os.path.join(path, name))
                    if found.st_ino not in seen:
                        seen.add(found.st_ino)
                        total += found.st_blocks * 512
                if len(seen) >= limit:
                    return total
    return total
