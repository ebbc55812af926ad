"""CronJob: the calendar, and what is started, refused, replaced and forgotten."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinnace.api.batch import v1 as batch
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.controllers.cronjob.controller import SCHEDULED, Seen, decide
from pinnace.controllers.cronjob.schedule import around, parse
from pinnace.controllers.plan import Create, Delete, Emit, Plan, Update

NOW = datetime(2026, 1, 1, 12, 0, 30, tzinfo=UTC)   # a Thursday


@pytest.mark.parametrize(
    ("text", "after", "expected"),
    [
        ("*/15 * * * *", "2026-01-01T12:00", "2026-01-01T12:15"),
        ("0 0 * * *", "2026-01-01T12:00", "2026-01-02T00:00"),
        ("@hourly", "2026-01-01T12:59", "2026-01-01T13:00"),
        ("30 4 1,15 * 5", "2026-01-01T12:00", "2026-01-02T04:30"),   # either the day or the weekday
        ("0 0 29 2 *", "2026-01-01T12:00", "2028-02-29T00:00"),
        ("0 9-17/4 * * mon-fri", "2026-01-02T17:00", "2026-01-05T09:00"),
        ("5 4 * jan,feb sun", "2026-01-04T04:05", "2026-01-11T04:05"),
        ("0 0 * * 7", "2026-01-01T12:00", "2026-01-04T00:00"),
    ],
)
def test_the_next_time(text: str, after: str, expected: str) -> None:
    moment = datetime.fromisoformat(after).replace(tzinfo=UTC)
    assert parse(text).after(moment) == datetime.fromisoformat(expected).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["", "* * * *", "60 * * * *", "* * 0 * *", "*/0 * * * *", "a * * * *", "TZ=UTC * * * * *"]
)
def test_what_is_no_schedule(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)


def test_a_zone_moves_with_summer() -> None:
    daily = parse("30 2 * * *", ZoneInfo("Europe/Berlin"))
    assert daily.after(datetime(2026, 1, 1, tzinfo=UTC)) == datetime(2026, 1, 1, 1, 30, tzinfo=UTC)
    # 2:30 does not exist on the day on which the clocks go forward.
    assert daily.after(datetime(2026, 3, 28, 12, tzinfo=UTC)) == datetime(2026, 3, 30, 0, 30, tzinfo=UTC)


@given(st.integers(0, 10**6), st.sampled_from(["*/7 * * * *", "3 */5 * * *", "0 0 1 * *", "15 6 * * 1"]))
def test_latest_and_after_are_neighbours(minutes: int, text: str) -> None:
    schedule, moment = parse(text), NOW + timedelta(minutes=minutes)
    latest, following = schedule.latest(moment), schedule.after(moment)
    assert latest is not None and following is not None
    assert latest <= moment < following
    assert schedule.after(latest) == following


def cron_job(**spec: Any) -> batch.CronJob:
    values = {"schedule": "*/5 * * * *", "jobTemplate": batch.JobTemplateSpec(spec=batch.JobSpec(completions=1))}
    return batch.CronJob(
        metadata=meta.ObjectMeta(
            name="backup", namespace="default", uid="c-1", creationTimestamp="2026-01-01T11:57:00Z"
        ),
        spec=batch.CronJobSpec(**(values | spec)),
        status=batch.CronJobStatus(),
    )


def job(name: str, due: str, ended: str = "") -> batch.Job:
    conditions = [batch.JobCondition(type=ended, status="True")] if ended else None
    return batch.Job(
        metadata=meta.ObjectMeta(name=name, namespace="default", uid=f"uid-{name}", annotations={SCHEDULED: due}),
        status=batch.JobStatus(
            startTime=due, conditions=conditions, completionTime=due if ended == "Complete" else None
        ),
    )


def settled(of: batch.CronJob, *jobs: batch.Job) -> Plan:
    """The plan after the status has been brought up to date."""
    plan = decide(Seen(of, jobs), NOW)
    told = plan.status or next((a.object for a in plan.actions if isinstance(a, Update)), None)
    return decide(Seen(told, jobs), NOW) if told is not None else plan


def test_a_job_starts_when_it_is_due_and_then_the_next_is_waited_for() -> None:
    plan = decide(Seen(cron_job(), ()), NOW)
    (create,) = plan.actions
    assert isinstance(create, Create)
    made = create.object
    assert made.metadata.name == f"backup-{int(datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()) // 60}"
    assert made.metadata.annotations == {SCHEDULED: "2026-01-01T12:00:00Z"}
    assert plan.again == timedelta(minutes=4, seconds=30)
    running = job(made.metadata.name, "2026-01-01T12:00:00Z")
    noted = decide(Seen(cron_job(), (running,)), NOW).status
    assert noted.status.lastScheduleTime == "2026-01-01T12:00:00Z"
    assert [reference.uid for reference in noted.status.active] == [running.metadata.uid]
    assert decide(Seen(noted, (running,)), NOW) == Plan(again=timedelta(minutes=4, seconds=30))


def test_nothing_is_due_before_it_was_made_or_while_suspended() -> None:
    young = cron_job()
    young.metadata.creationTimestamp = "2026-01-01T12:00:10Z"
    assert decide(Seen(young, ()), NOW).actions == ()
    assert decide(Seen(cron_job(suspend=True), ()), NOW) == Plan()


def test_too_late_is_missed_once() -> None:
    plan = decide(Seen(cron_job(startingDeadlineSeconds=10), ()), NOW)
    (event,) = plan.actions
    assert event == Emit(
        "Warning", "MissSchedule", "Missed scheduled time to start a job: Thu, 01 Jan 2026 12:00:00 +0000"
    )
    assert decide(Seen(plan.status, ()), NOW).actions == ()


@pytest.mark.parametrize(
    ("policy", "expected"), [("Allow", [Create]), ("Forbid", [Emit]), ("Replace", [Delete, Create])]
)
def test_when_the_last_one_still_runs(policy: str, expected: list[type]) -> None:
    plan = settled(cron_job(concurrencyPolicy=policy), job("old", "2026-01-01T11:55:00Z"))
    assert [type(action) for action in plan.actions] == expected


def test_history_is_kept_within_limits_and_completion_is_told() -> None:
    jobs = [job(f"j{n}", f"2026-01-01T12:00:0{n}Z", "Complete") for n in range(5)]
    jobs += [job("f0", "2026-01-01T12:00:00Z", "Failed"), job("f1", "2026-01-01T12:00:01Z", "Failed")]
    plan = settled(cron_job(), *jobs)
    assert [a.name for a in plan.actions if isinstance(a, Delete)] == ["j0", "j1", "f0"]
    active = cron_job()
    active.status.active = [core.ObjectReference(uid="uid-j0", name="j0")]
    told = decide(Seen(active, tuple(jobs)), NOW)
    assert Emit("Normal", "SawCompletedJob", "Saw completed job: j0, condition: Complete") in told.actions
    update = next(action for action in told.actions if isinstance(action, Update))
    assert update.object.status.lastSuccessfulTime == "2026-01-01T12:00:04Z"
    assert [type(a) for a in told.actions[-4:]] == [Update, Delete, Delete, Delete] and told.final


def test_an_unreadable_schedule_is_told() -> None:
    (event,) = decide(Seen(cron_job(schedule="nonsense"), ()), NOW).actions
    assert isinstance(event, Emit) and event.reason == "UnparseableSchedule"


@given(st.lists(st.integers(0, 3 * 24 * 3600), min_size=1, max_size=20))
def test_around_answers_alike_whatever_was_asked_before(offsets: list[int]) -> None:
    text, zone = "*/20 3,4,17 * * *", ZoneInfo("Europe/Berlin")
    for offset in offsets:
        moment = datetime(2026, 3, 28, tzinfo=UTC) + timedelta(seconds=offset)      # clocks go forward on the 29th
        minute = moment.replace(second=0)
        assert around(text, zone, moment) == (parse(text, zone).latest(minute), parse(text, zone).after(minute))
