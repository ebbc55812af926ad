"""Unpacking one layer (a tar stream) into a directory that overlayfs can use as a lower layer.

Whiteouts become overlayfs's own: a character device 0/0, and the xattr trusted.overlay.opaque. Nothing is ever
written outside the directory: names with `..` are refused, absolute names count from the image's root, and
symbolic links in the way are resolved inside the image, as they would be in the running container. The
directory is ours alone (0700 above it), so checks by path hold.
"""

# Paths are strings here: for an image of ten thousand files, Path objects would be half of the work.
# ruff: noqa: PTH101, PTH102, PTH108, PTH112, PTH114, PTH115, PTH120, PTH123, PTH211

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import os
import shutil
import stat
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from pinnace.runtime.cri import RuntimeFault

CHUNK = 1 << 20
MAX_HEADER = 1 << 20                     # an extended header or long name
OPAQUE_XATTR = "trusted.overlay.opaque"
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_HEADER_TYPES = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
                 tarfile.GNUTYPE_LONGLINK)  # fmt: skip


class BadLayer(RuntimeFault):
    """The layer is damaged or hostile."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much a layer may hold."""

    entries: int = 2_000_000
    size: int = 64 << 30
    depth: int = 255


class _TarInfo(tarfile.TarInfo):
    """Refuses extended headers that tarfile would otherwise read into memory whatever their size."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _TarInfo:
        info = super().frombuf(buf, encoding, errors)
        if info.type in _HEADER_TYPES and info.size > MAX_HEADER:
            raise BadLayer(f"tar header of {info.size} bytes exceeds {MAX_HEADER}")
        return info


class HashingReader:
    """Passes a stream on, hashing and counting what goes by."""

    def __init__(self, source: BinaryIO, limit: int) -> None:
        self._source = source
        self._hash = hashlib.sha256()
        self._limit = limit
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self.count += len(data)
        if self.count > self._limit:
            raise BadLayer(f"layer is larger than {self._limit} bytes")
        self._hash.update(data)
        return data

    def finish(self) -> str:
        """Read what is left and return the digest of all."""
        while self.read(CHUNK):
            pass
        return "sha256:" + self._hash.hexdigest()


def decompressed(file: BinaryIO) -> BinaryIO:
    """A stream of the tar inside: plain, gzip, or zstd where Python has it (3.14)."""
    magic = file.read(4)
    file.seek(0)
    if magic[:2] == b"\x1f\x8b":
        return cast(BinaryIO, gzip.GzipFile(fileobj=file, mode="rb"))
    if magic == b"\x28\xb5\x2f\xfd":
        try:
            from compression import zstd  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            raise BadLayer("zstd-compressed layers need Python 3.14 or later") from None
        return cast(BinaryIO, zstd.ZstdFile(file))
    return file


def unpack(file: BinaryIO, target: Path, lowers: Sequence[Path] = (), bounds: Bounds = Bounds()) -> tuple[str, int]:
    """Unpack a layer into `target`, which exists and is empty. `lowers`: unpacked parents, the topmost first.

    Returns the diff id (digest of the uncompressed tar) and the number of bytes of its files.
    Raises BadLayer, or OSError when the disk does not take it.
    """
    try:
        reader = HashingReader(decompressed(file), bounds.size)
        unpacker = _Unpacker(target, lowers, bounds)
        with tarfile.open(fileobj=cast(BinaryIO, reader), mode="r|", bufsize=CHUNK, tarinfo=_TarInfo) as archive:
            while (member := archive.next()) is not None:
                unpacker.add(archive, member)
                archive.members = []  # type: ignore[attr-defined]  # tarfile keeps them all otherwise
        unpacker.finish()
        return reader.finish(), unpacker.size
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, UnicodeError, ValueError) as error:
        raise BadLayer(f"layer cannot be unpacked: {error}") from error


class _Unpacker:
    def __init__(self, target: Path, lowers: Sequence[Path], bounds: Bounds) -> None:
        self._root = str(target)
        self._lowers = [str(lower) for lower in lowers]
        self._bounds = bounds
        self._entries = 0
        self.size = 0
        self._directories: dict[tuple[str, ...], str] = {(): self._root}
        self._times: list[tuple[str, int]] = []

    def add(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        self._entries += 1
        if self._entries > self._bounds.entries:
            raise BadLayer(f"layer has more than {self._bounds.entries} entries")
        parts = self._parts(member.name)
        if not parts:
            if member.isdir():
                self._metadata(self._root, member)
            return
        parent, base = self._directory(parts[:-1]), parts[-1]
        if base.startswith(_WHITEOUT):
            self._whiteout(parent, base)
            return
        path = f"{parent}/{base}"
        replaced_whiteout = self._clear(path, keep_directory=member.isdir())
        self._create(archive, member, path)
        if replaced_whiteout and member.isdir():
            os.setxattr(path, OPAQUE_XATTR, b"y")
        if not member.islnk():
            self._metadata(path, member)

    def finish(self) -> None:
        """Directories' times last: what was written into them has changed them."""
        for path, when in reversed(self._times):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.utime(path, ns=(when, when), follow_symlinks=False)

    def _parts(self, name: str) -> tuple[str, ...]:
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        if ".." in parts:
            raise BadLayer(f"layer entry {name!r} leaves the image's root")
        if len(parts) > self._bounds.depth or "\0" in name:
            raise BadLayer(f"layer entry {name[:80]!r}… is not a usable path")
        return parts

    def _create(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        if member.isreg():
            self._file(archive, member, path)
        elif member.isdir():
            with contextlib.suppress(FileExistsError):
                os.mkdir(path)
        elif member.issym():
            os.symlink(member.linkname, path)
        elif member.islnk():
            os.link(self._link_source(member.linkname), path, follow_symlinks=False)
        elif member.ischr() or member.isblk():
            kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
            if kind == stat.S_IFCHR and member.devmajor == member.devminor == 0:
                raise BadLayer(f"layer entry {member.name!r} is an overlay whiteout in disguise")
            os.mknod(path, kind | 0o600, os.makedev(member.devmajor, member.devminor))
        elif member.isfifo():
            os.mkfifo(path)
        else:
            raise BadLayer(f"layer entry {member.name!r} is of unknown type {member.type!r}")

    def _file(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        self.size += member.size
        if self.size > self._bounds.size:
            raise BadLayer(f"layer is larger than {self._bounds.size} bytes")
        source = archive.extractfile(member)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(fd, "wb", buffering=0) as out:
            if source is not None and member.size:
                shutil.copyfileobj(source, out, CHUNK)

    def _metadata(self, path: str, member: tarfile.TarInfo) -> None:
        os.lchown(path, member.uid, member.gid)
        if not member.issym():
            os.chmod(path, member.mode & 0o7777)  # after chown, which drops setuid
        for name, value in member.pax_headers.items():
            if name.startswith("SCHILY.xattr."):
                self._xattr(path, name.removeprefix("SCHILY.xattr."), value)
        when = int(member.mtime * 1e9)
        if member.isdir():
            self._times.append((path, when))
        else:
            os.utime(path, ns=(when, when), follow_symlinks=False)

    @staticmethod
    def _xattr(path: str, name: str, value: str) -> None:
        if not name.startswith(("user.", "security.")):
            return  # trusted.* would let an image steer overlayfs
        try:
            os.setxattr(path, name, value.encode("utf-8", "surrogateescape"), follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.EINVAL):
                raise

    def _whiteout(self, parent: str, base: str) -> None:
        if base == _OPAQUE:
            os.setxattr(parent, OPAQUE_XATTR, b"y")
            return
        hidden = base.removeprefix(_WHITEOUT)
        if hidden.startswith(_WHITEOUT):
            return  # other bookkeeping of aufs
        if hidden in ("", ".", ".."):
            raise BadLayer(f"layer entry {base!r} is no whiteout")
        path = f"{parent}/{hidden}"
        if os.path.lexists(path):
            if os.path.isdir(path) and not os.path.islink(path):
                os.setxattr(path, OPAQUE_XATTR, b"y")
        elif self._lowers:
            os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))

    def _clear(self, path: str, *, keep_directory: bool) -> bool:
        """Make room for an entry; True if a whiteout stood there, which an opaque directory must replace."""
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return False
        if stat.S_ISDIR(found.st_mode):
            if not keep_directory:
                shutil.rmtree(path)
                self._directories = {(): self._root}
            return False
        os.unlink(path)
        return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0

    def _link_source(self, name: str) -> str:
        """A hard link's other name; a file of a lower layer is brought up first."""
        parts = self._parts(name)
        if not parts:
            raise BadLayer(f"hard link to {name!r}")
        parent = self._directory(parts[:-1])
        path = f"{parent}/{parts[-1]}"
        if not os.path.lexists(path):
            lower = self._in_lower(parent.removeprefix(self._root) + "/" + parts[-1])
            if lower is None or os.path.isdir(lower):
                raise BadLayer(f"hard link to {name!r}, which does not exist")
            shutil.copy2(lower, path, follow_symlinks=False)
            found = os.lstat(lower)
            os.lchown(path, found.st_uid, found.st_gid)
            if not stat.S_ISLNK(found.st_mode):
                os.chmod(path, stat.S_IMODE(found.st_mode))
        return path

    def _directory(self, parts: tuple[str, ...]) -> str:
        """The directory in `target` that a path means, made if need be; links are followed inside the image."""
        known = self._directories.get(parts)
        if known is not None:
            return known
        path = self._directories[parts] = self._walk(parts)
        return path

    def _walk(self, parts: tuple[str, ...]) -> str:
        todo, done, links = list(reversed(parts)), list[str](), 0
        while todo:
            part = todo.pop()
            if part == "..":
                done = done[:-1]
                continue
            relative = "/".join([*done, part])
            path = f"{self._root}/{relative}"
            target = self._enter(path, "/" + relative)
            if target is None:
                done.append(part)
                continue
            links += 1
            if links > 40:
                raise BadLayer(f"too many symbolic links in {'/'.join(parts)!r}")
            if target.startswith("/"):
                done = []
            todo.extend(reversed([piece for piece in target.split("/") if piece not in ("", ".")]))
        return "/".join([self._root, *done])

    def _enter(self, path: str, relative: str) -> str | None:
        """Make sure a directory is there; or the target of the symbolic link that is there instead."""
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return self._bring_up(path, relative)
        if stat.S_ISLNK(found.st_mode):
            return os.readlink(path)
        if not stat.S_ISDIR(found.st_mode):
            if not (stat.S_ISCHR(found.st_mode) and found.st_rdev == 0):
                raise BadLayer(f"{relative!r} is not a directory")
            os.unlink(path)
            os.mkdir(path)
            os.chmod(path, 0o755)
            os.setxattr(path, OPAQUE_XATTR, b"y")
        return None

    def _bring_up(self, path: str, relative: str) -> str | None:
        """A parent that this layer does not mention: like the one below, or a link there."""
        lower = self._in_lower(relative)
        if lower is None:
            os.mkdir(path)
            os.chmod(path, 0o755)  # whatever our umask is
            return None
        found = os.lstat(lower)
        if stat.S_ISLNK(found.st_mode):
            return os.readlink(lower)
        if not stat.S_ISDIR(found.st_mode):
            raise BadLayer(f"{relative!r} is not a directory")
        os.mkdir(path)
        os.lchown(path, found.st_uid, found.st_gid)
        os.chmod(path, stat.S_IMODE(found.st_mode))
        self._times.append((path, found.st_mtime_ns))
        return None

    def _in_lower(self, relative: str) -> str | None:
        """Where the layers below have a path; None if they have not, or hide it."""
        for lower in self._lowers:
            try:
                found = os.lstat(lower + relative)
            except (FileNotFoundError, NotADirectoryError):
                if self._hidden(lower, relative):
                    return None
                continue
            if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
                return None
            return lower + relative
        return None

    @staticmethod
    def _hidden(lower: str, relative: str) -> bool:
        """A parent that is opaque, or no directory at all, in this layer hides what is below it."""
        path = os.path.dirname(relative)
        while path not in ("", "/"):
            try:
                found = os.lstat(lower + path)
            except (FileNotFoundError, NotADirectoryError):
                path = os.path.dirname(path)
                continue
            if not stat.S_ISDIR(found.st_mode):
                return True
            with contextlib.suppress(OSError):
                if os.getxattr(lower + path, OPAQUE_XATTR) == b"y":
                    return True
            path = os.path.dirname(path)
        return False
