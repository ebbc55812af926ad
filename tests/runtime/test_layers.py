"""Unpacking layers: whiteouts, links, owners, and archives that mean harm."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pinnace.runtime.images.layers import OPAQUE_XATTR, BadLayer, Bounds, unpack

pytestmark = pytest.mark.root

Change = Callable[[tarfile.TarInfo], None]


class Tar:
    """Writes a tar, one entry a call."""

    def __init__(self) -> None:
        self.buffer = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.buffer, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def add(self, name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", **fields: object) -> Tar:
        info = tarfile.TarInfo(name)
        info.type, info.size, info.mode = kind, len(content), 0o755 if kind == tarfile.DIRTYPE else 0o644
        for field, value in fields.items():
            setattr(info, field, value)
        self.tar.addfile(info, io.BytesIO(content))
        return self

    def dir(self, name: str, **fields: object) -> Tar:
        return self.add(name, tarfile.DIRTYPE, **fields)

    def link(self, name: str, target: str) -> Tar:
        return self.add(name, tarfile.SYMTYPE, linkname=target)

    def hard(self, name: str, target: str) -> Tar:
        return self.add(name, tarfile.LNKTYPE, linkname=target)

    def bytes(self) -> bytes:
        self.tar.close()
        return self.buffer.getvalue()


def apply(tar: Tar | bytes, target: Path, *lowers: Path, bounds: Bounds = Bounds()) -> Path:  # noqa: B008
    target.mkdir()
    data = tar if isinstance(tar, bytes) else tar.bytes()
    unpack(io.BytesIO(data), target, lowers, bounds)
    return target


def is_whiteout(path: Path) -> bool:
    found = path.lstat()
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def test_what_a_layer_may_hold(tmp_path: Path) -> None:
    tar = (
        Tar().dir("./").dir("bin", mtime=1000).add("bin/su", content=b"x" * 3, mode=0o4755, uid=1, gid=2, mtime=99)
        .link("sh", "bin/su").hard("bin/su2", "bin/su").add("pipe", tarfile.FIFOTYPE)
        .add("null", tarfile.CHRTYPE, devmajor=1, devminor=3)
        .add("x", content=b"1", pax_headers={
            "SCHILY.xattr.user.note": "hi", "SCHILY.xattr.trusted.overlay.opaque": "y",
        })
        .add("deep/without/parents", content=b"2").add("/absolute", content=b"3")
    )  # fmt: skip
    data = tar.bytes()
    target = tmp_path / "t"
    target.mkdir()
    digest, size = unpack(io.BytesIO(gzip.compress(data)), target)
    assert digest == "sha256:" + hashlib.sha256(data).hexdigest()
    assert size == 6
    found = (target / "bin/su").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_mtime) == (0o4755, 1, 2, 99)
    assert (target / "bin").stat().st_mtime == 1000
    assert (target / "sh").readlink() == Path("bin/su")
    assert (target / "bin/su2").stat().st_ino == found.st_ino
    assert stat.S_ISFIFO((target / "pipe").stat().st_mode)
    assert (target / "null").stat().st_rdev == os.makedev(1, 3)
    assert os.getxattr(target / "x", "user.note") == b"hi"
    assert os.listxattr(target / "x") == ["user.note"]
    assert (target / "deep/without/parents").read_text() == "2"
    assert (target / "absolute").read_text() == "3"


def test_whiteouts_become_overlays_own(tmp_path: Path) -> None:
    lower = apply(Tar().dir("d").add("d/f", content=b"1").add("gone", content=b"2").dir("re"), tmp_path / "lower")
    upper = apply(
        Tar().add(".wh.gone").dir("d").add("d/.wh..wh..opq").add(".wh..wh.plnk").add(".wh.re").dir("re"),
        tmp_path / "upper", lower,
    )  # fmt: skip
    assert is_whiteout(upper / "gone")
    assert os.getxattr(upper / "d", OPAQUE_XATTR) == b"y"
    assert (upper / "re").is_dir()
    assert os.getxattr(upper / "re", OPAQUE_XATTR) == b"y"
    assert sorted(path.name for path in upper.iterdir()) == ["d", "gone", "re"]


def test_a_whiteout_at_the_bottom_hides_nothing(tmp_path: Path) -> None:
    assert list(apply(Tar().add(".wh.x"), tmp_path / "t").iterdir()) == []


def test_entries_replace_each_other(tmp_path: Path) -> None:
    tar = Tar().dir("a").add("a/b", content=b"1").add("a", content=b"file")
    tar.add("l", content=b"x").dir("l").link("m", "n")
    target = apply(tar.add("m", content=b"not through the link"), tmp_path / "t")
    assert (target / "a").read_text() == "file"
    assert (target / "l").is_dir()
    assert (target / "m").read_text() == "not through the link"
    assert not (target / "n").exists()


def test_links_are_followed_inside_the_image_lower_layers_included(tmp_path: Path) -> None:
    lower = apply(
        Tar().dir("usr").dir("usr/lib", mode=0o711, uid=5).link("lib", "usr/lib").link("abs", "/usr/lib")
        .add("usr/lib/old", content=b"o", mode=0o600),
        tmp_path / "lower",
    )  # fmt: skip
    upper = apply(
        Tar().add("lib/one", content=b"1").add("abs/two", content=b"2").hard("lib/three", "lib/old"),
        tmp_path / "upper", lower,
    )  # fmt: skip
    assert sorted(path.name for path in (upper / "usr/lib").iterdir()) == ["old", "one", "three", "two"]
    assert not (upper / "lib").exists()
    found = (upper / "usr/lib").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o711, 5)
    assert stat.S_IMODE((upper / "usr/lib/three").stat().st_mode) == 0o600


def test_links_that_would_lead_out_stay_inside(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    tar = (
        Tar().link("a", str(outside)).add("a/x", content=b"1")
        .link("up", "../../../../../tmp/up").add("up/y", content=b"2")
        .link("f", str(outside / "f")).add("f", content=b"3")
    )  # fmt: skip
    target = apply(tar, tmp_path / "t")
    assert list(outside.iterdir()) == []
    assert (target / str(outside / "x").lstrip("/")).read_text() == "1"
    assert (target / "tmp/up/y").read_text() == "2"
    assert (target / "f").read_text() == "3"


HOSTILE: dict[str, Tar] = {
    "dot dot": Tar().add("../evil", content=b"x"),
    "dot dot inside": Tar().dir("a").add("a/../../evil", content=b"x"),
    "hard link out": Tar().hard("x", "../../etc/passwd"),
    "hard link to nothing": Tar().hard("x", "etc/passwd"),
    "hard link through a link": Tar().link("e", "/etc").hard("x", "e/passwd"),
    "hard link to a directory": Tar().dir("d").hard("x", ""),
    "link loop": Tar().link("a", "b").link("b", "a").add("a/x", content=b"1"),
    "file as directory": Tar().add("f", content=b"1").add("f/x", content=b"2"),
    "whiteout of the parent": Tar().add(".wh..."),
    "empty whiteout": Tar().add(".wh."),
    "whiteout device": Tar().add("x", tarfile.CHRTYPE, devmajor=0, devminor=0),
    "deep": Tar().add("/".join(["d"] * 300), content=b"1"),
    "unknown type": Tar().add("x", b"Z"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_layers_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "around").mkdir()
    with pytest.raises(BadLayer):
        apply(HOSTILE[name], tmp_path / "around/t")
    assert [path.name for path in (tmp_path / "around").iterdir()] == ["t"]


def test_layers_are_bounded(tmp_path: Path) -> None:
    many, big = Tar(), Tar().add("x", content=bytes(5000))
    for number in range(20):
        many.add(str(number))
    with pytest.raises(BadLayer, match="more than 10 entries"):
        apply(many, tmp_path / "1", bounds=Bounds(entries=10))
    bomb = gzip.compress(big.bytes())
    with pytest.raises(BadLayer, match="larger than 4096"):
        apply(bomb, tmp_path / "2", bounds=Bounds(size=4096))
    huge = tarfile.TarInfo("x")
    huge.type, huge.size = tarfile.XHDTYPE, 1 << 40
    with pytest.raises(BadLayer, match="tar header"):
        apply(huge.tobuf(tarfile.GNU_FORMAT) + bytes(1024), tmp_path / "3")


@pytest.mark.parametrize("data", [b"no tar at all" * 100, gzip.compress(bytes(700), mtime=0)[:-9], b"\x1f\x8bbroken"])
def test_damaged_layers_are_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(BadLayer):
        apply(data, tmp_path / "t")
