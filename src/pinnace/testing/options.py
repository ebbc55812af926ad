"""What the marker, the configuration and the command line say of a test's cluster, put together.

Loaded with the plugin in every run of pytest: imports nothing but the standard library.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

SCOPES = ("function", "class", "module", "package", "session")
TIMES = ("virtual", "real")
STORES = ("memory", "sqlite")
THREADS = ("refuse", "inline")

# What pyproject.toml may say, as pinnace_NAME; the rest is for code.
CONFIGURABLE = {
    "nodes": "nodes of a test's cluster (1)",
    "time": "virtual or real (virtual)",
    "seed": "one seed for all tests, instead of one drawn from each test's id",
    "store": "memory or sqlite (memory)",
    "scope": "how long a cluster is reused, with a fresh namespace for each test: "
             "function, class, module, package, session (function)",
    "timeout": "seconds of the cluster's time that a coroutine test may take (31 days of simulated time)",
    "cluster_signing_duration": "how long certificates last, such as 4h (8760h)",
    "threads": "what becomes of worker threads in simulated time: refuse or inline (refuse)",
}  # fmt: skip

_LONGEST = 31 * 86400.0      # whose heartbeats take less than a minute


class WrongOptions(ValueError):
    """What was asked for cannot be; the text names what can."""


@dataclass(frozen=True)
class Options:
    """How a test wants its cluster. `seed` None: drawn from the test's id. `life` and what follows are handed to
    `Cluster` as they are; None means its default."""

    nodes: int = 1
    time: str = "virtual"
    seed: int | None = None
    store: str = "memory"
    scope: str = "function"
    threads: str = "refuse"
    timeout: float | None = None
    life: Any = None
    stages: Any = None
    faults: float | None = None
    cluster_signing_duration: str | None = None

    def with_marker(self, args: tuple[object, ...], given: Mapping[str, Any]) -> Options:
        """What a marker says on top. Raises WrongOptions."""
        known = [each.name for each in fields(self)]
        if args:
            raise WrongOptions(f"@pytest.mark.pinnace takes no positional arguments, only {', '.join(known)}")
        unknown = [name for name in given if name not in known]
        if unknown:
            raise WrongOptions(f"@pytest.mark.pinnace does not know {', '.join(unknown)}; it knows {', '.join(known)}")
        return _checked(replace(self, **given))

    @property
    def limit(self) -> float | None:
        """Seconds that a coroutine test may take. Simulated time never stands still for want of something to do, as
        clusters have heartbeats, so that a test which waits for what cannot happen would go on for ever."""
        return _LONGEST if self.timeout is None and self.time == "virtual" else self.timeout

    def cluster_arguments(self) -> dict[str, Any]:
        """For `Cluster`, but for the seed."""
        others = ("seed", "scope", "threads", "timeout")
        given = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in others}
        return {name: value for name, value in given.items() if value is not None}


def configured(values: Mapping[str, str]) -> Options:
    """Of the configuration file: texts, empty where nothing is said. Raises WrongOptions."""
    given: dict[str, Any] = {name: text for name, text in values.items() if text}
    for name, number in (("nodes", int), ("seed", int), ("timeout", float)):
        if name in given:
            given[name] = _number(f"pinnace_{name}", given[name], number)
    return _checked(replace(Options(), **given))


def combined(base: Options, markers: Iterable[tuple[tuple[object, ...], Mapping[str, Any]]]) -> Options:
    """`base`, and the markers on top, the closest last. Raises WrongOptions."""
    for args, given in markers:
        base = base.with_marker(args, given)
    return base


def seed_of(test: str, run: int = 0) -> int:
    """A test's seed, from its id: the same on every machine, in every run."""
    return zlib.crc32(f"{test}#{run}".encode() if run else test.encode())


def _checked(options: Options) -> Options:
    for name, allowed in (("time", TIMES), ("store", STORES), ("scope", SCOPES), ("threads", THREADS)):
        value = getattr(options, name)
        if value not in allowed:
            raise WrongOptions(f"pinnace: {name} must be one of {', '.join(allowed)}, not {value!r}")
    if not _whole(options.nodes) or options.nodes < 0:
        raise WrongOptions(f"pinnace: nodes must be a number of nodes, not {options.nodes!r}")
    if options.seed is not None and not _whole(options.seed):
        raise WrongOptions(f"pinnace: seed must be a whole number, not {options.seed!r}")
    if options.timeout is not None and not (isinstance(options.timeout, int | float) and options.timeout > 0):
        raise WrongOptions(f"pinnace: timeout must be a number of seconds, not {options.timeout!r}")
    if options.store == "sqlite" and options.time == "virtual":
        raise WrongOptions('pinnace: store="sqlite" needs time="real": it writes in a thread')
    return options


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(name: str, text: str, number: Callable[[str], float]) -> float:
    try:
        return number(text)
    except ValueError:
        raise WrongOptions(f"{name} must be a {'whole ' if number is int else ''}number, not {text!r}") from None
