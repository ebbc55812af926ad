"""The image store and loading archives."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pinnace.base.randomness import Randomness
from pinnace.runtime import containers, linux
from pinnace.runtime.cri import NotFound, RuntimeFault
from pinnace.runtime.images import archive, build
from pinnace.runtime.images.store import ImageStore, chain_ids

pytestmark = pytest.mark.root
TAG = "pinnace.local/test:1"


def extract(tar: tarfile.TarFile, directory: Path) -> None:
    """Our own archive. Debian 12's Python is older than extraction filters, and newer ones insist on them."""
    if hasattr(tarfile, "data_filter"):
        tar.extractall(directory, filter="data")
    else:
        tar.extractall(directory)


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "store", Randomness(1))


@pytest.fixture
def layers(tmp_path: Path) -> list[bytes]:
    """Two layers; the second hides one file of the first and replaces another."""
    tars = []
    for entries in ({"keep": b"1", "hide": b"2", "change": b"3"}, {".wh.hide": b"", "change": b"4"}):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name, content in entries.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        tars.append(buffer.getvalue())
    return tars


@pytest.fixture
def image(tmp_path: Path, layers: list[bytes]) -> Path:
    path = tmp_path / "image.tar"
    build.write_archive(path, TAG, layers, build.Recipe(cmd=("x",), user="7", env={"A": "1"}))
    return path


def test_an_image_is_found_by_all_its_names(store: ImageStore, image: Path) -> None:
    (loaded,) = archive.load(store, str(image))
    for name in (TAG, loaded.id, loaded.id.removeprefix("sha256:"), loaded.digests[0]):
        assert store.find(name) == loaded
    assert store.find("pinnace.local/test:2") is None
    assert loaded.tags == (TAG,)
    assert (loaded.user, len(loaded.chain)) == ("7", 2)
    assert store.config(loaded.id).run_config().env == ("A=1",)
    assert archive.load(store, str(image)) == (loaded,)  # again is no change
    bytes_used, inodes = store.usage()
    assert bytes_used > 0
    assert inodes > 4


def test_chain_ids_follow_the_specification() -> None:
    first, second = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    chain = chain_ids([first, second])
    assert chain[0] == first
    # echo -n "sha256:aaa… sha256:bbb…" | sha256sum
    assert chain[1] == "sha256:" + __import__("hashlib").sha256(f"{first} {second}".encode()).hexdigest()
    with pytest.raises(RuntimeFault, match="unusable layer digest"):
        chain_ids(["sha256:../../etc"])


@contextlib.contextmanager
def mounted(store: ImageStore, name: str, directory: Path) -> Iterator[Path]:
    directory.mkdir()
    here = Path.cwd()
    try:
        containers.mount_rootfs(store, store.require(name), directory)
        os.chdir(here)
        yield directory / "rootfs"
    finally:
        os.chdir(here)
        containers.remove(directory)


def test_layers_lie_on_top_of_each_other(store: ImageStore, image: Path, tmp_path: Path) -> None:
    archive.load(store, str(image))
    with mounted(store, TAG, tmp_path / "c") as rootfs:
        assert {path.name: path.read_text() for path in rootfs.iterdir()} == {"keep": "1", "change": "4"}
        (rootfs / "new").write_text("5")
    assert not (tmp_path / "c").exists()
    with mounted(store, TAG, tmp_path / "d") as rootfs:
        assert not (rootfs / "new").exists()


def test_as_many_layers_as_allowed_fit_into_the_mount_options(store: ImageStore, tmp_path: Path) -> None:
    many = []
    for number in range(127):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            tar.addfile(tarfile.TarInfo(f"file{number}"))
        many.append(buffer.getvalue())
    build.write_archive(tmp_path / "many.tar", TAG, many, build.Recipe())
    archive.load(store, str(tmp_path / "many.tar"))
    with mounted(store, TAG, tmp_path / "c") as rootfs:
        assert len(list(rootfs.iterdir())) == 127
    build.write_archive(tmp_path / "more.tar", TAG, [*many, layers_tar("more")], build.Recipe())
    with pytest.raises(RuntimeFault, match="128 layers"):
        archive.load(store, str(tmp_path / "more.tar"))


def layers_tar(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


def test_forms_of_archives(store: ImageStore, image: Path, tmp_path: Path) -> None:
    (expected,) = archive.load(store, str(image))
    zipped = tmp_path / "image.tgz"
    zipped.write_bytes(gzip.compress(image.read_bytes()))
    directory = tmp_path / "layout"
    with tarfile.open(image) as tar:
        extract(tar, directory)
    older = tmp_path / "older"
    shutil.copytree(directory, older)
    (older / "index.json").unlink()
    (older / "oci-layout").unlink()
    for path in (zipped, directory, older):
        store.remove(TAG)
        assert store.find(TAG) is None
        (found,) = archive.load(store, str(path))
        assert (found.id, found.tags) == (expected.id, (TAG,))


def test_an_index_of_several_platforms(store: ImageStore, image: Path, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    with tarfile.open(image) as tar:
        extract(tar, layout)
    index = json.loads((layout / "index.json").read_text())
    inner = index["manifests"][0]
    annotations = inner.pop("annotations")
    other = {**inner, "digest": "sha256:" + "0" * 64, "platform": {"os": "linux", "architecture": "s390x"}}
    own = {**inner, "platform": {"os": "linux", "architecture": linux.machine()}}
    document = json.dumps({"schemaVersion": 2, "manifests": [other, own]}).encode()
    digest = archive.digest_of(document)
    (layout / "blobs/sha256" / digest.removeprefix("sha256:")).write_bytes(document)
    (layout / "manifest.json").unlink()
    (layout / "index.json").write_text(json.dumps({
        "manifests": [{"digest": digest, "annotations": annotations}],
    }))  # fmt: skip
    (found,) = archive.load(store, str(layout))
    assert found.tags == (TAG,)
    assert found.digests == (f"pinnace.local/test@{digest}",)


@pytest.mark.parametrize("break_it", ["layer", "config", "missing", "json", "count"])
def test_broken_archives_are_refused_and_leave_nothing(
    store: ImageStore, image: Path, tmp_path: Path, break_it: str
) -> None:
    layout = tmp_path / "layout"
    with tarfile.open(image) as tar:
        extract(tar, layout)
    manifest_digest = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
    blobs = layout / "blobs/sha256"
    manifest = json.loads((blobs / manifest_digest.removeprefix("sha256:")).read_text())
    layer = blobs / manifest["layers"][1]["digest"].removeprefix("sha256:")
    config = blobs / manifest["config"]["digest"].removeprefix("sha256:")
    if break_it == "layer":
        layer.write_bytes(layers_tar("something else"))
    elif break_it == "config":
        config.write_bytes(config.read_bytes() + b" ")
    elif break_it == "missing":
        layer.unlink()
    elif break_it == "json":
        (layout / "index.json").write_text("{")
    else:
        (layout / "index.json").unlink()
        docker = json.loads((layout / "manifest.json").read_text())
        docker[0]["Layers"].pop()
        (layout / "manifest.json").write_text(json.dumps(docker))
    with pytest.raises(RuntimeFault):
        archive.load(store, str(layout))
    assert store.index().images == {}
    assert list(store.ingest.iterdir()) == []
    store.collect()
    assert list((store.root / "layers").iterdir()) == []


def test_what_is_no_archive(store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"hello" * 1000)
    for path in ("x", "none", "."):
        with pytest.raises(RuntimeFault):
            archive.load(store, str(tmp_path / path))


def test_a_layout_cannot_name_files_outside(store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("{}")
    layout = tmp_path / "layout"
    layout.mkdir()
    (layout / "manifest.json").write_text(json.dumps([{"Config": "../secret", "Layers": []}]))
    with pytest.raises(RuntimeFault, match="leaves the image layout"):
        archive.load(store, str(layout))


def test_a_tag_moves_and_what_nobody_needs_is_collected(store: ImageStore, tmp_path: Path, image: Path) -> None:
    (first,) = archive.load(store, str(image))
    build.write_archive(tmp_path / "second.tar", TAG, [layers_tar("s")], build.Recipe())
    (second,) = archive.load(store, str(tmp_path / "second.tar"))
    assert store.require(TAG).id == second.id
    assert store.require(first.id).tags == ()
    store.acquire(first.id, "c1", str(tmp_path))
    store.remove(first.id)
    assert store.find(first.id) is None
    assert all(store.has_layer(chain) for chain in first.chain)  # the container still stands on them
    store.release("c1")
    store.collect()
    assert not any(store.has_layer(chain) for chain in first.chain)
    assert store.has_layer(second.chain[0])
    assert len(list(store.links.iterdir())) == 1
    store.remove("pinnace.local/never:1")  # removing what is not there succeeds
    with pytest.raises(NotFound):
        store.acquire(first.id, "c2", str(tmp_path))


def test_notes_of_containers_that_are_gone_are_swept(store: ImageStore, image: Path, tmp_path: Path) -> None:
    archive.load(store, str(image))
    for holder, node in (("alive", tmp_path), ("dead", tmp_path), ("lost", tmp_path / "no-such-node")):
        store.acquire(TAG, holder, str(node))
    partial = store.ingest / "pull-x"
    partial.write_text("x")
    store.sweep(str(tmp_path), {"alive"}, partial.stat().st_mtime + 90_000)
    assert sorted(path.name for path in (store.root / "uses").iterdir()) == ["alive"]
    assert not partial.exists()


def test_two_stores_over_one_directory_see_each_other(store: ImageStore, image: Path) -> None:
    other = ImageStore(store.root, Randomness(2))
    assert other.find(TAG) is None
    archive.load(store, str(image))
    assert other.require(TAG) == store.require(TAG)
    other.remove(TAG)
    assert store.find(TAG) is None


def test_builds_are_reproducible(tmp_path: Path, layers: list[bytes]) -> None:
    for name in ("1", "2"):
        build.build_busybox(tmp_path / name)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


@pytest.mark.real
def test_the_python_image_runs_and_is_small(store: ImageStore, tmp_path: Path) -> None:
    path = tmp_path / "python.tar"
    build.build_python(path, TAG, files={"/app/hello.py": "import ssl, sqlite3, http.server, json\nprint('hello')\n"})
    assert path.stat().st_size < 60 << 20
    archive.load(store, str(path))
    with mounted(store, TAG, tmp_path / "c") as rootfs:
        run = subprocess.run(
            ["chroot", "--userspec=33:33", str(rootfs), "python3", "/app/hello.py"], check=False,
            capture_output=True, text=True, timeout=20,
        )  # fmt: skip
    assert (run.returncode, run.stdout) == (0, "hello\n"), run.stderr
