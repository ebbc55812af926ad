"""Field selectors: `metadata.name=web,status.phase!=Running`, with `\\`, `,` and `=` escaped in values.

Which fields a kind can be selected by is the server's affair. Errors are ValueErrors in upstream's words
(apimachinery, fields).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

_ESCAPED = frozenset("\\,=")


@dataclass(frozen=True, slots=True)
class Term:
    field: str
    value: str
    equal: bool = True

    def matches(self, fields: Mapping[str, str]) -> bool:
        return (fields.get(self.field, "") == self.value) is self.equal

    def __str__(self) -> str:
        return f"{self.field}{'=' if self.equal else '!='}{escape(self.value)}"


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """All terms must hold. A field that is missing counts as the empty string."""

    terms: tuple[Term, ...] = ()

    def matches(self, fields: Mapping[str, str]) -> bool:
        return all(term.matches(fields) for term in self.terms)

    @property
    def everything(self) -> bool:
        return not self.terms

    def exact(self, field: str) -> str | None:
        """The one value that `field` must have, if the selector says so."""
        return next((term.value for term in self.terms if term.equal and term.field == field), None)

    def __str__(self) -> str:
        return ",".join(map(str, self.terms))


EVERYTHING = FieldSelector()


def escape(value: str) -> str:
    return "".join("\\" + letter if letter in _ESCAPED else letter for letter in value)


def unescape(value: str) -> str:
    """Raises ValueError."""
    out: list[str] = []
    letters = iter(value)
    for letter in letters:
        if letter == "\\":
            following = next(letters, "")
            if following not in _ESCAPED:
                raise ValueError(f"invalid field selector: invalid escape sequence: \\{following}")
            out.append(following)
        elif letter in _ESCAPED:
            raise ValueError(f"invalid field selector: unescaped character in value: {ord(letter)}")
        else:
            out.append(letter)
    return "".join(out)


@lru_cache(maxsize=4096)
def parse_field_selector(text: str) -> FieldSelector:
    """Raises ValueError."""
    terms: list[Term] = []
    for part in _split(text):
        if not part:
            continue
        found = _term(part)
        if found is None:
            raise ValueError(f"invalid selector: '{text}'; can't understand '{part}'")
        field, equal, value = found
        terms.append(Term(field, unescape(value), equal))
    return FieldSelector(tuple(terms))


def converted(selector: FieldSelector, convert: Callable[[str, str], tuple[str, str]]) -> FieldSelector:
    """The selector with each field and value as the server's table for a kind calls them."""
    return FieldSelector(tuple(Term(*convert(term.field, term.value), term.equal) for term in selector.terms))


def _split(text: str) -> Iterator[str]:
    start, escaped = 0, False
    for i, letter in enumerate(text):
        if escaped:
            escaped = False
        elif letter == "\\":
            escaped = True
        elif letter == ",":
            yield text[start:i]
            start = i + 1
    yield text[start:]


def _term(part: str) -> tuple[str, bool, str] | None:
    """The first operator that stands in the part: field, whether it means equal, value."""
    for i in range(len(part)):
        for operator, equal in (("!=", False), ("==", True), ("=", True)):
            if part.startswith(operator, i):
                return part[:i], equal, part[i + len(operator) :]
    return None
