"""JSON Merge Patch (RFC 7386): null deletes, objects merge, everything else replaces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def apply(document: Any, patch: Any) -> Any:
    """The patched document. Parts that stay are shared with the old one."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(document) if isinstance(document, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = apply(merged.get(key), value)
    return merged


def diff(old: Any, new: Any) -> Any:
    """The patch that makes `new` of `old`. A null in `new` cannot be told from an absent field."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return new
    patch: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        if key not in old:
            patch[key] = value
        elif not same(old[key], value):
            patch[key] = diff(old[key], value)
    return patch


def same(left: Any, right: Any) -> bool:
    """JSON's equality: Python would take true for 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same(value, right[key]) for key, value in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)
