"""What differs between two versions of an object, in short: for people who ask why. Pure.

Lists of maps are compared by what tells their items apart (`name`, `type` …), so that a container or a condition is
called by its name. Bookkeeping (managed fields, generations, times of conditions) is left out, and of a Secret no
value is ever shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pinnace.client.why import FieldChange

MOST = 8                 # changes told of one write
_MOST_TEXT = 60          # letters of a value
_DEEPEST = 24
_IDENTITIES = ("name", "type", "uid", "ip", "containerPort", "port")
# Of what nobody asks: it follows from the other changes.
_QUIET = frozenset({
    "metadata.managedFields", "metadata.resourceVersion", "metadata.generation", "metadata.uid",
    "metadata.creationTimestamp", "metadata.selfLink", "status.observedGeneration",
})  # fmt: skip
_QUIET_ENDS = ("lastTransitionTime", "lastHeartbeatTime", "lastUpdateTime", "lastProbeTime", "observedGeneration")
# Holds a copy of the whole object, of a Secret too.
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_HIDDEN = "(hidden)"


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[list[FieldChange], int]:
    """The first changes, spec before metadata before status, and how many more there are. Why a condition changed is
    told only where its status did not."""
    secret = new.get("kind") == "Secret" or old.get("kind") == "Secret"
    found = []
    for path, before, after in _walk("", _without_copy(old), _without_copy(new), 0):
        if path in _QUIET or path.endswith(_QUIET_ENDS):
            continue
        hidden = secret and path.startswith(("data", "stringData"))
        found.append(FieldChange(path[:200], _text(before, hidden), _text(after, hidden)))
    turned = {change.field.removesuffix(".status") for change in found if change.field.endswith("].status")}
    found = [
        change for change in found
        if change.field.endswith("].status") or change.field.rpartition(".")[0] not in turned
    ]
    found.sort(key=lambda change: _weight(change.field))
    return found[:MOST], max(0, len(found) - MOST)


def _without_copy(obj: Mapping[str, Any]) -> dict[str, Any]:
    metadata = obj.get("metadata") or {}
    annotations = metadata.get("annotations") or {}
    if _APPLIED not in annotations:
        return dict(obj)
    rest = {name: value for name, value in annotations.items() if name != _APPLIED}
    return {**obj, "metadata": {**metadata, "annotations": rest or None}}


def _weight(path: str) -> int:
    top = path.partition(".")[0]
    if top == "status":
        return 2 if path == "status.phase" else 3 if path.endswith("[Ready].status") else 4 if "[" in path else 5
    return 1 if top == "metadata" else 0


def _walk(path: str, old: Any, new: Any, depth: int) -> Iterator[tuple[str, Any, Any]]:
    """Every leaf that differs: its path, what it was and what it is (None: not there)."""
    if old == new:
        return
    if depth < _DEEPEST and isinstance(old, dict) and isinstance(new, dict):
        for name in sorted({*old, *new}):
            dotted = f"[{name}]" if not _plain(name) else f".{name}" if path else name
            yield from _walk(path + dotted, old.get(name), new.get(name), depth + 1)
        return
    if old is None and isinstance(new, list):
        old = [] if _identity([], new) else None
    elif new is None and isinstance(old, list):
        new = [] if _identity(old, []) else None
    identity = _identity(old, new) if isinstance(old, list) and isinstance(new, list) else ""
    if depth < _DEEPEST and identity:
        before = {str(item[identity]): item for item in old}
        after = {str(item[identity]): item for item in new}
        for name in sorted({*before, *after}):
            yield from _walk(f"{path}[{name}]", before.get(name), after.get(name), depth + 1)
        return
    if isinstance(new, dict) and old is None and "status" in new and "type" in new:
        # A condition that is new: what it says is its status.
        yield f"{path}.status", None, new["status"]
        return
    yield path, old, new


def _plain(name: str) -> bool:
    """Names with dots or slashes (labels, annotations) stand in brackets."""
    return "." not in name and "/" not in name


def _identity(old: list[Any], new: list[Any]) -> str:
    items = [*old, *new]
    if not items or not all(isinstance(item, dict) for item in items):
        return ""
    for name in _IDENTITIES:
        if all(name in item for item in items):
            unique = len({str(item[name]) for item in old}) == len(old)
            return name if unique and len({str(item[name]) for item in new}) == len(new) else ""
    return ""


def _text(value: Any, hidden: bool) -> str:
    """A value on one line, shortened."""
    if value is None:
        return ""
    if hidden:
        return _HIDDEN
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= _MOST_TEXT else text[: _MOST_TEXT - 1] + "…"
