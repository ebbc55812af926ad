"""What a starting cluster says about itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from pinnace.base.errors import UserError
from pinnace.cluster import launch, progress
from pinnace.cluster.credentials import Credentials, Identity, read
from pinnace.cluster.layout import Home
from pinnace.cluster.progress import Progress


def test_progress_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "run" / "progress.json"
    assert progress.read(path) is None
    Progress(steps={"network": 0.1}, ready=True, server="https://127.0.0.1:1").write(path)
    assert progress.read(path) == Progress(steps={"network": 0.1}, ready=True, server="https://127.0.0.1:1")
    path.write_text("{")
    assert progress.read(path) is None


def test_an_error_ends_the_wait(tmp_path: Path) -> None:
    layout = Home(tmp_path).cluster("one")
    Progress(steps={"network": 0.1}, error="no room").write(layout.run / "progress.json")
    told: list[tuple[str, float]] = []
    with pytest.raises(UserError, match="no room") as caught:
        launch._wait(layout, lambda *step: told.append(step))
    assert str(layout.logs / "server.log") in caught.value.hint
    assert told == [("network", 0.1)]


def test_the_end_of_the_server_ends_the_wait(tmp_path: Path) -> None:
    layout = Home(tmp_path).cluster("one")
    with pytest.raises(UserError, match="the server process ended"):
        launch._wait(layout, lambda *step: None)


def credentials(**changes: object) -> Credentials:
    nobody = Identity("certificate", "key")
    given: dict[str, object] = {
        name: "" for name in Credentials.__struct_fields__ if name not in ("kubelet", "proxy", "serving", "egress")
    }
    return Credentials(**given | {"kubelet": nobody, "proxy": nobody, "serving": nobody, "egress": True} | changes)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"kubelet": Identity("newer", "key")}, True),
        ({"serving": Identity("newer", "key"), "proxy": Identity("newer", "key")}, True),
        ({"server": "https://127.0.0.1:2"}, False),
        ({"egress": False}, False),
        ({"ca": "another"}, False),
    ],
)
def test_only_a_new_place_makes_a_node_start_again(changes: dict[str, object], same: bool) -> None:
    assert (credentials().place() == credentials(**changes).place()) is same


def test_credentials_of_another_kind_count_as_none(tmp_path: Path) -> None:
    path = tmp_path / "node.json"
    assert read(path) is None
    credentials(node="n").write(path)
    assert read(path) == credentials(node="n")
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text('{"node": "n"}')
    assert read(path) is None
