"""Keys in order, for those who ask now and then, while keys come and go all the time.

Who lists wants order; who writes should not pay for it: a list of many thousand keys takes microseconds to insert
into. So what has changed since somebody asked is kept aside, and most of what comes has gone before anybody asks.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable

_FEW = 100         # changes made one by one; for more it takes less to sort the whole, which nearly is


class SortedKeys:
    """A set of keys. What is put into `new` and is not there yet, is there from then on."""

    __slots__ = ("_gone", "_sorted", "new")

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._sorted = sorted(keys)
        self.new: dict[str, None] = {}        # not in `_sorted` yet; or in there, and in `_gone`
        self._gone: set[str] = set()          # in `_sorted`, but not there any more

    def remove(self, key: str) -> None:
        """A key that is there."""
        if key in self.new:
            del self.new[key]
        else:
            self._gone.add(key)

    def sorted(self) -> list[str]:
        """All of them, in order; the list is this object's own, and good until the next change."""
        keys, new, gone = self._sorted, self.new, self._gone
        if len(gone) > _FEW:
            keys = self._sorted = [key for key in keys if key not in gone]
        else:
            for key in gone:
                del keys[bisect_left(keys, key)]
        if len(new) > _FEW:
            keys += new
            keys.sort()
        else:
            for key in new:
                insort(keys, key)
        gone.clear()
        new.clear()
        return keys
