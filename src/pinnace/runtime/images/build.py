"""Makes small images without any tool or download: from a directory, from busybox, from the running Python.

For trials without a network, for the demo, and for the tests. The result is an OCI layout in a tar file, with a
manifest.json beside the index, so that `docker load`, `ctr import` and `pinnace image load` all take it. The
same input gives the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pinnace.runtime.images import references
from pinnace.runtime.linux import machine

BUSYBOX_TAG = "pinnace.local/busybox:latest"
PYTHON_TAG = "pinnace.local/python:latest"
EPOCH = 1_767_225_600                    # 2026-01-01: images do not change with the day they are made on


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to run the image."""

    entrypoint: Sequence[str] = ()
    cmd: Sequence[str] = ()
    env: Mapping[str, str] | None = None
    user: str = ""
    working_dir: str = ""
    stop_signal: str = ""
    exposed_ports: Sequence[str] = ()
    volumes: Sequence[str] = ()

    def config(self) -> dict[str, Any]:
        values: dict[str, Any] = {
            "Entrypoint": list(self.entrypoint),
            "Cmd": list(self.cmd),
            "Env": [f"{name}={value}" for name, value in (self.env or {}).items()],
            "User": self.user,
            "WorkingDir": self.working_dir,
            "StopSignal": self.stop_signal,
            "ExposedPorts": {port: {} for port in self.exposed_ports},
            "Volumes": {path: {} for path in self.volumes},
        }
        return {name: value for name, value in values.items() if value}


def build_image(path: str | Path, tag: str, rootfs: str | Path, recipe: Recipe = Recipe()) -> str:
    """Write an image of one layer with the content of a directory (owners become root). Returns the image's id."""
    return write_archive(path, tag, [layer_of(Path(rootfs))], recipe)


def layer_of(rootfs: Path) -> bytes:
    """A directory's content as a layer: sorted, owned by root, without times."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for directory, names, files in os.walk(rootfs):
            names.sort()
            relative = Path(directory).relative_to(rootfs)
            linked = [name for name in names if Path(directory, name).is_symlink()]
            for name in sorted([*files, *linked]):
                _add(tar, Path(directory, name), relative / name)
            for name in names:
                if name not in linked:
                    _add(tar, Path(directory, name), relative / name)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, path: Path, name: Path) -> None:
    info = tar.gettarinfo(path, arcname=str(name))
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mtime = EPOCH
    if info.isreg():
        with path.open("rb") as file:
            tar.addfile(info, file)
    else:
        tar.addfile(info)


def write_archive(path: str | Path, tag: str, layers: Sequence[bytes], recipe: Recipe) -> str:
    """Write layers (tars) and a configuration as an image archive. Returns the image's id."""
    reference = references.parse(tag)
    created = "2026-01-01T00:00:00Z"
    diff_ids = [_digest(layer) for layer in layers]
    config = _json({
        "created": created,
        "architecture": machine(),
        "os": "linux",
        "config": recipe.config(),
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created": created, "created_by": "pinnace"} for _ in layers],
    })  # fmt: skip
    oci = "application/vnd.oci.image"
    manifest = _json({
        "schemaVersion": 2,
        "mediaType": f"{oci}.manifest.v1+json",
        "config": _descriptor(f"{oci}.config.v1+json", config),
        "layers": [_descriptor(f"{oci}.layer.v1.tar", layer) for layer in layers],
    })  # fmt: skip
    index = _json({
        "schemaVersion": 2,
        "mediaType": f"{oci}.index.v1+json",
        "manifests": [
            _descriptor(f"{oci}.manifest.v1+json", manifest)
            | {"annotations": {
                "io.containerd.image.name": str(reference),
                "org.opencontainers.image.ref.name": reference.tag,
            }},
        ],
    })  # fmt: skip
    docker = _json([{
        "Config": _blob_name(config),
        "RepoTags": [str(reference)],
        "Layers": [_blob_name(layer) for layer in layers],
    }])  # fmt: skip
    with Path(path).open("wb") as file:
        _write_tar(file, {
            "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
            "index.json": index,
            "manifest.json": docker,
            **{_blob_name(blob): blob for blob in (manifest, config, *layers)},
        })  # fmt: skip
    return _digest(config)


def _write_tar(file: IO[bytes], content: Mapping[str, bytes]) -> None:
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = len(data), EPOCH, 0o644
            tar.addfile(info, io.BytesIO(data))


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _blob_name(data: bytes) -> str:
    return f"blobs/sha256/{hashlib.sha256(data).hexdigest()}"


def _descriptor(kind: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": _digest(data), "size": len(data)}


def base_rootfs(root: Path) -> None:
    """What programs expect to find in any root file system."""
    for name in ("bin", "dev", "etc", "home", "proc", "root", "run", "sys", "tmp", "usr/bin", "usr/sbin", "sbin",
                 "var/tmp", "var/log", "usr/share"):  # fmt: skip
        _directory(root / name, root)
    for name in ("tmp", "var/tmp"):
        (root / name).chmod(0o1777)
    (root / "root").chmod(0o700)
    _write(root / "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\n"
        "daemon:x:1:1:daemon:/usr/sbin:/bin/false\n"
        "www-data:x:33:33:www-data:/var/www:/bin/false\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
    )
    _write(root / "etc/group",
        "root:x:0:\ndaemon:x:1:\ntty:x:5:\nwww-data:x:33:\nusers:x:100:\nnogroup:x:65534:\n"
    )
    _write(root / "etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
    _write(root / "etc/hosts", "127.0.0.1\tlocalhost\n")


def _directory(path: Path, root: Path) -> None:
    """A directory that everyone may enter, whatever our umask is; those above it as well."""
    if path == root or path.is_dir():
        return
    _directory(path.parent, root)
    path.mkdir()
    path.chmod(0o755)


def _write(path: Path, content: bytes | str) -> None:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(0o644)


def add_busybox(root: Path, busybox: str = "/bin/busybox") -> None:
    """A static busybox with a link for each of its applets."""
    shutil.copy(busybox, root / "bin/busybox")
    (root / "bin/busybox").chmod(0o755)
    listing = subprocess.run([busybox, "--list-full"], check=True, capture_output=True, text=True, timeout=30)
    for applet in listing.stdout.split():
        link = root / applet
        _directory(link.parent, root)
        if not link.exists() and not link.is_symlink() and link.name != "busybox":
            link.symlink_to(os.path.relpath(root / "bin/busybox", link.parent))
    if not (root / "bin/sh").exists():
        (root / "bin/sh").symlink_to("busybox")


def build_busybox(path: str | Path, tag: str = BUSYBOX_TAG, *, busybox: str = "/bin/busybox") -> str:
    """An image with the machine's static busybox (Debian: busybox-static); runs `sh`. Returns its id."""
    with tempfile.TemporaryDirectory(prefix="pinnace-build-") as directory:
        root = Path(directory)
        base_rootfs(root)
        add_busybox(root, busybox)
        return build_image(path, tag, root, Recipe(cmd=("sh",)))


# Parts of the standard library that a server in a container has no use for.
_LEFT_OUT = frozenset({
    "test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "pydoc_data", "site-packages",
    "dist-packages", "__pycache__", "idle_test", "config",
})  # fmt: skip


def build_python(
    path: str | Path, tag: str = PYTHON_TAG, *, files: Mapping[str, bytes | str] | None = None,
    recipe: Recipe | None = None, busybox: str | None = "/bin/busybox",
) -> str:
    """An image with the running interpreter, its standard library and the shared libraries they need.

    `files` are added by absolute name (e.g. `/app/server.py`); `busybox` adds a shell. Returns the image's id.
    """
    with tempfile.TemporaryDirectory(prefix="pinnace-build-") as directory:
        root = Path(directory)
        base_rootfs(root)
        if busybox is not None and Path(busybox).exists():
            add_busybox(root, busybox)
        _add_python(root)
        for name, content in (files or {}).items():
            target = root / name.lstrip("/")
            _directory(target.parent, root)
            _write(target, content)
        return build_image(
            path, tag, root, recipe or Recipe(cmd=("python3",), env={"PYTHONUNBUFFERED": "1", "LANG": "C.UTF-8"})
        )


def _add_python(root: Path) -> None:
    """Under /usr/local: the interpreter looks for its library beside itself, wherever it was built for."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    executable = Path(sys.base_prefix, "bin", version)
    if not executable.exists():
        executable = Path(os.path.realpath(sys.executable))
    target = root / "usr/local/lib" / version
    _directory(target, root)
    for key in ("stdlib", "platstdlib"):
        source = Path(sysconfig.get_path(key)).resolve()
        shutil.copytree(source, target, dirs_exist_ok=True, symlinks=True, ignore=_ignored)
    _directory(root / "usr/local/bin", root)
    shutil.copy(executable.resolve(), root / "usr/local/bin" / version)
    for directory in ("usr/local/bin", "usr/bin"):
        for name in ("python3", "python"):
            (root / directory / name).symlink_to(f"/usr/local/bin/{version}")
    _strip(root / "usr/local/bin" / version)
    for library in _libraries({executable.resolve(), *(target / "lib-dynload").glob("*.so")}):
        copy = root / str(library).lstrip("/")
        _directory(copy.parent, root)
        if not copy.exists():
            shutil.copy(library, copy)
        _strip(copy)
        if library.is_relative_to("/root"):
            (root / "root").chmod(0o755)  # a pyenv of root's: other users must be able to load it


def _strip(program: Path) -> None:
    """Leave out what only debuggers read, where the machine has binutils: a pyenv's libpython is mostly that."""
    strip = shutil.which("strip")
    if strip is not None:
        program.chmod(0o755)
        subprocess.run([strip, "--strip-debug", str(program)], check=False, capture_output=True, timeout=60)


def _ignored(directory: str, names: list[str]) -> set[str]:
    return {
        name for name in names
        if name in _LEFT_OUT
        or name.endswith((".pyc", ".a"))
        or name.startswith(("config-", "_tkinter.", "_test", "_xxtest", "xxlimited", "_codecs_", "nis."))
    }  # fmt: skip


def _libraries(programs: set[Path]) -> set[Path]:
    """The shared libraries that the programs load, as `ldd` names them, the loader included."""
    found: set[Path] = set()
    result = subprocess.run(
        ["ldd", *map(str, sorted(programs))], check=False, capture_output=True, text=True, timeout=60
    )
    for match in re.finditer(r"(?:=>\s*)?(/\S+)\s+\(0x", result.stdout):
        found.add(Path(match.group(1)))
    return found
