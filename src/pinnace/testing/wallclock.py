"""The simulated wall clock for code that reads the machine's: `datetime.now()`, `time.time()` and their like.

A loop's time is all that asyncio knows, but some clients compare it with the wall clock: kopf notes in an annotation
until when a handler is to wait. Inside `wall_clock(clock, "kopf")` the named packages see the cluster's own clock.
"""

from __future__ import annotations

import contextlib
import datetime as real
import sys
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from pinnace.base.clock import Clock

_clock: ContextVar[Clock | None] = ContextVar("pinnace_wall_clock", default=None)


@contextlib.contextmanager
def wall_clock(clock: Clock, *packages: str) -> Iterator[None]:
    """What is called inside, and tasks that are made inside, read `clock` (a cluster's `clock`) where the code of these
    packages asks for the time. Everything else, and whoever stands outside, goes on with the machine's.

    It replaces the names `datetime` and `time`, and what was imported from them, in the packages' modules. Those must
    have been imported before, and what they imported in a function is not seen. Raises LookupError for a package of
    which nothing was imported.
    """
    changed = _replace(packages)
    token = _clock.set(clock)
    try:
        yield
    finally:
        _clock.reset(token)
        for module, name, value in changed:
            setattr(module, name, value)


def _replace(packages: tuple[str, ...]) -> list[tuple[ModuleType, str, Any]]:
    """What was changed, with its value before. What is replaced already, by a context around this one, stays."""
    changed = []
    for package in packages:
        modules = [m for n, m in list(sys.modules.items()) if n == package or n.startswith(f"{package}.")]
        if not modules:
            raise LookupError(f"no module of {package!r} has been imported")
        for module in modules:
            for name, value in list(vars(module).items()):
                instead = _INSTEAD.get(id(value))
                if instead is not None:
                    changed.append((module, name, value))
                    setattr(module, name, instead)
    return changed


class _Kind(type):
    """A date made before, or elsewhere, is one all the same."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, real.datetime)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, real.datetime)


class _Datetime(real.datetime, metaclass=_Kind):
    """`datetime.datetime`; whatever it makes is a plain one."""

    def __new__(cls, *args: Any, **options: Any) -> real.datetime:  # type: ignore[misc]  # on purpose, see above
        return real.datetime(*args, **options)

    @classmethod
    def now(cls, tz: real.tzinfo | None = None) -> real.datetime:  # type: ignore[override]  # as above
        clock = _clock.get()
        if clock is None:
            return real.datetime.now(tz)
        return clock.now().astimezone(tz) if tz is not None else clock.now().astimezone().replace(tzinfo=None)

    @classmethod
    def utcnow(cls) -> real.datetime:  # type: ignore[override]  # as above
        return cls.now(real.UTC).replace(tzinfo=None)

    @classmethod
    def today(cls) -> real.datetime:  # type: ignore[override]  # as above
        return cls.now()


def _time() -> float:
    clock = _clock.get()
    return time.time() if clock is None else clock.now().timestamp()


def _time_ns() -> int:
    return time.time_ns() if _clock.get() is None else int(_time() * 1e9)


def _monotonic() -> float:
    clock = _clock.get()
    return time.monotonic() if clock is None else clock.monotonic()


def _like(module: ModuleType, **instead: Any) -> ModuleType:
    copy = ModuleType(module.__name__, module.__doc__)
    copy.__dict__.update(vars(module), **instead)
    return copy


_FUNCTIONS: tuple[tuple[Callable[[], float], Callable[[], float]], ...] = (
    (time.time, _time), (time.time_ns, _time_ns), (time.monotonic, _monotonic),
)  # fmt: skip
# By identity, as what a module holds need not be hashable.
_INSTEAD: dict[int, Any] = {
    id(real): _like(real, datetime=_Datetime),
    id(real.datetime): _Datetime,
    id(time): _like(time, time=_time, time_ns=_time_ns, monotonic=_monotonic),
    **{id(theirs): ours for theirs, ours in _FUNCTIONS},
}
