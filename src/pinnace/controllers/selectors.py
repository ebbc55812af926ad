"""Label selectors as controllers use them: one that no server should have let in selects nothing."""

from __future__ import annotations

from collections.abc import Mapping

from pinnace.api import labels
from pinnace.api.labels import Selector
from pinnace.api.meta import v1 as meta


def selector_of(selector: meta.LabelSelector | None) -> Selector:
    """None matches nothing, as upstream has it; what cannot be read too."""
    try:
        return labels.selector_of(selector)
    except ValueError:
        return labels.NOTHING


def selects(selector: meta.LabelSelector | None, having: Mapping[str, str] | None) -> bool:
    """Whether a selector matches something with these labels."""
    if selector is None:
        return False
    if selector.matchExpressions:
        return selector_of(selector).matches(having)
    return not selector.matchLabels or (having is not None and selector.matchLabels.items() <= having.items())
