"""Kinds that need no rules of their own yet beyond the general ones: metadata, status apart from the rest."""

from __future__ import annotations

from typing import Any

from pinnace.api.kinds import Kind
from pinnace.apiserver.resource import Resource
from pinnace.apiserver.resources.columns import AGE, NAME
from pinnace.apiserver.resources.strategy import keep_status, reset_status, status_part


def plain(kind: Kind, *, status: bool) -> Resource[Any]:
    """A row for a kind; `status`: it has a status path."""
    if not status:
        return Resource(kind=kind, columns=(NAME, AGE), generation=False)
    return Resource(
        kind=kind,
        columns=(NAME, AGE),
        prepare_create=reset_status,
        prepare_update=keep_status,
        subresources=(status_part(),),
    )
