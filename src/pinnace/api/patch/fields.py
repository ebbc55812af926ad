"""What the schema says about the fields of a type, for the patch code. Reads the generated table.

A type is called as the table calls it (`core/v1:PodSpec`), `[]` and `{}` in front for lists and maps of it; the
empty string stands for what has no schema.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import NamedTuple, cast

from pinnace.api.merge_table import MERGE


class Held(NamedTuple):
    """A field: its type, that of a list's items, and how patches treat it."""

    of: str = ""
    items: str = ""
    merge_key: str = ""
    merges: bool = False
    replaces: bool = False
    retains_keys: bool = False


UNKNOWN = Held()


def _name_of(cls: type[object]) -> str:
    group, version = cls.__module__.rsplit(".", 2)[-2:]
    return f"{group}/{version}:{cls.__name__}"


# Of a class: `pinnace.api.core.v1.Pod` → `core/v1:Pod`.
name_of = cast("Callable[[type[object]], str]", cache(_name_of))


@lru_cache(maxsize=4096)
def field(of: str, name: str) -> Held:
    """The field of a type; for a map, its values."""
    if of.startswith("{}"):
        return Held(of[2:], element(of[2:]))
    row = MERGE.get(of, {}).get(name)
    if row is None:
        return UNKNOWN
    strategies = row[0].split(",")
    merges, replaces, retains = "merge" in strategies, "replace" in strategies, "retainKeys" in strategies
    return Held(row[5], element(row[5]), row[1], merges, replaces, retains)


def element(of: str) -> str:
    """The type of a list's items."""
    return of[2:] if of.startswith("[]") else ""
