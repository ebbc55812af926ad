"""What the schema says about the fields of a type, for the patch code. Reads the generated table.

A type is called as the table calls it (`core/v1:PodSpec`), `[]` and `{}` in front for lists and maps of it; the
empty string stands for what has no schema.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from pinnace.api.merge_table import MERGE


class Held(NamedTuple):
    """A field: its type, and how patches treat it."""

    of: str = ""
    merge_key: str = ""
    merges: bool = False
    replaces: bool = False
    retains_keys: bool = False


UNKNOWN = Held()


def name_of(cls: type[object]) -> str:
    """`pinnace.api.core.v1.Pod` → `core/v1:Pod`."""
    group, version = cls.__module__.rsplit(".", 2)[-2:]
    return f"{group}/{version}:{cls.__name__}"


@lru_cache(maxsize=4096)
def field(of: str, name: str) -> Held:
    """The field of a type; for a map, its values."""
    if of.startswith("{}"):
        return Held(of[2:])
    row = MERGE.get(of, {}).get(name)
    if row is None:
        return UNKNOWN
    strategies = row[0].split(",")
    return Held(row[5], row[1], "merge" in strategies, "replace" in strategies, "retainKeys" in strategies)


def element(of: str) -> str:
    """The type of a list's items."""
    return of[2:] if of.startswith("[]") else ""
