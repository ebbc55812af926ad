"""Pod specs that rules have found nothing against: equal ones need not be judged again.

Most pods, and most templates, are equal to one that came before. What is remembered is the whole text, so that nothing
is mistaken for something else; only good verdicts are, as findings say where they were found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Concatenate, ParamSpec

from pinnace.api import codec
from pinnace.api.core import v1 as core
from pinnace.api.fields import FieldError

P = ParamSpec("P")

_MOST = 1024             # specs …
_LONGEST = 8192          # … of so many bytes at most
# The volume with the account's token, which every pod gets under another name; see admission/service_account.py.
_DRAWN = re.compile(rb'"kube-api-access-[a-z0-9]{5}"')
_STANDS_FOR_IT = b"\xff"      # in no JSON


class GoodSpecs:
    """Those against which the rules of one caller, that look at nothing but the spec, have found nothing."""

    def __init__(self) -> None:
        self._texts: set[bytes] = set()

    def judge(
        self,
        rules: Callable[Concatenate[core.PodSpec, P], Iterable[FieldError]],
        spec: core.PodSpec, *about: P.args, **more: P.kwargs,
    ) -> Sequence[FieldError]:
        """What the rules find; what else they are told may only change how they say it."""
        text = _content(spec)
        if text in self._texts:
            return ()
        found = list(rules(spec, *about, **more))
        if not found and len(text) <= _LONGEST:
            if len(self._texts) >= _MOST:
                self._texts.clear()
            self._texts.add(text)
        return found


def _content(spec: core.PodSpec) -> bytes:
    """All that a spec says, but for the name of the token's volume: wherever that stands, another one of its form could
    stand as well. No rule tells two such names apart, and which strings are equal remains the same."""
    text = codec.encode(spec)
    drawn = _DRAWN.search(text)
    return text if drawn is None else text.replace(drawn.group(), _STANDS_FOR_IT)
