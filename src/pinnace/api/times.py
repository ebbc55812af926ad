"""Times and durations as they stand on the wire: RFC 3339, and Go's notation."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")


@lru_cache(maxsize=256)     # what is there is compared with the clock again and again
def parse(text: str) -> datetime:
    """A Time or MicroTime. Raises ValueError."""
    # fromisoformat takes at most six digits of a second; Go writes up to nine.
    if len(text) > 27:
        text = re.sub(r"(\.\d{6})\d+", r"\1", text)
    parsed = datetime.fromisoformat(text)
    if parsed.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return _utc(parsed)


@lru_cache(maxsize=64)      # one moment is written in many places: a chain of events may take no time at all
def format(moment: datetime) -> str:
    """A Time: whole seconds, UTC."""
    return _utc(moment).isoformat(timespec="seconds")[:19] + "Z"


@lru_cache(maxsize=64)
def format_micro(moment: datetime) -> str:
    """A MicroTime: six digits of a second, UTC."""
    return _utc(moment).isoformat(timespec="microseconds")[:26] + "Z"


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo is UTC else moment.astimezone(UTC)


def from_timestamp(seconds: float) -> datetime:
    """Seconds since the epoch, as an aware moment."""
    return datetime.fromtimestamp(seconds, UTC)


def parse_duration(text: str) -> float:
    """Go's `1h2m3.5s` in seconds. Raises ValueError."""
    sign = -1.0 if text.startswith("-") else 1.0
    rest = text.lstrip("+-")
    if rest == "0":
        return 0.0
    seconds, end = 0.0, 0
    for match in _DURATION.finditer(rest):
        if match.start() != end:
            break
        seconds += float(match[1]) * _UNITS[match[2]]
        end = match.end()
    if not rest or end != len(rest) or len(text) - len(rest) > 1:
        raise ValueError(f'time: invalid duration "{text}"')
    return sign * seconds


def format_duration(seconds: float) -> str:
    """As Go prints a time.Duration: `1h0m0s`, `1.5s`, `20ms`."""
    nanoseconds = round(seconds * 1e9)
    if nanoseconds == 0:
        return "0s"
    sign, nanoseconds = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    if nanoseconds < 1_000_000_000:
        for unit, size in (("ms", 1_000_000), ("µs", 1_000), ("ns", 1)):
            if nanoseconds >= size:
                return f"{sign}{_trim(nanoseconds / size)}{unit}"
    whole, rest = divmod(nanoseconds, 60_000_000_000)
    text = f"{_trim(rest / 1e9)}s"
    hours, minutes = divmod(whole, 60)
    if hours:
        return f"{sign}{hours}h{minutes}m{text}"
    return f"{sign}{minutes}m{text}" if minutes else sign + text


def human_duration(age: timedelta) -> str:
    """As printed columns show an age: `5s`, `3m12s`, `5h`, `2d3h`, `400d` (apimachinery, HumanDuration)."""
    seconds = int(age.total_seconds())
    if seconds < -1:
        return "<invalid>"
    if seconds < 0:
        return "0s"
    if seconds < 120:
        return f"{seconds}s"
    minutes, hours, days, years = seconds // 60, seconds // 3600, seconds // 86400, seconds // 31536000
    if minutes < 10:
        rest = seconds % 60
        return f"{minutes}m{rest}s" if rest else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        rest = minutes % 60
        return f"{hours}h{rest}m" if rest else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if hours < 192:
        rest = hours % 24
        return f"{days}d{rest}h" if rest else f"{days}d"
    if days < 730:
        return f"{days}d"
    if years < 8:
        rest = days % 365
        return f"{years}y{rest}d" if rest else f"{years}y"
    return f"{years}y"


def _trim(value: float) -> str:
    return f"{value:.9f}".rstrip("0").rstrip(".")
