"""The synchronous twin: it says and does what the asynchronous cluster does."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from pinnace.api import errors
from pinnace.testing import Cluster, OutsideWorld, SyncCluster
from pinnace.testing.sync import SyncVerbs
from pinnace.testing.verbs import Verbs

CONFIG = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}
# What belongs to a loop, and what a plain function has no use for.
_ASYNC_ONLY = {"store", "control_plane", "client", "clock", "named"}


def _public(cls: type[Any]) -> dict[str, Any]:
    return {name: value for name, value in inspect.getmembers(cls) if not name.startswith("_")}


@pytest.mark.parametrize(("own", "twin"), [(Verbs, SyncVerbs), (Cluster, SyncCluster)])
def test_the_twins_have_the_same_verbs(own: type[Any], twin: type[Any]) -> None:
    theirs = _public(twin)
    for name, value in _public(own).items():
        if name in _ASYNC_ONLY:
            continue
        assert name in theirs, f"{twin.__name__} lacks {name}"
        if isinstance(value, property):
            assert isinstance(theirs[name], property)
            continue
        assert not inspect.iscoroutinefunction(theirs[name]) and not inspect.isasyncgenfunction(theirs[name])
        there, here = inspect.signature(value), inspect.signature(theirs[name])
        assert list(there.parameters.values()) == list(here.parameters.values()), name
        given = str(there.return_annotation).replace("AsyncGenerator", "Iterator").replace(", None]", "]")
        said = str(here.return_annotation).replace("SyncVerbs", "Verbs")
        assert given.removeprefix("builtins.") == said.removeprefix("builtins."), name
    assert inspect.isasyncgenfunction(Verbs.watch) and inspect.isgeneratorfunction(SyncVerbs.watch)
    assert inspect.signature(Cluster.__init__) == inspect.signature(SyncCluster.__init__)


def test_simulated_time_stands_still_between_calls() -> None:
    with SyncCluster(seed=1) as cluster:
        before = cluster.now()
        time.sleep(0.05)
        assert cluster.now() == before
        cluster.advance(hours=1)
        assert (cluster.now() - before).total_seconds() == 3600
        assert cluster.elapsed >= 3600


def test_watches_go_on_between_calls_and_end_when_they_are_left() -> None:
    with SyncCluster() as cluster:
        cluster.settle()
        events = cluster.watch("cm", field_selector="metadata.name=c")
        cluster.apply(CONFIG)
        assert (event := next(events)).type == "ADDED" and event.object.metadata.name == "c"
        cluster.delete("cm/c")
        assert next(events).type == "DELETED"
        events.close()      # type: ignore[attr-defined]  # it is a generator


def test_a_coroutine_of_the_users_own_runs_on_its_loop() -> None:
    async def work() -> str:
        await asyncio.sleep(3600)
        return "done"

    async def leave() -> None:
        with pytest.raises(OutsideWorld):
            await asyncio.to_thread(time.sleep, 0)

    async def wrong() -> None:
        with pytest.raises(RuntimeError, match="would wait for itself"):
            cluster.list("pods")

    with SyncCluster() as cluster:
        assert cluster.run(work()) == "done"
        assert cluster.elapsed >= 3600
        cluster.run(leave())
        cluster.run(wrong())


def test_real_time_passes_while_the_test_is_busy() -> None:
    with SyncCluster(time="real") as cluster:
        cluster.apply(CONFIG, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
            "containers": [{"name": "c", "image": "c"}]}})  # fmt: skip
        until = time.monotonic() + 30
        while time.monotonic() < until and cluster.asynchronous.control_plane.idle is False:
            time.sleep(0.01)
        assert cluster.wait_for("pod/p", condition="Ready").status.phase == "Running"
        cluster.settle()
        with pytest.raises(RuntimeError, match="real time cannot be advanced"):
            cluster.advance(hours=1)

        async def wrong() -> None:
            with pytest.raises(RuntimeError, match="would wait for itself"):
                cluster.list("pods")

        cluster.run(wrong())


def test_what_cannot_be_is_said_before_anything_starts() -> None:
    for given in ({"time": "slow"}, {"store": "paper"}, {"store": "sqlite"}, {"nodes": -1}):
        with pytest.raises(ValueError, match=r"must be|needs|cannot have"):
            SyncCluster(**given)  # type: ignore[arg-type]  # on purpose


def test_time_and_loop_must_agree() -> None:
    async def enter(**given: Any) -> None:
        async with Cluster(**given):
            pass

    with pytest.raises(RuntimeError, match="needs a VirtualLoop"):
        asyncio.run(enter())
    with SyncCluster() as cluster, pytest.raises(RuntimeError, match="cannot pass on a VirtualLoop"):
        cluster.run(enter(time="real"))


def test_sqlite_keeps_its_data_in_a_directory_that_goes() -> None:
    with SyncCluster(time="real", store="sqlite") as cluster:
        cluster.apply(CONFIG)
        directory = cluster.asynchronous._directory
        assert directory is not None and list(directory.glob("pinnace.db*"))
        assert directory.stat().st_mode & 0o077 == 0
        with pytest.raises(errors.AlreadyExists):
            cluster.create(CONFIG)
    assert not Path(directory).exists()


def test_a_failed_start_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(self: object) -> None:
        raise OSError("no")

    monkeypatch.setattr("pinnace.testing.control_plane.ControlPlane.start", fail)
    for given in ({"time": "real", "store": "sqlite"}, {}):
        cluster = SyncCluster(**given)  # type: ignore[arg-type]  # a mapping of literals
        with pytest.raises(OSError, match="no"):
            cluster.__enter__()
        directory = cluster.asynchronous._directory
        assert directory is None or not directory.exists()


def test_generators_of_the_loop_are_closed() -> None:
    ended: list[bool] = []

    async def numbers() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            ended.append(True)

    async def leave() -> None:
        generator = numbers()
        await anext(generator)

    with SyncCluster() as cluster:
        cluster.run(leave())
    assert ended == [True]
