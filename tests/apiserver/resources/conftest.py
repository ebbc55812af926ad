"""Rows of the table by name, and objects out of YAML."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from pinnace.api import codec
from pinnace.apiserver.resource import Context, Resource
from pinnace.apiserver.resources.table import RESOURCES
from pinnace.client.transport import User

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Rows:
    """`rows.make("pods", yaml)` decodes and defaults; `rows.errors(…)` gives the texts of what is wrong."""

    context = Context(User("alice", groups=("dev",)), NOW)
    now = NOW

    def __init__(self) -> None:
        self.by_name = {f"{row.kind.resource}/{row.kind.version}": row for row in RESOURCES}

    def row(self, name: str) -> Resource[Any]:
        return self.by_name[name if "/" in name else f"{name}/v1"]

    def decode(self, name: str, text: str) -> Any:
        return codec.from_dict(self.row(name).kind.type, yaml.safe_load(text))

    def make(self, name: str, text: str) -> Any:
        thing = self.decode(name, text)
        self.row(name).default(thing)
        return thing

    def defaulted(self, name: str, text: str) -> Any:
        return codec.to_dict(self.make(name, text))

    def errors(self, name: str, text: str) -> list[str]:
        row, thing = self.row(name), self.make(name, text)
        row.prepare_create(thing, self.context)
        return [str(error) for error in row.validate_create(thing)]

    def update_errors(self, name: str, old: str, new: str) -> list[str]:
        row, before, after = self.row(name), self.make(name, old), self.make(name, new)
        row.prepare_update(after, before, self.context)
        return [str(error) for error in row.validate_update(after, before)]

    def cells(self, name: str, text: str, *, wide: bool = False) -> dict[str, Any]:
        row, thing = self.row(name), self.decode(name, text)
        return {
            column.name: column.cell(thing, self.now)
            for column in row.columns
            if wide or not column.priority
        }


@pytest.fixture(scope="session")
def rows() -> Rows:
    return Rows()
