"""Kubeconfig files belong to their owner: what is his stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pinnace.base.errors import UserError
from pinnace.client import kubeconfig
from pinnace.client.kubeconfig import Access

ACCESS = Access("https://127.0.0.1:6443", ca=b"ca", certificate=b"crt", key=b"key")
FOREIGN = """\
apiVersion: v1
kind: Config
current-context: work
preferences: {colors: true}
clusters:
- name: work
  cluster: {server: "https://work:6443", extensions: [{name: x, extension: {a: 1}}]}
users:
- name: ann
  user: {exec: {command: login, args: ["--now"], apiVersion: client.authentication.k8s.io/v1}}
contexts:
- name: work
  context: {cluster: work, user: ann, namespace: team}
extensions: [{name: other}]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "home" / ".kube" / "config"


@pytest.mark.parametrize(
    "access",
    [
        ACCESS,
        Access("https://a:1", token="t"),
        Access("https://a:1", ca=b"ca", token="t", verify=False),
        Access("http://a:1"),
    ],
)
def test_what_is_written_is_read(file: Path, access: Access) -> None:
    kubeconfig.merge(file, "pinnace", access)
    assert kubeconfig.load(file) == kubeconfig.load(file, "pinnace") == access
    file.write_text(kubeconfig.render("alone", access))
    assert kubeconfig.load(file) == access


def test_only_its_owner_reads_it(file: Path) -> None:
    kubeconfig.merge(file, "pinnace", ACCESS)
    assert file.stat().st_mode & 0o777 == 0o600 and file.parent.stat().st_mode & 0o777 == 0o700
    file.chmod(0o644)
    kubeconfig.merge(file, "pinnace", ACCESS)
    assert file.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in file.parent.iterdir()] == ["config"]


def test_what_is_not_ours_stays(file: Path) -> None:
    file.parent.mkdir(parents=True)
    file.write_text(FOREIGN)
    before = yaml.safe_load(FOREIGN)
    for _ in range(2):                  # twice: replaced, not doubled
        kubeconfig.merge(file, "pinnace", ACCESS)
    merged = yaml.safe_load(file.read_text())
    assert merged["current-context"] == "pinnace"
    for section in ("clusters", "users", "contexts"):
        assert merged[section][0] == before[section][0]
        assert [entry["name"] for entry in merged[section][1:]] == ["pinnace"]
    kubeconfig.merge(file, "second", ACCESS, make_current=False)
    assert yaml.safe_load(file.read_text())["current-context"] == "pinnace"
    kubeconfig.remove(file, "second")
    kubeconfig.remove(file, "pinnace")
    assert yaml.safe_load(file.read_text()) == before | {"current-context": ""}
    with pytest.raises(UserError, match="no context"):
        kubeconfig.load(file)
    assert kubeconfig.load(file, "work").namespace == "team"


def test_removing_leaves_the_current_context_of_others(file: Path) -> None:
    kubeconfig.remove(file, "pinnace")
    assert not file.exists()
    kubeconfig.merge(file, "pinnace", ACCESS)
    kubeconfig.merge(file, "other", ACCESS)
    kubeconfig.remove(file, "pinnace")
    assert kubeconfig.load(file) == ACCESS


def test_a_link_stays_a_link(file: Path, tmp_path: Path) -> None:
    real = tmp_path / "elsewhere" / "real"
    real.parent.mkdir()
    real.write_text(FOREIGN)
    file.parent.mkdir(parents=True)
    file.symlink_to(real)
    kubeconfig.merge(file, "pinnace", ACCESS)
    assert file.is_symlink() and kubeconfig.load(real) == ACCESS
    assert [entry.name for entry in file.parent.iterdir()] == ["config"]


def test_files_beside_it(file: Path) -> None:
    file.parent.mkdir(parents=True)
    (file.parent / "ca.crt").write_bytes(b"beside")
    text = FOREIGN.replace('server: "https://work:6443"', "server: s, certificate-authority: ca.crt")
    file.write_text(text)
    assert kubeconfig.load(file).ca == b"beside"
    file.write_text(text.replace("ca.crt", "none.crt"))
    with pytest.raises(UserError, match="certificate-authority"):
        kubeconfig.load(file)


@pytest.mark.parametrize("text", ["- a\n- b\n", "{", "kind: Pod\n", "plain text"])
def test_what_is_no_kubeconfig_is_left_alone(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True)
    file.write_text(text)
    with pytest.raises(UserError):
        kubeconfig.merge(file, "pinnace", ACCESS)
    assert file.read_text() == text


@pytest.mark.parametrize(
    ("environment", "path"),
    [
        ({"KUBECONFIG": "/a:/b", "HOME": "/h"}, "/a"),
        ({"KUBECONFIG": ":/b", "HOME": "/h"}, "/b"),
        ({"KUBECONFIG": "", "HOME": "/h"}, "/h/.kube/config"),
        ({}, "/root/.kube/config"),
    ],
)
def test_where_it_lies(environment: dict[str, str], path: str) -> None:
    assert kubeconfig.default_path(environment) == Path(path)
