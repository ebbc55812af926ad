"""Where a cluster's files lie, who may be at them, and what deleting them spares."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pinnace.base.errors import UserError
from pinnace.cluster.layout import Home, Layout
from pinnace.cluster.settings import Settings


def fail() -> None:
    raise AssertionError("nobody else is at the cluster")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def test_settings_are_kept(home: Home) -> None:
    layout = home.cluster("one")
    assert not layout.exists()
    with pytest.raises(UserError, match="there is no cluster 'one'"):
        layout.load()
    layout.save(Settings(name="one", nodes=3))
    assert layout.load() == Settings(name="one", nodes=3)
    assert home.names() == ("one",)
    assert layout.settings_file.stat().st_mode & 0o777 == 0o600


def test_damaged_settings_are_said_to_be_so(home: Home) -> None:
    layout = home.cluster("one")
    layout.path.mkdir(parents=True)
    layout.settings_file.write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        layout.load()


@pytest.mark.parametrize("name", ["", "..", "../x", "/etc", "a/b", "A", "a.b", "-a", "a" * 33])
def test_names_that_would_lead_elsewhere_are_refused(home: Home, name: str) -> None:
    with pytest.raises(UserError, match="cannot be a cluster's name"):
        home.cluster(name)


def test_a_data_directory_is_remembered_and_freed(home: Home, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    layout = home.cluster("one", elsewhere)
    layout.save(Settings(name="one"))
    assert home.cluster("one").path == elsewhere
    assert home.cluster("one", elsewhere).path == elsewhere
    assert home.names() == ("one",)
    with pytest.raises(UserError, match="has its data in"):
        home.cluster("one", tmp_path / "third")
    layout.purge()
    assert not elsewhere.exists()
    assert home.names() == ()
    assert home.cluster("one", tmp_path / "third").path == tmp_path / "third"


def test_a_directory_with_other_things_is_not_taken(home: Home, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"holds other things"):
        home.cluster("one", tmp_path)


def test_purging_spares_what_is_not_ours(home: Home, tmp_path: Path) -> None:
    layout = home.cluster("one", tmp_path / "data")
    layout.save(Settings(name="one"))
    (layout.pki / "deep").mkdir(parents=True)
    (layout.path / "thesis.tex").write_text("years of work")
    layout.purge()
    assert [entry.name for entry in layout.path.iterdir()] == ["thesis.tex"]


def test_the_lock_is_for_one_at_a_time(home: Home) -> None:
    layout = home.cluster("one")
    waiting, inside, leave = threading.Event(), threading.Event(), threading.Event()

    def second() -> None:
        with layout.locked(waiting.set):
            inside.set()

    thread = threading.Thread(target=second)
    with layout.locked(fail):
        thread.start()
        assert waiting.wait(10)
        assert not inside.is_set()
        leave.set()
    thread.join(10)
    assert inside.is_set()


def test_a_lock_of_a_deleted_cluster_is_not_taken_for_one(home: Home) -> None:
    """Whoever waited while the cluster and its lock were deleted must not hold a file that nobody else sees."""
    layout = home.cluster("one")
    path = home.path / "clusters" / ".one.lock"
    waiting, checked = threading.Event(), threading.Event()
    there: list[bool] = []

    def second() -> None:
        with layout.locked(waiting.set):
            there.append(path.exists())
            checked.set()

    thread = threading.Thread(target=second)
    with layout.locked(fail):         # the cluster does not exist: leaving deletes the lock file
        thread.start()
        assert waiting.wait(10)
    assert checked.wait(10)
    thread.join(10)
    assert there == [True]
    assert not path.exists()


def test_a_living_cluster_keeps_its_lock_file(home: Home) -> None:
    layout: Layout = home.cluster("one")
    layout.save(Settings(name="one"))
    with layout.locked(fail):
        pass
    assert home.names() == ("one",)
