"""Validation's findings: which field, what is wrong, in upstream's words (apimachinery, validation/field)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

_TEXT = {
    "FieldValueNotFound": "Not found",
    "FieldValueRequired": "Required value",
    "FieldValueDuplicate": "Duplicate value",
    "FieldValueInvalid": "Invalid value",
    "FieldValueNotSupported": "Unsupported value",
    "FieldValueForbidden": "Forbidden",
    "FieldValueTooLong": "Too long",
    "FieldValueTooMany": "Too many",
    "InternalError": "Internal error",
}
_WITHOUT_VALUE = frozenset({"FieldValueRequired", "FieldValueForbidden", "FieldValueTooLong", "InternalError"})


@dataclass(frozen=True, slots=True)
class FieldError:
    """One finding. `str()` gives `spec.replicas: Invalid value: -1: must be …`."""

    reason: str
    field: str
    value: Any = None
    detail: str = ""

    @property
    def body(self) -> str:
        """The message without the field's path, as a Status cause carries it."""
        text = _TEXT[self.reason]
        if self.reason not in _WITHOUT_VALUE:
            text += f": {render(self.value)}"
        return f"{text}: {self.detail}" if self.detail else text

    def __str__(self) -> str:
        return f"{self.field}: {self.body}"


def render(value: Any) -> str:
    """A bad value as Go prints it: strings quoted, objects as JSON, nil as null."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if value is None:
        return "null"
    # Lists and maps may hold wire objects too.
    return json.dumps(msgspec.to_builtins(value), separators=(",", ":"), ensure_ascii=False)


def not_found(path: str, value: Any) -> FieldError:
    return FieldError("FieldValueNotFound", path, value)


def required(path: str, detail: str = "") -> FieldError:
    return FieldError("FieldValueRequired", path, "", detail)


def duplicate(path: str, value: Any) -> FieldError:
    return FieldError("FieldValueDuplicate", path, value)


def invalid(path: str, value: Any, detail: str = "") -> FieldError:
    return FieldError("FieldValueInvalid", path, value, detail)


def not_supported(path: str, value: Any, supported: Iterable[str]) -> FieldError:
    """The supported values are listed as given; upstream sorts sets before."""
    listed = ", ".join(json.dumps(word) for word in supported)
    return FieldError("FieldValueNotSupported", path, value, f"supported values: {listed}" if listed else "")


def forbidden(path: str, detail: str) -> FieldError:
    return FieldError("FieldValueForbidden", path, "", detail)


def too_long(path: str, value: Any, maximum: int) -> FieldError:
    detail = f"may not be more than {maximum} bytes" if maximum >= 0 else "value is too long"
    return FieldError("FieldValueTooLong", path, value, detail)


def too_many(path: str, actual: int, maximum: int) -> FieldError:
    return FieldError("FieldValueTooMany", path, actual, f"must have at most {maximum} items")


def child(path: str, *names: str) -> str:
    """`spec` + `template` → `spec.template`."""
    return ".".join((path, *names)) if path else ".".join(names)


def index(path: str, position: int) -> str:
    """`spec.containers` + 0 → `spec.containers[0]`."""
    return f"{path}[{position}]"


def key(path: str, name: str) -> str:
    """`metadata.labels` + `app` → `metadata.labels[app]`."""
    return f"{path}[{name}]"
