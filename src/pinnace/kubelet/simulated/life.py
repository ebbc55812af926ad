"""What a container's life is, as data; and rules by which pods have lives of their own. Pure.

A life is looked up when a container starts: a rule that comes later holds for the containers that start after it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any

from pinnace.api.core import v1 as core
from pinnace.kubelet.policy import init_containers, is_sidecar

log = logging.getLogger("pinnace.kubelet.simulated")

PREFIX = "pinnace.dev/"                     # of annotations of pods
RUN_SECONDS = PREFIX + "run-seconds"        # the containers of the pod end after so long …
EXIT_CODE = PREFIX + "exit-code"            # … with this code
FOREVER = float("inf")
ENDING = 2.0                                # seconds that containers run which are to end by themselves

Line = str | tuple[float, str]              # text, or (seconds after the start, text)


@dataclass(frozen=True, slots=True)
class Life:
    """How long things take, in seconds, and how they end. Times count from the container's start.

    `run` and `exit_code` may be tuples: one for each start of the container, the last for all further ones.
    """

    pull: float = 0.0                      # until an image is there that the node has not had
    pull_error: str = ""                   # the image cannot be had, for this reason
    start: float = 0.05                    # of each container, from its turn to its running
    ready: float = 0.0                     # until it could answer its startup and readiness probes; inf: never
    unready: tuple[tuple[float, float], ...] = ()     # from … to …: it does not answer its readiness probe
    run: float | tuple[float, ...] | None = None      # None: for ever, or briefly where the pod is to end by itself
    exit_code: int | tuple[int, ...] = 0
    message: str = ""                      # what it leaves as its termination message
    oom_after: float | None = None         # it then has used up its memory: OOMKilled, 137
    unhealthy_after: float | None = None   # it then no longer answers its liveness probe
    stop: float = 0.02                     # from SIGTERM to its end; what takes longer than the grace is killed
    stop_code: int = 0                     # how it ends when it was asked to stop
    log: tuple[Line, ...] = ()             # {pod}, {namespace}, {container}, {node} and {attempt} are filled in
    log_every: tuple[float, str] | None = None        # a line each so many seconds; also {n} and {seconds}
    quiet: bool = False                    # no events of what goes well, nor the images in the node's status

    def __post_init__(self) -> None:
        for name in ("pull", "start", "ready", "stop"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be a number of seconds, 0 or more: {getattr(self, name)!r}")
        if self.log_every is not None and not self.log_every[0] > 0:
            raise ValueError(f"log_every needs a time between lines: {self.log_every!r}")
        # Lists are welcome where tuples are meant.
        object.__setattr__(self, "log", tuple(self.log))
        object.__setattr__(self, "unready", tuple(tuple(pair) for pair in self.unready))


_FIELDS = frozenset(f.name for f in fields(Life))
# Of a rule that names neither container nor image these do not concern init containers, which end, well, at once.
_OF_APPS = frozenset(
    {"ready", "unready", "run", "exit_code", "message", "oom_after", "unhealthy_after", "log", "log_every"}
)


@dataclass(frozen=True, slots=True)
class Rule:
    """Which containers, and what is different about their lives. Patterns are shell's: `broken:*`."""

    changes: Mapping[str, Any]
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = ""
    name: str = ""
    container: str = ""
    image: str = ""
    node: str = ""

    def fits(self, pod: core.Pod, container: core.Container) -> bool:
        labels = pod.metadata.labels or {}
        return all(labels.get(key) == value for key, value in self.labels.items()) and all(
            not pattern or fnmatchcase(text or "", pattern)
            for pattern, text in (
                (self.namespace, pod.metadata.namespace), (self.name, pod.metadata.name),
                (self.container, container.name), (self.image, container.image), (self.node, pod.spec.nodeName),
            )
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Lives:
    """A life for all, and rules: of those that fit a container, each changes what it names, the later ones last."""

    default: Life = Life()
    rules: tuple[Rule, ...] = ()

    def on(
        self, *, labels: Mapping[str, str] | None = None, namespace: str = "", name: str = "", container: str = "",
        image: str = "", node: str = "", **changes: Any,
    ) -> Lives:  # fmt: skip
        """With one more rule: `Lives().on(labels={"app": "web"}, start=30, log=["hello"])`. Raises TypeError for
        what is no field of `Life`, ValueError for values that no life can have."""
        unknown = sorted(set(changes) - _FIELDS)
        if unknown:
            raise TypeError(f"a Life has no {', '.join(unknown)}; it has {', '.join(sorted(_FIELDS))}")
        replace(self.default, **changes)
        return replace(self, rules=(*self.rules, Rule(changes, labels or {}, namespace, name, container, image, node)))

    def of(self, pod: core.Pod, container: core.Container) -> Life:
        """The container's life: the default, then the rules, then the pod's annotations."""
        if not self.rules and not pod.metadata.annotations and not pod.spec.initContainers:
            return self.default
        init = not is_sidecar(container) and any(container is one for one in init_containers(pod.spec))
        annotated = _annotated(pod.metadata.annotations)
        if not self.rules and not annotated and not init:
            return self.default
        changes: dict[str, Any] = {}
        if init:
            changes = {f.name: f.default for f in fields(Life) if f.name in _OF_APPS} | {"run": 0.0}
        for rule in self.rules:
            if rule.fits(pod, container):
                changes |= _without(rule.changes, init and not rule.container and not rule.image)
        return replace(self.default, **{**changes, **_without(annotated, init)})


def _without(changes: Mapping[str, Any], init: bool) -> Mapping[str, Any]:
    return {key: value for key, value in changes.items() if key not in _OF_APPS} if init else changes


def nth(value: Any, attempt: int) -> Any:
    """The value for the start of that number, where each may have its own."""
    return value[min(attempt, len(value) - 1)] if isinstance(value, tuple) else value


# ----------------------------------------------------------------------------------------------- annotations


def _seconds(text: str) -> float:
    value = float(text)
    if not value >= 0:
        raise ValueError(text)
    return value


def _spans(text: str) -> tuple[tuple[float, float], ...]:
    """`10-20,300-`: from … to …"""
    spans = []
    for span in text.split(","):
        begin, _, end = span.strip().partition("-")
        spans.append((_seconds(begin), _seconds(end) if end else FOREVER))
    return tuple(spans)


def _lines(text: str) -> tuple[str, ...]:
    return tuple(text.splitlines())


def _every(text: str) -> tuple[float, str]:
    seconds, _, line = text.partition(" ")
    return _seconds(seconds), line


ANNOTATIONS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    RUN_SECONDS: ("run", _seconds),
    EXIT_CODE: ("exit_code", int),
    PREFIX + "pull-seconds": ("pull", _seconds),
    PREFIX + "pull-error": ("pull_error", str),
    PREFIX + "start-seconds": ("start", _seconds),
    PREFIX + "ready-seconds": ("ready", _seconds),
    PREFIX + "unready": ("unready", _spans),
    PREFIX + "message": ("message", str),
    PREFIX + "oom-seconds": ("oom_after", _seconds),
    PREFIX + "unhealthy-seconds": ("unhealthy_after", _seconds),
    PREFIX + "stop-seconds": ("stop", _seconds),
    PREFIX + "stop-code": ("stop_code", int),
    PREFIX + "log": ("log", _lines),
    PREFIX + "log-every": ("log_every", _every),
}


def _annotated(annotations: Mapping[str, str] | None) -> Mapping[str, Any]:
    """What annotations say. Values that cannot be read are passed over, and logged."""
    if not annotations:
        return {}
    found: dict[str, Any] = {}
    for key, text in annotations.items():
        if key.startswith(PREFIX) and key in ANNOTATIONS:
            name, read = ANNOTATIONS[key]
            try:
                found[name] = read(text)
                replace(Life(), **{name: found[name]})
            except ValueError:
                found.pop(name, None)
                log.warning("annotation %s: %r is not understood", key, text)
    return found
