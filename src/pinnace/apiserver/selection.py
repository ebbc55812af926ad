"""Label and field selectors of one request, ready to be held against objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pinnace.api.errors import BadRequest
from pinnace.api.fieldselectors import parse_field_selector
from pinnace.api.labels import parse_selector
from pinnace.apiserver.options import Query, text
from pinnace.apiserver.resource import Resource

Match = Callable[[Any], bool]

_COMMON: Mapping[str, Callable[[Any], str]] = {
    "metadata.name": lambda thing: thing.metadata.name or "",
    "metadata.namespace": lambda thing: thing.metadata.namespace or "",
}


@dataclass(frozen=True, slots=True)
class Selection:
    """`match` None: everything. `equals`: fields that must have one value, for indexes."""

    match: Match | None = None
    equals: tuple[tuple[str, str], ...] = ()
    labels: str = ""
    fields: str = ""

    def value(self, field: str) -> str:
        """The one value that a field must have; "" if it is not bound to one."""
        return next((value for name, value in self.equals if name == field), "")


EVERYTHING = Selection()


def select(query: Query, resource: Resource[Any]) -> Selection:
    """Raises BadRequest."""
    label_text, field_text = text(query, "labelSelector"), text(query, "fieldSelector")
    if not label_text and not field_text:
        return EVERYTHING
    matches: list[Match] = []
    equals: list[tuple[str, str]] = []
    if label_text:
        try:
            wanted = parse_selector(label_text)
        except ValueError as error:
            raise BadRequest(str(error)) from error
        if not wanted.everything:
            matches.append(lambda thing: wanted.matches(thing.metadata.labels))
    if field_text:
        matches.extend(_field_matches(field_text, resource, equals))
    found: Match | None
    match matches:
        case []:
            found = None
        case [only]:
            found = only
        case _:
            found = _all(tuple(matches))
    return Selection(found, tuple(equals), label_text, field_text)


def _field_matches(field_text: str, resource: Resource[Any], equals: list[tuple[str, str]]) -> list[Match]:
    try:
        terms = parse_field_selector(field_text).terms
    except ValueError as error:
        raise BadRequest(str(error)) from error
    matches: list[Match] = []
    for term in terms:
        value_of = resource.fields.get(term.field) or _COMMON.get(term.field)
        if value_of is None:
            kind = resource.kind
            known = f'"{term.field}" is not a known field selector: only "metadata.name", "metadata.namespace"'
            if resource.fields:
                known = f"field label not supported: {term.field}"
            raise BadRequest(
                f'Unable to find "{kind.group}/{kind.version}, Resource={kind.plural}" that match label selector '
                f'"", field selector "{field_text}": {known}'
            )
        if not term.equal:
            matches.append(_differs(value_of, term.value))
        else:
            equals.append((term.field, term.value))
            matches.append(_is(value_of, term.value))
    return matches


def _all(matches: tuple[Match, ...]) -> Match:
    return lambda thing: all(match(thing) for match in matches)


def _is(value_of: Callable[[Any], str], wanted: str) -> Match:
    return lambda thing: value_of(thing) == wanted


def _differs(value_of: Callable[[Any], str], unwanted: str) -> Match:
    return lambda thing: value_of(thing) != unwanted
