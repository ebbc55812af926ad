"""Volumes on a real directory with mounts that are only remembered."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pinnace.api.core import v1 as core
from pinnace.base.randomness import Randomness
from pinnace.kubelet.environment import ConfigError, Sources
from pinnace.kubelet.volumes import atomic, host_path, payload, subpath
from pinnace.kubelet.volumes.atomic import File

from .fakes import FakeMounter, make_pod

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def write(directory: Path, seed: int = 1, **files: str) -> bool:
    named = {name.replace("__", "/"): File(text.encode()) for name, text in files.items()}
    return atomic.write(directory, named, now=NOW, randomness=Randomness(seed))


def test_all_files_change_together(tmp_path: Path) -> None:
    assert write(tmp_path, a="1", dir__b="2")
    first = (tmp_path / "..data").readlink()
    assert (tmp_path / "a").read_text() == "1" and (tmp_path / "dir/b").read_text() == "2"
    assert str((tmp_path / "a").readlink()) == "..data/a" and str((tmp_path / "dir").readlink()) == "..data/dir"
    assert not write(tmp_path, 2, a="1", dir__b="2")        # nothing to do: readers are not disturbed
    assert (tmp_path / "..data").readlink() == first
    assert write(tmp_path, 3, a="3")
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith("..")) == ["a"]
    assert not (tmp_path / first).exists()


def test_modes(tmp_path: Path) -> None:
    atomic.write(tmp_path, {"x": File(b"", 0o400)}, now=NOW, randomness=Randomness(1))
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o400


def volume(**fields: Any) -> core.Volume:
    return msgspec.convert({"name": "v", **fields}, core.Volume)


def sources(**more: Any) -> Sources:
    pod = make_pod()
    pod.metadata.labels = {"b": "2", "a": "1"}
    encoded = base64.b64encode(b"s3").decode()
    return Sources(
        pod, {"m": msgspec.convert({"data": {"k": "v"}, "binaryData": {"bin": encoded}}, core.ConfigMap)},
        {"s": msgspec.convert({"data": {"p": encoded}}, core.Secret)}, **more,
    )  # fmt: skip


def text(files: dict[str, File]) -> dict[str, str]:
    return {path: file.content.decode() for path, file in files.items()}


def test_payloads() -> None:
    assert text(payload.payload(volume(configMap={"name": "m"}), sources(), {})) == {"bin": "s3", "k": "v"}
    picked = volume(secret={"secretName": "s", "items": [{"key": "p", "path": "deep/p", "mode": 0o400}]})
    assert payload.payload(picked, sources(), {}) == {"deep/p": File(b"s3", 0o400)}
    assert payload.payload(volume(configMap={"name": "no", "optional": True}), sources(), {}) == {}
    downward = volume(downwardAPI={"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]})
    assert text(payload.payload(downward, sources(), {})) == {"labels": 'a="1"\nb="2"'}
    projected = volume(projected={"defaultMode": 0o440, "sources": [
        {"serviceAccountToken": {"path": "token"}}, {"configMap": {"name": "m", "items": [{"key": "k", "path": "ca"}]}},
    ]})  # fmt: skip
    files = payload.payload(projected, sources(), {"token": "t"})
    assert text(files) == {"token": "t", "ca": "v"} and files["token"].mode == 0o440


@pytest.mark.parametrize(("fields", "words"), [
    ({"configMap": {"name": "no"}}, 'configmap "no" not found'),
    ({"secret": {"secretName": "no"}}, 'secret "no" not found'),
    ({"configMap": {"name": "m", "items": [{"key": "x", "path": "x"}]}},
     "configmap references non-existent config key: x"),
])  # fmt: skip
def test_what_a_payload_lacks(fields: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        payload.payload(volume(**fields), sources(), {})


def test_host_paths(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert host_path.prepare(str(tmp_path / "any"), "") == str(tmp_path / "any")
    host_path.prepare(str(tmp_path / "made/deep"), "DirectoryOrCreate")
    assert (tmp_path / "made/deep").is_dir()
    for path, kind, what in (
        ("file", "Directory", "a directory"), ("none", "File", "a file"), ("file", "Socket", "a socket file"),
        ("file", "BlockDevice", "a block device"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=f"is not {what}"):
            host_path.prepare(str(tmp_path / path), kind)


def test_sub_paths_stay_inside(tmp_path: Path) -> None:
    inside, target = tmp_path / "volume", tmp_path / "target"
    inside.mkdir()
    (inside / "real").mkdir()
    (inside / "link").symlink_to("real")
    (inside / "out").symlink_to("/etc")
    mounter = FakeMounter()
    subpath.bind(inside, "link/new", target / "0", mounter)
    assert (inside / "real/new").is_dir() and str(target / "0") in mounter.mounts
    for escape in ("../x", "/etc", "out/passwd"):
        with pytest.raises(ConfigError):
            subpath.bind(inside, escape, target / "1", mounter)
    assert str(target / "1") not in mounter.mounts
