"""Label selectors as objects carry them, compiled to a test of labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pinnace.api.meta import v1 as meta

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Selector:
    """All requirements of a LabelSelector; one without any matches everything."""

    requirements: tuple[Callable[[Labels], bool], ...]

    def matches(self, labels: Labels | None) -> bool:
        found = labels or {}
        return all(requirement(found) for requirement in self.requirements)


NOTHING = Selector((lambda labels: False,))


def selector_of(selector: meta.LabelSelector | None) -> Selector:
    """None matches nothing, as upstream has it; an operator that is unknown too."""
    if selector is None:
        return NOTHING
    requirements = [_equals(key, value) for key, value in (selector.matchLabels or {}).items()]
    requirements += [
        _requirement(expression.key, expression.operator, frozenset(expression.values or ()))
        for expression in selector.matchExpressions or ()
    ]
    return Selector(tuple(requirements))


def _equals(key: str, value: str) -> Callable[[Labels], bool]:
    return lambda labels: labels.get(key) == value


def _requirement(key: str, operator: str, values: frozenset[str]) -> Callable[[Labels], bool]:
    match operator:
        case "In":
            return lambda labels: labels.get(key) in values
        case "NotIn":
            return lambda labels: labels.get(key) not in values
        case "Exists":
            return lambda labels: key in labels
        case "DoesNotExist":
            return lambda labels: key not in labels
        case _:
            return lambda labels: False
