"""Validation of label selectors in objects (metav1.LabelSelector), and matching them where a rule needs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pinnace.api.fields import FieldError, forbidden, invalid, required
from pinnace.api.labels import selector_of
from pinnace.api.meta import v1 as meta
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.metadata import validate_labels


def validate_selector(selector: meta.LabelSelector, path: str) -> Iterator[FieldError]:
    yield from validate_labels(selector.matchLabels, f"{path}.matchLabels")
    for i, expression in enumerate(selector.matchExpressions or ()):
        here = f"{path}.matchExpressions[{i}]"
        values = expression.values or ()
        match expression.operator:
            case "In" | "NotIn":
                if not values:
                    yield required(f"{here}.values", "must be specified when `operator` is 'In' or 'NotIn'")
            case "Exists" | "DoesNotExist":
                if values:
                    yield forbidden(
                        f"{here}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                    )
            case other:
                yield invalid(f"{here}.operator", other, "not a valid selector operator")
        yield from rules.qualified_name(f"{here}.key", expression.key)
        for j, value in enumerate(values):
            yield from rules.label_value(f"{here}.values[{j}]", value)


def is_empty(selector: meta.LabelSelector) -> bool:
    return not selector.matchLabels and not selector.matchExpressions


def matches(selector: meta.LabelSelector, labels: Mapping[str, str]) -> bool:
    """Whether labels satisfy every requirement. A selector that is none matches nothing."""
    if not selector.matchExpressions:
        return labels.items() >= (selector.matchLabels or {}).items()
    try:
        return selector_of(selector).matches(labels)
    except ValueError:
        return False
