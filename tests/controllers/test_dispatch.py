"""One handler for all controllers that watch a kind: whom it tells of what."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from pinnace.api.batch import v1 as batch
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.client.informer import Added, Deleted, Event, Updated
from pinnace.controllers.dispatch import Dispatch, Primary
from pinnace.controllers.endpoints.members import ServicesOf
from pinnace.controllers.owners import Owned
from pinnace.controllers.plan import Ref, Related, Watch

from .build import pod

JOB = batch.Job(metadata=meta.ObjectMeta(name="work", namespace="default", uid="job-1"))


class Source:
    """An informer, as far as whoever subscribes sees it."""

    def __init__(self, *objects: Any) -> None:
        self.cache = SimpleNamespace(list=lambda: [*objects])
        self.handlers: list[Callable[[Any], None]] = []

    def subscribe(self, handler: Callable[[Any], None]) -> Callable[[], None]:
        self.handlers.append(handler)
        return lambda: self.handlers.remove(handler)


class Told:
    """What the watches of several controllers say of a change."""

    def __init__(self, *objects: core.Pod) -> None:
        self.source: Any = Source(*objects)
        self.dispatch = Dispatch()
        self.woken: list[tuple[str, Ref]] = []
        self.ends: list[Callable[[], None]] = []

    def watch(self, name: str, watch: Watch) -> None:
        def wake(ref: Ref, revision: str | None) -> None:
            self.woken.append((name, ref))

        self.ends.append(self.dispatch.watch(watch, wake))

    def of(self, event: Event[core.Pod]) -> list[tuple[str, Ref]]:
        self.woken.clear()
        for handler in self.source.handlers:
            handler(event)
        return [*self.woken]


def test_only_controllers_of_the_owners_kind_are_asked() -> None:
    told = Told()
    asked: list[str] = []

    def same(kind: str) -> Callable[[Any, Any], bool]:
        return lambda old, new: bool(asked.append(kind))

    def adopters(kind: str) -> Callable[[Any], Iterable[Ref]]:
        return lambda pod: [("default", f"adopts-{kind}")]

    for kind, group in (("Job", "batch"), ("ReplicaSet", "apps")):
        told.watch(kind, Owned(told.source, kind, group, adopters(kind), same=same(kind)))
    owned, free = pod("p", owner=JOB), pod("p")
    assert told.of(Updated(owned, owned)) == [("Job", ("default", "work"))] and asked == ["Job"]
    assert told.of(Deleted(owned)) == [("Job", ("default", "work"))]
    both = [("Job", ("default", "adopts-Job")), ("ReplicaSet", ("default", "adopts-ReplicaSet"))]
    assert told.of(Added(free)) == both
    assert told.of(Updated(free, owned)) == [both[0], ("Job", ("default", "work")), both[1]], "let go by its job"
    assert told.of(Updated(owned, free)) == [("Job", ("default", "work"))], "taken up"
    assert asked == ["Job"]


def test_what_two_controllers_ask_alike_is_asked_once() -> None:
    told = Told()
    asked: list[Event[core.Pod]] = []

    @dataclass(frozen=True)
    class Named:
        def __call__(self, event: Event[core.Pod]) -> Iterable[Ref]:
            asked.append(event)
            return [("default", "a")]

    for name in ("one", "two"):
        told.watch(name, Related(told.source, Named()))
    assert told.of(Added(pod("p"))) == [("one", ("default", "a")), ("two", ("default", "a"))]
    assert len(asked) == 1
    services: Any = object()
    assert ServicesOf(services) == ServicesOf(services), "as both endpoint controllers do"


def test_a_newcomer_is_told_of_what_is_there_and_who_leaves_of_nothing_more() -> None:
    told = Told(pod("p", owner=JOB))
    for name in ("one", "two"):
        told.watch(name, Owned(told.source, "Job", "batch"))
        assert told.woken.pop() == (name, ("default", "work")) and not told.woken
    told.ends[0]()
    assert told.of(Added(pod("q", owner=JOB))) == [("two", ("default", "work"))]
    told.ends[1]()
    assert told.source.handlers == []
    told.watch("three", Owned(told.source, "Job", "batch"))
    assert told.of(Added(pod("q", owner=JOB))) == [("three", ("default", "work"))]


def test_who_fails_does_not_keep_the_others_from_being_told(caplog: pytest.LogCaptureFixture) -> None:
    told = Told()

    def fails(event: Event[core.Pod]) -> Any:
        raise ValueError("no")

    told.watch("primary", Primary(told.source, fails))
    told.watch("concerns", Primary(told.source, lambda event: None, concerns=fails))
    told.watch("adopts", Owned(told.source, "Job", "batch", adopters=fails))
    told.watch("related", Related(told.source, fails))
    told.watch("last", Owned(told.source, "Job", "batch", adopters=lambda pod: [("default", "job")]))
    with caplog.at_level(logging.ERROR):
        assert told.of(Added(pod("p"))) == [("last", ("default", "job"))]
    assert len(caplog.records) == 4
