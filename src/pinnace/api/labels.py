"""Label selectors: as text (`app=web,tier in (a,b),!canary`) and as objects (metav1.LabelSelector).

Both become a `Selector`, which matches labels and has a canonical text. Errors are ValueErrors in upstream's words
(apimachinery, labels).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from pinnace.api import names
from pinnace.api.fields import FieldError, invalid

if TYPE_CHECKING:
    from pinnace.api.meta.v1 import LabelSelector

_TOKEN = re.compile(r"[ \t\r\n]*(?:(==|!=|[=!<>(),])|([^ \t\r\n=!<>(),]+)|$)")
_BINARY = {"=": "=", "==": "==", "!=": "!=", ">": ">", "<": "<", "in": "in", "notin": "notin"}
_EXPECTED_OPERATORS = "in, notin, =, ==, !=, gt, lt"
_OF_OBJECT = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "!"}


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition. Operators: `=` `==` `!=` `in` `notin` `exists` `!` `>` `<`."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        match self.operator:
            case "=" | "==" | "in":
                return value is not None and value in self.values
            case "!=" | "notin":
                return value is None or value not in self.values
            case "exists":
                return value is not None
            case "!":
                return value is None
            case _:
                number, bound = _integer(value), _integer(self.values[0])
                if number is None or bound is None:
                    return False
                return number > bound if self.operator == ">" else number < bound

    def __str__(self) -> str:
        match self.operator:
            case "exists":
                return self.key
            case "!":
                return f"!{self.key}"
            case "in" | "notin":
                return f"{self.key} {self.operator} ({','.join(self.values)})"
            case _:
                return f"{self.key}{self.operator}{self.values[0]}"


@dataclass(frozen=True, slots=True)
class Selector:
    """All requirements must hold; none at all matches everything. `nothing` matches nothing, whatever else it says."""

    requirements: tuple[Requirement, ...] = ()
    nothing: bool = False

    def matches(self, labels: Mapping[str, str] | None) -> bool:
        if self.nothing:
            return False
        present = labels or {}
        return all(requirement.matches(present) for requirement in self.requirements)

    @property
    def everything(self) -> bool:
        return not self.nothing and not self.requirements

    def exact(self, key: str) -> str | None:
        """The one value that labels must have at `key`, if the selector says so."""
        for requirement in self.requirements:
            if requirement.key == key and requirement.operator in ("=", "==", "in") and len(requirement.values) == 1:
                return requirement.values[0]
        return None

    def __str__(self) -> str:
        return ",".join(map(str, self.requirements))


EVERYTHING = Selector()
NOTHING = Selector(nothing=True)


def from_map(labels: Mapping[str, str] | None) -> Selector:
    """Equality on every label, as a Service or ReplicationController selects. None and empty match everything."""
    return Selector(tuple(Requirement(key, "=", (value,)) for key, value in sorted((labels or {}).items())))


def selector_of(selector: LabelSelector | None) -> Selector:
    """A metav1.LabelSelector. None matches nothing, an empty one everything. Raises ValueError."""
    if selector is None:
        return NOTHING
    found = [Requirement(key, "=", (value,)) for key, value in (selector.matchLabels or {}).items()]
    for expression in selector.matchExpressions or ():
        operator = _OF_OBJECT.get(expression.operator)
        if operator is None:
            raise ValueError(f'"{expression.operator}" is not a valid label selector operator')
        found.append(requirement(expression.key, operator, expression.values or ()))
    return Selector(tuple(sorted(found, key=lambda r: r.key)))


def format_selector(selector: LabelSelector | None) -> str:
    """As printed columns and `describe` show it."""
    try:
        text = str(selector_of(selector))
    except ValueError:
        return "<error>"
    return text or "<none>"


def requirement(key: str, operator: str, values: Iterable[str]) -> Requirement:
    """A checked requirement; values are sorted and without repetition. Raises ValueError."""
    unique = tuple(sorted(set(values)))
    problems = _key_problems(key, "key")
    match operator:
        case "in" | "notin" if not unique:
            problems.append(invalid("values", [], "for 'in', 'notin' operators, values set can't be empty"))
        case "=" | "==" | "!=" if len(unique) != 1:
            problems.append(invalid("values", list(unique), "exact-match compatibility requires one single value"))
        case "exists" | "!" if unique:
            problems.append(
                invalid("values", list(unique), "values set must be empty for exists and does not exist")
            )
        case ">" | "<" if len(unique) != 1:
            problems.append(
                invalid("values", list(unique), "for 'Gt', 'Lt' operators, exactly one value is required")
            )
        case ">" | "<" if _integer(unique[0]) is None:
            problems.append(
                invalid("values[0]", unique[0], "for 'Gt', 'Lt' operators, the value must be an integer")
            )
    for i, value in enumerate(unique):
        if texts := names.label_value(value):
            problems.append(invalid(f"values[{i}][{key}]", value, "; ".join(texts)))
    if problems:
        raise ValueError(_joined(problems))
    return Requirement(key, operator, unique)


@lru_cache(maxsize=4096)
def parse_selector(text: str) -> Selector:
    """A selector as text; the empty one matches everything. Raises ValueError."""
    return Selector(tuple(sorted(_Parser(text).requirements(), key=lambda r: r.key)))


class _Parser:
    """The grammar, one token ahead. The end of the text is the token ''."""

    def __init__(self, text: str) -> None:
        self._tokens: list[str] = []
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None or match.end() == position:
                break
            position = match.end()
            if token := match[1] or match[2]:
                self._tokens.append(token)
        self._tokens.append("")
        self._at = 0

    def _peek(self) -> str:
        return self._tokens[self._at]

    def _take(self) -> str:
        token = self._tokens[self._at]
        self._at = min(self._at + 1, len(self._tokens) - 1)
        return token

    def requirements(self) -> Iterable[Requirement]:
        while True:
            token = self._peek()
            if not token:
                return
            if token != "!" and not _identifier(token):
                raise ValueError(f"found '{token}', expected: !, identifier, or 'end of string'")
            try:
                yield self._requirement()
            except ValueError as error:
                raise ValueError(f"unable to parse requirement: {error}") from None
            token = self._take()
            if not token:
                return
            if token != ",":
                raise ValueError(f"found '{token}', expected: ',' or 'end of string'")
            after = self._peek()
            if after != "!" and not _identifier(after):
                raise ValueError(f"found '{after}', expected: identifier after ','")

    def _requirement(self) -> Requirement:
        absent = self._peek() == "!"
        if absent:
            self._take()
        key = self._take()
        if not _identifier(key):
            raise ValueError(f"found '{key}', expected: identifier")
        if problems := _key_problems(key, "<nil>"):
            raise ValueError(_joined(problems))
        if absent:
            return requirement(key, "!", ())
        if self._peek() in ("", ","):
            return requirement(key, "exists", ())
        token = self._take()
        operator = _BINARY.get(token)
        if operator is None:
            raise ValueError(f"found '{token}', expected: {_EXPECTED_OPERATORS}")
        values = self._set() if operator in ("in", "notin") else [self._exact()]
        return requirement(key, operator, values)

    def _exact(self) -> str:
        if self._peek() in ("", ","):
            return ""
        token = self._take()
        if not _identifier(token):
            raise ValueError(f"found '{token}', expected: identifier")
        return token

    def _set(self) -> list[str]:
        token = self._take()
        if token != "(":
            raise ValueError(f"found '{token}' expected: '('")
        if self._peek() == ")":
            self._take()
            return []
        if self._peek() != "," and not _identifier(self._peek()):
            raise ValueError(f"found '{self._peek()}', expected: ',', ')' or identifier")
        values: list[str] = []
        while True:
            if self._peek() in (",", ")"):
                values.append("")  # between two commas, or beside a parenthesis, stands the empty value
            else:
                token = self._take()
                if not _identifier(token):
                    raise ValueError(f"found '{token}', expected: ',', or identifier")
                values.append(token)
            token = self._take()
            if token == ")":
                return values
            if token != ",":
                raise ValueError(f"found '{token}', expected: ',' or ')'")


def _identifier(token: str) -> bool:
    return bool(token) and token not in ("=", "==", "!=", "!", "<", ">", "(", ")", ",")


def _key_problems(key: str, path: str) -> list[FieldError]:
    texts = names.qualified_name(key)
    return [invalid(path, key, "; ".join(texts))] if texts else []


def _joined(problems: list[FieldError]) -> str:
    texts = [str(problem) for problem in problems]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def _integer(value: str | None) -> int | None:
    if value is None or not re.fullmatch(r"[+-]?[0-9]{1,19}", value):
        return None
    number = int(value)
    return number if -(2**63) <= number < 2**63 else None
