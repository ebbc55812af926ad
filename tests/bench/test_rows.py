"""The rows by name, what goes wrong in one, and the pure parts of measuring."""

from __future__ import annotations

from itertools import islice

import pytest
from bench.__main__ import attempt
from bench.figures import Figure
from bench.idle import parse_rollup
from bench.load import Job, LoadFailed, content_length, requests
from bench.parts import figure
from bench.pods import Seen
from bench.rows import ROWS
from bench.scheduling import schedule

from pinnace.api import codec
from pinnace.api.core import v1 as core


def job(**more: object) -> Job:
    return Job(port=1, ca="", certificate="", key="", path="/api/v1/pods", **more)  # type: ignore[arg-type]


def test_every_promised_row_is_there() -> None:
    promised = {"cold-start", "idle", "create", "get", "list", "watch", "pods", "deployment", "bind", "schedule"}
    assert promised | {"simulated", "simulated-day", "store", "network", "runtime"} == set(ROWS)


def test_a_failing_row_is_an_outcome() -> None:
    def broken() -> list[Figure]:
        raise LoadFailed("refused")

    outcome = attempt("get", broken)
    assert (outcome.row, outcome.error, outcome.figures) == ("get", "LoadFailed: refused", ())


def test_a_row_that_works_keeps_its_figures() -> None:
    outcome = attempt("get", lambda: [Figure("GET", 1.0, "/s")])
    assert (outcome.error, outcome.figures) == ("", (Figure("GET", 1.0, "/s"),))


def test_requests_without_a_body_are_one_line_and_a_host() -> None:
    first, second = islice(requests(job()), 2)
    assert first == second
    assert first.startswith(b"GET /api/v1/pods HTTP/1.1\r\nHost: 127.0.0.1:1\r\n")
    assert first.endswith(b"\r\n\r\n")


def test_requests_number_their_bodies_and_say_their_length() -> None:
    made = list(islice(requests(job(method="POST", body='{"name":"p-%NUMBER%"}')), 11))
    head, _, body = made[10].partition(b"\r\n\r\n")
    assert body == b'{"name":"p-10"}'
    assert content_length(head) == len(body)
    assert made[0].endswith(b'{"name":"p-0"}')


def test_an_answer_without_a_length_is_refused() -> None:
    with pytest.raises(LoadFailed, match="without its length"):
        content_length(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked")


def test_rollup_gives_shared_memory_in_part_and_in_full() -> None:
    text = "55d0-7ffe ---p 00000000 00:00 0   [rollup]\nRss:    2048 kB\nPss:    1024 kB\nPss_Dirty:   512 kB\n"
    assert parse_rollup(text) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("name", "what", "unit", "more"),
    [
        ("create, ms", "create", "ms", False),
        ("create, slowest, ms", "create, slowest", "ms", False),
        ("16 callers, commits/s", "16 callers", "commits/s", True),
        ("DNS answers/s", "DNS answers", "/s", True),
    ],
)
def test_figures_of_parts_keep_their_unit(name: str, what: str, unit: str, more: bool) -> None:
    assert figure(name, 1.0) == Figure(what, 1.0, unit, more=more)


def pod(**status: object) -> core.Pod:
    return codec.from_dict(core.Pod, {"metadata": {"name": "p"}, "spec": {"nodeName": "n"}, "status": status})


def test_seen_remembers_the_first_time_of_everything() -> None:
    seen = Seen()
    seen.take("ADDED", pod(phase="Pending"), 1.0)
    seen.take("MODIFIED", pod(phase="Running", conditions=[{"type": "Ready", "status": "False"}]), 2.0)
    seen.take("MODIFIED", pod(phase="Running", conditions=[{"type": "Ready", "status": "True"}]), 3.0)
    seen.take("MODIFIED", pod(phase="Running", conditions=[{"type": "Ready", "status": "True"}]), 4.0)
    seen.take("DELETED", pod(), 5.0)
    assert (seen.bound, seen.running, seen.ready, seen.gone) == ({"p": 1.0}, {"p": 2.0}, {"p": 3.0}, {"p": 5.0})


async def test_seen_wakes_whoever_waits() -> None:
    seen = Seen()
    with pytest.raises(TimeoutError):
        await seen.until(lambda: "p" in seen.bound, 0.001)
    seen.take("ADDED", pod(), 1.0)
    await seen.until(lambda: "p" in seen.bound, 0.001)


def test_the_scheduler_row_places_pods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.scheduling._CYCLE_NODES", 10)
    monkeypatch.setattr("bench.scheduling._CYCLE_PODS", 20)
    assert schedule()[0].value > 0
