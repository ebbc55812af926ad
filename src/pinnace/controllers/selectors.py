"""Label selectors as controllers use them: one that no server should have let in selects nothing."""

from __future__ import annotations

from pinnace.api import labels
from pinnace.api.labels import Selector
from pinnace.api.meta import v1 as meta


def selector_of(selector: meta.LabelSelector | None) -> Selector:
    """None matches nothing, as upstream has it; what cannot be read too."""
    try:
        return labels.selector_of(selector)
    except ValueError:
        return labels.NOTHING
