"""What a cluster is: wishes read, checked, combined and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from pinnace.base.errors import UserError
from pinnace.cluster.settings import Settings, check, combine, home, read_file


def test_the_defaults_hold() -> None:
    settings = Settings()
    check(settings)
    assert (settings.kubernetes_ip, settings.dns_ip) == ("10.96.0.1", "10.96.0.10")
    assert settings.node_names() == ("pinnace-node-1",) and settings.simulated_names() == ()
    assert settings.context == "pinnace" and Settings(name="ci").context == "pinnace-ci"
    assert Settings(name="ci", nodes=2).node_names() == ("ci-node-1", "ci-node-2")
    assert msgspec.json.decode(msgspec.json.encode(settings), type=Settings) == settings


@pytest.mark.parametrize("name", ["a", "a1", "my-cluster", "1", "a" * 32])
def test_names(name: str) -> None:
    check(Settings(name=name))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(({"name": name}, "cannot be a cluster's name")
          for name in ("", "-a", "a-", "A", "a_b", "../x", "a/b", "a\n", "a" * 33, "ü")),
        ({"nodes": -1}, "--nodes"),
        ({"nodes": 33}, "--nodes"),
        ({"simulatedNodes": 10_001}, "--simulated-nodes"),
        ({"store": "etcd"}, "--store"),
        ({"apiPort": 65536}, "apiPort"),
        ({"apiPort": -1}, "apiPort"),
        ({"podCidr": "10.244.0.1/16"}, "podCidr"),
        ({"podCidr": "nonsense"}, "podCidr"),
        ({"podCidr": "fd00::/48"}, "podCidr"),
        ({"serviceCidr": "10.96.0.0/29"}, "too small"),
        ({"serviceCidr": "10.244.128.0/17"}, "podCidr 10.244.0.0/16 and serviceCidr 10.244.128.0/17 overlap"),
        ({"nodeSubnet": "10.96.1.0/24"}, "overlap"),
        ({"clusterSigningDuration": "soon"}, "--cluster-signing-duration: time: invalid duration"),
        ({"clusterSigningDuration": "9m59s"}, "--cluster-signing-duration: certificates must last for 10 minutes"),
        ({"nodes": "many"}, "the configuration is wrong"),
        ({"noodles": 1}, "noodles"),
    ],
)  # fmt: skip
def test_wishes_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        combine(Settings(), changes)


def test_changes_go_on_top() -> None:
    kept = combine(Settings(), {"name": "ci", "nodes": 3, "apiPort": 7443})
    assert combine(kept, {"nodes": 0}) == Settings(name="ci", nodes=0, api_port=7443)
    assert combine(kept, {}) == kept


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "pinnace.yaml"
    path.write_text("nodes: 3\npodCidr: 10.1.0.0/16\n")
    assert combine(Settings(), read_file(path)) == Settings(nodes=3, pod_cidr="10.1.0.0/16")
    path.write_text("")
    assert read_file(path) == {}


@pytest.mark.parametrize("content", [b"- 1", b"{", b"\xff\xfe\x00", b"text"])
def test_files_that_are_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "pinnace.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=str(path)):
        read_file(path)
    with pytest.raises(UserError, match="does not exist"):
        read_file(tmp_path / "none")
    with pytest.raises(UserError, match="cannot be read"):
        read_file(tmp_path)


@pytest.mark.parametrize(
    ("environment", "root", "path"),
    [
        ({"PINNACE_HOME": "/x", "HOME": "/h"}, True, "/x"),
        ({"HOME": "/root"}, True, "/var/lib/pinnace"),
        ({"HOME": "/h"}, False, "/h/.local/share/pinnace"),
        ({"HOME": "/h", "XDG_DATA_HOME": "/d"}, False, "/d/pinnace"),
    ],
)
def test_where_state_lies(environment: dict[str, str], root: bool, path: str) -> None:
    assert home(environment, root=root) == Path(path)
