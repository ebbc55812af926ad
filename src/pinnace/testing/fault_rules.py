"""Which requests a fault meets, and the log entry of one that happened: the data that `faults.py` works from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pinnace.api.kinds import KINDS
from pinnace.apiserver.paths import Target


@dataclass(frozen=True, slots=True)
class Done:
    """One fault that happened. `at`: the loop's time, in seconds."""

    at: float
    fault: str
    component: str
    verb: str
    path: str

    def __str__(self) -> str:
        return f"{self.at:10.3f} {self.fault:20} {self.component:32} {self.verb} {self.path}"


@dataclass(eq=False, slots=True)
class Rule:
    """Which requests a fault meets, how often, and how it looks. Empty filters match everything.

    `skip`: so many are spared first. `times`: so many, then never again (None: no end). `after`, `until`: only between
    these seconds of the loop's time. `seconds`: how long it takes or lasts. `clean`: a cut watch ends as if its time
    were up.
    """

    fault: str
    component: str = ""
    verb: str = ""
    kinds: frozenset[tuple[str, str]] = frozenset()      # (group, plural)
    subresource: str | None = None
    namespace: str = ""
    name: str = ""
    probability: float = 1.0
    times: int | None = None
    skip: int = 0
    after: float = 0.0
    until: float = float("inf")
    seconds: float = 0.0
    clean: bool | None = None
    spare: str = ""                    # a component that is never met

    def open(self, now: float) -> bool:
        return (self.times is None or self.times > 0) and self.after <= now < self.until

    def matches(self, component: str, agent: str, verb: str, target: Target) -> bool:
        if component == self.spare or (self.component and self.component not in (component, agent)):
            return False
        if self.verb and self.verb != verb:
            return False
        if self.kinds and (target.group, target.resource) not in self.kinds:
            return False
        if self.subresource is not None and self.subresource != target.subresource:
            return False
        if self.namespace and self.namespace != target.namespace:
            return False
        return not self.name or self.name == target.name


def kinds_named(word: str) -> tuple[frozenset[tuple[str, str]], str | None]:
    """(group, plural) of a kind in kubectl's words, and the subresource if it names one. What nobody knows is taken
    as it stands: "plural.group", for custom resources."""
    if not word:
        return frozenset(), None
    word, slash, subresource = word.lower().partition("/")
    found = frozenset(_known(word))
    if not found:
        plural, _, group = word.partition(".")
        found = frozenset({(group, plural)})
    return found, subresource if slash else None


def _known(word: str) -> Iterator[tuple[str, str]]:
    for kind in KINDS:
        if word in (kind.plural, kind.singular, kind.resource, *kind.short_names):
            yield kind.group, kind.plural
