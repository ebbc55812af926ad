"""Cron schedules: five fields, names, ranges, steps and lists, or one of the @ words.

As in cron, a day matches when either the day of the month or the day of the week does, unless one of the two is a
star. Seconds, years and time zones are no part of a schedule (the zone is a field of the CronJob).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache

_WORDS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS = {
    "jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6,
    "jul": 7, "aug": 8, "sep": 9, "oct": 10, "nov": 11, "dec": 12,
}  # fmt: skip
_DAYS = {"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6}
_HORIZON = timedelta(days=366 * 5)   # 29 February comes at least once in it, but for the turn of some centuries


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which minutes match; `zone` is the one that the fields speak of."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    any_day: bool
    any_weekday: bool
    zone: tzinfo

    def after(self, moment: datetime) -> datetime | None:
        """The first matching minute behind a moment; None if there is none for years."""
        local = moment.astimezone(self.zone)
        for day in self._days(local.date(), 1):
            first = day == local.date()
            for hour in _sorted(self.hours):
                if first and hour < local.hour:
                    continue
                # Where clocks are set back, an hour of the day comes twice.
                passed = local.minute if first and hour == local.hour and self.zone is UTC else -1
                for minute in _sorted(self.minutes):
                    if minute <= passed:
                        continue
                    found = self._moment(day, hour, minute)
                    if found is not None and found > moment:
                        return found
        return None

    def latest(self, moment: datetime) -> datetime | None:
        """The last matching minute that is not behind a moment."""
        local = moment.astimezone(self.zone)
        for day in self._days(local.date(), -1):
            first = day == local.date()
            for hour in reversed(_sorted(self.hours)):
                if first and hour > local.hour:
                    continue
                ahead = local.minute if first and hour == local.hour and self.zone is UTC else 59
                for minute in reversed(_sorted(self.minutes)):
                    if minute > ahead:
                        continue
                    found = self._moment(day, hour, minute)
                    if found is not None and found <= moment:
                        return found
        return None

    def _days(self, start: date, step: int) -> Iterator[date]:
        for offset in range(_HORIZON.days):
            day = start + timedelta(days=offset * step)
            if day.month in self.months and self._matches(day):
                yield day

    def _matches(self, day: date) -> bool:
        by_month, by_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        if self.any_day or self.any_weekday:
            return by_month and by_week
        return by_month or by_week

    def _moment(self, day: date, hour: int, minute: int) -> datetime | None:
        """A time of a day; None where the clocks skip it in spring."""
        local = datetime(day.year, day.month, day.day, hour, minute, tzinfo=self.zone)
        found = local.astimezone(UTC)
        same = self.zone is UTC or found.astimezone(self.zone).replace(tzinfo=None) == local.replace(tzinfo=None)
        return found if same else None


@lru_cache(maxsize=1024)
def _sorted(numbers: frozenset[int]) -> tuple[int, ...]:
    return tuple(sorted(numbers))


def around(text: str, zone: tzinfo, moment: datetime) -> tuple[datetime | None, datetime | None]:
    """A schedule's last minute that is not behind a moment, and its first one behind it. Raises ValueError."""
    return _times(text, zone).around(moment)


class _Times:
    """A schedule, and the two of its minutes between which it was last asked about: it mostly is there again."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._latest: datetime | None = None
        self._following: datetime | None = None

    def around(self, moment: datetime) -> tuple[datetime | None, datetime | None]:
        latest, following = self._latest, self._following
        if latest is not None and following is not None and latest <= moment:
            if moment < following:
                return latest, following
            latest, following = following, self._schedule.after(following)      # as time goes on, this is the next
        if latest is None or following is None or not latest <= moment < following:
            minute = moment.replace(second=0, microsecond=0)
            latest, following = self._schedule.latest(minute), self._schedule.after(minute)
        self._latest, self._following = latest, following
        return latest, following


@lru_cache(maxsize=4096)
def _times(text: str, zone: tzinfo) -> _Times:
    return _Times(parse(text, zone))


@lru_cache(maxsize=1024)
def parse(text: str, zone: tzinfo = UTC) -> Schedule:
    """Raises ValueError."""
    if text.startswith(("TZ=", "CRON_TZ=")):
        raise ValueError("a time zone in the schedule is not allowed")
    fields = _WORDS.get(text.strip().lower(), text).split()
    if len(fields) != 5:
        raise ValueError(f"expected exactly 5 fields, found {len(fields)}: [{text}]")
    minutes, hours, days, months, weekdays = fields
    return Schedule(
        _field(minutes, 0, 59),
        _field(hours, 0, 23),
        _field(days, 1, 31),
        _field(months, 1, 12, _MONTHS),
        frozenset(day % 7 for day in _field(weekdays, 0, 7, _DAYS)),
        days.startswith(("*", "?")),
        weekdays.startswith(("*", "?")),
        zone,
    )


def _field(text: str, low: int, high: int, names: dict[str, int] | None = None) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, slash, step_text = part.partition("/")
        step = int(step_text) if slash else 1
        if step < 1:
            raise ValueError(f"step of range should be a positive number: {part}")
        if span in ("*", "?"):
            first, last = low, high
        else:
            left, dash, right = span.partition("-")
            first = _number(left, names)
            last = _number(right, names) if dash else (high if slash else first)
        if first < low or last > high or first > last:
            raise ValueError(f"range {part} is not within {low} to {high}")
        found.update(range(first, last + 1, step))
    return frozenset(found)


def _number(text: str, names: dict[str, int] | None) -> int:
    if names and text.lower() in names:
        return names[text.lower()]
    if not text.isdecimal():
        raise ValueError(f"failed to parse int from {text}")
    return int(text)
