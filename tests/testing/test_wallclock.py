"""The simulated wall clock is seen by the packages named, inside, and by nobody else."""

from __future__ import annotations

import asyncio
import datetime as real
import sys
import time
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import pytest

from pinnace.base.clock import LoopClock
from pinnace.testing.loop import simulate
from pinnace.testing.wallclock import wall_clock

_START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = ModuleType("timely.inner")
    exec("import datetime, time\nfrom datetime import datetime as kind\nfrom time import time as clock", vars(module))
    monkeypatch.setitem(sys.modules, "timely", ModuleType("timely"))
    monkeypatch.setitem(sys.modules, "timely.inner", module)
    return module


def test_inside_and_outside(package: Any) -> None:
    async def look() -> None:
        clock = LoopClock(_START, asyncio.get_running_loop())
        with wall_clock(clock, "timely"):
            await asyncio.sleep(3600)
            later = _START + timedelta(hours=1)
            assert package.datetime.datetime.now(UTC) == package.kind.now(UTC) == later
            assert package.kind.utcnow() == later.replace(tzinfo=None)
            assert package.kind.now() == package.kind.today() == later.astimezone().replace(tzinfo=None)
            assert package.time.time() == package.clock() == later.timestamp()
            assert package.time.time_ns() == int(later.timestamp() * 1e9)
            assert package.time.monotonic() == 3600
            assert await asyncio.create_task(asyncio.sleep(0, package.clock())) == later.timestamp()
            with wall_clock(clock, "timely"):
                pass
            assert package.kind is not datetime
        assert package.kind is datetime and package.datetime is real and package.clock is time.time

    simulate(look)


def test_what_it_makes_is_plain(package: Any) -> None:
    async def look() -> None:
        with wall_clock(LoopClock(_START, asyncio.get_running_loop()), "timely"):
            kind = package.kind
            for made in (kind(2026, 1, 1), kind.fromisoformat("2026-01-01"), kind.strptime("2026", "%Y"), kind.now(),
                         kind.fromtimestamp(0, UTC), kind.combine(real.date(2026, 1, 1), real.time())):
                assert type(made) is datetime and isinstance(made, kind)
            assert not isinstance(real.date(2026, 1, 1), kind)
            assert issubclass(datetime, kind)
            assert package.datetime.timedelta is timedelta

    simulate(look)


def test_a_package_must_be_there() -> None:
    async def look() -> None:
        with (
            pytest.raises(LookupError, match="nowhere"),
            wall_clock(LoopClock(_START, asyncio.get_running_loop()), "nowhere"),
        ):
            pass

    simulate(look)
