"""Validation of probes and lifecycle hooks: exactly one handler, sensible numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pinnace.api.core import v1 as core
from pinnace.api.fields import FieldError, forbidden, invalid, not_supported, required
from pinnace.apiserver.resources import rules

_NUMBERS = ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold")


def validate_probe(probe: core.Probe, role: str, path: str) -> Iterator[FieldError]:
    """`role` is liveness, readiness or startup."""
    handlers = (
        ("exec", probe.exec), ("httpGet", probe.httpGet), ("tcpSocket", probe.tcpSocket), ("grpc", probe.grpc),
    )  # fmt: skip
    yield from _handler(handlers, None, path)
    for word in _NUMBERS:
        yield from rules.non_negative(f"{path}.{word}", getattr(probe, word) or 0)
    grace = probe.terminationGracePeriodSeconds
    if grace is not None and grace <= 0:
        yield invalid(f"{path}.terminationGracePeriodSeconds", grace, "must be greater than 0")
    if role == "readiness":
        if grace is not None:
            yield invalid(
                f"{path}.terminationGracePeriodSeconds", grace, "must not be set for readinessProbes"
            )
    elif probe.successThreshold != 1:
        yield invalid(f"{path}.successThreshold", probe.successThreshold, "must be 1")


def validate_lifecycle(lifecycle: core.Lifecycle, grace: int | None, path: str) -> Iterator[FieldError]:
    for word, hook in (("postStart", lifecycle.postStart), ("preStop", lifecycle.preStop)):
        if hook is not None:
            handlers = (
                ("exec", hook.exec), ("httpGet", hook.httpGet), ("tcpSocket", hook.tcpSocket), ("sleep", hook.sleep),
            )  # fmt: skip
            yield from _handler(handlers, grace, f"{path}.{word}")


def _handler(handlers: tuple[tuple[str, Any], ...], grace: int | None, path: str) -> Iterator[FieldError]:
    found = False
    for word, action in handlers:
        if action is None:
            continue
        here = f"{path}.{word}"
        if found:
            yield forbidden(here, "may not specify more than 1 handler type")
            continue
        found = True
        match word:
            case "exec":
                if not action.command:
                    yield required(f"{here}.command")
            case "httpGet":
                yield from _http_get(action, here)
            case "tcpSocket" | "grpc":
                yield from rules.port(f"{here}.port", action.port)
            case "sleep":
                seconds = action.seconds
                if grace is not None and not 0 <= seconds <= grace:
                    yield invalid(
                        here,
                        seconds,
                        f"must be non-negative and less than terminationGracePeriodSeconds ({grace})",
                    )
    if not found:
        yield required(path, "must specify a handler type")


def _http_get(action: core.HTTPGetAction, path: str) -> Iterator[FieldError]:
    if not action.path:
        yield required(f"{path}.path")
    yield from rules.port(f"{path}.port", action.port)
    if action.scheme not in ("HTTP", "HTTPS"):
        yield not_supported(f"{path}.scheme", action.scheme, ("HTTP", "HTTPS"))
    for header in action.httpHeaders or ():
        yield from rules.header_name(f"{path}.httpHeaders", header.name)
